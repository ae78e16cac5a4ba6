"""A transformer's blocks skipped while the first one changes little (ParaAttention's first-block cache, after Liu
et al. 2024, "TeaCache", arXiv:2411.19108).

The first block always runs. What it adds to the picture's tokens is compared with what it added when all blocks
last ran; where that differs by less than a threshold, the sum of what the other blocks added then is added
again, and they do not run.

Diffusers has such a cache of its own (`FirstBlockCacheConfig`). It works for FLUX and Qwen-Image, where this
one decides as it does (tested); it fails on SD3, whose last block gives no text, and on Z-Image, and it
changes the network that it is given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from miaobi.accelerate.copies import shared
from miaobi.accelerate.standin import StandIn
from miaobi.errors import InputError

Streams = tuple[Tensor, Tensor | None]
"""Tokens of the picture, and of the text where a block returns them too; (B, N, C) each."""


@dataclass
class _Kept:
    """What one kind of evaluation left behind when all blocks ran."""

    change: Tensor
    rest: Streams | None = None


class _State:
    """What the blocks of one transformer tell each other."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.kind = ""
        self.reset()

    def reset(self) -> None:
        self.calls = self.full_calls = 0
        self.kept: dict[str, _Kept] = {}
        self.skipping = False
        self.first: Streams | None = None

    def begin(self, change: Tensor, first: Streams) -> None:
        """After the first block: whether the others run."""
        kept = self.kept.get(self.kind)
        self.first = first
        self.calls += 1
        self.skipping = kept is not None and kept.rest is not None and self._alike(change, kept.change)
        if not self.skipping:
            self.full_calls += 1
            self.kept[self.kind] = _Kept(change)

    def _alike(self, change: Tensor, old: Tensor) -> bool:
        if change.shape != old.shape:
            return False
        difference = (change - old).abs().flatten(1).mean(1) / old.abs().flatten(1).mean(1)
        return float(difference.max()) <= self.threshold


class _Block(nn.Module):
    """One block of a transformer, in its place."""

    def __init__(self, block: nn.Module, state: _State) -> None:
        super().__init__()
        from diffusers.hooks._helpers import TransformerBlockRegistry

        self.block = block
        self.state = state
        try:
            about = TransformerBlockRegistry.get(type(block))
        except ValueError as error:
            raise InputError(
                f"diffusers does not say what a {type(block).__name__} returns, so its results cannot be kept; "
                "leave the cache out."
            ) from error
        self.picture: int = about.return_hidden_states_index
        self.text: int | None = about.return_encoder_hidden_states_index

    def streams(self, output: Any) -> Streams:
        if not isinstance(output, tuple):
            return output, None
        return output[self.picture], None if self.text is None else output[self.text]

    def output(self, streams: Streams) -> Any:
        """As the block returns them; the reverse of `streams`."""
        if self.text is None:
            return streams[0]
        return streams if self.picture < self.text else streams[::-1]


class _First(_Block):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        output = self.block(*args, **kwargs)
        streams = self.streams(output)
        self.state.begin(streams[0] - given, streams)
        return output


class _Middle(_Block):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.skipping:
            assert self.state.first is not None
            return self.output(self.state.first)
        return self.block(*args, **kwargs)


class _Last(_Block):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state = self.state
        kept, first = state.kept[state.kind], state.first
        assert first is not None
        if state.skipping:
            assert kept.rest is not None
            return self.output((first[0] + kept.rest[0], _plus(first[1], kept.rest[1], 1)))
        output = self.block(*args, **kwargs)
        last = self.streams(output)
        kept.rest = (last[0] - first[0], _plus(last[1], first[1], -1))
        return output


class CachedTransformer(StandIn):
    """Stands in for a transformer in a pipeline of diffusers and skips its later blocks where it may.

    The decision is one for all rows of a call: the row that changes most decides. So that a picture does not
    depend on those it is drawn with, draw one a call.
    """

    def __init__(self, transformer: nn.Module, threshold: float) -> None:
        """Raises `InputError`: the transformer's blocks are not known, or are too few."""
        copy = shared(transformer)
        super().__init__(copy)
        self.state = _State(threshold)
        lists = _block_lists(copy)
        places = [(blocks, number) for blocks in lists for number in range(len(blocks))]
        if len(places) < 3:
            raise InputError(
                f"a {type(transformer).__name__} with {len(places)} known blocks has next to nothing to skip; "
                "leave the cache out."
            )
        for place, (blocks, number) in enumerate(places):
            kind = _First if place == 0 else _Last if place == len(places) - 1 else _Middle
            blocks[number] = kind(blocks[number], self.state)

    @property
    def calls(self) -> int:
        """Evaluations since the last reset."""
        return self.state.calls

    @property
    def full_calls(self) -> int:
        """Evaluations in which all blocks ran."""
        return self.state.full_calls

    def reset(self) -> None:
        """Forget the picture before; to be called before each."""
        self.state.reset()

    @contextmanager
    def cache_context(self, name: str, **about: Any) -> Iterator[None]:
        """Within it, evaluations are of the kind `name`, such as "cond": each kind has a memory of its own."""
        before, self.state.kind = self.state.kind, name
        try:
            yield
        finally:
            self.state.kind = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the transformer's own."""
        return self.network(*args, **kwargs)


def _plus(one: Tensor | None, other: Tensor | None, sign: int) -> Tensor | None:
    return None if one is None or other is None else one + sign * other


def _block_lists(transformer: nn.Module) -> list[nn.ModuleList]:
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS as NAMES

    children = transformer.named_children()
    return [child for name, child in children if name in NAMES and isinstance(child, nn.ModuleList)]
