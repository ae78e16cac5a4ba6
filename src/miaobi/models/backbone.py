"""The network behind diffusion, GAN and VAE: from noisy or random latents and a condition to clean latents.

A transformer over the picture's tokens that also looks at text, style and retrieved neighbours. Retrieval:
Blattmann et al. 2022 (arXiv:2204.11824); adaLN-zero: Peebles & Xie 2023, with one shared projection as in
PixArt-α (arXiv:2310.00426); sharing blocks: Lan et al. 2020, "ALBERT" (arXiv:1909.11942).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.models.layers import MLP, Attention, Block, Recomputable, patchify, sinusoid, unpatchify


@dataclass(frozen=True)
class BackboneConfig:
    styles: int
    """How many styles; one more embedding stands for "no style"."""
    latent_shape: tuple[int, int, int] = (32, 8, 8)
    """Channels, height and width of the latents."""
    text_width: int = 256
    """Width of the text encoder's features."""
    neighbours: int = 3
    """Retrieved pictures a sample looks at; 0: text and style alone."""
    width: int = 256
    """Width of the transformer."""
    depth: int = 8
    """Blocks that run at every sampling step."""
    distinct: int = 0
    """Blocks with weights of their own, used until `depth` have run; 0: all of them."""
    runs: bool = False
    """Whether a block runs several times in a row, as in MobileLLM (Liu et al. 2024, arXiv:2402.14905),
    instead of all of them in turn.
    """
    context_depth: int = 2
    """Blocks over text and neighbours, run once a picture."""
    heads: int = 4
    """Attention heads."""
    head_width: int = 0
    """Values of a head; 0: `width` / `heads`."""
    mlp_width: int = 0
    """Values between the two layers of a block's MLP; 0: four times `width`."""
    bias: bool = True
    """Whether the linear layers of blocks add biases. Without, a block's graph is three nodes shorter."""
    patch: int = 2
    """Latent positions a side that make one token."""

    def __post_init__(self) -> None:
        _, height, width = self.latent_shape
        if height % self.patch or width % self.patch or (self.width % self.heads and not self.head_width):
            raise ValueError(
                f"patch = {self.patch} must divide the latent size {height}x{width}, heads = {self.heads} "
                f"the width {self.width} where head_width is not given"
            )
        if self.distinct < 0 or self.depth % (self.distinct or self.depth):
            raise ValueError(
                f"distinct = {self.distinct} blocks must divide depth = {self.depth}; 0 shares nothing"
            )

    @property
    def block(self) -> tuple[int, int, int, int, bool]:
        """Width, heads, head width and MLP width of a block, and whether it has biases."""
        return self.width, self.heads, self.head_width, self.mlp_width, self.bias

    @property
    def order(self) -> list[int]:
        """Which of the blocks runs at each of the `depth` places."""
        kinds = self.distinct or self.depth
        return [place * kinds // self.depth if self.runs else place % kinds for place in range(self.depth)]

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


class BackboneBlock(Recomputable):
    """Attention over picture and context, then an MLP, both modulated by time, style and pooled text
    (adaLN-zero).
    """

    def __init__(
        self, width: int, heads: int, head_width: int = 0, mlp_width: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width, bias)
        self.mlp = MLP(width, mlp_width, bias)
        self.context = nn.Linear(width, 2 * heads * (head_width or width // heads), bias)
        self.modulation = nn.Parameter(
            torch.randn(6, width) * 0.02 + torch.tensor([0.0, 1, 0, 0, 1, 0])[:, None]
        )

    def forward(
        self, x: Tensor, modulation: Sequence[Tensor], context: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """x (B, N, width), six modulations (B, 1, width), context keys and values, mask (B, 1, N, N + M)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        h = F.layer_norm(x, x.shape[-1:]) * scale + shift
        x = x + gate * self.attention(h, context, mask)
        h = F.layer_norm(x, x.shape[-1:]) * mlp_scale + mlp_shift
        out: Tensor = x + mlp_gate * self.mlp(h)
        return out


class Backbone(nn.Module):
    """clean(x_t, t, *prepare(condition)). `prepare` runs once a picture, `clean` at every step."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = config
        width, patch_width = config.width, config.latent_shape[0] * config.patch**2
        self.input = nn.Linear(patch_width, width)
        self.position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.text = nn.Linear(config.text_width, width)
        if config.neighbours:
            self.neighbour = nn.Linear(patch_width, width)
            self.neighbour_position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
            self.rank = nn.Parameter(torch.randn(config.neighbours, width) * 0.02)
            self.aligned = nn.Linear(config.neighbours * width, width)
        self.style = nn.Parameter(torch.randn(config.styles + 1, width) * 0.1)
        self.pooled = nn.Linear(config.text_width, width)
        self.context_blocks = nn.ModuleList([Block(*config.block) for _ in range(config.context_depth)])
        self.context_norm = nn.LayerNorm(width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            [BackboneBlock(*config.block) for _ in range(config.distinct or config.depth)]
        )
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
            keys, values: (B, blocks, heads, M, width / heads), M = L + K · tokens.
            mask: (B, 1, tokens, tokens + M), added to the scores: 0 or very negative.
        """
        config, context, present = self.backbone, self.text(condition.text), condition.mask
        if config.neighbours:
            context = torch.cat([context, self._shown(condition)], dim=1)
            there = (condition.neighbour_style != config.styles).repeat_interleave(config.tokens, dim=1)
            present = torch.cat([present, there], dim=1)
        mask = (present.float() - 1)[:, None, None] * 1e4
        inner = mask.expand(-1, -1, context.shape[1], -1)
        for block in self.context_blocks:
            context = block(context, inner)
        context = self.context_norm(context)
        place = self.position.expand(context.shape[0], -1, -1)
        if config.neighbours:
            # what each neighbour shows at a place, side by side; nothing where there is no neighbour
            shown = context[:, -there.shape[1] :] * there[..., None]
            shown = shown.reshape(context.shape[0], config.neighbours, config.tokens, -1)
            place = place + self.aligned(shown.transpose(1, 2).flatten(2))
        keys, values = self._keys_values(context)
        outer = F.pad(mask, (config.tokens, 0)).expand(-1, -1, config.tokens, -1)
        return self.style[condition.style] + self.pooled(condition.embedding), place, keys, values, outer

    def _keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, M, width) → keys and values of every block, (B, blocks, heads, M, width / heads)."""
        blocks = [cast(BackboneBlock, block) for block in self.blocks]
        # side by side: in the exported graph one product, and fewer nodes than block by block
        both = torch.cat([block.context(context) for block in blocks], dim=-1)
        both = both.reshape(*context.shape[:2], len(blocks), 2, self.backbone.heads, -1)
        keys, values = both.permute(3, 0, 2, 4, 1, 5).contiguous()
        gains = torch.stack([block.attention.key_norm.gain for block in blocks]).to(keys.dtype)
        normal = F.rms_norm(keys, keys.shape[-1:], torch.ones_like(gains[0]), 1e-6)
        return normal * gains[:, None, None], values

    def _shown(self, condition: Condition) -> Tensor:
        """The neighbours' tokens (B, K · tokens, width)."""
        config = self.backbone
        tokens = patchify(condition.neighbours.flatten(0, 1), config.patch)
        tokens = tokens.reshape(-1, config.neighbours, *tokens.shape[1:])
        where = self.neighbour_position + (
            self.rank[:, None] + self.style[condition.neighbour_style][:, :, None]
        )
        shown: Tensor = self.neighbour(tokens) + where
        return shown.flatten(1, 2)

    def clean(
        self, x: Tensor, t: Tensor, bias: Tensor, place: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        """x_t (B, C, h, w) at times t (B,) in [0, 1], and what `prepare` gave → x_0 (B, C, h, w)."""
        config = self.backbone
        vector = F.silu(self.time(sinusoid(t, config.width)) + bias)
        own = torch.stack([cast(BackboneBlock, block).modulation for block in self.blocks])
        shared = self.modulation(vector).reshape(-1, 1, 6, config.width)
        modulations = (shared + own).flatten(1, 2).chunk(6 * len(self.blocks), dim=1)
        own_keys, own_values = (part.flatten(1, 2).chunk(len(self.blocks), dim=1) for part in (keys, values))
        h = self.input(patchify(x, config.patch)) + place
        for number in config.order:
            six = modulations[6 * number : 6 * number + 6]
            h = self.blocks[number](h, six, (own_keys[number], own_values[number]), mask)
        shift, scale = self.output_modulation(vector)[:, None].chunk(2, dim=-1)
        out = self.output(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        return unpatchify(out, config.patch, *config.latent_shape[1:])
