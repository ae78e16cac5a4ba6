"""What every generator stands on: data, the autoencoder's latents, the text encoder and the memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi.models.autoencoder import Autoencoder
from miaobi.runtimes.onnx import OnnxModel
from miaobi.text.encoder import TextEncoder, TextFeatures
from miaobi.text.memory import Memory, best_scale, pack, rank_styles
from miaobi.train import autoencoder as autoencoder_part
from miaobi.train import devices, workers
from miaobi.train.data import Dataset, Record, load_dataset
from miaobi.train.latents import Latents, encode
from miaobi.train.text_keys import build_keys

Int = npt.NDArray[np.int64]


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
    """Keywords that no training text may hold: {concept: {"en": …, "zh": …}}."""

    @classmethod
    def load(cls, recipe: Mapping[str, Any]) -> "Sources":
        """Read `data`, `autoencoder` and `text` of a recipe; encodes the pictures the first time and keeps
        them in the file `latents`, by default `latents.npz` beside the data.
        """
        dataset = load_dataset(Path(recipe["data"]))
        autoencoder = autoencoder_part.load(Path(recipe["autoencoder"])).to(devices.device())
        cache = Path(recipe.get("latents", Path(recipe["data"]) / "latents.npz"))
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
    concept, style = np.array([number[dataset.records[i].concept] for i in rows]), dataset.style_ids()[rows]
    memory = Memory(
        keys=keys,
        key_concept=key_concept,
        entry_concept=concept,
        entry_style=style,
        entry_tone=np.zeros(len(rows), np.int64),
        latents=pack(values, scale),
        scale=scale,
        shape=(channels, height, width),
        concepts=[
            {"slug": slug, "label_en": names[slug].label_en, "label_zh": names[slug].label_zh}
            for slug in slugs
        ],
        ids=[dataset.records[i].id for i in rows],
        style_rank=rank_styles(values, concept, style, len(dataset.styles)),
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
