"""Layers that the transformers share."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class RMSNorm(nn.Module):
    """x · gain / sqrt(mean(x²)), over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.gain.to(x.dtype), 1e-6)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys (Henry et al. 2020), over the tokens and an
    optional context.

    The context's keys and values come ready made from `context`, since they are the same at every sampling
    step.
    """

    def __init__(self, width: int, heads: int, head_width: int = 0, bias: bool = True) -> None:
        """`head_width` 0 is width / heads."""
        super().__init__()
        self.heads, size = heads, head_width or width // heads
        self.qkv = nn.Linear(width, 3 * heads * size, bias)
        self.out = nn.Linear(heads * size, width, bias)
        self.query_norm = RMSNorm(size)
        self.key_norm = RMSNorm(size)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts · heads · d) → as many parts (B, heads, N, d)."""
        return x.reshape(*x.shape[:2], parts * self.heads, -1).transpose(1, 2).chunk(parts, dim=1)

    def forward(
        self, x: Tensor, context: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, N, width), context keys and values (B, heads, M, d) → (B, N, width).

        `mask` (B, 1, N, N or N + M) is added to the scores: 0 = look, very negative = do not.
        """
        query, key, value = self.split(self.qkv(x), 3)
        query, key = self.query_norm(query), self.key_norm(key)
        if context is not None:
            key, value = torch.cat([key, context[0]], dim=2), torch.cat([value, context[1]], dim=2)
        # softmax(Q Kᵀ / √d) V; written out: with tokens this few, faster than the fused kernel
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask.to(scores.dtype)).softmax(dim=-1)
        mixed = weights.to(value.dtype) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU (tanh form) between."""

    def __init__(self, width: int, inner: int = 0, bias: bool = True) -> None:
        """`inner` 0 is four times `width`."""
        super().__init__()
        self.up = nn.Linear(width, inner or 4 * width, bias)
        self.down = nn.Linear(inner or 4 * width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class Recomputable(nn.Module):
    """A module that, when told to, forgets what is inside it after the forward pass and computes it again for
    the backward pass: less memory for a third more work (Chen et al. 2016, arXiv:1604.06174).
    """

    recompute = False

    def __call__(self, *args: Any) -> Any:
        if not (self.recompute and torch.is_grad_enabled()):
            return super().__call__(*args)
        return checkpoint(super().__call__, *args, use_reentrant=False)


def recompute_inside(model: nn.Module) -> int:
    """Tell every `Recomputable` in the model to do so; how many there are."""
    found = [module for module in model.modules() if isinstance(module, Recomputable)]
    for module in found:
        module.recompute = True
    return len(found)


class Block(Recomputable):
    """A pre-norm transformer block; `head_width` and `mlp_width` as in `Attention` and `MLP`."""

    def __init__(
        self, width: int, heads: int, head_width: int = 0, mlp_width: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_width, bias)
        self.mlp = MLP(width, mlp_width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, width), mask (B, 1, N, N), added to the scores → (B, N, width)."""
        x = x + self.attention(self.attention_norm(x), mask=mask)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Times (B,) in [0, 1] → (B, width): cos and sin of 1000·t at geometric frequencies (Vaswani et al.
    2017).
    """
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = 1000 * t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) → (B, H/p · W/p, C · p²)."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, H/p · W/p, C · p²) → (B, C, H, W)."""
    grid = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height // patch, width // patch)
    return F.pixel_shuffle(grid, patch)
