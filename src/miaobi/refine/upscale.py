"""Enlarges pictures twice or four times: by the network inside the package, or by other people's weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.errors import BundleError, InputError
from miaobi.files import atomic_write
from miaobi.images import Float
from miaobi.refine.resample import TILE_PX, by_tiles, shrink

if TYPE_CHECKING:
    from miaobi.refine.stage import Subject

SCALES = (2, 4)
SHIPPED = Path(__file__).parents[1] / "bundles" / "upscaler"
MOST_PX = 64_000_000
"""Pixels of the largest result: 1 GB as float32."""
FORMAT = 1


@dataclass(frozen=True)
class Upscale:
    """The picture with its sides times `scale`. A pixel of alpha 0 becomes a block of alpha 0.

    Times 2 is the average of 2x2 pixels of times 4, and takes as long.
    """

    scale: int = 4
    """2 or 4."""
    model: str = ""
    """A file of weights that spandrel knows (ESRGAN, SPAN, DAT …), .safetensors or .pth; empty: the network
    inside the package."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale is {self.scale!r}; choose 2 or 4")

    def __call__(self, subject: "Subject") -> Float:
        """The picture (4, scale · H, scale · W).

        Raises:
            InputError: the result would be too large, or `model` cannot be used.
            BundleError: the network inside the package is missing or was altered.
            MachineError: spandrel is missing, or the runtime failed.
        """
        height, width = subject.image.shape[1:]
        if self.scale**2 * height * width > MOST_PX:
            raise InputError(
                f"{width}x{height} px times {self.scale} is more than {MOST_PX // 10**6} million pixels; "
                "choose a smaller scale or picture."
            )
        if self.model:
            from miaobi.refine.foreign import load

            return load(self.model).upscale(subject.image, self.scale)
        return shipped().upscale(subject.image, self.scale)


@dataclass(frozen=True)
class Enlarger:
    """An upscaler on disk: `upscaler.onnx`, and `upscaler.json` that describes it."""

    folder: Path
    scale: int
    """Of the graph."""
    margin_px: int
    """How far pictures are continued beyond their borders first."""
    reach_px: int
    """How far away an input pixel can change a result."""
    sha256: str
    bytes: int
    card: Mapping[str, Any] = field(default_factory=dict)
    """Measured quality and speed, and the command behind each figure."""

    @classmethod
    def load(cls, folder: Path) -> "Enlarger":
        """Read `upscaler.json` and check the graph beside it.

        Raises:
            BundleError: one of them is missing, damaged or altered.
        """
        again = "get it again (for the shipped one: pip install --force-reinstall miaobi)."
        path = folder / "upscaler.onnx"
        try:
            about = json.loads((folder / "upscaler.json").read_bytes())
            if about.pop("format") != FORMAT:
                raise BundleError(f"{str(folder)!r} has another format; update miaobi or export it again.")
            names = ("scale", "margin_px", "reach_px", "bytes")
            made = cls(
                folder,
                **{name: int(about[name]) for name in names},
                sha256=str(about["sha256"]),
                card=dict(about.get("card", {})),
            )
            content = path.read_bytes()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"the upscaler in {str(folder)!r} is missing or damaged ({type(error).__name__}: {error}); "
                f"{again}"
            ) from error
        if len(content) != made.bytes or hashlib.sha256(content).hexdigest() != made.sha256:
            raise BundleError(f"{str(path)!r} was altered (its checksum differs from upscaler.json); {again}")
        return made

    def upscale(self, picture: Float, scale: int, tile_px: int = TILE_PX) -> Float:
        """A picture (4, H, W) in [-1, 1] as (4, scale · H, scale · W); `scale` divides that of the graph."""
        graph, factor = _session(self.folder / "upscaler.onnx", self.sha256), self.scale // scale

        def enlarge(window: Float) -> Float:
            large: Float = graph(image=window[None])["large"][0]
            return large if factor == 1 else shrink(large, factor)

        return by_tiles(
            enlarge,
            picture,
            scale,
            overlap_px=self.reach_px,
            margin_px=self.margin_px,
            tile_px=tile_px,
        )


def write(folder: Path, graph: bytes, about: Mapping[str, Any]) -> Enlarger:
    """Write a graph and what describes it (`Enlarger`'s fields but sha256 and bytes); the Enlarger read back.

    Raises what `files.atomic_write` and `Enlarger.load` raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sums = {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
    with atomic_write(folder / "upscaler.onnx") as file:
        file.write(graph)
    with atomic_write(folder / "upscaler.json") as file:
        text = json.dumps({"format": FORMAT, **about, **sums}, ensure_ascii=False, indent=2)
        file.write(text.encode() + b"\n")
    return Enlarger.load(folder)


@cache
def shipped() -> Enlarger:
    """The upscaler inside the package, checked once."""
    return Enlarger.load(SHIPPED)


@cache
def _session(path: Path, _sha256: str) -> Any:
    from miaobi.runtimes.onnx import OnnxModel

    return OnnxModel(path)
