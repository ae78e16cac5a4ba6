"""An LLM that writes image tokens: prompt first, then the picture, token by token or several at a time.

Latents are codes of finite scalar quantization; a token is a patch of them. A causal transformer as in Llama:
RoPE (Su et al. 2021, arXiv:2104.09864), RMSNorm, SwiGLU (Shazeer 2020, arXiv:2002.05202) and grouped-query
attention (Ainslie et al. 2023, arXiv:2305.13245). The same weights also fill in masked tokens, for parallel
decoding: Chang et al. 2022, "MaskGIT" (arXiv:2202.04200).
"""

import math
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi import sampling
from miaobi.models import fsq
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.layers import Recomputable, RMSNorm, patchify, unpatchify

MAX_TEXT = 32  # text tokens that have a position of their own


@dataclass(frozen=True)
class AutoregressiveConfig:
    levels: tuple[int, ...] = ()
    """Values of each channel of the autoencoder's latents; training fills them in."""
    mean: tuple[float, ...] = ()
    """What standardising took from each channel; training fills it in."""
    std: float = 1.0
    """What it divided by."""
    kv_heads: int = 2
    """Heads of keys and values, shared by groups of query heads."""
    masked: float = 0.3
    """Share of a batch that learns to fill in masked tokens, for parallel decoding."""
    captioning: float = 0.0
    """Share of a batch that learns to caption pictures instead; 0: the model does not caption."""
    words: int = 0
    """Word tokens of the text encoder's tokenizer, for captions; training fills it in."""

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or not 0 <= self.masked <= 1:
            raise ValueError(
                f"kv_heads = {self.kv_heads} must be at least 1 and masked = {self.masked} lie in [0, 1]"
            )
        if not 0 <= self.captioning < 1:
            raise ValueError(f"captioning = {self.captioning} must be 0 (no captions) or more, and below 1")


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """RoPE: pairs of values (i, i + d/2) of x (B, heads, N, d) turned by positions (N,) · 10000^(-2i/d)."""
    half = x.shape[-1] // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
    angles = positions[:, None].float() * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


Cache = tuple[Tensor, Tensor]
"""Keys and values (B, kv_heads, M, d) of the tokens so far, keys already turned."""


