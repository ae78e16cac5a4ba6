"""Refinement: a picture goes through stages, each a frozen dataclass that is called with it.

The contract of a stage: `stage(subject) -> image`, with `subject.image` and the result premultiplied RGBA
float32 (4, H, W) in [-1, 1]. A stage changes nothing it is given, draws its chance from a `seed` of its own,
and raises `InputError` for what it cannot do. Where the subject has a mask and the size stays, `refine` keeps
the picture outside the mask as it was, so that no stage has to.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from miaobi.errors import InputError
from miaobi.images import Float

if TYPE_CHECKING:
    from miaobi.pipeline import Pipeline

STAGES: Mapping[str, str] = {
    "enhance": "enhance:Enhance",
    "denoise": "enhance:Denoise",
    "sharpen": "enhance:Sharpen",
    "deblur": "enhance:Deblur",
    "contrast": "enhance:Contrast",
    "balance": "enhance:Balance",
    "upscale": "upscale:Upscale",
    "inpaint": "repair:Inpaint",
    "outpaint": "repair:Outpaint",
    "redraw": "repair:Redraw",
    "restore": "restore:Restore",
    "restyle": "style:Restyle",
    "style": "style:Style",
}
"""Where each stage lives; its module is imported when the stage is asked for."""


@dataclass(frozen=True)
class Subject:
    """A picture under way and what is known of it."""

    image: Float
    """(4, H, W) float32 in [-1, 1], premultiplied RGBA."""
    mask: Float | None = None
    """(H, W) float32 in [0, 1], 1 where the picture is to change; None: everywhere."""
    prompt: str | None = None
    """What the picture shows or is to show, for stages that draw."""
    pipeline: "Pipeline | None" = None
    """What draws, for stages that do; None: the bundle inside the package."""


class Stage(Protocol):
    """A step of refinement. Implementations are frozen dataclasses; their fields are its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, subject: Subject) -> Float:
        """The refined picture (4, H', W')."""


@dataclass(frozen=True)
class Step:
    """What one stage did."""

    name: str
    settings: dict[str, Any]
    ms: float
    size_px: tuple[int, int]
    """Width and height afterwards."""
    psnr_db: float | None = None
    """Against the reference, over white; None: there is none of this size."""
    ssim: float | None = None
    """As `psnr_db`."""

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        measured = "" if self.psnr_db is None else f", PSNR {self.psnr_db:.2f} dB, SSIM {self.ssim:.3f}"
        return f"{self.name} ({told}): {self.ms:.1f} ms, {self.size_px[0]}x{self.size_px[1]} px{measured}"


def parse(text: str) -> list[Stage]:
    """Stages from text such as "denoise:method=wavelet,upscale:scale=4:model=x4.pth".

    Raises:
        InputError: a stage or setting is unknown, or a value is not allowed.
    """
    return [_stage(*one.strip().split(":")) for one in text.split(",")]


def _stage(name: str, *settings: str) -> Stage:
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}; the stages are {', '.join(STAGES)}.")
    module, kind = STAGES[name].split(":")
    cls = getattr(import_module(f"miaobi.refine.{module}"), kind)
    known = {one.name: one for one in fields(cls)}
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in known or not equals:
            allowed = ", ".join(f"{key}={one.default}" for key, one in known.items()) or "none"
            raise InputError(f"stage {name}: setting {setting!r} is unknown; the settings are {allowed}.")
        values[key] = _value(value, type(known[key].default), f"stage {name}: {key}")
    try:
        made: Stage = cls(**values)
    except ValueError as error:
        raise InputError(f"stage {name}: {error}.") from error
    return made


def _value(text: str, kind: type, what: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{what} is {text!r}; choose true or false.")
        return text.lower() == "true"
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError as error:
        raise InputError(f"{what} is {text!r}; give a number.") from error


def refine(
    subject: Subject, stages: Sequence[Stage], reference: Float | None = None
) -> tuple[Float, list[Step]]:
    """The picture after all stages, and what each did.

    Args:
        subject: the picture.
        stages: in the order they run.
        reference: what the picture should look like, (4, H, W) as `subject.image`: PSNR and SSIM are told of
            every stage whose result has its size.

    Raises:
        InputError: the mask does not fit the picture, or a stage cannot do what is asked.
    """
    if subject.mask is not None and subject.mask.shape != subject.image.shape[1:]:
        raise InputError(
            f"the mask is {_size(subject.mask)} and the picture {_size(subject.image)} px; give a mask of the "
            "picture's size."
        )
    steps = []
    for stage in stages:
        begin = time.perf_counter()
        made = stage(subject)
        mask = subject.mask
        if mask is not None and made.shape == subject.image.shape:
            made = subject.image + mask * (made - subject.image)
        elif mask is not None:
            mask = _resized(mask, made.shape[1:])
        ms = (time.perf_counter() - begin) * 1000
        subject = replace(subject, image=made, mask=mask)
        measured: dict[str, float] = {}
        if reference is not None and reference.shape == made.shape:
            measured = _compared(made, reference)
        name = next(name for name, home in STAGES.items() if home.endswith(f":{type(stage).__name__}"))
        settings = {one.name: getattr(stage, one.name) for one in fields(stage)}
        steps.append(Step(name, settings, round(ms, 2), (made.shape[2], made.shape[1]), **measured))
    return subject.image, steps


def _size(image: Float) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"


def _resized(mask: Float, size: Sequence[int]) -> Float:
    picture = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32)


def _compared(image: Float, reference: Float) -> dict[str, float]:
    from miaobi.evaluate.quality import psnr, ssim
    from miaobi.images import over_white

    ours, theirs = (np.moveaxis(over_white(one) + 1, 0, -1)[None] / 2 for one in (image, reference))
    return {"psnr_db": float(psnr(ours, theirs)[0]), "ssim": float(ssim(ours, theirs)[0])}
