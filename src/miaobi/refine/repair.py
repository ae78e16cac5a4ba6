"""Inpaint, outpaint and redraw: the generator at work on a part of a picture, its surroundings or all of it.

The generator draws squares of one size: a picture of another size is fitted into that square, and what was
drawn is brought back to the picture's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from miaobi.drawing import Edit
from miaobi.errors import InputError
from miaobi.images import Float, from_uint8, resized
from miaobi.pipeline import shipped
from miaobi.refine.arrays import library
from miaobi.refine.stage import Subject


@dataclass(frozen=True)
class Inpaint:
    """Draw anew what the mask covers, so that it fits the prompt and what is around it."""

    method: str = "generator"
    """"generator"; or OpenCV's "telea" or "navier-stokes": they continue the surroundings, without prompt."""
    strength: float = 1.0
    """How much of what the mask covers is drawn anew, above 0 to 1."""
    seed: int = 0
    style: str = ""
    """Of the generator; empty: the bundle's default."""

    def __post_init__(self) -> None:
        if self.method not in ("generator", "telea", "navier-stokes"):
            raise ValueError(f"method is {self.method!r}; choose generator, telea or navier-stokes")

    def __call__(self, subject: Subject) -> Float:
        if subject.mask is None:
            raise InputError("inpaint needs a mask, white where to draw; give one with --mask.")
        if self.method != "generator":
            return _classical(subject.image, subject.mask, self.method)
        return _drawn(subject, subject.mask, self.strength, self.seed, self.style)


@dataclass(frozen=True)
class Redraw:
    """Image to image: the picture, or a rough sketch of it, drawn again as the prompt says."""

    strength: float = 0.5
    """Above 0 (hardly anything changes) to 1 (nothing is left)."""
    seed: int = 0
    style: str = ""
    """Of the generator; empty: the bundle's default."""

    def __call__(self, subject: Subject) -> Float:
        everywhere = np.ones(subject.image.shape[1:], np.float32)
        return _drawn(subject, everywhere, self.strength, self.seed, self.style)


@dataclass(frozen=True)
class Outpaint:
    """A wider picture: the margins are drawn, the middle stays."""

    margin: float = 0.25
    """Of the picture's width and height, added on every side; above 0 to 1."""
    seed: int = 0
    style: str = ""
    """Of the generator; empty: the bundle's default."""

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise ValueError(f"margin is {self.margin}; choose above 0 to 1")

    def __call__(self, subject: Subject) -> Float:
        _, height, width = subject.image.shape
        y, x = max(1, round(self.margin * height)), max(1, round(self.margin * width))
        around = [(0, 0), (y, y), (x, x)]
        wide = np.pad(subject.image, around, mode="edge")
        mask = np.pad(np.zeros((height, width), np.float32), around[1:], constant_values=1)
        drawn = _drawn(replace(subject, image=wide), mask, 1.0, self.seed, self.style)
        return np.asarray(wide + mask * (drawn - wide), np.float32)


def _drawn(subject: Subject, mask: Float, strength: float, seed: int, style: str) -> Float:
    """The picture as the generator draws it where the mask (H, W) says so."""
    if not subject.prompt:
        raise InputError("this stage draws and needs to know what; give --prompt, such as 'a red apple'.")
    pipe = subject.pipeline or shipped()
    size = pipe.bundle.size_px
    picture, back = to_square(subject.image, size)
    covered = to_square(np.broadcast_to(mask, subject.image.shape), size)[0][0]
    if strength == 1:  # what is to go must not show in the latents beside it
        picture = filled(picture, covered)
    edit = Edit(pipe.encode(picture[None])[0], _coarse(covered, pipe.bundle.latent_shape[1:]), strength)
    made = pipe.generate(subject.prompt, seed=seed, style=style or None, edit=edit)
    return back(from_uint8(made.pixels[0]))


def _coarse(mask: Float, shape: tuple[int, ...]) -> Float:
    """A mask (H, W) to latent positions (h, w): drawn where any of its pixels are."""
    h, w = shape
    cells = mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w)
    return np.asarray(cells.max(axis=(1, 3)), np.float32)


def filled(image: Float, mask: Float) -> Float:
    """The picture (C, H, W) with what the mask (H, W) covers filled from around, smoothly: averages of what
    is known at half the size, and at half of that (Gortler et al. 1996, "The Lumigraph", pull-push).
    """
    known = np.float32(1) - mask
    if not known.any() or min(mask.shape) == 1:
        return image
    height, width = mask.shape
    half = (height // 2, width // 2)
    weight = resized(known[None], *half, Image.Resampling.BOX)
    shown = resized(image * known, *half, Image.Resampling.BOX) / np.maximum(weight, 1e-6)
    coarse = filled(shown.astype(np.float32), (weight[0] < 1e-6).astype(np.float32))
    return np.asarray(image * known + mask * resized(coarse, height, width, Image.Resampling.BILINEAR))


def to_square(image: Float, size: int) -> tuple[Float, Callable[[Float], Float]]:
    """A picture (C, H, W) fitted into (C, size, size), edges continued, and the function that brings such a
    square back to the picture's size.
    """
    _, height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.pad(image, [(0, 0), (top, side - height - top), (left, side - width - left)], mode="edge")

    def back(made: Float) -> Float:
        return resized(made, side, side)[:, top : top + height, left : left + width]

    return resized(square, size, size), back


def _classical(image: Float, mask: Float, method: str) -> Float:
    cv2 = library("cv2")
    holes = (mask > 0.5).astype(np.uint8)
    how = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    pixels = np.rint((np.moveaxis(image, 0, -1) + 1) * 127.5).astype(np.uint8)
    parts = (np.ascontiguousarray(pixels[..., part]) for part in (slice(0, 3), 3))
    made = np.dstack([cv2.inpaint(part, holes, 3, how) for part in parts])
    return np.moveaxis(made, -1, 0).astype(np.float32) / np.float32(127.5) - 1
