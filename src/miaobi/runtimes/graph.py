"""A graph and how it is run: the one contract that every runtime keeps, and the choice among them."""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy.typing as npt

from miaobi.bundle import Bundle
from miaobi.machine import lacks_int8
from miaobi.runtimes import onnx
from miaobi.sampling import timesteps
from miaobi.traits import BUNDLE_RUNTIMES, DType, RuntimeName, Traits

Array = npt.NDArray[Any]


class Graph(Protocol):
    """Called with its inputs by name it gives its outputs by name; inputs it does not know are left out."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    def __call__(self, **inputs: Array) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Running:
    """How a bundle's graphs are run."""

    runtime: RuntimeName = "onnxruntime"
    dtype: DType = "float32"
    """Type of the arithmetic, but for the decoder's; what is stored or multiplied in integers stays so."""
    decoder_dtype: DType = "float32"
    quantized: str | None = None
    """How PyTorch's weights are quantized; a graph that is has it in itself."""
    compiled: bool = False
    """torch.compile of what runs at every step; on OpenVINO the whole picture as one graph."""
    threads: int = 0
    """Of one operator; 0: the runtime chooses."""
    device: str = "cpu"
    batch: int = 8
    """Pictures drawn together at most."""

    def dtype_of(self, graph: str) -> DType:
        """Type of the arithmetic of the graph of that name."""
        return self.decoder_dtype if graph == "decoder" else self.dtype


def is_whole(bundle: Bundle, running: Running) -> bool:
    """Whether a picture is drawn by one graph, "picture", from the context to the decoder."""
    return (
        running.compiled
        and running.runtime == "openvino"
        and bundle.family != "autoregressive"
        and bundle.guidance == 1
        and (bundle.sampler == "euler" or bundle.steps == 1)
        and running.dtype == running.decoder_dtype
    )


def as_floats(bundle: Bundle, running: Running) -> bool:
    """Whether ONNX Runtime multiplies in fp32 what a bundle stores in int8: faster on a CPU without an int8
    dot product (docs/decisions/0016). What a recipe quantized stays in int8.
    """
    return running.device == "cpu" and bundle.quantized is None and lacks_int8()


HERE = ("text", "encoder", "captioner")
"""Graphs that always run on ONNX Runtime: bundles hold no PyTorch weights of them, and a text of every length
or caption would be another graph to compile for OpenVINO."""


def open_graph(bundle: Bundle, name: str, running: Running) -> Graph:
    """A graph of a bundle: "text", "context", "denoiser" or "writer", "decoder", "encoder", "captioner"; also
    "picture" where `is_whole`, for the bundle's own number of steps.

    Raises:
        BundleError: the file is missing, damaged or no graph that the runtime can run.
        MachineError: the runtime is not installed.
    """
    if name in HERE:
        return onnx.OnnxModel(bundle.path(f"{name}.onnx"), running.threads, running.device)
    if running.runtime == "openvino":
        from miaobi.runtimes.openvino import OpenVinoModel, WholePicture, settings

        if name == "picture":
            context, denoiser, decoder = (
                cast(OpenVinoModel, open_graph(bundle, part, running))
                for part in ("context", "denoiser", "decoder")
            )
            options = settings(running.dtype, running.threads, bundle.quantized)
            return WholePicture(context, denoiser, decoder, timesteps(bundle.steps), options)
        own = f"{name}.xml" in bundle.files  # OpenVINO's format, which its quantizer writes
        path, weights = (
            (bundle.path(f"{name}.xml"), bundle.path(f"{name}.weights"))
            if own
            else (bundle.path(f"{name}.onnx"), None)
        )
        return OpenVinoModel(path, running.threads, running.dtype_of(name), weights, bundle.quantized)
    if running.runtime == "torch":
        from miaobi.runtimes.torch import TorchModel

        return TorchModel(bundle, name, running)
    floats = as_floats(bundle, running)
    return onnx.OnnxModel(bundle.path(f"{name}.onnx"), running.threads, running.device, floats)


def runtime_name(running: Running) -> str:
    """Name and version of what runs, such as "onnxruntime 1.32.0"."""
    if running.runtime == "onnxruntime":
        return onnx.runtime_name()
    if running.runtime == "openvino":
        from miaobi.runtimes.openvino import runtime_name

        return f"{runtime_name()} (text: {onnx.runtime_name()})"
    import torch

    how = ", compiled" if running.compiled else ""
    return f"torch {torch.__version__}{how} (text: {onnx.runtime_name()})"


def dtype_name(bundle: Bundle, running: Running) -> str:
    """The arithmetic that runs: the graphs' own, unless the weights or the runtime were told another."""
    as_exported = running.runtime != "torch" and running.dtype == "float32"
    dtype = bundle.dtype if as_exported else running.dtype
    if as_exported and running.runtime == "onnxruntime" and "int8" in dtype and as_floats(bundle, running):
        dtype += " (multiplied as float32)"
    quantized = running.quantized or bundle.quantized
    if quantized and quantized not in dtype:
        dtype = f"{quantized}, the rest {dtype}"
    return dtype if running.decoder_dtype == running.dtype else f"{dtype}; decoder {running.decoder_dtype}"


def traits_of(bundle: Bundle, running: Running) -> Traits:
    """What recipes are checked against."""
    weights = "generator.safetensors" in bundle.files
    _, height, width = bundle.latent_shape
    diffusion = bundle.family == "diffusion"
    return Traits(
        model=f"{bundle.name} {bundle.version}",
        kind="bundle",
        family=bundle.family,
        backbone="transformer",
        runtime=running.runtime,
        runtimes=BUNDLE_RUNTIMES if weights else BUNDLE_RUNTIMES[1:],
        device=running.device,
        dtype=running.dtype,
        decoder_dtype=running.decoder_dtype,
        steps=bundle.steps,
        most_steps=bundle.most_steps,
        guidance=bundle.guidance,
        guided=bundle.guidance != 1,
        sampler=bundle.sampler if diffusion else "tokens",
        samplers=("euler", "consistency") if diffusion else (),
        size_px=bundle.size_px,
        tokens=height * width // bundle.patch**2,
        blocks=bundle.blocks,
        weights=weights,
        parameters=bundle.parameters,
        convolutions=False,
        quantized=running.quantized or bundle.quantized,
        compiled=running.compiled,
        threads=running.threads,
        batch=running.batch,
    )
