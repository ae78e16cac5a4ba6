"""The generator: a rectified-flow transformer on latents, conditioned on text, style and retrieved
neighbours.

Rectified flow: Liu et al. 2022 (arXiv:2209.03003); logit-normal times: Esser et al. 2024 (arXiv:2403.03206);
retrieval: Blattmann et al. 2022 (arXiv:2204.11824); adaLN-zero: Peebles & Xie 2023, with one shared
projection as in PixArt-α (arXiv:2310.00426). The network predicts the clean latents and the velocity follows
from them (Li & He 2025, arXiv:2511.13720): a token holds as many values as half the width of the transformer,
too many to carry noise through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.models.layers import MLP, Attention, Block, patchify, sinusoid, unpatchify


@dataclass(frozen=True)
class DiffusionConfig:
    styles: int
    """How many styles; one more embedding stands for "no style"."""
    latent_shape: tuple[int, int, int] = (32, 8, 8)
    """Channels, height and width of the latents."""
    text_width: int = 256
    """Width of the text encoder's features."""
    neighbours: int = 3
    """Retrieved pictures a sample looks at."""
    width: int = 256
    """Width of the transformer."""
    depth: int = 8
    """Blocks that run at every sampling step."""
    context_depth: int = 2
    """Blocks over text and neighbours, run once a picture."""
    heads: int = 4
    """Attention heads."""
    patch: int = 2
    """Latent positions a side that make one token."""

    def __post_init__(self) -> None:
        _, height, width = self.latent_shape
        if height % self.patch or width % self.patch or self.width % self.heads:
            raise ValueError(
                f"patch = {self.patch} must divide the latent size {height}x{width}, heads = {self.heads} "
                f"the width {self.width}"
            )

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self.latent_shape[1] // self.patch) * (self.latent_shape[2] // self.patch)


@dataclass(frozen=True)
class Condition:
    """What a batch of pictures is drawn from."""

    text: Tensor
    """Text features (B, L, text_width)."""
    mask: Tensor
    """True where `text` holds a token, bool (B, L)."""
    embedding: Tensor
    """Pooled text (B, text_width)."""
    style: Tensor
    """Style indices, int64 (B,); `styles` stands for none."""
    neighbours: Tensor
    """Standardised latents (B, K, C, h, w)."""
    neighbour_style: Tensor
    """Style indices, int64 (B, K); `styles` stands for "no neighbour"."""

    def drop(self, text: Tensor, neighbours: Tensor, style: Tensor, none: int) -> "Condition":
        """Without text, neighbours or style where the bool tensors (B,) are True; `none` is the index that
        stands for no style.
        """
        return Condition(
            self.text,
            self.mask & ~text[:, None],
            self.embedding.masked_fill(text[:, None], 0),
            self.style.masked_fill(style, none),
            self.neighbours,
            self.neighbour_style.masked_fill(neighbours[:, None], none),
        )

    def nothing(self, none: int) -> "Condition":
        """The condition that says nothing, for classifier-free guidance."""
        everywhere = torch.ones_like(self.style, dtype=torch.bool)
        return self.drop(everywhere, everywhere, everywhere, none)


