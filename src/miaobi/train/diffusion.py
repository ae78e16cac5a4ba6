"""Trains the generator on latents, with captions, styles and retrieved neighbours."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from miaobi import images, sampling
from miaobi.models.autoencoder import Autoencoder
from miaobi.models.diffusion import Condition, Diffusion, DiffusionConfig
from miaobi.runtimes.onnx import OnnxModel
from miaobi.text.encoder import TextEncoder, TextFeatures
from miaobi.text.memory import Memory, best_scale, choose_entries, entry_table, pack, rank_concepts
from miaobi.train import autoencoder as autoencoder_part
from miaobi.train import loop, workers
from miaobi.train.captions import caption
from miaobi.train.colours import COLOURS
from miaobi.train.data import Dataset, Record, load_dataset
from miaobi.train.drive import drive
from miaobi.train.latents import Latents, encode
from miaobi.train.text_keys import build_keys

Int = npt.NDArray[np.int64]
_CANDIDATES = 8  # neighbours that a training sample may draw its own from


@dataclass(frozen=True)
class Sources:
    """What the generator stands on: data, autoencoder, text encoder and memory."""

    dataset: Dataset
    autoencoder: Autoencoder
    latents: Latents
    encoder: TextEncoder
    memory: Memory
    memory_rows: Int
    """Picture of the data set behind each entry of the memory."""
    heldout_tags: Mapping[str, Mapping[str, str]]

    @classmethod
    def load(cls, recipe: Mapping[str, Any]) -> "Sources":
        """Read `data`, `autoencoder` and `text` of a recipe; encodes the pictures the first time."""
        dataset = load_dataset(Path(recipe["data"]))
        autoencoder = autoencoder_part.load(Path(recipe["autoencoder"])).to(loop.device())
        cache = Path(recipe["data"]) / "latents.npz"
        with workers.first_alone():
            latents = encode(autoencoder, dataset, recipe.get("recoloured_copies", 1), cache)
        text = Path(recipe["text"])
        encoder = TextEncoder(text / "tokenizer.json", OnnxModel(text / "text.onnx", threads=1))
        tags = json.loads(Path(recipe["heldout_tags"]).read_text()) if "heldout_tags" in recipe else {}
        memory, rows = build_memory(dataset, latents, encoder, tags)
        return cls(dataset, autoencoder, latents, encoder, memory, rows, tags)


def build_memory(
    dataset: Dataset, latents: Latents, encoder: TextEncoder, heldout_tags: Mapping[str, Mapping[str, str]]
) -> tuple[Memory, Int]:
    """The retrieval memory of the training pictures without skin tones, and the picture behind each entry."""
    rows = np.array([i for i in dataset.split("train") if not dataset.records[i].tone], np.int64)
    names: dict[str, Record] = {}
    for record in dataset.records:
        if record.split == "train":
            names.setdefault(record.concept, record)
    slugs = sorted({dataset.records[i].concept for i in rows})
    number = {slug: index for index, slug in enumerate(slugs)}
    keys, key_concept = build_keys([names[slug] for slug in slugs], heldout_tags, encoder)
    values = latents.values[rows].astype(np.float32)
    scale = best_scale(values)
    channels, height, width = values.shape[1:]
    memory = Memory(
        keys=keys,
        key_concept=key_concept,
        entry_concept=np.array([number[dataset.records[i].concept] for i in rows]),
        entry_style=dataset.style_ids()[rows],
        entry_tone=np.zeros(len(rows), np.int64),
        latents=pack(values, scale),
        scale=scale,
        shape=(channels, height, width),
        concepts=[
            {"slug": slug, "label_en": names[slug].label_en, "label_zh": names[slug].label_zh}
            for slug in slugs
        ],
        ids=[dataset.records[i].id for i in rows],
    )
    return memory, rows


class Captions:
    """Text features by caption, each computed once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._kept: dict[str, tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]] = {}

    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if new:
            features = self._encoder(new)
            for index, text in enumerate(new):
                tokens = features.tokens[index][features.mask[index]]
                self._kept[text] = (tokens.astype(np.float16), features.embedding[index].astype(np.float16))
        found = [self._kept[text] for text in texts]
        length = max(len(tokens) for tokens, _ in found)
        tokens = np.zeros((len(found), length, found[0][0].shape[1]), np.float32)
        mask = np.zeros((len(found), length), bool)
        for row, (one, _) in enumerate(found):
            tokens[row, : len(one)], mask[row, : len(one)] = one, True
        return TextFeatures(
            tokens, mask, np.stack([embedding for _, embedding in found]).astype(np.float32), []
        )


