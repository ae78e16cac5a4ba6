"""PyTorch parts to a bundle of small ONNX graphs.

Weights are stored as int8, or as fp16, and turned back to fp32 by nodes that the runtime folds once when it
loads the graph: small on disk, and computed in fp32. Matrices in int8 may be multiplied so as well
(`runtimes/onnx.py`).
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from miaobi.accelerate.fusions import fuse
from miaobi.accelerate.graphs import quiet
from miaobi.bundle import Bundle, write_bundle
from miaobi.models.autoencoder import Autoencoder
from miaobi.models.autoregressive import Autoregressive
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.captioning import Captioner
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan
from miaobi.models.vae import Vae
from miaobi.text.tokenizer import MAX_TOKENS

Storage = Literal["int8", "fp16", "fp32"]
Generator = Diffusion | Gan | Vae | Autoregressive
OPSET = 23
_SMALL = 1024  # weights with fewer values stay fp32
_FINE = 40_000  # weights of fewer values, but for matrices, stay fp16: a decoder's last kernels show in int8
_BLOCK, _LEAST_BLOCK = 128, 16  # rows of a matrix in int8 that share a scale


class Method(nn.Module):
    """A function of models as a module of its own, for the exporter."""

    def __init__(self, method: Callable[..., Any], *models: nn.Module) -> None:
        super().__init__()
        self.method, self.models = method, nn.ModuleList(models)

    def forward(self, *inputs: Tensor) -> Any:
        return self.method(*inputs)


def writer_graphs(
    model: Autoregressive, autoencoder: Autoencoder, storage: Storage = "int8"
) -> dict[str, bytes]:
    """`context.onnx`, `writer.onnx` (one step of writing, see `Autoregressive.write`), and `decoder.onnx`,
    codes (B, tokens, codes) to pictures.
    """
    condition, axes = _condition(model.backbone)
    with torch.no_grad():
        keys, values, mask = model.prepare(Condition(*condition.values()))
    count = len(mask)
    step = {
        "codes": torch.zeros(count, 3, model.codes, dtype=torch.int64),
        "known": torch.ones(count, 3, dtype=torch.bool),
        "index": torch.arange(3),
        "filling": torch.zeros(1, dtype=torch.int64),
        "context_keys": keys,
        "context_values": values,
        "context_mask": mask,
    }
    axes |= {name: {0: "batch", 1: "asked"} for name in ("codes", "known")}
    axes["index"] = {0: "asked"}
    axes |= {name: {0: "batch", 3: "context"} for name in ("context_keys", "context_values", "context_mask")}
    names = ("context_keys", "context_values", "context_mask")
    context = Method(lambda *x: model.prepare(Condition(*x)), model)
    codes = {"codes": torch.zeros(2, model.backbone.tokens, model.codes, dtype=torch.int64)}
    decoder = Method(lambda codes: autoencoder.decode(model.to_latents(codes)), model, autoencoder)
    return {
        "context.onnx": to_onnx(context, condition, names, axes, storage),
        "writer.onnx": to_onnx(Method(model.write, model), step, ("logits", "keys", "values"), axes, storage),
        "decoder.onnx": to_onnx(decoder, codes, ("image",), {"codes": {0: "batch"}}, storage),
    }


def captioner_graph(model: Captioner, storage: Storage = "int8") -> dict[str, bytes]:
    """`captioner.onnx`: one step of captioning, see `Captioner.say`."""
    depth, heads, size = model.cache_shape
    step = {
        "latents": torch.randn(2, *model.backbone.latent_shape),
        "ids": torch.zeros(2, 3, dtype=torch.int64),
        "places": torch.arange(3),
        "context_keys": torch.randn(2, depth, heads, 4, size),
        "context_values": torch.randn(2, depth, heads, 4, size),
    }
    axes = {name: {0: "batch", 3: "context"} for name in ("context_keys", "context_values")}
    axes |= {"latents": {0: "batch"}, "ids": {0: "batch", 1: "asked"}, "places": {0: "asked"}}
    outputs = ("logits", "keys", "values")
    return {"captioner.onnx": to_onnx(Method(model.say, model), step, outputs, axes, storage)}


def _condition(backbone: BackboneConfig) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """An example of what the context graph is asked, and which axes of it may change."""
    count = 2
    channels, height, width = backbone.latent_shape
    condition = {
        "tokens": torch.randn(count, 5, backbone.text_width),
        "mask": torch.ones(count, 5, dtype=torch.bool),
        "embedding": torch.randn(count, backbone.text_width),
        "style": torch.zeros(count, dtype=torch.int64),
        "neighbours": torch.randn(count, backbone.neighbours, channels, height, width),
        "neighbour_style": torch.zeros(count, backbone.neighbours, dtype=torch.int64),
    }
    axes = {name: {0: "batch"} for name in condition}
    axes["tokens"] = axes["mask"] = {0: "batch", 1: "length"}
    return condition, axes


def generator_graphs(model: Diffusion | Gan | Vae, storage: Storage = "int8") -> dict[str, bytes]:
    """`context.onnx` (run once a picture) and `denoiser.onnx` (run at every step)."""
    condition, axes = _condition(model.backbone)
    channels, height, width = model.backbone.latent_shape
    with torch.no_grad():
        prepared = model.prepare(Condition(*condition.values()))
    names = ("context_bias", "context_place", "context_keys", "context_values", "context_mask")
    step = {"x": torch.randn(2, channels, height, width), "t": torch.rand(2)} | dict(
        zip(names, prepared, strict=True)
    )
    axes |= {name: {0: "batch"} for name in step}
    axes["context_keys"] = axes["context_values"] = axes["context_mask"] = {0: "batch", 3: "context"}
    return {
        "context.onnx": to_onnx(
            Method(lambda *x: model.prepare(Condition(*x)), model), condition, names, axes, storage
        ),
        "denoiser.onnx": to_onnx(Method(model.velocity, model), step, ("velocity",), axes, storage),
    }


def decoder_graph(model: Autoencoder, storage: Storage = "int8", size: int = 8) -> dict[str, bytes]:
    """`decoder.onnx`: standardised latents (B, C, size, size) to pictures."""
    example = {"latents": torch.randn(2, model.config.latent_channels, size, size)}
    return {
        "decoder.onnx": to_onnx(
            Method(model.decode, model), example, ("image",), {"latents": {0: "batch"}}, storage
        )
    }


def encoder_graph(model: Autoencoder, storage: Storage = "int8", size_px: int = 128) -> dict[str, bytes]:
    """`encoder.onnx`: pictures (B, 4, size_px, size_px), premultiplied, to standardised latents."""
    example = {"image": torch.randn(2, 4, size_px, size_px)}
    return {
        "encoder.onnx": to_onnx(
            Method(model.encode, model), example, ("latents",), {"image": {0: "batch"}}, storage
        )
    }


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    axes: Mapping[str, Mapping[int, str]],
    storage: Storage,
) -> bytes:
    """A module with named inputs as a serialised ONNX graph; `axes` names the axes that may change."""
    module = module.eval().cpu()
    dynamic = {name: dict.fromkeys(axes.get(name, {}), torch.export.Dim.DYNAMIC) for name in inputs}
    with TemporaryDirectory() as folder, quiet(), torch.no_grad():
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
        graph = fuse(onnx.load(str(path)))
    _forget_origin(graph)
    shrink(graph, storage)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop what the exporter noted about the source code that each node came from, file paths among it."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def shrink(model: onnx.ModelProto, storage: Storage) -> None:
    """Store the large fp32 weights of a graph as int8 or fp16 in place, with the nodes that turn them back.

    int8 is symmetric, with a scale for every 128 rows of each column where matrices are multiplied (64, 32 or
    16 rows where 128 do not divide them), otherwise one per output channel: axis 0 of a kernel, the last axis
    of a table. Of what is no matrix, smaller weights stay in fp16.
    """
    if storage == "fp32":
        return
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    kernels |= {node.input[1] for node in model.graph.node if node.op_type == "Gemm" and _transposed(node)}
    matrices = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    nodes, kept = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL:
            kept.append(tensor)
            continue
        stored = f"{tensor.name}.stored"
        fine = tensor.name not in matrices and values.size < _FINE
        if storage == "fp16" or values.ndim < 2 or fine:
            kept.append(numpy_helper.from_array(values.astype(np.float16), stored))
            nodes.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            continue
        block = math.gcd(_BLOCK, len(values))  # OpenVINO reads whole blocks alone
        if tensor.name in matrices and values.ndim == 2 and block >= _LEAST_BLOCK:
            small, scale = _in_blocks(values, block)
            kept.append(numpy_helper.from_array(small, stored))
            kept.append(numpy_helper.from_array(scale, f"{tensor.name}.scale"))
            inputs = [stored, f"{tensor.name}.scale"]
            nodes.append(
                helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=0, block_size=block)
            )
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


def _in_blocks(
    matrix: npt.NDArray[np.float32], block: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 (rows, columns) of a matrix and the scales (rows / block, columns) of every `block` rows."""
    blocks = matrix.reshape(-1, block, matrix.shape[1])
    scale = np.maximum(np.abs(blocks).max(axis=1), 1e-12) / 127
    small = np.rint(blocks / scale[:, None]).astype(np.int8)
    return small.reshape(matrix.shape), scale.astype(np.float32)


