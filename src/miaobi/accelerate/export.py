"""PyTorch parts to a bundle of small ONNX graphs.

Weights are stored as int8 with one scale per output channel, or as fp16, and turned back to fp32 by nodes that the runtime folds once
when it loads the graph: small on disk, and computed in fp32.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from miaobi.bundle import Bundle, write_bundle
from miaobi.models.autoencoder import Autoencoder
from miaobi.models.diffusion import Condition, Diffusion
from miaobi.text.memory import Memory

Storage = Literal["int8", "fp16", "fp32"]
OPSET = 23
_SMALL = 1024  # weights with fewer values stay fp32


class _Context(nn.Module):
    """Diffusion.prepare with plain tensors."""

    def __init__(self, model: Diffusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.model.prepare(Condition(*inputs))


class _Denoiser(nn.Module):
    """Diffusion.velocity."""

    def __init__(self, model: Diffusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model.velocity(*inputs)


class _Decoder(nn.Module):
    """Autoencoder.decode."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model.decode(*inputs)


def generator_graphs(model: Diffusion, storage: Storage = "int8") -> dict[str, bytes]:
    """`context.onnx` (run once a picture) and `denoiser.onnx` (run at every step)."""
    c, count = model.config, 2
    channels, height, width = c.latent_shape
    condition = {
        "tokens": torch.randn(count, 5, c.text_width),
        "mask": torch.ones(count, 5, dtype=torch.bool),
        "embedding": torch.randn(count, c.text_width),
        "style": torch.zeros(count, dtype=torch.int64),
        "neighbours": torch.randn(count, c.neighbours, channels, height, width),
        "neighbour_style": torch.zeros(count, c.neighbours, dtype=torch.int64),
    }
    with torch.no_grad():
        prepared = model.prepare(Condition(*condition.values()))
    names = ("context_bias", "context_keys", "context_values", "context_mask")
    step = {"x": torch.randn(count, channels, height, width), "t": torch.rand(count)} | dict(zip(names, prepared, strict=True))
    axes = {name: {0: "batch"} for name in (*condition, *step)}
    axes["tokens"] = axes["mask"] = {0: "batch", 1: "length"}
    axes["context_keys"] = axes["context_values"] = axes["context_mask"] = {0: "batch", 3: "context"}
    return {
        "context.onnx": to_onnx(_Context(model), condition, names, axes, storage),
        "denoiser.onnx": to_onnx(_Denoiser(model), step, ("velocity",), axes, storage),
    }


def decoder_graph(model: Autoencoder, storage: Storage = "int8", size: int = 8) -> dict[str, bytes]:
    """`decoder.onnx`: standardised latents (B, C, size, size) to pictures."""
    example = {"latents": torch.randn(2, model.config.latent_channels, size, size)}
    return {"decoder.onnx": to_onnx(_Decoder(model), example, ("image",), {"latents": {0: "batch"}}, storage)}


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    axes: Mapping[str, Mapping[int, str]],
    storage: Storage,
) -> bytes:
    """A module with named inputs as a serialised ONNX graph; `axes` names the axes that may change, by input."""
    module = module.eval().cpu()
    dynamic = {name: {axis: torch.export.Dim.DYNAMIC for axis in axes.get(name, {})} for name in inputs}
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(tuple(dynamic.values()),),
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(str(path))
    shrink(graph, storage)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def shrink(model: onnx.ModelProto, storage: Storage) -> None:
    """Store the large fp32 weights of a graph as int8 or fp16 in place, with the nodes that turn them back.

    int8 is symmetric with one scale per output channel: axis 0 of a convolution's kernel, the last axis of a matrix.
    """
    if storage == "fp32":
        return
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    kernels |= {node.input[1] for node in model.graph.node if node.op_type == "Gemm" and _transposed(node)}
    nodes, kept = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL:
            kept.append(tensor)
            continue
        stored = f"{tensor.name}.stored"
        if storage == "fp16" or values.ndim < 2:
            kept.append(numpy_helper.from_array(values.astype(np.float16), stored))
            nodes.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            continue
        over = tuple(range(1, values.ndim)) if tensor.name in kernels else tuple(range(values.ndim - 1))
        scale = np.maximum(np.abs(values).max(axis=over, keepdims=True), 1e-12) / 127
        kept.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), stored))
        kept.append(numpy_helper.from_array(scale.astype(np.float32), f"{tensor.name}.scale"))
        nodes.append(helper.make_node("Cast", [stored], [f"{tensor.name}.cast"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{tensor.name}.cast", f"{tensor.name}.scale"], [tensor.name]))
    everything = nodes + list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(everything)


def _transposed(gemm: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)


def export_bundle(
    folder: Path,
    generator: Diffusion,
    autoencoder: Autoencoder,
    memory: Memory,
    text: Path,
    manifest: Mapping[str, Any],
    storage: Storage = "int8",
) -> Bundle:
    """Write a whole bundle to `folder`; `text` holds `tokenizer.json` and `text.onnx`, `manifest` what `write_bundle` wants."""
    with TemporaryDirectory() as temporary:
        tensors, names = Path(temporary) / "memory.safetensors", Path(temporary) / "memory.json"
        memory.save(tensors, names)
        files: dict[str, bytes | Path] = {
            **generator_graphs(generator, storage),
            **decoder_graph(autoencoder, storage, generator.config.latent_shape[1]),
            tensors.name: tensors,
            names.name: names,
            "tokenizer.json": text / "tokenizer.json",
            "text.onnx": text / "text.onnx",
        }
        return write_bundle(folder, manifest, files)
