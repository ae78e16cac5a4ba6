"""Trains the text encoder from captions, the concepts they name and, where there are any, a teacher's
embeddings of them.

A data folder holds captions.jsonl (line i: {"text", "concepts": {name: weight}, "zipf": frequency}, all but
the text may be missing) and, with a teacher, targets.npy (float, N x width, unit rows). Losses:
- distil: 1 - cos(embedding of a varied caption, teacher's embedding of the plain one), so that filler
  changes nothing;
- match: InfoNCE of the same pairs within the batch (van den Oord et al. 2018);
- concept: cross-entropy over concepts, each the weighted mean of its other captions' teacher embeddings, the
  caption itself left out;
- colour: which colour the caption names, read from the token features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from miaobi.models.text import TextConfig, TextModel
from miaobi.text.tokenizer import Tokenizer
from miaobi.train import devices, loop, workers
from miaobi.train.drive import drive
from miaobi.train.text_captions import CLASSES, is_chinese, said_colour, vary
from miaobi.train.text_data import COMMON, Captions, Float, words, worth
from miaobi.train.text_keys import build_keys as build_keys
from miaobi.train.text_tokens import extend_tokenizer, rare_words, train_tokenizer

_CONCEPT_COUNT = 10  # how much more a concept's caption counts than another text when the vocabulary is made
_CHUNKS = 4


class Batch(NamedTuple):
    """One step's captions."""

    ids: Tensor
    mask: Tensor
    rows: Tensor
    """(B,) positions of the plain captions."""
    colour: Tensor
    """(B,) positions in CLASSES."""
    concept: Tensor
    """(B,) concept numbers, -1 for none."""
    shared: Tensor
    """(S, 2) pairs (row of the batch, another concept that the caption names too)."""


