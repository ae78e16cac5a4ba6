"""Writes a trained text encoder as text.onnx, its weights as 8-bit and its token embeddings as 4-bit
integers.

The graph is written node by node: `Cast` and `Mul` turn a weight into float32 once, when the runtime folds
constants; token embeddings stay packed in memory and only the rows in use are unpacked.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from miaobi.files import atomic_write
from miaobi.models.text import TextModel
from miaobi.train.text import load

_OPSET, _IR = 23, 11
_GROUP = 64
Array = npt.NDArray[Any]


def export_text(checkpoint: Path, out: Path) -> None:
    """Write the encoder in the folder `checkpoint` to the file `out`: ids int64 (B, L), mask bool (B, L) ->
    tokens float32 (B, L, D), embedding float32 (B, D). TrainingError where the checkpoint is missing or
    damaged."""
    model, _ = load(checkpoint)
    with atomic_write(out) as file:
        file.write(onnx_model(model).SerializeToString())


def quantise(weight: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """weight (…, rows, values) ≈ int8 · scale, one scale a row: the greatest magnitude of the row becomes
    127."""
    scale = np.maximum(np.abs(weight).max(-1, keepdims=True), 1e-8).astype(np.float32) / 127
    return np.rint(weight / scale).astype(np.int8), scale


def pack(table: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """table (V, D) as bytes (V, D/2) and scales (V, D/group), group = min(64, D): `unpack` gives it back,
    nearly.

    A byte holds columns c (low half) and c + D/2 (high half), each a level 1..15 that stands for (level - 8)
    · scale. Each scale is the one of five that leaves the smallest squared error.
    """
    rows, columns = table.shape
    grouped = table.reshape(rows, -1, min(_GROUP, columns)).astype(np.float32)
    most = np.maximum(np.abs(grouped).max(-1, keepdims=True), 1e-6)
    best_error = np.full(most.shape, np.inf, np.float32)
    levels, scale = np.zeros_like(grouped), np.zeros(most.shape, np.float16)
    for share in (1.0, 0.94, 0.88, 0.82, 0.76):
        one = (most * share / 7).astype(np.float16)
        own = np.clip(np.rint(grouped / one.astype(np.float32)), -7, 7)
        error = np.square(own * one.astype(np.float32) - grouped).sum(-1, keepdims=True)
        better = error < best_error
        best_error, levels, scale = (
            np.where(better, error, best_error),
            np.where(better, own, levels),
            np.where(better, one, scale),
        )
    halves = (levels.reshape(rows, columns) + 8).astype(np.uint8)
    packed = np.asarray(halves[:, : columns // 2] | halves[:, columns // 2 :] << 4, np.uint8)
    return packed, np.asarray(scale[..., 0], np.float16)


def unpack(packed: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """The table (V, D) float32 that `pack` made bytes of."""
    levels = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    grouped = levels.reshape(len(levels), scale.shape[1], -1) * scale[..., None].astype(np.float32)
    return grouped.reshape(levels.shape)


class _Graph:
    """Nodes and initialisers in the making; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._count = 0

    def constant(self, value: npt.ArrayLike) -> str:
        self._count += 1
        name = f"c{self._count}"
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        self._count += 1
        name = name or f"t{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, matrix: Array) -> str:
        """A float32 matrix (in, out) kept as int8, one scale an output."""
        integers, scale = quantise(matrix.T)
        floats = self.add("Cast", self.constant(integers.T), to=TensorProto.FLOAT)
        return self.add("Mul", floats, self.constant(scale.T))

    def linear(self, x: str, matrix: Array, bias: Array) -> str:
        """x (…, in), matrix (out, in), bias (out,) -> (…, out)."""
        return self.add("Add", self.add("MatMul", x, self.weight(matrix.T)), self.constant(bias))

    def attention(self, projected: str, look: str, heads: int) -> str:
        """Queries, keys and values side by side (B, L, 3 · width), look (B, 1, L, L) bool → (B, L, width)."""
        parts = [f"{projected}.{part}" for part in ("query", "key", "value")]
        self.nodes.append(helper.make_node("Split", [projected], parts, axis=-1, num_outputs=3))
        return self.add("Attention", *parts, look, q_num_heads=heads, kv_num_heads=heads)

    def norm(self, x: str, gain: Array, bias: Array) -> str:
        return self.add(
            "LayerNormalization", x, self.constant(gain), self.constant(bias), axis=-1, epsilon=1e-5
        )


