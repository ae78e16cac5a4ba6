"""Makes the vocabulary of a text encoder: a Unigram model with bytes for what it does not know."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from miaobi.files import atomic_write
from miaobi.text.tokenizer import Tokenizer, normalise

_SPECIAL = ("<pad>", "<unk>", "<s>")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
_LONGEST = 14


def train_tokenizer(texts: Mapping[str, int], size: int, out: Path) -> None:
    """Write tokenizer.json to `out`: `size` ids (special tokens and bytes among them), fitted on texts and
    how often each counts.

    Needs the `tokenizers` library; reading the file does not. Raises ValueError when `size` leaves no room
    for characters.
    """
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    segments = Counter[str]()
    for text, count in texts.items():
        for segment in normalise(text):
            segments[segment] += count
    room = size - len(_SPECIAL) - len(_BYTES)
    characters = Counter[str]()
    for segment, count in segments.items():
        for character in segment:
            characters[character] += count
    alphabet = [character for character, count in characters.most_common(max(0, room // 3)) if count > 1]
    if room < len(alphabet) + 1 or not alphabet:
        raise ValueError(
            f"vocabulary = {size} leaves no room for pieces; use at least {len(_SPECIAL) + len(_BYTES) + 100}"
        )
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.UnigramTrainer(
        vocab_size=room, initial_alphabet=alphabet, max_piece_length=_LONGEST, unk_token="<unk>",
        special_tokens=["<unk>"],
        show_progress=False,
    )  # fmt: skip
    known = set(alphabet)
    trained.train_from_iterator(_repeated(segments, known), trainer)
    learned = [(piece, score) for piece, score in _pieces(trained) if piece != "<unk>"][:room]
    vocabulary = [(piece, 0.0) for piece in (*_SPECIAL, *_BYTES)] + learned
    made = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with atomic_write(out) as file:
        file.write(made.to_str().encode())


def extend_tokenizer(path: Path, words: Iterable[str], out: Path) -> None:
    """Write the tokenizer at `path` to `out` with further pieces: single segments (see `normalise`), each
    scored so that it is taken whole, and so that texts without these words are cut as before."""
    data = json.loads(path.read_text("utf-8"))
    vocabulary, tokenizer = data["model"]["vocab"], Tokenizer(path)
    scores = dict(vocabulary)
    floor = min(scores.values()) - 10
    names = {number: piece for piece, number in tokenizer.pieces.items()}
    for word in dict.fromkeys(words):
        if word not in scores and normalise(word.lstrip("▁")) == [word]:
            cut = [names[number] for number in tokenizer.encode(word.lstrip("▁"))[1:]]
            pieces = [piece for piece in cut if not piece.startswith("<0x")]
            vocabulary.append(
                [word, sum(scores[piece] for piece in pieces) + floor * (len(pieces) < len(cut)) + 0.1]
            )
    with atomic_write(out) as file:
        file.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def rare_words(
    texts: Iterable[tuple[str, float]], tokenizer: Tokenizer, count: int, untouched: Iterable[str] = ()
) -> list[str]:
    """The `count` segments of most worth that the tokenizer cuts in pieces and that are no part of the texts
    `untouched`.

    A word is worth what the texts that it makes up alone are worth, and a little for every text that it
    stands in.
    """
    kept = " ".join(segment for text in untouched for segment in normalise(text))
    worth: dict[str, float] = {}
    uses = Counter[str]()
    for text, value in texts:
        segments = normalise(text)
        for segment in segments:
            if segment[0] == "▁" or (len(segments) == 1 and 2 <= len(segment) <= 4):
                uses[segment] += 1
                own = value if len(segments) == 1 else 0.0
                worth[segment] = max(worth.get(segment, 0.0), own)
    best = sorted(worth, key=lambda word: (-worth[word] - 0.05 * uses[word].bit_length(), word))
    new = (
        word for word in best if word not in tokenizer.pieces and len(word) <= _LONGEST and word not in kept
    )
    return list(itertools.islice(new, count))


def _repeated(segments: Mapping[str, int], known: set[str]) -> Iterable[str]:
    """Segments as often as they count (logarithmically above 8), without rare characters, which are left to
    bytes."""
    for segment, count in sorted(segments.items()):
        plain = "".join(character for character in segment if character in known)
        for _ in range(min(count, 8 + count.bit_length())):
            yield plain


def _pieces(trained: object) -> list[tuple[str, float]]:
    return [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]  # type: ignore[attr-defined]
