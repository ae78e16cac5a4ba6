"""Several pictures to one: mixed pixel by pixel, by Laplacian pyramids, or by choosing the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi.errors import InputError
from miaobi.images import Float, to_uint8
from miaobi.refine.arrays import from_unit, known, library, to_unit

METHODS = ("mean", "median", "laplacian")
_LEAST = 1e-6

Score = Callable[[Float], npt.NDArray[np.floating]]
"""Pictures (B, 4, H, W) to one number each, (B,); more is better."""


def stacked(images: Sequence[Float]) -> Float:
    """Pictures (4, H, W) as (B, 4, H, W); raises `InputError` where their sizes differ."""
    sizes = {one.shape[1:] for one in images}
    if len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise InputError(f"the pictures have different sizes ({told} px); give pictures of one size.")
    return np.stack(images)


def blend(
    images: Float,
    method: str = "laplacian",
    weights: Sequence[float] | None = None,
    masks: Float | None = None,
) -> Float:
    """One picture (4, H, W) of several premultiplied RGBA float32 (B, 4, H, W) in [-1, 1].

    Args:
        images: the pictures, one at least.
        method: "mean"; "median" of each value; "laplacian": each band of frequencies is mixed with masks as
            soft as the band is coarse (Burt & Adelson 1983).
        weights: (B,), 0 or more and not all 0, of "mean".
        masks: (B, H, W), 0 or more: how much of each picture is wanted where; of "mean" and "laplacian".
            Where all are 0, all count alike. Without them "laplacian" takes from each band the picture with
            the most local contrast.

    Raises:
        InputError: a shape, method or value is not allowed.
        MachineError: OpenCV is missing ("laplacian").
    """
    images = _checked(images)
    count, size = len(images), images.shape[2:]
    try:
        known("method", method, METHODS)
    except ValueError as error:
        raise InputError(f"{error}.") from error
    if weights is not None and (method != "mean" or masks is not None):
        raise InputError("weights are for method mean without masks; leave them out, or choose that.")
    if masks is not None and method == "median":
        raise InputError("masks are for the methods mean and laplacian; choose one of these.")
    units = np.stack([to_unit(one) for one in images])
    if method == "median":
        return from_unit(np.median(units, axis=0).astype(np.float32))
    if weights is not None:
        shares = np.asarray(weights, np.float32)
        if shares.shape != (count,) or not (shares >= 0).all() or not shares.any():
            raise InputError(f"weights are {weights}; give {count} numbers of 0 or more, not all 0.")
        masks = np.broadcast_to(shares[:, None, None], (count, *size))
    if masks is not None and (masks.shape != (count, *size) or not (masks >= 0).all()):
        raise InputError(
            f"the masks are {masks.shape}; give ({count}, {size[0]}, {size[1]}) with 0 or more in each place."
        )
    if method == "mean":
        shares = _shares(np.ones((count, *size), np.float32) if masks is None else masks)
        return from_unit((units * shares[..., None]).sum(axis=0))
    return from_unit(_laplacian(units, None if masks is None else _shares(masks)))


def _checked(images: Float) -> Float:
    if images.ndim != 4 or images.shape[1] != 4 or not images.size:
        raise InputError(f"the pictures are {images.shape}; give (B, 4, H, W) with at least one picture.")
    return np.asarray(images, np.float32)


def _shares(masks: Float) -> Float:
    """Masks (B, H, W) of sum 1 everywhere."""
    total = masks.sum(axis=0)
    return np.asarray(np.where(total > _LEAST, masks / np.maximum(total, _LEAST), 1 / len(masks)), np.float32)


def _laplacian(units: Float, shares: Float | None) -> Float:
    """Pictures (B, H, W, 4) mixed band by band; by local contrast where there are no shares (B, H, W)."""
    cv2 = library("cv2")
    levels = max(0, int(np.log2(min(units.shape[1:3]))) - 2)
    mixed: list[Float] = []
    for _ in range(levels):
        smaller = _each(cv2.pyrDown, units)
        height, width = units.shape[1:3]
        bands = units - _each(lambda one, size=(width, height): cv2.pyrUp(one, dstsize=size), smaller)
        mixed.append(_mixed(bands, _contrast(bands) if shares is None else shares))
        units = smaller
        shares = None if shares is None else _each(cv2.pyrDown, shares)
    made: Float = units.mean(axis=0) if shares is None else _mixed(units, shares)
    for band in reversed(mixed):
        made = cv2.pyrUp(made, dstsize=(band.shape[1], band.shape[0])) + band
    return made


def _each(change: Callable[..., Any], stack: Float) -> Float:
    return np.stack([change(np.ascontiguousarray(one)) for one in stack])


def _mixed(stack: Float, shares: Float) -> Float:
    made: Float = (stack * shares[..., None]).sum(axis=0)
    return made


def _contrast(bands: Float) -> Float:
    """Shares (B, H, W): 1 where a picture's band (B, H, W, 4) has the most energy nearby; equals share."""
    blur = library("cv2").GaussianBlur
    energy = np.stack([blur(np.square(one).sum(axis=-1), (0, 0), 1.5) for one in bands])
    return _shares((energy == energy.max(axis=0)).astype(np.float32))


def best_of(images: Float, score: Score) -> tuple[Float, int]:
    """The picture (4, H, W) of (B, 4, H, W) with the highest score, the first of equals, and its index.

    Raises:
        InputError: a shape is not allowed.
    """
    images = _checked(images)
    index = int(np.argmax(score(images)))
    return images[index].copy(), index


@dataclass(frozen=True)
class Recognised:
    """A score: how sure the judge of R-precision is that a picture shows a concept.

    The same judge cannot then measure what choosing gains.
    """

    judge: Path
    """Folder of a classifier trained by `miaobi train`."""
    concept: str
    """What was asked for, one of the judge's concepts."""

    @cached_property
    def _loaded(self) -> tuple[Any, list[str]]:
        loaded: tuple[Any, list[str]] = library("miaobi.evaluate.classifier", "train").load_judge(self.judge)
        if self.concept not in loaded[1]:
            raise InputError(f"the judge in {self.judge} knows no concept {self.concept!r}; choose another.")
        return loaded

    def __call__(self, images: Float) -> npt.NDArray[np.float32]:
        """Probabilities (B,) of the concept for premultiplied RGBA (B, 4, 128, 128) in [-1, 1].

        Raises:
            InputError: the judge does not know the concept.
            MachineError: PyTorch is missing, or the judge.
        """
        judge, concepts = self._loaded
        scores = library("miaobi.evaluate.classifier", "train").classify(judge, to_uint8(images))
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray((scores / scores.sum(axis=1, keepdims=True))[:, concepts.index(self.concept)])
