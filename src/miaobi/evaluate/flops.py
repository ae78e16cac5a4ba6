"""Arithmetic of a picture and of the machine: FLOPs of what really ran, and the rate of fp32 matrix products.

Matrix products, convolutions and attention count (2 for a multiplication and addition), nothing else. Graphs
of ONNX Runtime are counted node by node (needs `onnx`, of the `train` extra), PyTorch by its own
`FlopCounterMode`.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from miaobi.refine.arrays import library
from miaobi.runtimes.onnx import OnnxModel

Shape = tuple[int, ...]
PROMPT = "a colorful parrot"
GEMM_SIZE = 2048


def picture_flops(pipe: Any, prompt: str = PROMPT) -> dict[str, int]:
    """FLOPs of one picture, all steps together, by graph; "torch" is all that PyTorch ran.

    What another runtime or `torch.compile` runs cannot be seen: count the pipeline before it is moved there.

    Raises:
        MachineError: `onnx` is missing.
    """
    with recorded_calls() as calls, _torch_counter() as in_torch:
        pipe.generate(prompt, 1, seed=0)
    counted: dict[str, int] = {}
    for name, shapes in calls:
        counted[name] = counted.get(name, 0) + graph_flops(pipe.bundle.path(name), shapes)
    total = in_torch()
    return counted | ({"torch": total} if total else {})


def graph_flops(path: Path, shapes: Mapping[str, Shape]) -> int:
    """FLOPs of an ONNX graph whose inputs have these shapes.

    The graph runs once on zeros, so that every shape is a real one.

    Raises:
        MachineError: `onnx` is missing.
        ValueError: the shape of an input is missing.
    """
    onnx = library("onnx", "train")
    model = onnx.load(str(path))
    graph = model.graph
    zeros = {}
    for value in graph.input:
        kind = value.type.tensor_type
        shape = shapes.get(value.name) or tuple(axis.dim_value for axis in kind.shape.dim)
        if not all(shape):
            raise ValueError(f"{path.name}: the shape of {value.name} is unknown")
        zeros[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shown = {value.name for value in graph.output}
    inner = [name for node in graph.node for name in node.output if name and name not in shown]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    known: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    known |= {name: array.shape for name, array in zeros.items()}
    known |= {name: np.shape(array) for name, array in zip(names, session.run(None, zeros), strict=True)}
    return sum(
        _COUNTS[node.op_type](node, [known[name] if name else () for name in (*node.input, node.output[0])])
        for node in graph.node
        if node.op_type in _COUNTS
    )


def _matmul(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[-1]) * shapes[0][-1]


def _gemm(node: Any, shapes: list[Shape]) -> int:
    transposed = any(one.name == "transA" and one.i for one in node.attribute)
    return 2 * math.prod(shapes[-1]) * shapes[0][0 if transposed else 1]


def _conv(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[-1]) * math.prod(shapes[1][1:])


def _conv_transpose(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _attention(node: Any, shapes: list[Shape]) -> int:
    """Q Kᵀ and its product with V, each (B, heads, L, width) or (B, L, heads · width)."""
    query, key, value = shapes[:3]
    heads: dict[str, int] = {one.name: one.i for one in node.attribute}
    if len(query) == 3:
        groups = heads["q_num_heads"] // heads["kv_num_heads"]
        return 2 * query[0] * query[1] * key[1] * (query[2] + value[2] * groups)
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


_COUNTS: dict[str, Callable[[Any, list[Shape]], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulNBits": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
}


@contextmanager
def recorded_calls() -> Iterator[list[tuple[str, dict[str, Shape]]]]:
    """The file name and input shapes of every graph that ONNX Runtime runs inside the block."""
    calls: list[tuple[str, dict[str, Shape]]] = []
    run = OnnxModel.__call__

    def recording(self: OnnxModel, **inputs: Any) -> dict[str, Any]:
        calls.append((self._name, {name: tuple(inputs[name].shape) for name in self.inputs}))
        return run(self, **inputs)

    OnnxModel.__call__ = recording  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        OnnxModel.__call__ = run  # type: ignore[method-assign]


@contextmanager
def _torch_counter() -> Iterator[Callable[[], int]]:
    """What tells the FLOPs that PyTorch ran inside the block; a pipeline without PyTorch does not load it."""
    if "torch" not in sys.modules:
        yield lambda: 0
        return
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # torch counts the attention of GPUs only
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _torch_attention}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        yield counter.get_total_flops


def _torch_attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def gemm_rate(threads: int, runs: int = 10) -> float:
    """FLOP/s of the fastest of `runs` products, see `gemm`."""
    product = gemm(threads)
    return max(product() for _ in range(runs))


def gemm(threads: int) -> Callable[[], float]:
    """What multiplies two square fp32 matrices in ONNX Runtime and tells the FLOP/s; it has run once.

    Raises:
        MachineError: `onnx` is missing.
    """
    onnx = library("onnx", "train")
    helper, sides = onnx.helper, [GEMM_SIZE, GEMM_SIZE]
    a, b, c = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(sides, dtype=np.float32) for name in "ab"}

    def product() -> float:
        started = time.perf_counter()
        session.run(None, inputs)
        return 2 * GEMM_SIZE**3 / (time.perf_counter() - started)

    product()
    return product
