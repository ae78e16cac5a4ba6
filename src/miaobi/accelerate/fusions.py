"""Several nodes of an exported graph as the one operator of ONNX that they spell out.

A small network spends as much time between its nodes as in them. The operators are those of the standard, so
that every runtime knows them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxscript import ir
from onnxscript.rewriter import pattern, rewrite

Array = npt.NDArray[Any]


def fuse(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with fewer nodes, but for float rounding the same."""
    fused: onnx.ModelProto = rewrite(model, [_ATTENTION, _NORM, _PRODUCT])
    return fused


def _attention(op: Any, query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
    scores = op.MatMul(op.Mul(query, scale), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), value)


def _one_attention(op: Any, query: Any, key: Any, value: Any, mask: Any, scale: ir.Value) -> Any:
    return op.Attention(query, key, value, mask, scale=_number(scale))


def _has_rows(_: Any, query: ir.Value, mask: ir.Value, scale: ir.Value, **__: Any) -> bool:
    """Whether the mask has a row for each query, as ONNX Runtime wants it, and the scale is a number."""
    if query.shape is None or mask.shape is None or _number(scale) is None:
        return False
    return bool(query.shape[-2] == mask.shape[-2])


def _modulated(op: Any, x: Any, ones: Any, scale: Any, shift: Any) -> Any:
    normal = op.LayerNormalization(x, ones, _allow_other_attributes=True, _outputs=["normal"])
    return op.Add(op.Mul(normal, scale), shift)


def _one_norm(op: Any, x: Any, scale: Any, shift: Any, normal: Any, **_: Any) -> Any:
    return op.LayerNormalization(x, scale, shift, **normal.producer().attributes)


def _side_by_side(op: Any, first: Any) -> Any:
    return op.Concat(first, axis=-1, _allow_other_inputs=True, _outputs=["joined"])


def _one_product(op: Any, joined: Any, **_: Any) -> Any:
    inputs, *parts = zip(*_linears(joined), strict=True)
    weight, bias = (np.concatenate(part, axis=-1) for part in parts)
    product = op.MatMul(inputs[0], op.initializer(ir.tensor(weight), f"{joined.name}.weight"))
    return op.Add(product, op.initializer(ir.tensor(bias), f"{joined.name}.bias")) if bias.any() else product


def _linears(joined: Any) -> list[tuple[Any, Array, Array]]:
    """`_linear` of everything that `joined` has side by side; nothing where the inputs are several."""
    found = [_linear(value) for value in joined.producer().inputs]
    layers = [one for one in found if one is not None and one[0] is found[0][0]] if found[0] else []
    return layers if len(layers) == len(found) else []


def _linear(value: Any) -> tuple[Any, Array, Array] | None:
    """Input, matrix and bias of the linear layer that makes a value; None where it is made otherwise."""
    node = value.producer()
    bias = _constant(node.inputs[1]) if node and node.op_type == "Add" else None
    product = node if bias is None else node.inputs[0].producer()
    weight = _constant(product.inputs[1]) if product and product.op_type == "MatMul" else None
    if weight is None:
        return None
    return product.inputs[0], weight, np.zeros_like(weight[0]) if bias is None else bias


def _constant(value: ir.Value) -> Array | None:
    known = ir.convenience.get_const_tensor(value)
    return None if known is None else known.numpy()


def _number(value: ir.Value) -> float | None:
    """The number that a constant holds in every place; None where it is no constant or holds several."""
    known = _constant(value)
    return float(known.flat[0]) if known is not None and np.ptp(known) == 0 else None


_ATTENTION = pattern.RewriteRule(_attention, _one_attention, _has_rows)
_NORM = pattern.RewriteRule(_modulated, _one_norm, lambda _, ones, **__: _number(ones) == 1)
_PRODUCT = pattern.RewriteRule(_side_by_side, _one_product, lambda _, joined, **__: bool(_linears(joined)))
