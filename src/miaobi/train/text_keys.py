"""What the retrieval memory is searched by: text embeddings of each concept's names; and how well that
works."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from miaobi.text.encoder import TextEncoder
from miaobi.text.memory import rank_concepts
from miaobi.text.tokenizer import normalise
from miaobi.train.data import Record

_BATCH = 512
Float = npt.NDArray[np.float32]


def encode(encoder: TextEncoder, texts: Sequence[str]) -> Float:
    """Embeddings (N, D) float32; texts of like length are encoded together."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [
        encoder([texts[i] for i in order[at : at + _BATCH]]).embedding for at in range(0, len(order), _BATCH)
    ]
    return np.concatenate(parts)[np.argsort(order)]


def concept_texts(
    concepts: Sequence[Record], heldout_tags: Mapping[str, Mapping[str, str]]
) -> list[dict[str, float]]:
    """For each concept its names (weight 1) and keywords (less, the more concepts share them), without
    held-back ones."""
    uses: dict[str, int] = {}
    for record in concepts:
        for tag in {*record.tags_en, *record.tags_zh}:
            uses[tag] = uses.get(tag, 0) + 1
    found = []
    for record in concepts:
        held = {_key(tag) for tag in heldout_tags.get(record.concept, {}).values()}
        tags = (tag for tag in (*record.tags_en, *record.tags_zh) if tag and _key(tag) not in held)
        texts = {tag: 0.6 / uses[tag] ** 0.5 for tag in tags}
        texts |= {name: 1.0 for name in (record.label_en, record.label_zh) if name}
        found.append(texts)
    return found


def _key(text: str) -> str:
    return " ".join(normalise(text))


def build_keys(
    concepts: Sequence[Record], heldout_tags: Mapping[str, Mapping[str, str]], encoder: TextEncoder
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """Keys (K, D) float16 of unit norm and the concept (K,) of each, sorted by concept.

    Concept i, `concepts[i]`, is found by the mean of all its texts (its first key) and by each of its names.
    Keywords are no keys of their own: many are shared, and a prompt that is one would find any of its
    concepts ("dog" a bone).
    """
    texts = concept_texts(concepts, heldout_tags)
    flat = [(i, text, weight) for i, one in enumerate(texts) for text, weight in one.items()]
    unique = list(dict.fromkeys(text for _, text, _ in flat))
    place = {text: i for i, text in enumerate(unique)}
    rows = encode(encoder, unique)[[place[text] for _, text, _ in flat]]
    concept = np.array([i for i, _, _ in flat])
    weights = np.array([weight for _, _, weight in flat], np.float32)
    means = np.zeros((len(texts), rows.shape[1]), np.float32)
    np.add.at(means, concept, rows * weights[:, None])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-8)
    named = np.array([text in (concepts[i].label_en, concepts[i].label_zh) for i, text, _ in flat])
    keys, owner = (
        np.concatenate([means, rows[named]]),
        np.concatenate([np.arange(len(texts)), concept[named]]),
    )
    order = np.argsort(owner, kind="stable")
    return keys[order].astype(np.float16), owner[order].astype(np.int32)


def accuracy(
    encoder: TextEncoder,
    keys: npt.NDArray[np.float16],
    key_concept: npt.NDArray[np.int32],
    queries: Iterable[tuple[str, Sequence[int]]],
) -> tuple[float, float, list[tuple[str, list[int]]]]:
    """Share of queries (prompt, right concepts) that find a right concept first, and among the first five;
    and the misses: prompts with the five concepts that were found instead."""
    asked = list(queries)
    embeddings = encode(encoder, [prompt for prompt, _ in asked])
    ranked, _ = rank_concepts(embeddings, keys, key_concept, int(key_concept.max()) + 1, 5)
    hits = [np.isin(row, right) for row, (_, right) in zip(ranked, asked, strict=True)]
    misses = [
        (prompt, [int(c) for c in row])
        for row, hit, (prompt, _) in zip(ranked, hits, asked, strict=True)
        if not hit[0]
    ]
    return float(np.mean([hit[0] for hit in hits])), float(np.mean([hit.any() for hit in hits])), misses
