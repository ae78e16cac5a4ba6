"""Batches for generators: latents, and the captions, styles and neighbours they are to be drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from miaobi import images, sampling
from miaobi.captioning import END, LANGUAGES
from miaobi.colours import COLOURS
from miaobi.models.autoencoder import Autoencoder
from miaobi.models.backbone import Condition
from miaobi.text.memory import choose_entries, entry_table, rank_concepts
from miaobi.train.captions import EMOJI_FRAMES, Frames, caption, description
from miaobi.train.sources import Captions, Int, Sources

_CANDIDATES = 8  # neighbours that a training sample may draw its own from


@dataclass(frozen=True)
class Captioned:
    """Pictures and what is to be said of them."""

    latents: Tensor
    """(B, C, h, w)."""
    ids: Tensor
    """Word tokens, int64 (B, L), each caption followed by at least one `END`."""
    language: Tensor
    """Places in LANGUAGES, int64 (B,)."""

    def to(self, on: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors on another device, in order."""
        return self.latents.to(on), self.ids.to(on), self.language.to(on)


@dataclass(frozen=True)
class Batch:
    """Latents (B, C, h, w) and what they are to be drawn from."""

    latents: Tensor
    condition: Condition
    captioned: Captioned | None = None
    """Further pictures, to be captioned."""


