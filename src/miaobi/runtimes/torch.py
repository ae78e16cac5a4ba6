"""Run a bundle's PyTorch weights; a graph's name selects the method that it was exported from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from miaobi.bundle import Bundle
from miaobi.errors import BundleError, MachineError
from miaobi.models.backbone import Condition
from miaobi.runtimes.graph import Running

Array = npt.NDArray[Any]
CONTEXT = ("context_bias", "context_place", "context_keys", "context_values", "context_mask")
_CONDITION = ("tokens", "mask", "embedding", "style", "neighbours", "neighbour_style")
_CACHE = ("context_keys", "context_values", "context_mask")
_SIGNATURES = {
    "context": (_CONDITION, CONTEXT),
    "denoiser": (("x", "t", *CONTEXT), ("velocity",)),
    "decoder": (("latents",), ("image",)),
}
_OF_TOKENS = {
    "context": (_CONDITION, _CACHE),
    "writer": (("codes", "known", "index", "filling", *_CACHE), ("logits", "keys", "values")),
    "decoder": (("codes",), ("image",)),
}
"""Signatures where image tokens are written: of the autoregressive family."""


class TorchModel:
    """One part of a bundle in PyTorch; call it with its inputs by name, get its outputs by name.

    Args:
        bundle: one with PyTorch weights.
        name: "context", "denoiser" or "writer", "decoder".
        running: dtype (mixed precision), threads (of the whole process), device and whether to compile.

    Raises:
        BundleError: there are no weights, or none of that part.
    """

    def __init__(self, bundle: Bundle, name: str, running: Running) -> None:
        from miaobi.train import autoencoder, generator

        tokens = bundle.family == "autoregressive"
        signatures = _OF_TOKENS if tokens else _SIGNATURES
        if "generator.safetensors" not in bundle.files or name not in signatures:
            raise BundleError(f"{bundle.name}: its {name} has no PyTorch weights; run it on onnxruntime.")
        self.inputs, self.outputs = signatures[name]
        if running.threads:
            torch.set_num_threads(running.threads)
        dtype = running.dtype_of(name)
        self._dtype, self._device = getattr(torch, dtype), torch.device(running.device)
        self._mixed = dtype != "float32"
        module: Any
        if name == "decoder":
            module = autoencoder.load(bundle.path("autoencoder.safetensors"))
        else:
            module = generator.load(bundle.path("generator.safetensors"))
        module.to(self._device)
        if running.quantized:
            quantize(module, running.quantized)
        methods: dict[str, Callable[..., Any]] = {
            "context": lambda *inputs: module.prepare(Condition(*inputs)),
            "denoiser": lambda *inputs: module.velocity(*inputs),
            "writer": lambda *inputs: module.write(*inputs),
            "decoder": lambda latents: module.decode(latents),
        }
        if name == "decoder" and tokens:
            writer: Any = generator.load(bundle.path("generator.safetensors")).to(self._device)
            methods["decoder"] = lambda codes: module.decode(writer.to_latents(codes))
        self._call = methods[name]
        if running.compiled:
            self._call = torch.compile(self._call)

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Run the part; inputs that it does not know are left out.

        Raises:
            MachineError: PyTorch failed (such as for lack of memory).
        """
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, self._mixed):
                results = self._call(*(self._tensor(inputs[name]) for name in self.inputs))
        except RuntimeError as error:
            raise MachineError(f"PyTorch failed: {str(error).splitlines()[0]}") from error
        outputs = (results,) if isinstance(results, Tensor) else results
        arrays = [one.detach().float().cpu().numpy() for one in outputs]
        return dict(zip(self.outputs, arrays, strict=True))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def quantize(module: nn.Module, method: str) -> None:
    """Quantize the linear layers of a module in place with torchao.

    Raises:
        MachineError: torchao is not installed.
    """
    try:
        import torchao.quantization as ao
    except ImportError as error:
        raise MachineError("torchao is not installed; pip install 'miaobi[accelerate]'.") from error
    configs = {
        "int8-dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        "int8-weights": ao.Int8WeightOnlyConfig,
        "int4-weights": ao.Int4WeightOnlyConfig,
    }
    ao.quantize_(module, configs[method]())
