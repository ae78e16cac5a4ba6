"""The text encoder: a small bidirectional transformer over subword tokens.

Its embedding lives in the space of the sentence encoders that teach it (Reimers & Gurevych 2020, "Making
Monolingual Sentence Embeddings Multilingual using Knowledge Distillation"); its token features are what the
generator attends to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TextConfig:
    vocabulary: int
    """Number of token ids."""
    width: int = 256
    """Values of a token feature and of the embedding."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads of a block."""
    ratio: int = 2
    """Width of a block's hidden layer as a multiple of `width`."""
    max_tokens: int = 32
    """Longest input."""
    colours: int = 13
    """Classes of the colour head that helps training: the colours and none."""
    dropout: float = 0.0
    """Share of token embeddings' values dropped in training."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "ratio", "max_tokens", "colours"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} must be at least 1; correct it in the recipe"
                )
        if self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is no multiple of heads = {self.heads}; correct one in the recipe"
            )


class TextOutput(NamedTuple):
    """What a batch of B texts with L tokens means."""

    tokens: Tensor
    """(B, L, width), zero where the mask is false."""
    embedding: Tensor
    """(B, width), unit norm."""


class TextBlock(nn.Module):
    """Pre-norm attention and MLP; the last layers start at zero, so that a new block changes nothing."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.ratio * width), nn.Linear(config.ratio * width, width)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, look: Tensor) -> Tensor:
        """x (B, L, width); look (B, 1, 1, L) bool, true where there is a token."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        # softmax(Q Kᵀ / √d) V; written out: with tokens this few, three times as fast as the fused kernel
        scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5)
        mixed = scores.masked_fill(~look, -1e4).softmax(dim=-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out


class TextModel(nn.Module):
    """Token ids -> `TextOutput`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.zeros(config.max_tokens, config.width))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.weigh = nn.Linear(config.width, 1)
        self.project = nn.Linear(config.width, config.width)
        self.colour = nn.Linear(config.width, config.colours)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.eye_(self.project.weight)
        for zero in (self.weigh.weight, self.weigh.bias, self.project.bias):
            nn.init.zeros_(zero)

    def forward(self, ids: Tensor, mask: Tensor) -> TextOutput:
        """ids (B, L) int64, mask (B, L) bool, L ≤ max_tokens and at least one token a row."""
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        x = self.norm(x) * mask[..., None]
        # pooled = Σ_i softmax_i(w · x_i) x_i
        weight = self.weigh(x).float().masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        pooled = (weight * x).sum(dim=1)
        return TextOutput(x, F.normalize(self.project(pooled).float(), dim=-1))

    def colour_logits(self, output: TextOutput, mask: Tensor) -> Tensor:
        """(B, colours): the strongest sign of each colour among a text's tokens."""
        logits: Tensor = self.colour(output.tokens)
        return logits.float().masked_fill(~mask[..., None], -1e4).amax(dim=1)