class TextTask:
    """What a training step is; see the head of this module."""

    def __init__(
        self,
        model: TextModel,
        tokenizer: Tokenizer,
        captions: Captions,
        concept_share: float,
        temperature: float,
        shares: Float | None = None,
    ) -> None:
        """`shares` (N,) ≥ 0 says how often each caption is drawn; all alike without it."""
        self.model, self.tokenizer, self.captions = model, tokenizer, captions
        self._concept_share, self._temperature = concept_share, temperature
        shares = np.ones(len(captions.texts), np.float32) if shares is None else shares
        self._all = np.flatnonzero(shares)
        self._all_shares = shares[self._all].astype(np.float64) / shares.sum(dtype=np.float64)
        weights = shares * np.array(
            [sum(one.values()) / len(one) if 0 < len(one) <= COMMON else 0.0 for one in captions.concepts]
        )
        self._naming = np.flatnonzero(weights)
        self._shares = weights[self._naming] / max(weights.sum(), 1e-9)
        chinese = [is_chinese(text) for text in captions.texts]
        self._beside = [
            [i for i in self._naming if chinese[i] == one] or list(self._naming) for one in (False, True)
        ]
        self._chinese = chinese
        none = len(CLASSES) - 1
        self._taken = {
            captions.texts[i].replace("的", "").lower()
            for i in self._naming
            if said_colour(captions.texts[i]) != none
        }
        targets = captions.targets
        self._targets = None if targets is None else torch.from_numpy(targets)
        self._prototypes = None if targets is None else self._sums(torch.from_numpy(targets))

    def _spread(self, row: int, concept: int) -> float:
        """How much a caption counts in the mean of a concept: less where it names many."""
        one = self.captions.concepts[row]
        return float(one[concept] / len(one) ** 0.5)

    def _sums(self, embeddings: Tensor) -> Tensor:
        """(concepts, width) weighted sums of the captions' embeddings (N, width)."""
        pairs = [(row, concept) for row, one in enumerate(self.captions.concepts) for concept in one]
        rows, concepts = (torch.tensor([pair[i] for pair in pairs], dtype=torch.long) for i in (0, 1))
        weights = torch.tensor([self._spread(*pair) for pair in pairs])
        zero = torch.zeros(max(1, len(self.captions.names)), embeddings.shape[1])
        return zero.index_add_(0, concepts, embeddings[rows] * weights[:, None])

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        captions = self.captions
        naming = round(size * self._concept_share) if len(self._naming) else 0
        rows = np.concatenate([
            rng.choice(self._naming, naming, p=self._shares) if naming else np.zeros(0, np.int64),
            rng.choice(self._all, size - naming, p=self._all_shares),
        ])  # fmt: skip
        texts, colours, concepts, shared = [], [], [], []
        for place, row in enumerate(rows):
            text = captions.texts[row]
            plain = rng.random() < (0.35 if place < naming else 0.85)
            beside = self._beside[self._chinese[row]]
            other = captions.texts[beside[rng.integers(len(beside))]] if beside else text
            varied = (text, said_colour(text)) if plain else vary(text, other, self._taken, rng)
            texts.append(varied[0])
            colours.append(varied[1])
            own = list(captions.concepts[row]) if place < naming else []
            chosen = int(rng.choice(own)) if own else -1
            concepts.append(chosen)
            shared += [(place, concept) for concept in own if concept != chosen]
        ids, mask, _ = self.tokenizer.batch(texts)
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(mask),
            torch.from_numpy(rows.astype(np.int64)),
            torch.tensor(colours),
            torch.tensor(concepts),
            torch.tensor(shared, dtype=torch.long).reshape(-1, 2),
        )

    def loss(self, batch: Batch, rng: torch.Generator) -> Mapping[str, Tensor]:
        on = self.model.position.device
        batch = Batch(*(part.to(on) for part in batch))
        embedding, colours = self._forward(batch.ids, batch.mask)
        losses = {"colour": 0.3 * F.cross_entropy(colours, batch.colour)}
        if self._targets is None:
            plain = self.tokenizer.batch([self.captions.texts[row] for row in batch.rows.tolist()])
            target = self.model(*(torch.from_numpy(part).to(on) for part in plain[:2])).embedding.float()
        else:
            target = self._targets[batch.rows.cpu()].to(on)
            losses["distil"] = 2 * (1 - (embedding * target).sum(1)).mean()
        scores = (embedding @ target.T).float() / self._temperature
        same = batch.rows[:, None] == batch.rows[None]
        same |= (batch.concept[:, None] == batch.concept[None]) & (batch.concept[:, None] >= 0)
        same.fill_diagonal_(False)
        own = torch.arange(len(scores), device=on)
        losses["match"] = 0.3 * F.cross_entropy(scores.masked_fill(same, -torch.inf), own)
        named = batch.concept >= 0
        if self._prototypes is not None and bool(named.any()):
            losses["concept"] = 0.5 * self._concept_loss(embedding, target, batch)
        return losses

    def _forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and colour logits; short and long captions go through the model apart, which spares it
        padding."""
        lengths = mask.sum(1)
        order = lengths.argsort()
        embeddings, colours = [], []
        for rows in order.chunk(_CHUNKS):
            longest = int(lengths[rows].max())
            part = mask[rows, :longest]
            output = self.model(ids[rows, :longest], part)
            embeddings.append(output.embedding.float())
            colours.append(self.model.colour_logits(output, part))
        back = order.argsort()
        return torch.cat(embeddings)[back], torch.cat(colours)[back]

    def _concept_loss(self, embedding: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over concepts, without what the caption itself adds to its concept."""
        assert self._prototypes is not None
        on = embedding.device
        place = (batch.concept >= 0).nonzero()[:, 0]
        concept, sums = batch.concept[place], self._prototypes.to(on)
        weight = torch.tensor(
            [self._spread(*pair) for pair in zip(batch.rows[place].tolist(), concept.tolist(), strict=True)]
        )
        others = F.normalize(sums[concept] - weight.to(on)[:, None] * target[place], dim=-1)
        scores = (embedding @ F.normalize(sums, dim=-1).T).float() / self._temperature
        scores[batch.shared[:, 0], batch.shared[:, 1]] = -torch.inf
        scores[place, concept] = (embedding[place] * others).sum(1) / self._temperature
        return F.cross_entropy(scores[place], concept)

    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        """Mean cosine to the teacher over a fixed sample, or to nothing without one."""
        if self._targets is None:
            return {}, None
        rows = np.random.default_rng(0).permutation(len(self.captions.texts))[:2048]
        mine = embed(self.model, self.tokenizer, [self.captions.texts[row] for row in rows])
        return {"cosine": float((mine * self._targets[torch.from_numpy(rows)].numpy()).sum(1).mean())}, None


def embed(model: TextModel, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 512) -> Float:
    """Embeddings (N, width) float32 of texts, by PyTorch; the model is put into evaluation mode."""
    on = model.position.device
    model.eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    result = np.empty((len(texts), model.config.width), np.float32)
    with torch.no_grad():
        for begin in range(0, len(texts), batch_size):
            rows = order[begin : begin + batch_size]
            ids, mask, _ = tokenizer.batch([texts[row] for row in rows])
            result[rows] = (
                model(torch.from_numpy(ids).to(on), torch.from_numpy(mask).to(on)).embedding.cpu().numpy()
            )
    return result


def load(folder: Path) -> tuple[TextModel, Tokenizer]:
    """The trained encoder in `folder`, in evaluation mode, and its tokenizer. TrainingError or BundleError
    where damaged."""
    weights, recipe = loop.load_model(folder)
    tokenizer = Tokenizer(folder / "tokenizer.json")
    model = TextModel(_config(recipe, tokenizer))
    model.load_state_dict(weights)
    return model.eval(), tokenizer


