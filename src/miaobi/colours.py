"""Recoloured pictures, so that "blue apple" and "绿色的猫" have something to learn from.

The dominant area of a picture (its main hue, or its greys where it has hardly any hue) is repainted through a
ramp of the new colour: each pixel keeps its place between shadow and highlight and loses its own hue.
"""

import re
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HUES = (
    (14, "red"),
    (36, "orange"),
    (66, "yellow"),
    (160, "green"),
    (196, "cyan"),
    (256, "blue"),
    (305, "purple"),
    (345, "pink"),
    (361, "red"),
)
"""Hue in degrees below which a colour has its name."""


@dataclass(frozen=True)
class Colour:
    """A named colour: its words, most usual first, and its shadow, body and highlight as #rrggbb."""

    en: tuple[str, ...]
    zh: tuple[str, ...]
    ramp: tuple[str, str, str]


COLOURS = MappingProxyType(
    {
        "red": Colour(
            ("red", "crimson", "scarlet"), ("红色", "红", "大红色"), ("#7a0c14", "#e02b2f", "#ffa39b")
        ),
        "orange": Colour(("orange",), ("橙色", "橘色", "橘黄色"), ("#963f00", "#ff8a1c", "#ffd3a0")),
        "yellow": Colour(("yellow", "golden"), ("黄色", "黄", "金黄色"), ("#b06f00", "#ffd42a", "#fff5bd")),
        "green": Colour(("green",), ("绿色", "绿"), ("#0e4d1c", "#3aa93f", "#b9edb0")),
        "cyan": Colour(
            ("cyan", "teal", "turquoise"), ("青色", "蓝绿色", "青绿色"), ("#0b5a63", "#22b8c4", "#b6f2f4")
        ),
        "blue": Colour(("blue",), ("蓝色", "蓝"), ("#0d2a78", "#2f6be6", "#aed0ff")),
        "purple": Colour(("purple", "violet"), ("紫色", "紫"), ("#3c1470", "#8b4bd0", "#dfc2f9")),
        "pink": Colour(("pink",), ("粉色", "粉红色", "粉红"), ("#b3346e", "#ff8fc0", "#ffe0ee")),
        "brown": Colour(("brown",), ("棕色", "褐色", "咖啡色"), ("#3e2011", "#8a5330", "#d8ab80")),
        "black": Colour(("black",), ("黑色", "黑"), ("#08080a", "#2c2c31", "#85858e")),
        "white": Colour(("white",), ("白色", "白"), ("#9da3ac", "#f1f2f5", "#ffffff")),
        "gray": Colour(("gray", "grey"), ("灰色", "灰"), ("#3f4247", "#8b8f96", "#d4d7db")),
    }
)
"""Name -> colour. `en[0]` and `zh[0]` are the usual words."""
_WORDS = re.compile(
    "|".join(rf"(?P<{name}>\b(?:{'|'.join(one.en)})\b|{'|'.join(one.zh)})" for name, one in COLOURS.items())
)


def named(text: str) -> str | None:
    """The colour that an English or Chinese text names, one of COLOURS; of several, the first said."""
    found = _WORDS.search(text.lower())
    return found.lastgroup if found else None


