"""Random changes of training pictures, drawn from the batch's own generator."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.images import Float


@dataclass(frozen=True)
class Augment:
    """The share of pictures, in [0, 1], that each change is made to."""

    flip: float = 0.0
    """Mirrored left to right."""
    affine: float = 0.0
    """Turned by up to 17°, scaled by up to 1.35 either way and moved by up to 15 % of the side."""
    colour: float = 0.0
    """Red, green and blue exchanged at random."""
    composition: float = 0.0
    """Another picture of the batch drawn over it at half the size, in a random place."""

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise ValueError(f"{field.name} = {share} must lie in 0 to 1; correct it in the recipe")

    def __call__(self, pictures: Float, rng: np.random.Generator) -> Float:
        """Premultiplied RGBA (B, 4, S, S) in [-1, 1] to new pictures of the same kind."""
        flipped, moved, tinted, composed = rng.random((4, len(pictures))) < np.array(
            [[self.flip], [self.affine], [self.colour], [self.composition]]
        )
        made = pictures.copy()
        made[flipped] = made[flipped, ..., ::-1]
        for row in np.flatnonzero(tinted):
            made[row, :3] = made[row, rng.permutation(3)]
        if moved.any():
            held = 1 + torch.from_numpy(made[moved])  # nothing is 0, which comes in from outside
            made[moved] = affine(held, rng, 0.3, 0.3, 0.15).numpy() - 1
        if composed.any():
            _compose(made, np.flatnonzero(composed), rng)
        return made


def affine(
    pictures: Tensor, rng: np.random.Generator, turn: float, scale: float, shift: float, mirror: float = 0.0
) -> Tensor:
    """Pictures (B, C, H, W) turned, scaled and moved at random; zeros come in from outside.

    Args:
        turn: largest angle, in radians.
        scale: largest logarithm of the factor.
        shift: largest way, as a share of half the side.
        mirror: share of pictures that are mirrored.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(pictures), *shape)).astype(np.float32))

    angle, factor = uniform(-turn, turn), torch.exp(uniform(-scale, scale))
    side = torch.where(uniform(0, 1) < mirror, -1.0, 1.0)
    cos, sin, way = angle.cos() * factor, angle.sin() * factor, uniform(-shift, shift, 2)
    rows = torch.stack([cos * side, -sin, way[:, 0], sin * side, cos, way[:, 1]], dim=1)
    grid = F.affine_grid(rows.reshape(-1, 2, 3), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def _compose(pictures: Float, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Draw over each of `rows`, in place, a random other picture as it was before, at half the size."""
    count, _, side, _ = pictures.shape
    small = pictures.reshape(count, 4, side // 2, 2, side // 2, 2).mean(axis=(3, 5))
    for row in rows:
        over = small[rng.integers(count)]
        y, x = rng.integers(side - side // 2 + 1, size=2)
        under = pictures[row, :, y : y + side // 2, x : x + side // 2]
        under[:] = over + (under + 1) * (1 - over[3:]) / 2  # premultiplied, of values in [-1, 1]
