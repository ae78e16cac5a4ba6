"""Which words mean which concept: names, keywords, and what WordNet, CC-CEDICT and emojilib add to them.

A keyword that `heldout_tags.json` keeps back is removed from its concept wherever it comes from.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lexicon import Entry, WordNet

from miaobi.text.tokenizer import normalise

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Weights = dict[str, float]

_NAME, _TAG, _KEYWORD, _SYNONYM = 1.0, 0.6, 0.4, 0.5
_DEPTH = 3  # how far below a concept a narrower word may lie in WordNet
_FILES = {  # WordNet's lexicographer files that a category's concepts come from
    "Animals & Nature": (5, 20, 17, 19),
    "Food & Drink": (13, 20, 6),
    "Objects": (6, 10, 21),
    "Activities": (6, 4, 11),
    "Travel & Places": (6, 15, 17, 19),
    "People & Body": (18, 8),
}
_COLOURED = re.compile(
    r"^(?:red|orange|yellow|green|blue|purple|brown|black|white|grey|gray|pink|light blue) (?=\w)"
)
_SAME = 0.45
"""Cosine above which a Chinese word found through its English meaning is taken to be about the concept."""


def key(text: str) -> str:
    """What two spellings of the same word have in common."""
    return " ".join(normalise(text))


def concept_words(
    concepts: Mapping[str, Mapping[str, Any]],
    heldout: Mapping[str, Mapping[str, str]],
    wordnet: WordNet,
    dictionary: Sequence[Entry],
    extra: Mapping[str, Iterable[str]],
    encode: Encode,
) -> dict[str, Weights]:
    """Concept slug -> {text: weight}.

    `concepts` are rows of metadata.jsonl by slug, `extra` further keywords by slug, `encode` a bilingual
    teacher (texts -> unit rows). Weights tell how sure a text is: 1 for names, less for keywords and for
    what dictionaries add.
    """
    held = {slug: {key(tag) for tag in tags.values()} for slug, tags in heldout.items()}
    found: dict[str, Weights] = {slug: {} for slug in concepts}

    def add(slug: str, text: str, weight: float) -> None:
        text = text.strip()
        if text and key(text) and key(text) not in held.get(slug, ()):
            found[slug][text] = max(weight, found[slug].get(text, 0.0))

    for slug, row in concepts.items():
        found[slug] |= {row["label_en"].strip(): _NAME, row["label_zh"].strip(): _NAME}
        for tag in (*row["tags_en"], *row["tags_zh"]):
            add(slug, tag, _TAG)
        for word in extra.get(slug, ()):
            add(slug, word, _KEYWORD)
    names = {key(name): slug for slug, row in concepts.items() for name in (row["label_en"], row["label_zh"])}
    _kinds(concepts, found, wordnet, encode, names, add)
    _translations(found, dictionary, encode, names, add)
    return found


def _kinds(
    concepts: Mapping[str, Mapping[str, Any]],
    found: dict[str, Weights],
    wordnet: WordNet,
    encode: Encode,
    names: Mapping[str, str],
    add: Callable[[str, str, float], None],
) -> None:
    """Add WordNet's synonyms of each concept and the kinds of it that are no concept of their own."""
    candidates = []
    for slug, row in concepts.items():
        if row["category"] not in _FILES:
            continue
        name = row["label_en"].lower()
        for word in {name, _COLOURED.sub("", name), re.sub(r" (?:face|button)$", "", name)}:
            candidates += [
                (slug, meaning, rank) for rank, meaning in enumerate(wordnet.nouns.get(word, ())[:6])
            ]
    about = encode([_about(concepts[slug], found[slug]) for slug, _, _ in candidates])
    senses = encode([_sense(wordnet, meaning) for _, meaning, _ in candidates])
    best: dict[str, tuple[float, int]] = {}
    for (slug, meaning, rank), score in zip(candidates, (about * senses).sum(1), strict=True):
        own = wordnet.synsets[meaning].file in _FILES[concepts[slug]["category"]]
        value = float(score) - 0.04 * rank + 0.2 * own
        if value > best.get(slug, (0.35, 0))[0]:
            best[slug] = (value, meaning)
    owners: dict[int, list[str]] = defaultdict(list)
    for slug, (_, meaning) in best.items():
        owners[meaning].append(slug)
    for meaning, slugs in owners.items():
        seen, level = {meaning}, [meaning]
        for depth in range(_DEPTH + 1):
            for slug in slugs:
                for at, lemma in [(one, lemma) for one in level for lemma in wordnet.synsets[one].lemmas]:
                    usual = at in wordnet.nouns.get(lemma, ())[:2]  # the word's first or second meaning
                    if usual and names.get(key(lemma), slug) == slug:
                        add(slug, lemma, _SYNONYM * 0.8**depth)
            below = [
                down
                for at in level
                for down in wordnet.synsets[at].hyponyms
                if down not in owners and down not in seen
            ]
            seen.update(below)
            level = list(dict.fromkeys(below))


def _about(row: Mapping[str, Any], words: Weights) -> str:
    return ", ".join([row["label_en"], *(tag for tag in row["tags_en"] if tag in words)][:8])


def _sense(wordnet: WordNet, meaning: int) -> str:
    synset = wordnet.synsets[meaning]
    broader = [wordnet.synsets[up].lemmas[0] for up in synset.hypernyms[:1]]
    return f"{', '.join([*synset.lemmas[:3], *broader])}: {synset.gloss}"


def _translations(
    found: dict[str, Weights],
    dictionary: Sequence[Entry],
    encode: Encode,
    names: Mapping[str, str],
    add: Callable[[str, str, float], None],
) -> None:
    """Add the Chinese words whose English meaning is one of a concept's names or synonyms."""
    chinese: dict[str, list[str]] = defaultdict(list)
    for entry in dictionary:
        for meaning in entry.meanings[:3]:
            if len(entry.simplified) <= 6:
                chinese[meaning].append(entry.simplified)
    pairs = [
        (slug, word, weight)
        for slug, words in found.items()
        for text, weight in list(words.items())
        if weight >= 0.3 and (weight > _TAG or weight <= _SYNONYM)
        for word in chinese.get(text.lower(), ())[:12]
        if names.get(key(word), slug) == slug
    ]
    unique = sorted({word for _, word, _ in pairs})
    place = {word: i for i, word in enumerate(unique)}
    vectors = encode(unique)
    slugs = sorted({slug for slug, _, _ in pairs})
    named = [
        [text for text, weight in found[slug].items() if weight >= _TAG and not text.isascii()]
        for slug in slugs
    ]
    flat = encode([text for texts in named for text in texts])
    starts = dict(zip(slugs, np.cumsum([0, *map(len, named)]), strict=False))
    counts = dict(zip(slugs, map(len, named), strict=True))
    for slug, word, weight in pairs:
        own = flat[starts[slug] : starts[slug] + counts[slug]]
        if len(own) and float((own @ vectors[place[word]]).max()) > _SAME:
            add(slug, word, 0.8 * weight)
