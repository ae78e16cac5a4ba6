"""What both parsers share: the index of known names, and a scene that grows while a prompt is read."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from miaobi.text.encoder import TextEncoder
from miaobi.text.lexicon import BACKGROUNDS, EN_COUNTS, EN_IRREGULAR
from miaobi.text.memory import Memory
from miaobi.text.scene import MAX_COUNT, MAX_LAYERS, Relation, Scene, Thing, shortened
from miaobi.text.tokenizer import normalise

_NOUN_COSINE = 0.6
_EN_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ACTING = re.compile(r"(person|man|woman|men|women|people) \w+ing\b")
_UNUSED_ZH = set("啊加减乘除累困汗哭怒晕结脑线兵")
Labels = dict[tuple[str, ...], str]


@dataclass(frozen=True, eq=False)
class Index:
    """Names of a memory's concepts, ready to be looked up; built once for each memory."""

    memory: Memory
    whole: frozenset[str]
    """Every label as one normalised text."""
    english: Labels
    """Words of a label in lower case -> the words to draw."""
    chinese: frozenset[str]
    longest: tuple[int, int]
    """Words of the longest English label, characters of the longest Chinese one."""
    heads: frozenset[str]
    """What stands before the colon of such labels as "family: man, woman, boy"."""
    cosines: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Word -> how near the nearest concept is, and which; filled while prompts are read."""

    @classmethod
    def build(cls, memory: Memory) -> "Index":
        english: Labels = {}
        chinese: set[str] = set()
        whole: set[str] = set()
        heads: set[str] = set()
        for concept in memory.concepts:
            label, label_zh = concept.get("label_en", ""), concept.get("label_zh", "")
            heads |= {key(one.split(":")[0]) for one in (label, label_zh) if ":" in one}
            whole |= {key(label), key(label_zh)} - {""}
            words = tuple(_EN_WORD.findall(label.casefold()))
            if words and words[0] not in EN_COUNTS and len(words) <= 7:
                english.setdefault(words, " ".join(words))
            plain = plain_chinese(label_zh)
            if plain and not _ACTING.match(label) and plain not in _UNUSED_ZH and ":" not in plain:
                chinese.add(plain)
        places = {word for words in BACKGROUNDS.values() for word in words}
        english |= {tuple(word.split()): word for word in places if word.isascii()}
        return cls(
            memory,
            frozenset(whole),
            english,
            frozenset(chinese),
            (max(map(len, english), default=1), max(map(len, chinese), default=1)),
            frozenset(heads),
        )

    def listed(self, prompt: str) -> bool:
        """True where the prompt has the form of a label with a colon, such as "family: man, woman"."""
        head, colon, rest = prompt.replace("：", ":").partition(":")
        return bool(colon and rest.strip()) and key(head) in self.heads

    def noun(self, word: str, look: "Look") -> bool:
        """True where the encoder finds the word near a concept that is no person doing something, or where it
        is not to be asked any more."""
        if word not in self.cosines:
            look.left -= 1
            if look.left < 0:
                return True
            if len(self.cosines) > 4096:
                self.cosines.clear()
            cosines = self.memory.keys @ look.encoder([word]).embedding[0]
            best = int(np.argmax(cosines))
            label = self.memory.concepts[int(self.memory.key_concept[best])].get("label_en", "")
            self.cosines[word] = (float(cosines[best]), label)
        cosine, label = self.cosines[word]
        return cosine >= _NOUN_COSINE and not _ACTING.match(label)


def key(text: str) -> str:
    """A text as it is compared: lower case, simplified, without spaces that do not matter."""
    return " ".join(normalise(text))


def plain_chinese(text: str) -> str:
    """Text in lower case and simplified characters; one space is kept between words of other scripts."""
    return re.sub(r"(?<=[^a-z0-9]) | (?=[^a-z0-9])", "", "".join(normalise(text)).replace("▁", " ")).strip()


def singular(word: str) -> str:
    """The singular of an English noun by its ending; the word itself where it has none."""
    if word in EN_IRREGULAR:
        return EN_IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
        return word[:-2]
    return word[:-1]


@dataclass
class Look:
    """The encoder, which one prompt may ask about so many unknown words; a look takes milliseconds."""

    encoder: TextEncoder
    left: int = 4


@dataclass
class Noun:
    """A thing as it is read; `plural` where nothing but its ending says that it is several."""

    words: str
    count: int = 1
    colour: str | None = None
    size: str = "medium"
    plural: bool = False
    relation: tuple[str, tuple[int, ...]] | None = None


@dataclass
class Draft:
    """A scene under way."""

    nouns: list[Noun] = field(default_factory=list)
    background: str | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, noun: Noun) -> int:
        """The number of the new thing."""
        self.nouns.append(noun)
        return len(self.nouns) - 1

    def place(self, words: str) -> None:
        """Take `words` for the background; there is room for one."""
        if self.background is None:
            self.background = words
        elif words != self.background:
            self.notes.append(f"the background {words!r}: there is one already, {self.background!r}")

    def relate(self, subjects: Iterable[int], word: str, to: Sequence[int]) -> None:
        """Say how things lie. A thing that has a relation hands it to the next target: "under the moon an
        owl on a tree" puts the owl on the tree, and the tree under the moon."""
        for subject in subjects:
            self._relate(subject, word, tuple(dict.fromkeys(to))[: 2 if word == "between" else 1])

    def _relate(self, subject: int, word: str, to: tuple[int, ...]) -> None:
        if not to and word not in ("above", "below", "left", "right"):
            return
        noun = self.nouns[subject]
        if noun.relation is not None:
            if to and self.nouns[to[0]].relation is None and subject not in to:
                before, noun.relation = noun.relation, None
                if not self._under([*to, *before[1]], subject) and not self._under(before[1], to[0]):
                    self.nouns[to[0]].relation, noun.relation = before, (word, to)
                else:
                    noun.relation = before
            return
        if subject not in to and not self._under(to, subject):
            noun.relation = (word, to)

    def _under(self, numbers: Sequence[int], root: int) -> bool:
        """True where one of the things lies, through others, relative to `root`."""
        waiting = list(numbers)
        while waiting:
            one = waiting.pop()
            if one == root:
                return True
            relation = self.nouns[one].relation
            waiting += relation[1] if relation else ()
        return False

    def scene(self, prompt: str) -> Scene:
        """The finished scene; of the whole prompt where it names one single thing."""
        nouns = self.nouns
        if not nouns or (
            len(nouns) == 1 and nouns[0].count == 1 and not self.background and nouns[0].relation is None
        ):
            colour = nouns[0].colour if nouns else None
            return Scene((Thing(shortened(prompt), colour),), notes=tuple(self.notes))
        if len(nouns) > MAX_LAYERS:
            self.notes.append(f"{len(nouns) - MAX_LAYERS} things: a scene has at most {MAX_LAYERS}")
        kept = self._back_to_front(min(len(nouns), MAX_LAYERS))
        counts = self._counts(kept)
        number = {old: new for new, old in enumerate(kept)}
        things = []
        for old in kept:
            noun = nouns[old]
            relation = None
            if noun.relation and all(one in number for one in noun.relation[1]):
                relation = Relation(noun.relation[0], tuple(number[one] for one in noun.relation[1]))
            things.append(Thing(shortened(noun.words), noun.colour, counts[old], noun.size, relation))
        return Scene(
            tuple(things), shortened(self.background) if self.background else None, tuple(self.notes)
        )

    def _counts(self, kept: Sequence[int]) -> dict[int, int]:
        counts = {}
        for one in kept:
            noun = self.nouns[one]
            asked = 3 if noun.plural and noun.count == 1 else max(1, noun.count)
            counts[one] = min(asked, MAX_COUNT)
            if asked > MAX_COUNT:
                self.notes.append(f"{asked} of {noun.words!r}: {MAX_COUNT} are drawn")
        while sum(counts.values()) > MAX_LAYERS:
            most = max(counts, key=lambda one: counts[one])
            counts[most] -= 1
            note = f"some of {self.nouns[most].words!r}: a scene has at most {MAX_LAYERS} pictures"
            if note not in self.notes:
                self.notes.append(note)
        return counts

    def _back_to_front(self, length: int) -> list[int]:
        """The first things, each after what it is drawn over, otherwise in the order of the prompt."""
        after: dict[int, set[int]] = {one: set() for one in range(length)}
        for one in range(length):
            word, to = self.nouns[one].relation or ("", ())
            for other in to:
                if other < length and word in ("in", "on", "front"):
                    after[one].add(other)
                elif other < length and word == "behind":
                    after[other].add(one)
        order: list[int] = []
        while len(order) < length:
            order.append(
                next(one for one in range(length) if one not in order and after[one].issubset(order))
            )
        return order