def _transposed(gemm: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)


def export_bundle(recipe: Mapping[str, Any], folder: Path) -> Bundle:
    """Assemble a bundle from trained parts.

    `recipe` names the folders `generator`, `autoencoder` and `text`; what the generator was trained on, of
    which the memory is made, or `memory`, a bundle whose memory and styles are taken; `storage` of weights;
    `weights`, whether PyTorch's weights come along; `card`, a JSON file of measured figures (optional); and
    the table `bundle`, which becomes `bundle.json`.

    Raises:
        TrainingError: a part has not been trained.
    """
    from miaobi.train import autoencoder, generator, loop
    from miaobi.train.sources import Sources

    parts = {name: Path(recipe[name]) for name in ("generator", "autoencoder", "text")}
    _, trained = loop.load_model(parts["generator"])
    card = Path(recipe["card"]) if "card" in recipe else None
    manifest = {
        **recipe["bundle"],
        "family": trained.get("family", "diffusion"),
        "card": json.loads(card.read_text(encoding="utf-8")) if card and card.exists() else {},
    }
    files: dict[str, bytes | Path] = {name: parts["text"] / name for name in ("tokenizer.json", "text.onnx")}
    if recipe.get("weights"):
        files |= {
            f"{name}.safetensors": parts[name] / "model.safetensors" for name in ("generator", "autoencoder")
        }
    with TemporaryDirectory() as temporary:
        if "memory" in recipe:
            other = Bundle.load(recipe["memory"])
            manifest["styles"] = list(other.styles)
            files |= {name: other.path(name) for name in ("memory.safetensors", "memory.json")}
        else:
            sources = Sources.load({**trained, **recipe})
            manifest["styles"] = list(sources.dataset.styles)
            made = [Path(temporary) / name for name in ("memory.safetensors", "memory.json")]
            sources.memory.save(*made)
            files |= {path.name: path for path in made}
        return assemble(
            folder,
            manifest,
            files,
            generator.load(parts["generator"]),
            autoencoder.load(parts["autoencoder"]),
            recipe.get("storage", "int8"),
        )


