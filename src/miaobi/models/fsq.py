"""Finite scalar quantization: Mentzer et al. 2023, "VQ-VAE Made Simple" (arXiv:2309.15505).

Each of d channels is bounded and rounded to one of L_i values; a position's code is the number that they
write together, in 0 … ΠL_i - 1. Gradients pass the rounding straight through.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

_MARGIN = 1e-3  # keeps the bound a little outside the outermost values, so that they can be reached


def quantise(z: Tensor, levels: Sequence[int]) -> Tensor:
    """z (B, d, …) → the nearest of `levels[i]` values in [-1, 1] for each channel i, same shape.

    Even numbers of levels reach from -1 to 1 - 2/L, odd ones from -1 to 1.
    """
    count = _along_channels(levels, z)
    half = (count - 1) * (1 + _MARGIN) / 2
    offset = torch.where(count % 2 == 0, 0.5, 0.0).to(z.dtype)
    bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
    rounded = bounded + (bounded.round() - bounded).detach()
    return rounded / (count // 2)


def indices(values: Tensor, levels: Sequence[int]) -> Tensor:
    """What `quantise` gave, (B, d, …), → codes int64 (B, …)."""
    count = _along_channels(levels, values)
    digits = ((values * (count // 2)) + count // 2).round().long()
    return (digits * _along_channels(_places(levels), digits)).sum(1)


def values(codes: Tensor, levels: Sequence[int]) -> Tensor:
    """The reverse of `indices`: codes (B, …) → float32 values in [-1, 1], (B, d, …).

    Raises:
        ValueError: a code is out of range.
    """
    if (
        not torch.compiler.is_compiling()
        and codes.numel()
        and not 0 <= int(codes.min()) <= int(codes.max()) < prod(levels)
    ):
        raise ValueError(f"codes must lie in 0 … {prod(levels) - 1}, got {codes.min()} … {codes.max()}")
    digits = codes[:, None].expand(-1, len(levels), *codes.shape[1:])
    count = _along_channels(levels, digits)
    digits = (digits // _along_channels(_places(levels), digits)) % count
    return (digits - count // 2).float() / (count // 2)


def _places(levels: Sequence[int]) -> list[int]:
    return [prod(levels[:index]) for index in range(len(levels))]


def _along_channels(numbers: Sequence[int], like: Tensor) -> Tensor:
    dtype = like.dtype if like.is_floating_point() else torch.int64
    return torch.tensor(numbers, dtype=dtype, device=like.device).view(1, -1, *[1] * (like.ndim - 2))