def onnx_model(model: TextModel) -> ModelProto:
    """The graph of a text encoder."""
    w = {name: value.detach().cpu().float().numpy() for name, value in model.state_dict().items()}
    width, heads = model.config.width, model.config.heads
    g = _Graph()
    x = _look_up(g, *pack(w["embedding.weight"]), width)
    length = g.add("Shape", "ids", start=1, end=2)
    x = g.add("Add", x, g.add("Slice", g.constant(w["position"]), g.number(0), length, g.number(0)))
    rows = g.add("Concat", g.number(1, 1), length, g.number(1), axis=0)
    look = g.add("Expand", g.add("Unsqueeze", "mask", g.number(1, 2)), rows)  # (B, 1, L, L)
    for i in range(model.config.layers):
        at = f"blocks.{i}."
        normal = g.norm(x, w[at + "attention_norm.weight"], w[at + "attention_norm.bias"])
        projected = g.linear(normal, w[at + "qkv.weight"], w[at + "qkv.bias"])
        mixed = g.attention(projected, look, heads)
        x = g.add("Add", x, g.linear(mixed, w[at + "out.weight"], w[at + "out.bias"]))
        normal = g.norm(x, w[at + "mlp_norm.weight"], w[at + "mlp_norm.bias"])
        up = g.add("Gelu", g.linear(normal, w[at + "up.weight"], w[at + "up.bias"]))
        x = g.add("Add", x, g.linear(up, w[at + "down.weight"], w[at + "down.bias"]))
    x = g.norm(x, w["norm.weight"], w["norm.bias"])
    there = g.add("Cast", g.add("Unsqueeze", "mask", g.number(2)), to=TensorProto.FLOAT)  # (B, L, 1)
    tokens = g.add("Mul", x, there, name="tokens")
    # -10,000 where there is no token
    hidden = g.add("Mul", g.add("Sub", there, g.constant(np.float32(1))), g.constant(np.float32(1e4)))
    score = g.add("Add", g.add("MatMul", tokens, g.constant(w["weigh.weight"].T)), hidden)
    share = g.add("Transpose", g.add("Softmax", score, axis=1), perm=(0, 2, 1))
    pooled = g.add("Squeeze", g.add("MatMul", share, tokens), g.number(1))
    raw = g.linear(pooled, w["project.weight"], w["project.bias"])
    norm = g.add("ReduceL2", raw, g.number(-1), keepdims=1)
    g.add("Div", raw, g.add("Max", norm, g.constant(np.float32(1e-12))), name="embedding")
    integer, boolean, real = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "text",
        [
            helper.make_tensor_value_info("ids", integer, ["B", "L"]),
            helper.make_tensor_value_info("mask", boolean, ["B", "L"]),
        ],
        [
            helper.make_tensor_value_info("tokens", real, ["B", "L", width]),
            helper.make_tensor_value_info("embedding", real, ["B", width]),
        ],
        g.initialisers,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR, producer_name="miaobi"
    )
    checker.check_model(made, full_check=True)
    return made


def _look_up(g: _Graph, packed: Array, scale: Array, width: int) -> str:
    """The rows `ids` of a packed table (see `pack`)."""
    both = g.add("Cast", g.add("Gather", g.constant(packed), "ids"), to=TensorProto.FLOAT)
    high = g.add("Floor", g.add("Mul", both, g.constant(np.float32(1 / 16))))
    low = g.add("Sub", both, g.add("Mul", high, g.constant(np.float32(16))))
    levels = g.add("Sub", g.add("Concat", low, high, axis=-1), g.constant(np.float32(8)))
    scales = g.add("Cast", g.add("Gather", g.constant(scale), "ids"), to=TensorProto.FLOAT)
    grouped = g.add("Reshape", levels, g.number(0, 0, scale.shape[1], -1))
    scaled = g.add("Mul", grouped, g.add("Unsqueeze", scales, g.number(3)))
    return g.add("Reshape", scaled, g.number(0, 0, width))