@dataclass(frozen=True)
class Batch:
    """Latents (B, C, h, w) and what they are to be drawn from."""

    latents: Tensor
    condition: Condition


class DiffusionTask:
    """Flow matching with random captions and random neighbours of the same concept in other styles."""

    def __init__(
        self,
        model: Diffusion,
        sources: Sources,
        tone_weight: float,
        colour_weight: float,
        repeats: int = 1,
    ) -> None:
        self.model, self.sources, self.repeats = model, sources, repeats
        self.captions = Captions(sources.encoder)
        records, latents, memory = sources.dataset.records, sources.latents, sources.memory
        self.styles = sources.dataset.style_ids()
        number = {concept["slug"]: index for index, concept in enumerate(memory.concepts)}
        self.concept = np.array([number.get(record.concept, -1) for record in records], np.int64)
        usable = np.array([record.split == "train" for record in records]) & (self.concept >= 0)
        self.rows = np.flatnonzero(usable[latents.source])
        shares = np.where([records[i].tone > 0 for i in latents.source[self.rows]], tone_weight, 1.0)
        shares = np.where(latents.colour[self.rows] >= 0, colour_weight, shares)
        self.shares = shares / shares.sum()
        self.names = list(COLOURS)
        self._related = self._rank_related()
        self._table = entry_table(memory.entry_concept, len(memory.concepts))

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
            style,
            0,
            _CANDIDATES,
            exclude,
        )
        return chosen, (memory.entry_concept[chosen] == concept[:, None]).sum(axis=1)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        rows = rng.choice(self.rows, size, p=self.shares)
        values = torch.from_numpy(self.sources.latents.values[rows].astype(np.float32))
        pictures = self.sources.latents.source[rows]
        entries = self.neighbours(rng, self.concept[pictures], self.styles[pictures])
        return Batch(values, self.condition(self.texts(rng, rows), self.styles[pictures], entries))

    def requests(self, rng: np.random.Generator, size: int) -> tuple[list[str], Int, Int]:
        """Texts, styles (B,) and neighbours (B, K) that could be asked for: like a batch, but half of the
        styles are random.

        Never a held-out pair of concept and style.
        """
        rows = rng.choice(self.rows, size, p=self.shares)
        concept, style = (part[self.sources.latents.source[rows]] for part in (self.concept, self.styles))
        other = np.where(rng.random(size) < 0.5, rng.integers(self.model.config.styles, size=size), style)
        heldout = self.sources.dataset.split("heldout")
        forbidden = set(zip(self.concept[heldout].tolist(), self.styles[heldout].tolist(), strict=True))
        allowed = [pair not in forbidden for pair in zip(concept.tolist(), other.tolist(), strict=True)]
        style = np.where(allowed, other, style)
        return self.texts(rng, rows), style, self.neighbours(rng, concept, style)

    def texts(self, rng: np.random.Generator, rows: Int) -> list[str]:
        """A random caption for each row of the latents."""
        sources = self.sources
        return [
            caption(sources.dataset.records[i], self.names[c] if c >= 0 else None, sources.heldout_tags, rng)
            for i, c in zip(sources.latents.source[rows], sources.latents.colour[rows], strict=True)
        ]

    def neighbours(self, rng: np.random.Generator, concept: Int, style: Int) -> Int:
        """Entries (B, K): pictures of the same concept in random order, then the nearest others."""
        entries, same = self.candidates(concept, style)
        order = np.where(
            np.arange(_CANDIDATES) < same[:, None], rng.random(entries.shape), np.arange(_CANDIDATES) + 1
        )
        return np.take_along_axis(entries, order.argsort(axis=1), 1)[:, : self.model.config.neighbours]

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
        """Held-out pictures without skin tones, in a fixed random order, and their conditions by English
        name.
        """
        dataset = self.sources.dataset
        able = [i for i in dataset.split("heldout") if not dataset.records[i].tone and self.concept[i] >= 0]
        chosen = np.random.default_rng(0).permutation(np.array(able, np.int64))[:limit]
        entries = self.candidates(self.concept[chosen], self.styles[chosen])[0][
            :, : self.model.config.neighbours
        ]
        return chosen, self.condition(
            [dataset.records[i].label_en for i in chosen], self.styles[chosen], entries
        )

    def loss(self, batch: Batch, rng: torch.Generator) -> Mapping[str, Tensor]:
        on = next(self.model.parameters()).device
        count = len(batch.latents)
        # 10 % without any condition (for guidance), 10 % without neighbours, 5 % without text
        draw = torch.rand(count, generator=rng)
        condition = batch.condition.drop(
            (draw < 0.10) | ((draw >= 0.20) & (draw < 0.25)),
            draw < 0.20,
            draw < 0.10,
            self.model.config.styles,
        )
        return self.model.loss(batch.latents.to(on), to_device(condition, on), rng, self.repeats)

    @torch.no_grad()
    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        """Flow loss of held-out pictures, and a sheet of real and drawn ones (12 steps, guidance 3)."""
        chosen, condition = self.heldout(96)
        on = next(self.model.parameters()).device
        condition = to_device(condition, on)
        x0 = torch.from_numpy(self.sources.latents.values[chosen].astype(np.float32)).to(on)
        with loop.autocast(loop.precision("auto", on), on):
            flow = self.model.loss(x0, condition, torch.Generator().manual_seed(0))["flow"]
            few = replace_rows(condition, slice(0, 32))
            noise = noises(range(len(few.style)), self.model.config.latent_shape).to(on)
            drawn = self.model.sample(few, noise, sampling.timesteps(12), 3.0)
        error = (drawn - x0[: len(drawn)]).square().mean()
        shown = torch.stack([x0[: len(drawn)], drawn], 1).flatten(0, 1)
        sheet = images.contact_sheet(images.to_pil(decode(self.sources.autoencoder, shown)), 16)
        return {"flow": float(flow), "latent_error": float(error)}, sheet


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


