"""Similar tokens merged around self-attention, for U-Nets (Bolya & Hoffman 2023, "Token Merging for Fast
Stable Diffusion", arXiv:2303.17604).

One token in four, the top left of each 2 × 2 pixels, is a destination; of the others, the most similar to a
destination are averaged into it. Attention runs on fewer tokens, and what comes out is copied back to every
token that went in. Nothing is random, and all sizes are known before: the network can be exported.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from miaobi.accelerate.copies import shared
from miaobi.errors import InputError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def tokens_left(height: int, width: int, ratio: float) -> int:
    """How many of height × width tokens are left when the share `ratio` is merged away."""
    count = height * width
    sources = count - -(-height // 2) * -(-width // 2)
    return count - min(int(ratio * count), sources)


class Slots(NamedTuple):
    """Where tokens go, as whole numbers; merged tokens are the sources that stay, then the destinations."""

    of_token: Tensor
    """(B, N): the merged token that each goes into."""
    destinations: Tensor
    """(D): places of the destinations among the N."""
    stay: Tensor
    """(B, S): places of the sources that stay by themselves."""
    go: Tensor
    """(B, G): places of the sources that are merged away."""
    into: Tensor
    """(B, G): the destinations, from 0 below D, that they go into."""


def slots(tokens: Tensor, height: int, width: int, ratio: float) -> Slots:
    """Which tokens are merged: `tokens` is (B, N, C), row after row of height × width; similar means of a
    small angle.
    """
    batch, count, _ = tokens.shape
    place = torch.arange(count, device=tokens.device).view(height, width)
    destination = place[::2, ::2].flatten()
    source = torch.cat([place[::2, 1::2].flatten(), place[1::2].flatten()])
    kept = tokens_left(height, width, ratio) - len(destination)

    # neither `normalize` nor `scatter`, which MNN computes wrongly; squares of fp16 overflow
    squares = tokens.float().square().sum(-1, keepdim=True)
    unit = tokens * squares.clamp(min=1e-8).rsqrt().to(tokens.dtype)
    likeness, nearest = (unit[:, source] @ unit[:, destination].mT).max(-1)
    order = likeness.argsort(-1, descending=True)
    gone = len(source) - kept
    # the first `gone` of the order go where their nearest destination goes, the others stay by themselves
    into = nearest.gather(1, order[:, :gone])
    alone = torch.arange(kept, device=order.device).expand(batch, -1)
    of_source = torch.cat([kept + into, alone], 1).gather(1, order.argsort(-1))
    of_destination = torch.arange(kept, kept + len(destination), device=order.device).expand(batch, -1)
    raster = torch.cat([source, destination]).argsort()
    of_token = torch.cat([of_source, of_destination], 1)[:, raster]
    return Slots(of_token, destination, source[order[:, gone:]], source[order[:, :gone]], into)


def merge(tokens: Tensor, slot: Slots) -> Tensor:
    """The mean of the tokens (B, N, C) of each slot: (B, merged tokens, C)."""
    number = torch.arange(len(slot.destinations), device=tokens.device)
    goes = (slot.into[:, None] == number[:, None]).to(tokens.dtype)
    total = tokens[:, slot.destinations] + goes @ _rows(tokens, slot.go)
    return torch.cat([_rows(tokens, slot.stay), total / (1 + goes.sum(-1, keepdim=True))], 1)


def unmerge(merged: Tensor, slot: Slots) -> Tensor:
    """For each token its merged one: (B, N, C)."""
    return _rows(merged, slot.of_token)


def _rows(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, N, C) at places (B, K): (B, K, C)."""
    batch, count, _ = tokens.shape
    first = torch.arange(batch, device=places.device)[:, None] * count
    # rows of one matrix: one fast copy per token, on every runtime
    return tokens.flatten(0, 1)[places + first]


class Grid:
    """Height and width of the tokens that a transformer is working on."""

    def __init__(self) -> None:
        self.height = self.width = 0

    def watch(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """As a hook before the transformer: it is given (B, C, H, W)."""
        self.height, self.width = (int(size) for size in inputs[0].shape[-2:])


class MergedAttention:
    """An attention processor of diffusers that merges tokens, lets `inner` attend, and unmerges."""

    def __init__(self, inner: Callable[..., Tensor], grid: Grid, ratio: float) -> None:
        self.inner, self.grid, self.ratio = inner, grid, ratio

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`hidden_states` is (B, N, C); the arguments of `inner`."""
        height, width = self.grid.height, self.grid.width
        slot = slots(hidden_states, height, width, self.ratio)
        return unmerge(self.inner(attn, merge(hidden_states, slot), *args, **kwargs), slot)


def merged(unet: "UNet2DConditionModel", ratio: float) -> "UNet2DConditionModel":
    """A U-Net with the weights of `unet` whose self-attention merges the share `ratio` of its tokens.

    Those blocks merge that work at the highest resolution that has attention. `unet` stays as it was.

    Raises:
        InputError: the share is not above 0 and at most 0.75, or there is no self-attention.
    """
    if not 0 < ratio <= 0.75:
        raise InputError(f"ratio is {ratio}; choose above 0 to 0.75.")
    copy = shared(unet)
    found = 0
    for transformer in _finest(copy):
        grid = Grid()
        transformer.register_forward_pre_hook(grid.watch)
        for block in transformer.transformer_blocks:
            if block.attn1 is not None and not block.only_cross_attention:
                block.attn1.set_processor(MergedAttention(block.attn1.processor, grid, ratio))
                found += 1
    if not found:
        raise InputError("this U-Net has no self-attention whose tokens could be merged.")
    return copy


def _finest(unet: "UNet2DConditionModel") -> list[Any]:
    """The transformers of the first level that has any, on the way down and up."""
    for down, up in zip(unet.down_blocks, reversed(unet.up_blocks), strict=True):
        both = [*getattr(down, "attentions", ()), *getattr(up, "attentions", ())]
        transformers = [one for one in both if hasattr(one, "transformer_blocks")]
        if transformers:
            return transformers
    return []