def recolour(image: UInt8, colour: str) -> UInt8:
    """`image`, uint8 (H, W, 4) straight RGBA, with its dominant area in `colour`, one of COLOURS.

    Alpha is untouched. Raises ValueError where the colour is unknown or the image has another shape or type.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour {colour!r} is none of {', '.join(COLOURS)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 4:
        raise ValueError(f"expected uint8 (H, W, 4), got {image.dtype} {image.shape}")
    area = _dominant(image[::4, ::4])
    planes = np.moveaxis(image[..., :3], -1, 0).astype(np.float32, order="C")
    luma = _luma(planes)
    weight = area.membership(planes, luma)
    ramp, body = _ramp(colour)
    # L' = L_body + slope (L - L_0): the area's median lightness becomes the body's, contrast is bounded
    below = np.clip(body / max(area.luma, 1), 0.7, 1.6)
    above = np.clip((255 - body) / max(255 - area.luma, 1), 0.5, 1.6)
    shift = np.arange(256, dtype=np.float32) - area.luma
    lightness = np.clip(np.rint(body + np.where(shift < 0, below, above) * shift), 0, 255).astype(np.intp)
    index = luma.astype(np.uint8)
    result = image.copy()
    for channel, plane in enumerate(planes):
        painted = ramp[channel, lightness].take(index)
        result[..., channel] = plane + weight * (painted - plane) + np.float32(0.5)
    return result


def main_colour(image: UInt8) -> tuple[str, float]:
    """The name of the dominant area's colour, one of COLOURS, and its share of the visible pixels.

    A recoloured picture lives up to its caption where the share is at least about 0.4.
    """
    area = _dominant(image[::4, ::4])
    return area.name, area.share


@dataclass(frozen=True)
class _Area:
    """The pixels around one hue, a unit vector across the grey axis, or the greys around one lightness."""

    hue: tuple[float, float] | None
    luma: float
    share: float

    def membership(self, planes: Float, luma: Float) -> Float:
        """How far each pixel of `planes`, (3, ...) in [0, 255], belongs to the area: (...) in [0, 1]."""
        x, y, saturation = _hue(planes)
        if self.hue is None:
            near = _step(0.46, 0.30, np.abs(luma - np.float32(self.luma)) / np.float32(255))
            return np.asarray(near * _step(0.34, 0.22, saturation), np.float32)
        length = np.sqrt(x * x + y * y) + np.float32(1e-3)
        cosine = np.asarray((x * self.hue[0] + y * self.hue[1]) / length, np.float32)
        near = _step(0.62, 0.85, cosine)  # none beyond 52 degrees, all within 32
        return np.asarray(near * _step(0.06, 0.18, saturation), np.float32)

    @property
    def name(self) -> str:
        """The nearest of COLOURS."""
        if self.hue is None:
            return "black" if self.luma < 75 else "white" if self.luma > 205 else "gray"
        angle = float(np.degrees(np.arctan2(self.hue[1], self.hue[0]))) % 360
        if 10 <= angle < 46 and self.luma < 130:
            return "brown"
        if (angle >= 315 or angle < 16) and self.luma > 150:
            return "pink"
        return next(name for limit, name in _HUES if angle < limit)


def _luma(planes: Float) -> Float:
    """Rec. 601 luma of (3, ...) planes."""
    return np.asarray(planes[0] * _LUMA[0] + planes[1] * _LUMA[1] + planes[2] * _LUMA[2], np.float32)


def _hue(planes: Float) -> tuple[Float, Float, Float]:
    """Hue as a vector across the grey axis, and saturation (max - min) / max, damped in the dark."""
    r, g, b = planes
    high = np.maximum(np.maximum(r, g), b)
    low = np.minimum(np.minimum(r, g), b)
    return r - 0.5 * (g + b), np.float32(0.8660254) * (g - b), (high - low) / (high + np.float32(12))


def _step(start: float, end: float, value: Float) -> Float:
    """0 at `start`, 1 at `end`, straight between."""
    return np.asarray(np.clip((value - np.float32(start)) * np.float32(1 / (end - start)), 0, 1), np.float32)


def _dominant(image: UInt8) -> _Area:
    """The area that says what colour a picture is: its main hue where a quarter has one, else a grey."""
    planes = image[image[..., 3] > 127][:, :3].T.astype(np.float32)
    count = planes.shape[1]
    if not count:
        return _Area(None, 128, 0)
    luma = _luma(planes)
    x, y, saturation = _hue(planes)
    coloured = (saturation > 0.25) & (luma > 20)
    if coloured.mean() > 0.25:
        angle = np.arctan2(y[coloured], x[coloured])
        bins = ((angle + np.pi) * (36 / (2 * np.pi))).astype(np.intp) % 36
        votes = np.bincount(bins, weights=saturation[coloured], minlength=36)
        votes = votes + np.roll(votes, 1) + np.roll(votes, -1)
        near = np.abs((bins - votes.argmax() + 18) % 36 - 18) <= 2
        hx, hy = float(np.cos(angle[near]).mean()), float(np.sin(angle[near]).mean())
        length = max((hx * hx + hy * hy) ** 0.5, 1e-6)
        share = float(near.sum() / count)
        middle = float(np.median(luma[coloured][near]))
        return _Area((hx / length, hy / length), middle, share)
    greys = luma[saturation <= 0.3]
    if not len(greys):
        greys = luma
    votes = np.bincount((greys / 32).astype(np.intp), minlength=8)
    middle = float(np.median(greys[np.abs(greys / 32 - 0.5 - votes.argmax()) < 1.5]))
    return _Area(None, middle, float((np.abs(greys - middle) < 64).sum() / count))


@cache
def _ramp(colour: str) -> tuple[Float, float]:
    """(3, 256) colours by lightness, black through the colour's three to white, and its body's lightness."""
    stops = [
        np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], np.float32) for text in COLOURS[colour].ramp
    ]
    stops = [np.zeros(3, np.float32), *stops, np.full(3, 255, np.float32)]
    places = [float(stop @ _LUMA) for stop in stops]
    ramp = np.stack([np.interp(np.arange(256), places, [s[i] for s in stops]) for i in range(3)])
    return ramp.astype(np.float32), places[2]