class DenoiserBlock(nn.Module):
    """Attention over picture and context, then an MLP, both modulated by time, style and pooled text
    (adaLN-zero).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), MLP(width)
        self.context = nn.Linear(width, 2 * width)
        self.modulation = nn.Parameter(
            torch.randn(6, width) * 0.02 + torch.tensor([0.0, 1, 0, 0, 1, 0])[:, None]
        )

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, M, width) → keys and values (B, heads, M, width / heads), the same at every step."""
        key, value = (self.attention.split(part) for part in self.context(context).chunk(2, dim=-1))
        return self.attention.key_norm(key), value

    def forward(self, x: Tensor, shared: Tensor, context: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x (B, N, width), shared modulation (B, 1, 6 · width), context keys and values, mask (B, 1, N, N +
        M).
        """
        modulation = shared + self.modulation.flatten()
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        h = F.layer_norm(x, x.shape[-1:]) * scale + shift
        x = x + gate * self.attention(h, context, mask)
        h = F.layer_norm(x, x.shape[-1:]) * mlp_scale + mlp_shift
        out: Tensor = x + mlp_gate * self.mlp(h)
        return out


SMALLEST_TIME = 0.05
"""Times below count as this one where the velocity is worked out from clean latents."""


class Diffusion(nn.Module):
    """velocity(x_t, t, condition). `prepare` runs once a picture, `velocity` at every step."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch_width = config.width, config.latent_shape[0] * config.patch**2
        self.input = nn.Linear(patch_width, width)
        self.position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.text = nn.Linear(config.text_width, width)
        self.neighbour = nn.Linear(patch_width, width)
        self.neighbour_position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.rank = nn.Parameter(torch.randn(config.neighbours, width) * 0.02)
        self.style = nn.Parameter(torch.randn(config.styles + 1, width) * 0.1)
        self.pooled = nn.Linear(config.text_width, width)
        self.context_blocks = nn.ModuleList([Block(width, config.heads) for _ in range(config.context_depth)])
        self.context_norm = nn.LayerNorm(width)
        self.aligned = nn.Linear(config.neighbours * width, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList([DenoiserBlock(width, config.heads) for _ in range(config.depth)])
        self.output_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, patch_width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.constant_(self.modulation.bias, 0.0)
        nn.init.zeros_(self.output_modulation.weight)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def prepare(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Everything about a picture that no step changes.

        Returns:
            bias: (B, width), style and pooled text, to be added to the time.
            place: (B, tokens, width), position and what the neighbours show there, for the picture's tokens.
            keys, values: (B, depth, heads, M, width / heads), M = L + K · tokens.
            mask: (B, 1, tokens, tokens + M), added to the scores: 0 or very negative.
        """
        config, batch = self.config, condition.style.shape[0]
        tokens = patchify(condition.neighbours.flatten(0, 1), config.patch)
        tokens = tokens.reshape(batch, config.neighbours, config.tokens, -1)
        where = self.neighbour_position + (
            self.rank[:, None] + self.style[condition.neighbour_style][:, :, None]
        )
        neighbours = (self.neighbour(tokens) + where).flatten(1, 2)
        context = torch.cat([self.text(condition.text), neighbours], dim=1)
        present = (condition.neighbour_style != config.styles).repeat_interleave(config.tokens, dim=1)
        mask = (torch.cat([condition.mask, present], dim=1).float() - 1)[:, None, None] * 1e4
        inner = mask.expand(-1, -1, context.shape[1], -1)
        for block in self.context_blocks:
            context = block(context, inner)
        context = self.context_norm(context)
        # what each neighbour shows at a place, side by side; nothing where there is no neighbour
        shown = context[:, -present.shape[1] :] * present[..., None]
        shown = shown.reshape(batch, config.neighbours, config.tokens, -1).transpose(1, 2).flatten(2)
        place = self.position + self.aligned(shown)
        pairs = [cast(DenoiserBlock, block).keys_values(context) for block in self.blocks]
        keys, values = (torch.stack(list(part), dim=1) for part in zip(*pairs, strict=True))
        outer = F.pad(mask, (config.tokens, 0)).expand(-1, -1, config.tokens, -1)
        return self.style[condition.style] + self.pooled(condition.embedding), place, keys, values, outer

    def velocity(
        self, x: Tensor, t: Tensor, bias: Tensor, place: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        """x_t (B, C, h, w) at times t (B,) in (0, 1], and what `prepare` gave → velocity (B, C, h, w)."""
        config = self.config
        vector = F.silu(self.time(sinusoid(t, config.width)) + bias)
        shared = self.modulation(vector)[:, None]
        h = self.input(patchify(x, config.patch)) + place
        for block, key, value in zip(self.blocks, keys.unbind(1), values.unbind(1), strict=True):
            h = block(h, shared, (key, value), mask)
        shift, scale = self.output_modulation(vector)[:, None].chunk(2, dim=-1)
        out = self.output(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        x_0 = unpatchify(out, config.patch, *config.latent_shape[1:])
        # x_t = (1 - t) x_0 + t noise and velocity = noise - x_0, so velocity = (x_t - x_0) / t
        return (x - x_0) / t.clamp(min=SMALLEST_TIME)[:, None, None, None]

    def loss(
        self, latents: Tensor, condition: Condition, rng: torch.Generator, repeats: int = 1
    ) -> dict[str, Tensor]:
        """Flow-matching loss of standardised latents (B, C, h, w): |velocity(x_t, t) - (noise - x_0)|², t
        logit-normal.

        Each picture is seen at `repeats` times t, each with its own noise; what `prepare` made of its
        condition serves them all.
        """
        prepared = [part.repeat_interleave(repeats, dim=0) for part in self.prepare(condition)]
        latents = latents.repeat_interleave(repeats, dim=0)
        noise = torch.randn(latents.shape, generator=rng).to(latents.device)
        t = (
            torch.sigmoid(0.3 + torch.randn(len(latents), generator=rng))
            .clamp(min=SMALLEST_TIME)
            .to(latents.device)
        )
        weight = t[:, None, None, None]
        x_t = (1 - weight) * latents + weight * noise
        error = self.velocity(x_t, t, *prepared).float() - (noise - latents)
        return {"flow": error.square().mean()}

    @torch.no_grad()
    def sample(
        self, condition: Condition, noise: Tensor, times: Sequence[float], guidance: float = 1.0
    ) -> Tensor:
        """Euler steps from `noise` (B, C, h, w) along `times`, from 1 down to 0 → latents (B, C, h, w).

        Guidance above 1 runs the condition and its absence in one batch (Ho & Salimans 2022).
        """
        guided = guidance != 1.0
        both = [condition, condition.nothing(self.config.styles)] if guided else [condition]
        prepared = [torch.cat(part) for part in zip(*(self.prepare(one) for one in both), strict=True)]
        x = noise
        for t, following in pairwise(times):
            now = torch.full((len(x) * len(both),), t, device=x.device)
            v = self.velocity(x.repeat(len(both), 1, 1, 1), now, *prepared).float()
            if guided:
                conditional, unconditional = v.chunk(2)
                v = unconditional + guidance * (conditional - unconditional)
            x = x + (following - t) * v
        return x
