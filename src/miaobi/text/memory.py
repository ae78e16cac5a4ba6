"""The retrieval memory: compressed latents of pictures, found by what they are called.

Blattmann et al. 2022, "Retrieval-Augmented Diffusion Models"; Sheynin et al. 2023, "KNN-Diffusion". One rule
picks the neighbours, in training and at inference: concepts are ranked by the best cosine between the prompt
and their keys; of each concept the pictures of the asked skin tone come first, then the more their style
resembles the asked one, then by position in the memory; the next concepts fill up. Pictures of the best
concept in the asked style itself are left out where the concept exists in another style: the generator is to
draw a thing in a style from what others made of it, not to copy. Where seeds are given, the first stays the
first and a seed mixes the styles of the best concept's others, so that seeds are drawn after different
pictures. Everything is NumPy and works on thousands of queries at once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from miaobi.errors import BundleError, MachineError
from miaobi.files import atomic_write

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.integer[Any]]
UInt8 = npt.NDArray[np.uint8]

_LEVELS = 16  # 4 bits; level q stands for (q - 7.5) * scale
_CONCEPTS_SEARCHED = 16
_CHUNK = 1024
_FEW = 16


class Neighbours(NamedTuple):
    """What the memory answers for B prompts."""

    latents: Float
    """(B, k, C, H, W) standardised latents."""
    styles: npt.NDArray[np.int64]
    """(B, k) style ids."""
    entries: npt.NDArray[np.int64]
    """(B, k) positions in the memory."""


def by_number() -> npt.NDArray[np.uint16]:
    """`Memory.style_rank` of styles that nothing is known about: the asked one, then by number."""
    number = np.arange(256, dtype=np.uint16)
    return np.asarray(np.where(np.eye(256, dtype=bool), 0, 1 + number), np.uint16)


@dataclass(frozen=True, eq=False)
class Memory:
    """N pictures of named concepts, with K text keys.

    Attributes:
        keys: (K, D) float, unit norm text embeddings of names and tags.
        key_concept: (K,) integer, the concept that a key names.
        entry_concept, entry_style, entry_tone: (N,) integer, what each picture shows (tone 0 = none, 1..5).
        latents: (N, C·H·W / 2) uint8, see `pack`.
        scale: (C,) float32, see `pack`.
        shape: (C, H, W) of one picture's latents.
        concepts: {"slug", "label_en", "label_zh"} for each concept.
        ids: "style/name" of each picture.
        style_rank: (S, S) integer, in row s the rank of each style by likeness to s: 0 is s itself.
    """

    keys: npt.NDArray[np.floating[Any]]
    key_concept: Int
    entry_concept: Int
    entry_style: Int
    entry_tone: Int
    latents: UInt8
    scale: Float
    shape: tuple[int, int, int]
    concepts: Sequence[dict[str, str]]
    ids: Sequence[str]
    style_rank: Int = field(default_factory=by_number)

    def __post_init__(self) -> None:
        pictures, values = len(self.ids), int(np.prod(self.shape))
        for name in ("entry_concept", "entry_style", "entry_tone", "latents"):
            if len(getattr(self, name)) != pictures:
                raise BundleError(
                    f"memory: {len(getattr(self, name))} rows of {name} for {pictures} pictures."
                )
        if pictures == 0 or len(self.keys) == 0 or len(self.keys) != len(self.key_concept):
            raise BundleError(
                f"memory: {pictures} pictures, {len(self.keys)} keys, {len(self.key_concept)} key concepts."
            )
        if self.latents.shape[1] * 2 != values or self.scale.shape != self.shape[:1]:
            raise BundleError(
                f"memory: latents {self.latents.shape} and scale {self.scale.shape} do not fit {self.shape}."
            )
        for name in ("key_concept", "entry_concept"):
            concept = getattr(self, name)
            if concept.min() < 0 or concept.max() >= len(self.concepts):
                raise BundleError(f"memory: {name} points outside the {len(self.concepts)} concepts.")

    @classmethod
    def load(
        cls, tensors: str | os.PathLike[str], names: str | os.PathLike[str], shape: Sequence[int]
    ) -> "Memory":
        """Read `memory.safetensors` (keys become float32 of unit norm again) and `memory.json`.

        Raises:
            BundleError: the files are damaged or do not agree.
            MachineError: they cannot be read.
        """
        try:
            with open(names, encoding="utf-8") as file:
                text = json.load(file)
            channels, height, width = shape
            arrays = load_file(tensors)
            keys = arrays["keys"].astype(np.float32)
            arrays["keys"] = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-8)
            return cls(
                **arrays,
                shape=(channels, height, width),
                concepts=text["concepts"],
                ids=text["ids"],
            )
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise BundleError(
                f"memory {os.fspath(tensors)!r} cannot be read ({error}); get the bundle again."
            ) from error
        except OSError as error:
            raise MachineError(f"memory {os.fspath(tensors)!r} cannot be read: {error.strerror}.") from error

    def save(self, tensors: str | os.PathLike[str], names: str | os.PathLike[str]) -> None:
        """Write `memory.safetensors` (keys as int8, each to its range) and `memory.json`, atomically."""
        keys = self.keys.astype(np.float32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "keys": np.rint(127 * keys / np.abs(keys).max(axis=1, keepdims=True)).astype(np.int8),
            "key_concept": self.key_concept.astype(np.int32),
            "entry_concept": self.entry_concept.astype(np.int32),
            "entry_style": self.entry_style.astype(np.uint8),
            "entry_tone": self.entry_tone.astype(np.uint8),
            "latents": self.latents,
            "scale": self.scale.astype(np.float32),
            "style_rank": self.style_rank.astype(np.uint16),
        }
        with atomic_write(tensors) as file:
            file.write(save(arrays))
        content = {"concepts": list(self.concepts), "ids": list(self.ids)}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        with atomic_write(names) as file:
            file.write(text.encode())

    @cached_property
    def _index(self) -> "KeyIndex":
        return index_keys(self.keys, self.key_concept, len(self.concepts))

    @cached_property
    def _table(self) -> npt.NDArray[np.int64]:
        return entry_table(self.entry_concept, len(self.concepts))

    def neighbours(
        self, embedding: Float, style: Int, tone: Int | int = 0, k: int = 3, exclude: Int | None = None
    ) -> Neighbours:
        """The `k` nearest pictures for each prompt: `chosen` of what is `ranked`.

        Args:
            embedding: (B, D) unit norm text embeddings.
            style, tone, exclude: see `chosen`.
        """
        return self.chosen(self.ranked(embedding), style, tone, k, exclude)

    def ranked(self, embedding: Float) -> npt.NDArray[np.int64]:
        """The nearest concepts (B, few) of unit norm text embeddings (B, D), best first."""
        ranked, _ = rank_concepts(
            embedding, self.keys, self.key_concept, len(self.concepts), _CONCEPTS_SEARCHED, self._index
        )
        return ranked

    def chosen(
        self,
        ranked: Int,
        style: Int,
        tone: Int | int = 0,
        k: int = 3,
        exclude: Int | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Neighbours:
        """The `k` nearest pictures of concepts (B, few), best first.

        Args:
            style: (B,) asked style ids.
            tone: (B,) or one asked skin tone, 0 = none.
            exclude: (B, E) positions never to return (-1: none), such as the target itself in training.
            seeds: (B,) one for each, which mixes the best concept's styles behind the first picture.
        """
        chance = None
        if seeds is not None:  # a seed as the key is another stream than the noise, which is seeded with it
            streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
            chance = np.stack([stream.random(len(self.style_rank)) for stream in streams])
        entries = choose_entries(
            ranked,
            self._table,
            self.entry_style,
            self.entry_tone,
            self.style_rank,
            style,
            tone,
            k,
            exclude,
            chance,
        )
        return Neighbours(self.unpacked(entries), self.entry_style[entries].astype(np.int64), entries)

    def nearest_style(self, latents: Float) -> int:
        """The style id of the picture whose latents are nearest to those given, (C, h, w)."""
        distance = np.square(self.unpacked(np.arange(len(self.ids))) - latents).sum(axis=(1, 2, 3))
        return int(self.entry_style[distance.argmin()])

    def unpacked(self, entries: Int) -> Float:
        """Latents (…, C, H, W) float32 of the pictures at positions `entries` (…)."""
        return unpack(self.latents[entries], self.scale, self.shape)


class KeyIndex(NamedTuple):
    """Keys in the order of their concepts."""

    concepts: Int
    """(N,) those that have keys."""
    starts: npt.NDArray[np.int64]
    """(N,) the first key of each."""
    keys: Float
    """(K, D)"""


def index_keys(keys: npt.NDArray[np.floating[Any]], key_concept: Int, n_concepts: int) -> KeyIndex:
    """What `rank_concepts` searches in; raises ValueError for a concept that is none of `n_concepts`."""
    order = np.argsort(key_concept, kind="stable")
    concepts, starts = np.unique(np.asarray(key_concept)[order], return_index=True)
    if len(concepts) and not 0 <= concepts[0] <= concepts[-1] < n_concepts:
        raise ValueError(f"key_concept must lie in 0..{n_concepts - 1}, got {concepts[0]}..{concepts[-1]}")
    in_order = bool((order[:-1] < order[1:]).all())
    return KeyIndex(concepts, starts, (keys if in_order else keys[order]).astype(np.float32, copy=False))


def rank_concepts(
    embeddings: Float,
    keys: npt.NDArray[np.floating[Any]],
    key_concept: Int,
    n_concepts: int,
    top: int,
    index: "KeyIndex | None" = None,
) -> tuple[npt.NDArray[np.int64], Float]:
    """The `top` concepts for each embedding and their scores: the best cosine over the concept's keys.

    Embeddings (B, D) and keys (K, D) are of unit norm. Scores are rounded to 1e-4 and ties broken by concept
    number, so that float noise between one query and a batch cannot swap them. Returns (B, top) int64 and (B,
    top) float32, best first; with fewer than `top` concepts that have keys the width is smaller.
    """
    concepts, starts, sorted_keys = index or index_keys(keys, key_concept, n_concepts)
    top = min(top, len(concepts))
    ranked, scores = np.empty((len(embeddings), top), np.int64), np.empty((len(embeddings), top), np.float32)
    for begin in range(0, len(embeddings), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        asked = np.asarray(embeddings[rows], np.float32)
        # the threads of BLAS would spin on while the graphs run; vecdot has none, and few rows need none
        product = np.vecdot(asked[:, None], sorted_keys) if len(asked) <= _FEW else asked @ sorted_keys.T
        best = np.maximum.reduceat(product, starts, axis=1)
        # an integer that sorts by score first and by concept number second
        rank = -np.rint(best * 1e4).astype(np.int64) * len(concepts) + np.arange(len(concepts))
        chosen = np.argpartition(rank, top - 1, axis=1)[:, :top]
        chosen = np.take_along_axis(chosen, np.take_along_axis(rank, chosen, 1).argsort(axis=1), 1)
        ranked[rows], scores[rows] = concepts[chosen], np.take_along_axis(best, chosen, 1)
    return ranked, scores


def entry_table(entry_concept: Int, n_concepts: int) -> npt.NDArray[np.int64]:
    """(n_concepts, most pictures of one concept) positions of each concept's pictures, -1 where there are no
    more."""
    order = np.argsort(entry_concept, kind="stable")
    counts = np.bincount(entry_concept, minlength=n_concepts)
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n_concepts, max(1, int(counts.max(initial=1)))), -1, np.int64)
    table[np.asarray(entry_concept)[order], column] = order
    return table


def rank_styles(latents: Float, entry_concept: Int, entry_style: Int, styles: int) -> npt.NDArray[np.uint16]:
    """`Memory.style_rank` (styles, styles) of pictures with latents (N, C, H, W): styles are the more alike,
    the less the latents of one concept differ between them, in the mean over the concepts that both have.
    """
    order = np.lexsort((entry_style, entry_concept))
    flat, style = latents.reshape(len(latents), -1)[order], np.asarray(entry_style)[order]
    total, count = np.zeros((styles, styles)), np.zeros((styles, styles))
    for rows in np.split(
        np.arange(len(order)), np.flatnonzero(np.diff(np.asarray(entry_concept)[order])) + 1
    ):
        own = flat[rows]
        apart = np.square(own[:, None] - own[None]).mean(axis=2)
        where = np.ix_(style[rows], style[rows])
        np.add.at(total, where, apart)
        np.add.at(count, where, 1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    np.fill_diagonal(mean, -1)
    return np.asarray(mean.argsort(axis=1, kind="stable").argsort(axis=1), np.uint16)


def choose_entries(
    ranked: Int,
    table: npt.NDArray[np.int64],
    entry_style: Int,
    entry_tone: Int,
    style_rank: Int,
    style: Int,
    tone: Int | int = 0,
    k: int = 3,
    exclude: Int | None = None,
    chance: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int64]:
    """The neighbour rule: `k` pictures of the ranked concepts (B, top), see the head of this module; (B, k)
    int64.

    `table` comes from `entry_table`, `style_rank` is `Memory`'s; `style` and `tone` are (B,), `exclude` is
    (B, E) positions never to return, `chance` (B, S) in [0, 1) mixes the styles of the best concept behind
    the first picture. Where the concepts hold fewer than `k` pictures the best is repeated.

    Raises:
        ValueError: a query is left without any picture.
    """
    queries = len(ranked)
    if k == 0:
        return np.empty((queries, 0), np.int64)
    style = np.broadcast_to(np.asarray(style, np.int64).reshape(-1, 1), (queries, 1))
    tone = np.broadcast_to(np.asarray(tone, np.int64).reshape(-1, 1), (queries, 1))
    result = np.empty((queries, k), np.int64)
    for begin in range(0, queries, _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        candidates = table[ranked[rows]]  # (b, top, most)
        rank = np.broadcast_to(np.arange(candidates.shape[1])[None, :, None], candidates.shape)
        candidates, rank = (part.reshape(len(candidates), -1) for part in (candidates, rank))
        their_style, their_tone = entry_style[candidates], entry_tone[candidates]
        cost = rank * 2 + (their_tone != tone[rows])
        row = np.arange(len(candidates))[:, None]
        likeness = style_rank[style[rows], their_style].astype(np.int64)
        cost = (cost * 257 + likeness) * (len(entry_style) + 1) + candidates
        forbidden = candidates < 0
        if exclude is not None:
            forbidden |= (candidates[:, :, None] == exclude[rows, None, :]).any(axis=2)
        best, asked = (rank == 0) & ~forbidden, their_style == style[rows]
        forbidden |= best & asked & (best & ~asked).any(axis=1, keepdims=True)
        cost[forbidden] = np.iinfo(np.int64).max
        if chance is not None:
            first = cost.argmin(axis=1)[:, None]
            mixed = chance[rows].argsort(axis=1).argsort(axis=1)[row, their_style]
            cost += np.where((rank == 0) & ~forbidden, (mixed - likeness) * (len(entry_style) + 1), 0)
            cost[row, first] = -1
        taken = cost.argsort(axis=1)[:, :k]
        if forbidden[np.arange(len(taken)), taken[:, 0]].any():
            raise ValueError("the memory has no picture left for a query; exclude fewer of them")
        found = np.take_along_axis(candidates, taken, 1)
        width = found.shape[1]
        result[rows] = found[:, :1]
        result[rows, :width] = np.where(np.take_along_axis(forbidden, taken, 1), found[:, :1], found)
    return result


def pack(latents: Float, scale: Float) -> UInt8:
    """Latents (N, C, H, W) to 4 bits each, (N, C·H·W / 2) uint8: q = round(value / scale + 7.5) clipped to
    0..15, the first of two values in the low half of a byte. `scale` is (C,) and positive; C·H·W must be
    even."""
    levels = (
        np.rint(latents / scale[:, None, None] + 7.5)
        .clip(0, _LEVELS - 1)
        .astype(np.uint8)
        .reshape(len(latents), -1)
    )
    return np.asarray(levels[:, 0::2] | levels[:, 1::2] << 4, dtype=np.uint8)


def unpack(packed: UInt8, scale: Float, shape: Sequence[int]) -> Float:
    """The reverse of `pack`: (…, C·H·W / 2) uint8 to (…, C, H, W) float32, value = (q - 7.5)·scale."""
    levels = np.stack([packed & (_LEVELS - 1), packed >> 4], axis=-1).reshape(*packed.shape[:-1], *shape)
    return (levels.astype(np.float32) - 7.5) * scale[:, None, None].astype(np.float32)


def best_scale(latents: Float) -> Float:
    """The (C,) float32 scale per channel of latents (N, C, H, W) with the least squared error after `pack`,
    of 24 tried."""
    deviation = np.maximum(latents.std(axis=(0, 2, 3)), 1e-6).astype(np.float32)
    tried = deviation * np.linspace(0.15, 0.61, 24, dtype=np.float32)[:, None]
    errors = [
        np.square(unpack(pack(latents, one), one, latents.shape[1:]) - latents).mean(axis=(0, 2, 3))
        for one in tried
    ]
    return np.asarray(tried[np.argmin(errors, axis=0), np.arange(len(deviation))])
