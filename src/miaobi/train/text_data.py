"""What a text encoder is trained on: captions, the concepts they name, and a teacher's embeddings of them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from miaobi.errors import DataError
from miaobi.text.tokenizer import Tokenizer
from miaobi.train.text_captions import is_chinese

Float = npt.NDArray[np.float32]
COMMON = 12
"""A caption of more concepts than this names none of them."""


@dataclass(frozen=True)
class Captions:
    """N texts and what is known of them."""

    texts: list[str]
    concepts: list[dict[int, float]]
    """For each text, concept number -> weight."""
    names: list[str]
    """Concept number -> name."""
    targets: Float | None
    """(N, width) teacher's embeddings of unit norm."""
    zipf: Float
    """(N,) how often people use the word: log10 of uses in a billion words, 0 where unknown."""

    @classmethod
    def load(cls, folder: Path) -> "Captions":
        """Read a data folder; DataError where it is missing or damaged."""
        path = folder / "captions.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            texts = [str(row["text"]) for row in rows]
            named = [dict(row.get("concepts") or {}) for row in rows]
            zipf = np.array([row.get("zipf", 0.0) for row in rows], np.float32)
            targets = (
                np.load(folder / "targets.npy").astype(np.float32)
                if (folder / "targets.npy").exists()
                else None
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'cannot read {path}: {error!r}; each line is {{"text": …, "concepts": {{…}}}}'
            ) from error
        if not texts or (targets is not None and len(targets) != len(texts)):
            raise DataError(
                f"{folder} has {len(texts)} captions and {0 if targets is None else len(targets)} targets; "
                "build it again"
            )
        names = sorted({name for concepts in named for name in concepts})
        number = {name: i for i, name in enumerate(names)}
        concepts = [{number[name]: float(weight) for name, weight in one.items()} for one in named]
        return cls(texts, concepts, names, targets, zipf)


def worth(captions: Captions) -> Float:
    """(N,) how much it matters that a caption is understood: near 1 where it is about a concept, more where
    people use it often, less in Chinese, whose words are told by their characters."""
    near = np.ones(len(captions.texts), np.float32)
    if captions.targets is not None:
        places = [i for i, one in enumerate(captions.concepts) if one and max(one.values()) == 1.0]
        named = torch.from_numpy(captions.targets[places]).bfloat16()
        parts = [
            (torch.from_numpy(part).bfloat16() @ named.T).amax(1).float().numpy()
            for part in np.array_split(captions.targets, 64)
        ]
        near = np.concatenate(parts)
    few = np.array([0 < len(one) <= COMMON for one in captions.concepts])
    chinese = np.array([is_chinese(text) for text in captions.texts])
    used = np.clip(captions.zipf - 2, 0, 3)
    near = np.where(few, np.maximum(near + 0.1, 0.85), near)
    found: Float = (near - chinese + 0.08 * used).astype(np.float32)
    return found


def words(tokenizer: Tokenizer, captions: Captions) -> tuple[list[int], list[int]]:
    """Token ids that are a caption of their own, and the positions of those captions."""
    row = {text.lower(): i for i, text in enumerate(captions.texts)}
    found = [
        (number, row[piece.lstrip("▁")])
        for piece, number in tokenizer.pieces.items()
        if piece.lstrip("▁") in row
    ]
    return [number for number, _ in found], [at for _, at in found]