class Pairs:
    """Latents with random captions and random neighbours of the same concept in other styles.

    Args:
        sources: data, latents, text encoder and memory.
        neighbours: how many of them a picture has.
        tone_weight: how much a skin-tone variant counts.
        colour_weight: how much a recoloured picture counts.
        style_weights: how much pictures of some styles count.
        frames: what captions say around a name.
        captioning: share of a batch, below 1, that is to be captioned instead of drawn.
        shuffled: share of the samples whose neighbours are not in the order of the memory's rule.
    """

    def __init__(
        self,
        sources: Sources,
        neighbours: int,
        tone_weight: float = 0.2,
        colour_weight: float = 0.4,
        style_weights: Mapping[str, float] | None = None,
        frames: Frames = EMOJI_FRAMES,
        captioning: float = 0.0,
        shuffled: float = 0.3,
    ) -> None:
        self.sources, self.neighbour_count, self.frames = sources, neighbours, frames
        self.captioning, self.shuffled = captioning, shuffled
        self.captions = Captions(sources.encoder)
        records, latents, memory = sources.dataset.records, sources.latents, sources.memory
        self.styles = sources.dataset.style_ids()
        number = {concept["slug"]: index for index, concept in enumerate(memory.concepts)}
        self.concept = np.array([number.get(record.concept, -1) for record in records], np.int64)
        usable = np.array([record.split == "train" for record in records]) & (self.concept >= 0)
        self.rows = np.flatnonzero(usable[latents.source])
        weights = sources.dataset.weights(tone_weight, style_weights or {})
        shares = weights[latents.source[self.rows]]
        # only pictures without a skin tone are recoloured
        shares = np.where(latents.colour[self.rows] >= 0, colour_weight * shares, shares)
        self.shares = shares / shares.sum()
        self.names = list(COLOURS)
        self._related = self._rank_related()
        self._table = entry_table(memory.entry_concept, len(memory.concepts))

    @classmethod
    def of(cls, sources: Sources, neighbours: int, recipe: Mapping[str, Any]) -> "Pairs":
        """Pairs as a generator's recipe describes them, see `generator.train`."""
        return cls(
            sources,
            neighbours,
            recipe.get("tone_weight", 0.2),
            recipe.get("colour_weight", 0.4),
            recipe.get("style_weights"),
            Frames(**recipe.get("frames", {})),
            recipe.get("autoregressive", {}).get("captioning", 0.0),
            recipe.get("shuffled", 0.3),
        )

    def _rank_related(self) -> Int:
        """(concepts, 4): each concept itself, then the nearest others by its first key."""
        memory = self.sources.memory
        first = np.unique(memory.key_concept, return_index=True)[1]
        keys = memory.keys.astype(np.float32)
        ranked, _ = rank_concepts(keys[first], keys, memory.key_concept, len(memory.concepts), 5)
        own = np.arange(len(ranked))[:, None]
        return np.concatenate([own, np.stack([row[row != i][:4] for i, row in enumerate(ranked)])], axis=1)

    def candidates(self, concept: Int, style: Int) -> tuple[Int, Int]:
        """Entries (B, 8) that may be neighbours, best first, and how many (B,) show the same concept.

        Never one of the same concept in the same style: pictures are to be drawn from other hands' pictures.
        """
        memory = self.sources.memory
        own = self._table[concept]
        exclude = np.where((own >= 0) & (memory.entry_style[own] == style[:, None]), own, -1)
        chosen = choose_entries(
            self._related[concept],
            self._table,
            memory.entry_style,
            memory.entry_tone,
            memory.style_rank,
            style,
            0,
            _CANDIDATES,
            exclude,
        )
        return chosen, (memory.entry_concept[chosen] == concept[:, None]).sum(axis=1)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        rows = rng.choice(self.rows, size, p=self.shares)
        drawn = max(1, size - round(self.captioning * size))
        captioned = self.captioned(rng, rows[drawn:]) if drawn < size else None
        rows = rows[:drawn]
        pictures = self.sources.latents.source[rows]
        entries = self.neighbours(rng, self.concept[pictures], self.styles[pictures])
        condition = self.condition(self.texts(rng, rows), self.styles[pictures], entries)
        return Batch(self._latents(rows), condition, captioned)

    def captioned(self, rng: np.random.Generator, rows: Int) -> Captioned:
        """Rows of the latents with their descriptions, each in a random one of the languages it has."""
        latents, records = self.sources.latents, self.sources.dataset.records
        texts, languages = [], []
        for picture, colour in zip(latents.source[rows], latents.colour[rows], strict=True):
            record = records[picture]
            chinese = bool(record.label_zh) and (not record.label_en or rng.random() < 0.5)
            texts.append(description(record, self.names[colour] if colour >= 0 else None, chinese))
            languages.append(LANGUAGES.index("zh" if chinese else "en"))
        ids, _, _ = self.sources.encoder.tokenizer.batch(texts)
        words = np.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=END)  # the start is no word
        return Captioned(self._latents(rows), torch.from_numpy(words), torch.tensor(languages))

    def _latents(self, rows: Int) -> Tensor:
        return torch.from_numpy(self.sources.latents.values[rows].astype(np.float32))

    def requests(self, rng: np.random.Generator, size: int) -> tuple[list[str], Int, Int, Int]:
        """Texts, styles (B,), neighbours (B, K) and concepts (B,) that could be asked for: like a batch, but
        half of the styles are random.

        Never a held-out pair of concept and style. Concepts are -1 where another colour is asked for, in
        which no real picture shows them.
        """
        sources = self.sources
        rows = rng.choice(self.rows, size, p=self.shares)
        concept, style = (part[sources.latents.source[rows]] for part in (self.concept, self.styles))
        other = np.where(rng.random(size) < 0.5, rng.integers(len(sources.dataset.styles), size=size), style)
        heldout = sources.dataset.split("heldout")
        forbidden = set(zip(self.concept[heldout].tolist(), self.styles[heldout].tolist(), strict=True))
        allowed = [pair not in forbidden for pair in zip(concept.tolist(), other.tolist(), strict=True)]
        style = np.where(allowed, other, style)
        texts, entries = self.texts(rng, rows), self.neighbours(rng, concept, style)
        return texts, style, entries, np.where(sources.latents.colour[rows] >= 0, -1, concept)

    def texts(self, rng: np.random.Generator, rows: Int) -> list[str]:
        """A random caption for each row of the latents."""
        sources = self.sources
        return [
            caption(
                sources.dataset.records[i],
                self.names[c] if c >= 0 else None,
                sources.heldout_tags,
                rng,
                self.frames,
            )
            for i, c in zip(sources.latents.source[rows], sources.latents.colour[rows], strict=True)
        ]

    def neighbours(self, rng: np.random.Generator, concept: Int, style: Int) -> Int:
        """Entries (B, K): what the memory's rule gives, sometimes with the pictures of the same concept
        shuffled before the nearest others.
        """
        entries, same = self.candidates(concept, style)
        place = np.broadcast_to(np.arange(_CANDIDATES), entries.shape)
        shuffled = (rng.random(len(entries)) < self.shuffled)[:, None] & (place < same[:, None])
        order = np.where(shuffled, rng.random(entries.shape) - 1, place)
        return np.take_along_axis(entries, order.argsort(axis=1), 1)[:, : self.neighbour_count]

    def condition(self, texts: Sequence[str], styles: Int, entries: Int) -> Condition:
        """Captions, style ids (B,) and memory entries (B, K) as tensors."""
        features, memory = self.captions(texts), self.sources.memory
        return Condition(
            torch.from_numpy(features.tokens),
            torch.from_numpy(features.mask),
            torch.from_numpy(features.embedding),
            torch.from_numpy(styles.astype(np.int64)),
            torch.from_numpy(memory.unpacked(entries)),
            torch.from_numpy(memory.entry_style[entries].astype(np.int64)),
        )

    def heldout(self, limit: int | None = None) -> tuple[Int, Condition]:
        """Held-out pictures (see `Dataset.reported`) without skin tones, in a fixed random order, and their
        conditions by name.

        They are pictures of concepts that the memory knows. Where every held-out concept is new to it, the
        neighbours are those that it finds for the name.
        """
        dataset = self.sources.dataset
        able = [i for i in dataset.reported() if not dataset.records[i].tone]
        known = [i for i in able if self.concept[i] >= 0]
        chosen = np.random.default_rng(0).permutation(np.array(known or able, np.int64))[:limit]
        names = [dataset.records[i].label_en or dataset.records[i].label_zh for i in chosen]
        style, count = self.styles[chosen], self.neighbour_count
        if known:
            entries = self.candidates(self.concept[chosen], style)[0][:, :count]
        else:
            entries = self.sources.memory.neighbours(self.captions(names).embedding, style, 0, count).entries
        return chosen, self.condition(names, style, entries)

    def sheet(self, real: Tensor, drawn: Tensor) -> Image.Image:
        """Real and drawn latents (B, C, h, w), decoded, side by side."""
        both = torch.stack([real[: len(drawn)], drawn], 1).flatten(0, 1)
        return images.contact_sheet(images.to_pil(decode(self.sources.autoencoder, both)), 16)


def to_device(condition: Condition, on: torch.device) -> Condition:
    """The condition on another device."""
    return Condition(*(getattr(condition, name).to(on) for name in condition.__dataclass_fields__))


def replace_rows(condition: Condition, rows: slice) -> Condition:
    """Some rows of a condition."""
    return replace(
        condition, **{name: getattr(condition, name)[rows] for name in condition.__dataclass_fields__}
    )


def noises(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The noise that each seed stands for, (B, C, h, w)."""
    return torch.from_numpy(sampling.draw(sampling.generators(seeds), shape))


def decode(autoencoder: Autoencoder, latents: Tensor) -> images.UInt8:
    """Standardised latents (B, C, h, w) → straight RGBA uint8 (B, H, W, 4)."""
    on = next(autoencoder.parameters()).device
    with torch.no_grad():
        parts = [autoencoder.decode(part.to(on).float()).cpu().numpy() for part in torch.split(latents, 64)]
    return images.to_uint8(np.concatenate(parts))
