"""Pictures made larger and smaller without a network, and by tiles."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from miaobi.images import Float, resized

TILE_PX = 256
"""Side of the tiles that a large picture is cut into, so that memory for hidden layers stays bounded."""


def resample(picture: Float, scale: float, method: Image.Resampling = Image.Resampling.LANCZOS) -> Float:
    """A picture (C, H, W) in [-1, 1] with its sides times `scale`, rounded."""
    height, width = (round(scale * side) for side in picture.shape[1:])
    return resized(picture, height, width, method)


def shrink(picture: Float, factor: int) -> Float:
    """A picture (C, H, W), with sides that are multiples of `factor`, averaged over squares of that side."""
    parts = [picture[:, top::factor, left::factor] for top in range(factor) for left in range(factor)]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total *= np.float32(1 / factor**2)
    return total


def by_tiles(
    enlarge: Callable[[Float], Float],
    picture: Float,
    scale: int,
    *,
    overlap_px: int,
    margin_px: int = 0,
    tile_px: int = TILE_PX,
) -> Float:
    """A picture (C, H, W) as `enlarge` makes it, (C, scale · H, scale · W), tile by tile.

    Args:
        enlarge: (C, h, w) → (C, scale · h, scale · w), for any h and w.
        picture: to be enlarged.
        scale: of `enlarge`.
        overlap_px: what `enlarge` sees around a tile: where that is as far as an input pixel can change a
            result, tiles make what the whole picture would.
        margin_px: the picture is continued so far beyond its border by its outermost pixels.
        tile_px: side of a tile without its overlap; a picture no larger than that is enlarged as a whole.
    """
    height, width = picture.shape[1:]
    around = (margin_px, margin_px)
    padded = np.pad(picture, ((0, 0), around, around), mode="edge")
    if max(height, width) <= tile_px:
        large = enlarge(padded)
        first = scale * margin_px
        return large[:, first : first + scale * height, first : first + scale * width]
    made = np.empty((len(picture), scale * height, scale * width), np.float32)
    for top in range(0, padded.shape[1], tile_px):
        for left in range(0, padded.shape[2], tile_px):
            y, x = max(0, top - overlap_px), max(0, left - overlap_px)
            window = padded[:, y : top + tile_px + overlap_px, x : left + tile_px + overlap_px]
            large = enlarge(window)
            # rows and columns of the picture that this tile alone is to give
            rows, columns = (
                (max(start, margin_px), min(start + tile_px, margin_px + size))
                for start, size in ((top, height), (left, width))
            )
            made[:, slice(*_scaled(rows, margin_px, scale)), slice(*_scaled(columns, margin_px, scale))] = (
                large[:, slice(*_scaled(rows, y, scale)), slice(*_scaled(columns, x, scale))]
            )
    return made


def _scaled(span: tuple[int, int], origin: int, scale: int) -> tuple[int, int]:
    first, end = span
    return scale * (first - origin), scale * max(first - origin, end - origin)