def load(folder: Path) -> Diffusion:
    """The trained generator in `folder`, in evaluation mode."""
    weights, recipe = loop.load_model(folder)
    model = Diffusion(config(recipe["model"]))
    model.load_state_dict(weights)
    return model.eval()


def load_teacher(
    folder: Path, steps: int = 50, guidance: float | None = None
) -> Callable[[Sequence[str], Sequence[str], Sequence[int]], images.UInt8]:
    """The generator in `folder`: prompts, styles and seeds (B each) → straight RGBA uint8 (B, H, W, 4).

    It draws in PyTorch, fp32, with `steps` Euler steps and `guidance` (by default that of its recipe), from
    the neighbours that a bundle would find: what the distilled bundle is measured against.
    """
    model, (_, recipe) = load(folder), loop.load_model(folder)
    scale = recipe.get("guidance", 3.0) if guidance is None else guidance
    sources = Sources.load(recipe)
    style_ids = {style: number for number, style in enumerate(sources.dataset.styles)}

    def draw(prompts: Sequence[str], styles: Sequence[str], seeds: Sequence[int]) -> images.UInt8:
        features = sources.encoder(prompts)
        asked = np.array([style_ids[style] for style in styles])
        found = sources.memory.neighbours(features.embedding, asked, 0, model.config.neighbours)
        arrays = (features.tokens, features.mask, features.embedding, asked, found.latents, found.styles)
        condition = Condition(*(torch.from_numpy(array) for array in arrays))
        noise = noises(seeds, model.config.latent_shape)
        times = sampling.timesteps(steps)
        return decode(sources.autoencoder, model.sample(condition, noise, times, scale))

    return draw


def config(table: Mapping[str, Any]) -> DiffusionConfig:
    """The recipe's `model` table, checked."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    return DiffusionConfig(**values)


def train(recipe: dict[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says.

    Besides the tables `model` and `schedule`: `data`, folders `autoencoder` and `text` of trained parts,
    `heldout_tags`, `recoloured_copies` of each picture, `tone_weight` and `colour_weight` of skin-tone
    variants and recoloured pictures in a batch, `repeats`, noise levels at which a step sees each picture,
    `start_from`, a folder of weights to go on from.
    """
    sources = Sources.load(recipe)
    shape = list(sources.latents.values.shape[1:])
    recipe["model"] = {"styles": len(sources.dataset.styles), "latent_shape": shape} | recipe.get("model", {})
    model = Diffusion(config(recipe["model"])).to(loop.device())
    if "start_from" in recipe and not resume:
        model.load_state_dict(loop.load_model(Path(recipe["start_from"]))[0])
    task = DiffusionTask(
        model,
        sources,
        recipe.get("tone_weight", 0.2),
        recipe.get("colour_weight", 0.4),
        recipe.get("repeats", 1),
    )
    drive(task, recipe, out, resume)
