"""How noisy and how blurred a picture is, from the picture alone."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from miaobi.images import Float
from miaobi.refine.arrays import library, to_unit, too_small

_FEWEST = 64  # blocks of two by two pixels
_FEWEST_EDGES = 8
_SHARPEST = 0.7  # quantile of the edges' sharpness
_STEEP = 0.02  # of the range per pixel: weaker slopes tell more of shading than of blur
_REBLUR_PX = (1.0, 2.5)


def noise_level(image: Float) -> float:
    """Standard deviation of the noise of premultiplied RGBA (4, H, W) in [-1, 1], as a share of the range.

    The median absolute diagonal Haar coefficient / 0.6745 (Donoho & Johnstone 1994): edges are rare, so they
    do not count, and flat clean art has 0. Only opaque pixels inside the range are asked: clipping hides
    noise.
    """
    if too_small(image):
        return 0.0
    unit = to_unit(image)[: image.shape[1] // 2 * 2, : image.shape[2] // 2 * 2]
    blocks = unit.reshape(unit.shape[0] // 2, 2, unit.shape[1] // 2, 2, 4)
    colour, alpha = blocks[..., :3], blocks[..., 3]
    diagonal = (colour[:, 0, :, 0] - colour[:, 0, :, 1] - colour[:, 1, :, 0] + colour[:, 1, :, 1]) / 2
    seen = np.all(alpha > 0.995, axis=(1, 3))[..., None]
    inside = seen & np.all((colour > 0.002) & (colour < 0.998), axis=(1, 3))
    asked = inside if inside.sum() >= _FEWEST else np.broadcast_to(seen, inside.shape)
    if asked.sum() < _FEWEST:
        return 0.0
    return float(np.median(np.abs(diagonal[asked])) / 0.6745)


def blur_px(image: Float) -> float:
    """Standard deviation in pixels of the Gaussian blur of premultiplied RGBA (4, H, W) in [-1, 1], up to 4;
    0 where there are too few edges. A freshly drawn picture has about 0.4: its edges are smoothed.

    Blurred twice more, an edge changes in a ratio that tells how sharp it was (Hu & de Haan 2006, "Low cost
    robust blur estimator"), which is looked up among edges of known blur. The sharper edges
    count: some are drawn soft, and to take too little away harms less than to take too much.
    """
    if too_small(image):
        return 0.0
    unit = to_unit(image)
    white = unit[..., :3] + 1 - unit[..., 3:]
    channel = white[..., int(np.argmax(white.std(axis=(0, 1))))].astype(np.float64)
    found = _sharpness(channel)
    known = _calibration()
    return float(np.interp(-found, -known[1], known[0])) if found else 0.0


def _sharpness(channel: npt.NDArray[np.float64]) -> float:
    """How much a small blur changes the edges of (H, W), relative to a larger one."""
    ndimage = library("scipy.ndimage")
    once, twice = (ndimage.gaussian_filter(channel, px, mode="nearest") for px in _REBLUR_PX)
    change, further = (ndimage.maximum_filter(np.abs(x), 9) for x in (channel - once, once - twice))
    slope = np.hypot(*np.gradient(once))
    edges = (slope == ndimage.maximum_filter(slope, 5)) & (slope > _STEEP)
    if edges.sum() < _FEWEST_EDGES:
        return 0.0
    return float(np.quantile(change[edges] / further[edges], _SHARPEST))


@lru_cache(1)
def _calibration() -> npt.NDArray[np.float64]:
    """Blurs in pixels and the sharpness of a straight edge with each, (2, n)."""
    blurs = np.geomspace(0.25, 4, 60)
    across = (np.arange(64) - 31.7)[None] / blurs[:, None]
    edges = library("scipy.special").ndtr(across)
    return np.stack([blurs, [_sharpness(np.tile(edge, (16, 1))) for edge in edges]])
