"""What the classical stages share: channels last in [0, 1], straight colour, optional libraries."""

from collections.abc import Collection
from importlib import import_module
from typing import Any

import numpy as np

from miaobi.errors import MachineError
from miaobi.images import Float

SMALLEST_PX = 8
"""Pictures with a shorter side are left as they are: they have no neighbourhood to filter over."""


def library(name: str, extra: str = "refine") -> Any:
    """An optional package, imported now.

    Raises:
        MachineError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MachineError(
            f"{error.name or name} is not installed; run: pip install 'miaobi[{extra}]'"
        ) from error


def to_unit(image: Float) -> Float:
    """Premultiplied (4, H, W) in [-1, 1] to premultiplied (H, W, 4) in [0, 1], a copy."""
    return np.ascontiguousarray(np.moveaxis((image + 1) / 2, 0, -1), np.float32)


def from_unit(unit: Float) -> Float:
    """Premultiplied (H, W, 4) to (4, H, W) in [-1, 1]; clipped to what a picture can be: 0 ≤ c ≤ a ≤ 1."""
    alpha = np.clip(unit[..., 3:], 0, 1)
    colour = np.clip(unit[..., :3], 0, alpha)
    joined = np.concatenate([colour, alpha], axis=-1)
    return np.ascontiguousarray(np.moveaxis(joined * 2 - 1, -1, 0), np.float32)


def straight(unit: Float) -> Float:
    """The colour (H, W, 3) in [0, 1] of a premultiplied (H, W, 4); 0 where nothing is seen."""
    alpha = unit[..., 3:]
    seen = alpha > 0
    return np.where(seen, np.clip(unit[..., :3] / np.where(seen, alpha, 1), 0, 1), 0).astype(np.float32)


def opaque(unit: Float) -> bool:
    """Is all of the picture (H, W, 4) seen in full?"""
    return bool(np.all(unit[..., 3] >= 1 - 1e-6))


def too_small(image: Float) -> bool:
    """Is the picture (4, H, W) too small to filter?"""
    return bool(min(image.shape[1:]) < SMALLEST_PX)


def known(name: str, value: str, allowed: Collection[str]) -> None:
    """Raises ValueError where a setting is none of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose {' or '.join(allowed)}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError where a setting is not `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; choose {low} to {high}")
