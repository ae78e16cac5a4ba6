"""What a call gives back: the pictures, and the receipt that tells what really ran.

Nothing falls back or is ignored in silence.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from miaobi import images

if TYPE_CHECKING:
    from miaobi.compose import Layer


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one call of `generate` did. Fields that only a bundle has are empty where another model ran."""

    prompts: list[str]
    """The prompts as given, after cleaning."""
    bundle: str
    """Name and version of the bundle, such as "emoji 0.1.0", or the name of another model."""
    runtime: str
    """Such as "onnxruntime 1.20.0"."""
    device: str
    dtype: str
    threads: int
    """Threads of one operator; 0 = as many as the runtime likes."""
    style: str = ""
    tones: list[int] = field(default_factory=list)
    """Skin tone of each prompt, 0 = none, 1 (light) to 5 (dark)."""
    steps: int
    sampler: str
    guidance: float
    seeds: list[int]
    """One for each picture, in order."""
    size_px: int
    neighbours: list[list[str]] = field(default_factory=list)
    """For each picture, those of the memory that it was drawn after."""
    load_ms: float
    """Loading the bundle, once for each pipeline; not part of `total_ms`."""
    stages_ms: dict[str, float]
    total_ms: float
    peak_memory_bytes: int
    """The highest resident memory of the process so far."""
    expanded: list[str | None] = field(default_factory=list)
    """For each prompt, what a language model made of it, where one was asked."""
    scenes: list[str | None] = field(default_factory=list)
    """For each prompt, the scene that was drawn in layers, as JSON; None: one picture, no scene."""
    refined: list[list[dict[str, Any]]] = field(default_factory=list)
    """For each picture, what each stage of refinement did (`refine.stage.Step`)."""
    ignored: list[str] = field(default_factory=list)
    """What was asked for and had no effect."""
    fallbacks: list[str] = field(default_factory=list)
    """What ran otherwise than asked, and why."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def __str__(self) -> str:
        """A table of two columns, for people."""
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in self.stages_ms.items())
        rows = {
            "prompt": " | ".join(self.prompts),
            "bundle" if self.style else "model": self.bundle,
            "runtime": f"{self.runtime}, {self.device}, {self.dtype}, threads {self.threads or 'auto'}",
            "sampling": f"{self.sampler}, steps {self.steps}, guidance {self.guidance:g}, {self.size_px} px",
            "style": self.style + (f", skin tone {self.tones}" if any(self.tones) else ""),
            "seeds": " ".join(map(str, self.seeds)),
            "drawn after": " | ".join(dict.fromkeys(", ".join(ids) for ids in self.neighbours)),
            "time": f"{self.total_ms:.1f} ms ({stages}), loading {self.load_ms:.1f} ms",
            "peak memory": f"{self.peak_memory_bytes / 1e6:.0f} MB",
            "scene": " | ".join(one for one in self.scenes if one) or "one picture each",
            "expanded": " | ".join(one for one in self.expanded if one) or "no",
            "refined": ", ".join(one["name"] for one in self.refined[0]) if self.refined else "no",
            "ignored": "; ".join(self.ignored) or "nothing",
            "fallbacks": "; ".join(self.fallbacks) or "none",
        }
        if not self.style:  # no bundle ran
            for name in ("style", "drawn after", "scene", "expanded", "refined"):
                del rows[name]
        return "\n".join(f"{name:<11}  {value}" for name, value in rows.items())


class Generation(Sequence[Image.Image]):
    """The pictures of one call, in mode RGBA, in the order of the prompts and of their seeds; and the
    receipt."""

    def __init__(
        self, pixels: npt.NDArray[np.uint8], receipt: Receipt, layers: "Sequence[Sequence[Layer]]" = ()
    ) -> None:
        self.pixels = pixels
        """(N, H, W, 4) uint8, straight alpha."""
        self.layers = layers
        """For each picture, what it was composed of, from the back to the front, before refinement."""
        self.receipt = receipt
        self._images = images.to_pil(pixels)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        return self._images[index]

    def __len__(self) -> int:
        return len(self._images)


def peak_memory_bytes() -> int:
    """The highest resident memory of this process so far, in bytes; 0 where the system does not tell."""
    try:  # Linux; ru_maxrss would count what a parent held before it started this process
        with open("/proc/self/status", "rb", buffering=0) as file:
            return int(file.read(4096).split(b"VmHWM:")[1].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        import resource  # absent on Windows
        import sys
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
