"""What a pipeline is and how it runs, as fields: what recipes are checked against."""

from dataclasses import dataclass
from typing import Literal

RuntimeName = Literal["torch", "onnxruntime", "openvino", "mnn"]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "onnxruntime", "openvino", "mnn")
BUNDLE_RUNTIMES = RUNTIMES[:3]
"""Of bundles; MNN runs diffusers pipelines alone."""
DType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Traits:
    """Capabilities and state of a pipeline; a step of a recipe turns one into the next."""

    model: str
    """Name and version, such as "emoji 0.1.0"."""
    kind: Literal["bundle", "diffusers"]
    family: str
    """"diffusion", "gan", "vae" or "autoregressive"."""
    backbone: Literal["unet", "transformer"]
    runtime: RuntimeName
    runtimes: tuple[RuntimeName, ...]
    """Those that it can be moved to, its own among them."""
    device: str
    """"cpu", "cuda", "mps" …"""
    dtype: DType
    """Type of the arithmetic, but for the decoder's."""
    steps: int
    most_steps: int
    guidance: float
    """Scale of classifier-free guidance; 1: off."""
    guided: bool
    """Whether guidance is run as a second evaluation (not distilled into the weights)."""
    sampler: str
    samplers: tuple[str, ...]
    size_px: int
    tokens: int
    """Positions that the widest self-attention looks at; 0: no self-attention."""
    blocks: int
    """Transformer blocks, or levels of the U-Net."""
    weights: bool
    """Whether PyTorch weights are at hand, to change or to train."""
    parameters: int
    convolutions: bool
    """Whether the part that runs at every step has convolutions."""
    quantized: str | None = None
    compiled: bool = False
    cached: bool = False
    merged: bool = False
    threads: int = 0
    batch: int = 1
    decoder_dtype: DType = "float32"

    def dtypes(self) -> str:
        """Both types in words, such as "float32, decoder bfloat16"."""
        return (
            self.dtype if self.dtype == self.decoder_dtype else f"{self.dtype}, decoder {self.decoder_dtype}"
        )