def assemble(
    folder: Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    model: Generator,
    autoencoder: Autoencoder,
    storage: Storage,
) -> Bundle:
    """Write a bundle of trained models: their graphs beside the given files, and what the manifest tells of
    them.
    """
    made = graphs(model, autoencoder, storage)
    return write_bundle(folder, {**manifest, **told_of(model, autoencoder)}, {**files, **made})


def graphs(model: Generator, autoencoder: Autoencoder, storage: Storage) -> dict[str, bytes]:
    """Every graph of a bundle but that of its text encoder."""
    size = model.backbone.latent_shape[1]
    if isinstance(model, Autoregressive):
        made = writer_graphs(model, autoencoder, storage)
        if isinstance(model, Captioner):
            made |= captioner_graph(model, storage)
    else:
        made = generator_graphs(model, storage) | decoder_graph(autoencoder, storage, size)
    return made | encoder_graph(autoencoder, storage, size * autoencoder.config.reduction)


def told_of(model: Generator, autoencoder: Autoencoder) -> dict[str, Any]:
    """What a manifest tells of trained models."""
    shape = list(model.backbone.latent_shape)
    captions = {"caption_cache": list(model.cache_shape)} if isinstance(model, Captioner) else {}
    return {
        **captions,
        "size_px": shape[1] * autoencoder.config.reduction,
        "latent": {"shape": shape, "patch": model.backbone.patch},
        "text": {"max_tokens": MAX_TOKENS, "dim": model.backbone.text_width},
        "neighbours": model.backbone.neighbours,
        "blocks": model.backbone.depth,
        "parameters": _parameters(model) + _parameters(autoencoder.decoder),
    }


def _parameters(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())
