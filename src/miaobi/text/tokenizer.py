"""Text to token ids without any library: reads a Hugging Face `tokenizers` file that holds a Unigram model.

Kudo 2018, "Subword Regularization": a segment is cut where the sum of its pieces' log-probabilities is
greatest (Viterbi). Characters that are in no piece become their UTF-8 bytes.
"""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from miaobi.errors import BundleError, MachineError

MAX_TOKENS = 32
WORD = "▁"
"""Stands before a word of a script that puts spaces between words."""

_UNKNOWN_PENALTY = 10.0  # what `tokenizers` subtracts from the smallest score for a character in no piece
_DROPPED = "\u200d\ufe0e\ufe0f" + "".join(
    map(chr, range(0x1F3FB, 0x1F400))
)  # joiners, variation selectors, skin tones
_SEGMENT = re.compile(r"[㐀-鿿豈-﫿]+|\d|[^\W\d_㐀-鿿豈-﫿]+(?:'[^\W\d_㐀-鿿]+)*|[^\s]")

_AFTER_HYPHEN = re.compile("- ")


@cache
def _characters() -> dict[int, str | None]:
    """What `str.translate` needs to write traditional characters as simplified ones and to drop invisible
    ones."""
    traditional, simplified = (Path(__file__).parent / "hanzi.txt").read_text("utf-8").split()
    table: dict[int, str | None] = dict(zip(map(ord, traditional + "’"), simplified + "'", strict=True))
    table.update(dict.fromkeys(map(ord, _DROPPED)))
    return table


def normalise(text: str) -> list[str]:
    """The segments of a text that pieces never cross: "Red 貓!" -> ["▁red", "猫", "!"].

    Unicode NFKC, lower case, traditional characters written as simplified ones; skin tones are left to
    `prompt.skin_tone`.
    """
    plain = unicodedata.normalize("NFKC", text).lower().translate(_characters())
    return [
        WORD + segment if segment[0].isalpha() and not "㐀" <= segment[0] <= "\ufaff" else segment
        for segment in _SEGMENT.findall(plain)
    ]


class Tokenizer:
    """A Unigram vocabulary.

    Attributes:
        pieces: piece -> id.
        size: number of ids.
    """

    pad, start = 0, 2

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises BundleError where the file is damaged or of another kind, MachineError where it cannot be
        read."""
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise MachineError(f"tokenizer {os.fspath(path)!r} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise BundleError(f"tokenizer {os.fspath(path)!r} is not text; get the bundle again.") from error
        try:
            model = json.loads(text)["model"]
            if model["type"] != "Unigram" or not model["byte_fallback"]:
                raise BundleError(
                    f"tokenizer {os.fspath(path)!r} has a {model['type']} model; only Unigram is read"
                )
            vocabulary = [(str(piece), float(score)) for piece, score in model["vocab"]]
            self.pieces = {piece: i for i, (piece, _) in enumerate(vocabulary)}
            self._bytes = [self.pieces[f"<0x{value:02X}>"] for value in range(256)]
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"tokenizer {os.fspath(path)!r} is damaged ({error!r}); get the bundle again."
            ) from error
        self.size = len(vocabulary)
        special = {self.pad, 1, self.start, *self._bytes}
        self._scores = {piece: score for i, (piece, score) in enumerate(vocabulary) if i not in special}
        self._longest = max(map(len, self._scores), default=1)
        self._unknown = min((score for _, score in vocabulary), default=0.0) - _UNKNOWN_PENALTY

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, the start token first; as many as it takes."""
        ids = [self.start]
        for segment in normalise(text):
            ids += self._segment(segment)
        return ids

    def batch(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], list[int]]:
        """ids (B, L) int64 padded with 0, mask (B, L) bool, and how many tokens of each text were cut off (L
        ≤ 32)."""
        encoded = [self.encode(text) for text in texts]
        length = min(MAX_TOKENS, max(map(len, encoded), default=1))
        ids = np.full((len(encoded), length), self.pad, np.int64)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = tokens[:length]
        lengths = np.array([min(len(tokens), length) for tokens in encoded], np.int64)
        return (
            ids,
            np.arange(length) < lengths[:, None],
            [max(0, len(tokens) - MAX_TOKENS) for tokens in encoded],
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out: what `encode` was given, but for what `normalise`
        changes. Spaces stand before words of scripts that have them, and not after a hyphen.
        """
        pieces = {number: piece for piece, number in self.pieces.items()}
        values = {number: value for value, number in enumerate(self._bytes)}
        raw = b"".join(
            bytes([values[one]]) if one in values else pieces[one].encode()
            for one in ids
            if one not in (self.pad, 1, self.start)
        )
        text = raw.decode("utf-8", "replace").replace(WORD, " ")
        return _AFTER_HYPHEN.sub("-", text).strip()

    def _segment(self, segment: str) -> list[int]:
        """The best cut of one segment: best[i] = max over j of best[j] + score(segment[j:i])."""
        best = [0.0] + [-np.inf] * len(segment)
        begin = [0] * (len(segment) + 1)
        for j in range(len(segment)):
            for i in range(j + 1, min(len(segment), j + self._longest) + 1):
                score = self._scores.get(segment[j:i])
                if score is None:
                    if i > j + 1:
                        continue
                    score = self._unknown
                if best[j] + score > best[i]:
                    best[i], begin[i] = best[j] + score, j
        cuts, end = [], len(segment)
        while end:
            cuts.append(segment[begin[end] : end])
            end = begin[end]
        ids = []
        for piece in reversed(cuts):
            ids += (
                [self.pieces[piece]]
                if piece in self._scores
                else [self._bytes[value] for value in piece.encode()]
            )
        return ids
