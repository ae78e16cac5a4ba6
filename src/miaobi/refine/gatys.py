"""The style of any picture, by optimisation (Gatys, Ecker & Bethge 2016, "Image Style Transfer Using
Convolutional Neural Networks")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from miaobi.errors import InputError
from miaobi.images import Float, from_pil, from_uint8
from miaobi.refine.arrays import from_unit, library, straight, to_unit, too_small, within
from miaobi.refine.stage import Subject

if TYPE_CHECKING:
    from torch import Tensor

STYLE_BLOCKS = (0, 1, 2, 4, 7)
"""Of EfficientNet-Lite0: from edges to textures."""
_CONTENT_BLOCK = 4  # where things are; deeper blocks know what they are, and lose their outlines
_MOST_PX = 2048


@dataclass(frozen=True)
class Style:
    """The picture with the colours, strokes and textures of another one, in its own outlines and alpha.

    Style is the Gram matrices of EfficientNet-Lite0's features, counted where a picture is seen (Gatys et al.
    2017 call it guided), so that the transparent ground of neither picture has a say.
    """

    picture: str = ""
    """Path of the picture whose style is wanted."""
    strength: float = 10.0
    """Weight of style against content, 0 to 1,000."""
    steps: int = 60
    """Of L-BFGS, 1 to 10,000."""
    size_px: int = 0
    """Longer side at which the style picture is seen, 16 to 2,048; smaller makes finer strokes. 0: as long as
    the picture's.
    """
    smoothness: float = 3.0
    """Weight of total variation, 0 to 1,000."""

    def __post_init__(self) -> None:
        within("strength", self.strength, 0, 1000)
        within("steps", self.steps, 1, 10_000)
        within("smoothness", self.smoothness, 0, 1000)
        if self.size_px:
            within("size_px", self.size_px, 16, _MOST_PX)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture, with its alpha.

        Raises:
            InputError: the style picture is missing, no picture or wholly transparent.
            MachineError: PyTorch or the network is missing.
        """
        return self.descend(subject)[0]

    def descend(self, subject: Subject) -> tuple[Float, list[float]]:
        """The picture (4, H, W), and the distances of its style before each evaluation of the loss.

        Raises:
            InputError: as for a call.
            MachineError: as for a call.
        """
        style = self.shown(max(subject.image.shape[1:]))
        if too_small(subject.image) or not (subject.image[3] > -1).any():
            return subject.image.copy(), []
        torch = library("torch", "train")
        from miaobi.refine import losses

        unit = to_unit(subject.image)
        alpha = _tensor(unit[..., 3:])
        network = losses.efficientnet(STYLE_BLOCKS)

        def features(rgb: "Tensor") -> "list[Tensor]":
            return [rgb, *network(rgb)]  # the colours themselves, too

        content = features(losses.over_white(_tensor(unit)))
        shown = _tensor(to_unit(style))
        wanted = grams(features(losses.over_white(shown)), shown[:, 3:])
        colour = _tensor(recoloured(unit, to_unit(style))).requires_grad_()
        descent = torch.optim.LBFGS(
            [colour], max_iter=self.steps, history_size=10, line_search_fn="strong_wolfe"
        )
        distances = []

        def loss() -> "Tensor":
            descent.zero_grad()
            pixels = colour.clamp(0, 1) + 0.01 * (colour - colour.clamp(0, 1))  # a way back into the range
            drawn = features(pixels * alpha + 1 - alpha)
            style_distance = gram_distance(grams(drawn, alpha), wanted)
            kept = relative_distance(drawn, content)
            smooth = losses.total_variation(pixels * alpha)
            distances.append(float(style_distance.detach()))
            value: Tensor = self.strength * style_distance + kept + self.smoothness * smooth
            value.backward()  # type: ignore[no-untyped-call]
            return value

        descent.step(loss)
        made = colour.detach().clamp(0, 1) * alpha
        return from_unit(torch.cat([made, alpha], dim=1)[0].permute(1, 2, 0).numpy()), distances

    def shown(self, side_px: int) -> Float:
        """The style picture (4, h, w) as it is compared with one of longer side `side_px`: cut to what is
        seen of it.

        Raises:
            InputError: as for a call.
        """
        try:
            with Image.open(self.picture) as file:
                picture = file.convert("RGBA")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise InputError(
                f"the style picture {self.picture!r} cannot be read; give the path of one."
            ) from error
        box = picture.getchannel("A").getbbox()
        if box is None:
            raise InputError(f"the style picture {self.picture!r} is wholly transparent; choose another.")
        picture = picture.crop(box)
        scale = (self.size_px or max(side_px, 16)) / max(picture.size)
        size = [max(8, round(side * scale)) for side in picture.size]
        return from_uint8(from_pil(picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)))


def recoloured(unit: Float, style: Float) -> Float:
    """Straight colour (H, W, 3) in [0, 1] of a picture (H, W, 4) with mean and covariance of that of `style`
    (h, w, 4), where they are seen (linear colour transfer, Gatys et al. 2017).

    Descent starts here: it finds strokes and textures, but seldom another colour for a flat area.
    """
    mean, spread = _colours(unit)
    wanted_mean, wanted_spread = _colours(style)
    change = _power(wanted_spread, 0.5) @ _power(spread, -0.5)
    return np.clip((straight(unit) - mean) @ change.T + wanted_mean, 0, 1).astype(np.float32)


def _colours(unit: Float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (3,) and covariance (3, 3) of the straight colours that are seen."""
    colour, weights = straight(unit).reshape(-1, 3), unit[..., 3].ravel()
    mean = np.asarray(np.average(colour, axis=0, weights=weights), np.float64)
    centred = colour - mean
    return mean, np.asarray((centred * (weights / weights.sum())[:, None]).T @ centred)


def _power(spread: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    values, vectors = np.linalg.eigh(spread)
    return np.asarray((vectors * np.maximum(values, 1e-3) ** exponent) @ vectors.T)


def _tensor(unit: Float) -> "Tensor":
    made: Tensor = library("torch", "train").from_numpy(np.moveaxis(unit, -1, 0).copy())[None]
    return made


def grams(maps: "Sequence[Tensor]", alpha: "Tensor") -> "list[Tensor]":
    """Gram matrices (C, C) of maps (1, C, h, w), each place counted by its alpha, (1, 1, H, W)."""
    from torch.nn.functional import adaptive_avg_pool2d

    found = []
    for one in maps:
        seen = adaptive_avg_pool2d(alpha, (one.shape[2], one.shape[3])).flatten()
        flat = one[0].flatten(1)
        found.append((flat * seen) @ flat.T / seen.sum().clamp(min=1e-6))
    return found


def gram_distance(a: "Sequence[Tensor]", b: "Sequence[Tensor]") -> "Tensor":
    """Mean over the matrices of |A - B|² / |B|²."""
    terms = [(x - y).square().sum() / y.square().sum() for x, y in zip(a, b, strict=True)]
    return sum(terms[1:], terms[0]) / len(terms)


def relative_distance(a: "Sequence[Tensor]", b: "Sequence[Tensor]") -> "Tensor":
    """|a - b|² / |b|² of the maps where content is compared."""
    index = 1 + STYLE_BLOCKS.index(_CONTENT_BLOCK)
    return (a[index] - b[index]).square().sum() / b[index].square().sum()