def _config(recipe: Mapping[str, Any], tokenizer: Tokenizer) -> TextConfig:
    return TextConfig(**{**recipe.get("model", {}), "vocabulary": tokenizer.size})


def _initialise(model: TextModel, tokenizer: Tokenizer, captions: Captions) -> None:
    """Start the tokens that are words from their teacher's embeddings; the untrained model then averages
    them."""
    if captions.targets is not None and captions.targets.shape[1] == model.config.width:
        numbers, rows = words(tokenizer, captions)
        with torch.no_grad():
            model.embedding.weight[numbers] = torch.from_numpy(captions.targets[rows])


def _add_words(
    model: TextModel, base: Path, tokenizer: Tokenizer, captions: Captions
) -> tuple[Captions, int]:
    """Give `model` the weights in `base`, whose vocabulary is smaller, and let only the new words learn.

    They start from a ridge regression that predicts the old words' vectors from their teacher's. Returns the
    captions with their targets turned into the space of `base` (a PCA is only unique up to a rotation), and
    the number of old ids.
    """
    first, old_tokenizer = load(base)
    old = old_tokenizer.size
    numbers, rows = (np.array(part) for part in words(tokenizer, captions))
    was = numbers < old
    assert captions.targets is not None
    sample = rows[was]
    embedded = embed(first, old_tokenizer, [captions.texts[row] for row in sample])
    left, _, right = np.linalg.svd(captions.targets[sample].T @ embedded)
    targets: Float = captions.targets @ (left @ right)
    vectors = first.embedding.weight.detach().numpy()
    known, wanted = targets[sample], vectors[numbers[was]]
    ridge = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ wanted)
    weights = first.state_dict()
    with torch.no_grad():
        grown = model.embedding.weight.cpu()
        grown[:old] = weights["embedding.weight"]
        grown[numbers[~was]] = torch.from_numpy((targets[rows[~was]] @ ridge).astype(np.float32))
        weights["embedding.weight"] = grown
    model.load_state_dict(weights)
    model.requires_grad_(False)
    model.embedding.weight.requires_grad_(True)
    model.embedding.weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: torch.cat([torch.zeros_like(gradient[:old]), gradient[old:]])
    )
    return dataclasses.replace(captions, targets=targets), old


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says: `data` (folder), `vocabulary` (number of ids), `concept_share` of a batch,
    `temperature`, and the tables `model` and `schedule`. Writes tokenizer.json and model.safetensors to
    `out`.

    With `start_from`, a folder of weights, only `new_words` further words are learned: nothing else changes,
    so that what was trained on the features of that encoder can be used with this one.
    """
    captions = Captions.load(Path(recipe["data"]))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "tokenizer.json"
    base = Path(recipe["start_from"]) if "start_from" in recipe else None
    if base and recipe["schedule"].get("weight_decay") != 0:
        raise ValueError("with start_from, schedule.weight_decay must be 0: it would change the old words")
    value = worth(captions) if base else np.zeros(len(captions.texts), np.float32)
    with workers.first_alone():
        if not path.exists() or (workers.rank() == 0 and not resume):
            if base is None:
                counts = [_CONCEPT_COUNT if one else 1 for one in captions.concepts]
                train_tokenizer(
                    dict(zip(captions.texts, counts, strict=True)), recipe.get("vocabulary", 14000), path
                )
            else:
                pairs = zip(captions.texts, value.tolist(), strict=True)
                named = zip(captions.texts, captions.concepts, strict=True)
                names = [text for text, one in named if 1.0 in one.values()]
                rare = rare_words(pairs, Tokenizer(base / "tokenizer.json"), recipe["new_words"], names)
                extend_tokenizer(base / "tokenizer.json", rare, path)
    tokenizer = Tokenizer(path)
    torch.manual_seed(recipe["schedule"].get("seed", 0))
    model = TextModel(_config(recipe, tokenizer)).to(devices.device())
    if captions.targets is not None and captions.targets.shape[1] != model.config.width:
        raise ValueError(
            f"targets have {captions.targets.shape[1]} values and model.width is {model.config.width}; "
            "make them equal"
        )
    shares = None
    if base is None:
        _initialise(model, tokenizer, captions)
    else:
        captions, old = _add_words(model, base, tokenizer, captions)
        new = np.array([any(i >= old for i in tokenizer.encode(text)) for text in captions.texts])
        shares = (new * np.exp(2 * value)).astype(np.float32)
    task = TextTask(
        model, tokenizer, captions, recipe.get("concept_share", 0.5), recipe.get("temperature", 0.05), shares
    )
    drive(task, recipe, out, resume)
    if workers.rank() == 0:
        from miaobi.train.text_export import export_text

        export_text(out, out / "text.onnx")