class CausalBlock(Recomputable):
    """Pre-norm grouped-query attention and SwiGLU."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * kv_heads * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        hidden = 8 * width // 3 // 16 * 16
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """x (B, N, width) at positions (N,); mask (B or 1, 1, N, M + N) added to the scores; the cache of M
        tokens before → (B, N, width) and the cache of all.
        """
        h = self.attention_norm(x)
        query = rotate(self.query(h).unflatten(-1, (self.heads, -1)).transpose(1, 2), positions)
        key, value = self.key_value(h).unflatten(-1, (2, self.kv_heads, -1)).permute(2, 0, 3, 1, 4)
        key = rotate(key, positions)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        cache, group = (key, value), self.heads // self.kv_heads
        key, value = (part.repeat_interleave(group, dim=1) for part in cache)
        scores = (query * self.size**-0.5) @ key.transpose(-1, -2)
        mixed = (scores + mask.to(scores.dtype)).softmax(-1).to(value.dtype) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), cache


class Autoregressive(nn.Module):
    """Prefix (style, text, neighbours) and image tokens in one sequence; see the head of this module."""

    mean: Tensor

    def __init__(self, backbone: BackboneConfig, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        channels = backbone.latent_shape[0]
        if len(config.levels) != channels or len(config.mean) != channels:
            raise ValueError(
                f"levels {config.levels} do not fit latents of {channels} channels; the autoencoder must be "
                "one with levels"
            )
        if backbone.heads % config.kv_heads:
            raise ValueError(f"kv_heads = {config.kv_heads} must divide heads = {backbone.heads}")
        width, patch_width = backbone.width, channels * backbone.patch**2
        self.codes = backbone.patch**2
        """Codes in a token."""
        self.vocabulary = prod(config.levels)
        """Codes to choose from."""
        self.text = nn.Linear(backbone.text_width, width)
        self.pooled = nn.Linear(backbone.text_width, width)
        self.style = nn.Parameter(torch.randn(backbone.styles + 1, width) * 0.1)
        if backbone.neighbours:
            self.neighbour = nn.Linear(patch_width, width)
            self.rank = nn.Parameter(torch.randn(backbone.neighbours, width) * 0.02)
        self.input = nn.Linear(patch_width, width)
        self.place = nn.Parameter(torch.randn(backbone.tokens, width) * 0.02)
        self.unknown = nn.Parameter(torch.randn(2, width) * 0.02)
        """What stands for the token before the first, and for a masked one."""
        kinds = backbone.distinct or backbone.depth
        self.blocks = nn.ModuleList(
            [CausalBlock(width, backbone.heads, config.kv_heads) for _ in range(kinds)]
        )
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, self.codes * self.vocabulary)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)

    def to_codes(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) → codes int64 (B, tokens, codes)."""
        codes = fsq.indices(latents * self.config.std + self.mean, self.config.levels)
        return patchify(codes[:, None].float(), self.backbone.patch).round().long()

    def to_latents(self, codes: Tensor) -> Tensor:
        """The reverse of `to_codes`."""
        grid = unpatchify(codes.float(), self.backbone.patch, *self.backbone.latent_shape[1:])
        values = fsq.values(grid[:, 0].round().long(), self.config.levels)
        return (values - self.mean) / self.config.std

    def _run(
        self, x: Tensor, positions: Tensor, mask: Tensor, past: list[Cache] | None = None
    ) -> tuple[Tensor, list[Cache]]:
        caches = []
        for layer, place in enumerate(self.backbone.order):
            block = cast(CausalBlock, self.blocks[place])
            x, cache = block(x, positions, mask, None if past is None else past[layer])
            caches.append(cache)
        return x, caches

    def prefix(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """Style, text and neighbours as tokens (B, M, width), their positions (M,), and the mask
        (B, 1, 1, M): 0 where there is one, very negative elsewhere.

        Positions follow what a token is and not how many came before, so that padding moves nothing.
        """
        backbone, on = self.backbone, condition.text.device
        first = self.style[condition.style] + self.pooled(condition.embedding)
        parts, present = [first[:, None], self.text(condition.text)], [condition.mask]
        positions = [torch.zeros(1, device=on), 1 + torch.arange(condition.text.shape[1], device=on)]
        present.insert(0, torch.ones_like(condition.mask[:, :1]))
        if backbone.neighbours:
            tokens = patchify(condition.neighbours.flatten(0, 1), backbone.patch)
            tokens = tokens.reshape(-1, backbone.neighbours, *tokens.shape[1:])
            which = self.rank[:, None] + self.style[condition.neighbour_style][:, :, None]
            parts.append((self.neighbour(tokens) + self.place + which).flatten(1, 2))
            there = condition.neighbour_style != backbone.styles
            present.append(there.repeat_interleave(backbone.tokens, dim=1))
            count = backbone.neighbours * backbone.tokens
            positions.append(1 + MAX_TEXT + torch.arange(count, device=on))
        mask = (torch.cat(present, dim=1).float() - 1)[:, None, None] * 1e4
        return torch.cat(parts, dim=1), torch.cat(positions), mask

    def positions(self, index: Tensor) -> Tensor:
        """Positions in the sequence of image tokens `index` (N,)."""
        return 1 + MAX_TEXT + self.backbone.neighbours * self.backbone.tokens + index

    def prepare(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """The prefix read once: keys and values (B, depth, kv_heads, M, d), mask (B, 1, 1, M)."""
        x, positions, mask = self.prefix(condition)
        _, caches = self._run(x, positions, mask)
        keys, values = (torch.stack([cache[part] for cache in caches], dim=1) for part in (0, 1))
        return keys, values, mask

    def write(
        self,
        codes: Tensor,
        known: Tensor,
        index: Tensor,
        filling: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of writing.

        Args:
            codes: (B, N, codes) int64, those of the tokens before (writing one by one, N = 1) or of the
                tokens themselves (filling in, N = all).
            known: (B, N) bool, false where there is no such token yet.
            index: (N,) which tokens are asked for, int64.
            filling: (1,) int64, 0 for writing one by one and 1 for filling in.
            keys, values: the cache so far (B, depth, kv_heads, M, d).
            mask: (B, 1, 1, M).

        Returns:
            logits (B, N, codes, vocabulary), and the cache with these tokens, (B, depth, kv_heads, M + N, d).
        """
        tokens = self._values(codes).transpose(2, 3).flatten(2)
        x = self._embed(tokens, known, index, self.unknown[filling])
        mask = F.pad(mask, (0, codes.shape[1]))
        past = list(zip(keys.unbind(1), values.unbind(1), strict=True))
        x, caches = self._run(x, self.positions(index), mask, past)
        both = [torch.stack([cache[part] for cache in caches], dim=1) for part in (0, 1)]
        return self._logits(x), both[0], both[1]

    def _values(self, codes: Tensor) -> Tensor:
        """Codes (B, N, codes) → standardised latents of those places (B, N, codes, C)."""
        values = fsq.values(codes.flatten(0, 1), self.config.levels).transpose(1, 2)
        latents: Tensor = (values - self.mean.flatten()) / self.config.std
        return latents.reshape(*codes.shape, -1)

    def _embed(self, tokens: Tensor, known: Tensor, index: Tensor, unknown: Tensor) -> Tensor:
        shown = known[..., None].to(tokens.dtype)
        x: Tensor = self.input(tokens) * shown + unknown * (1 - shown) + self.place[index]
        return x

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(x))
        return logits.reshape(*logits.shape[:-1], self.codes, self.vocabulary)

    def loss(self, latents: Tensor, condition: Condition, rng: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy per code of standardised latents (B, C, h, w), in nats: `next` of each token after
        those before it, `fill` of masked tokens among the others (a cosine share of them, as in MaskGIT).
        """
        codes, count, on = self.to_codes(latents), self.backbone.tokens, latents.device
        filling = round(self.config.masked * len(latents))
        tokens = patchify(latents, self.backbone.patch)
        before = F.pad(tokens, (0, 0, 1, 0))[:, :-1]
        share = torch.cos(0.5 * math.pi * torch.rand(filling, generator=rng))[:, None]
        hidden = (torch.rand(filling, count, generator=rng) < share.clamp(min=1 / count)).to(on)
        index = torch.arange(count, device=on)
        first = (index > 0).expand(len(latents) - filling, -1)
        x = torch.cat(
            [
                self._embed(tokens[:filling], ~hidden, index, self.unknown[1]),
                self._embed(before[filling:], first, index, self.unknown[0]),
            ]
        )
        prefix, positions, mask = self.prefix(condition)
        length = prefix.shape[1]
        causal = torch.full((count, count), -1e4, device=on).triu(1)
        own = torch.zeros(len(latents), 1, count, count, device=on)
        own[filling:] = causal
        rows = torch.cat([mask.expand(-1, -1, count, -1), own], dim=-1)
        above = F.pad(mask, (0, count), value=-1e4).expand(-1, -1, length, -1)
        h, _ = self._run(
            torch.cat([prefix, x], dim=1),
            torch.cat([positions, self.positions(index)]),
            torch.cat([above, rows], dim=2),
        )
        logits = self._logits(h[:, length:]).float()
        nats = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
        losses = {}
        if filling < len(latents):
            losses["next"] = nats[filling:].mean()
        if filling:
            losses["fill"] = (nats[:filling].mean(-1) * hidden).sum() / hidden.sum().clamp(min=1)
        return losses

    measure = loss
    """What previews report of held-out latents."""

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        noise: Tensor,
        steps: int = 0,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Tensor:
        """Latents (B, C, h, w), chosen with the chance that `noise` (B, C, h, w) holds.

        Args:
            steps: 0, or as many as there are tokens, writes token by token; fewer fill all of them in, in so
                many steps.
            guidance: other than 1 runs the condition and its absence in one batch.
            temperature, top_k, top_p: see `sampling.choose`.
        """
        guided = guidance != 1.0
        both = [condition, condition.nothing(self.backbone.styles)] if guided else [condition]
        keys, values, mask = (torch.cat(part) for part in zip(*map(self.prepare, both), strict=True))
        shape, on = self.backbone.latent_shape, noise.device

        def logits_of(codes: np.ndarray, known: np.ndarray, index: np.ndarray) -> np.ndarray:
            nonlocal keys, values, mask
            filling = torch.tensor([int(len(index) > 1)], device=on)
            asked = [torch.from_numpy(part).to(on) for part in (codes, known)]
            asked = [part.repeat(len(both), *[1] * (part.ndim - 1)) for part in asked]
            where = torch.from_numpy(index).to(on)
            logits, *cache = self.write(asked[0], asked[1], where, filling, keys, values, mask)
            if not filling:
                (keys, values), mask = cache, F.pad(mask, (0, 1))
            if guided:
                conditional, unconditional = logits.float().chunk(2)
                logits = sampling.guide(conditional, unconditional, guidance)
            return np.asarray(logits.float().cpu().numpy())

        uniform = sampling.uniform(noise.cpu().numpy(), self.backbone.patch)
        chosen = sampling.write_tokens(logits_of, uniform, steps, temperature, top_k, top_p)
        return self.to_latents(torch.from_numpy(chosen).to(on)).reshape(-1, *shape)
