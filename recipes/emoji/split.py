"""What is kept out of training: 5 % of the (concept, style) pairs, and one keyword of 600 concepts."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from concepts import Concept

from miaobi.errors import DataError

TAG_CONCEPTS = 600
Row = tuple[str, str, str]
"""(id, concept, style) of a picture."""


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def new_split(rows: Sequence[Row]) -> set[str]:
    """Ids of the pictures of pairs whose hash is in the 5 %, where another style trains on the concept."""
    styles = defaultdict(set)
    for _, concept, style in rows:
        styles[concept].add(style)
    chosen = {(c, s) for c, owned in styles.items() for s in owned if _hash(f"{c}|{s}") % 20 == 0}
    held = {(c, s) for c, s in chosen if any((c, other) not in chosen for other in styles[c])}
    return {id for id, concept, style in rows if (concept, style) in held}


def splits(rows: Sequence[Row], heldout: Iterable[str], digests: Mapping[str, str]) -> dict[str, str]:
    """Which of train, heldout and dropped each id belongs to.

    Dropped is what would give a held-out picture away: another picture of its (concept, style) that the list
    does not hold, or the same pixels elsewhere. Raises DataError where a listed id does not exist or its
    concept is left without a training picture.
    """
    held = set(heldout)
    by_id = {id: (concept, style) for id, concept, style in rows}
    if unknown := sorted(held - by_id.keys()):
        first = ", ".join(unknown[:5])
        raise DataError(
            f"heldout.txt lists {len(unknown)} pictures that do not exist: {first}; use --new-split"
        )
    pairs, pixels = {by_id[id] for id in held}, {digests[id] for id in held}
    result, trained = {}, set()
    for id, concept, style in rows:
        leak = (concept, style) in pairs or digests[id] in pixels
        result[id] = "heldout" if id in held else "dropped" if leak else "train"
        if result[id] == "train":
            trained.add(concept)
    if alone := sorted(id for id in held if by_id[id][0] not in trained):
        raise DataError(f"held out, but in training in no style: {', '.join(alone[:5])}; use --new-split")
    return result


def heldout_tags(concepts: Sequence[Concept]) -> dict[str, dict[str, str]]:
    """{concept: {"en": tag, "zh": tag}}: keywords in no name, of at most 3 concepts, chosen by hash."""
    uses: dict[str, int] = defaultdict(int)
    names = {name for c in concepts for name in (c.label_en.lower(), c.label_zh)}
    for c in concepts:
        for tag in (*c.tags_en, *c.tags_zh):
            uses[tag] += 1

    def meaningful(tag: str, label: str) -> bool:
        return uses[tag] <= 3 and tag not in names and tag not in label.lower() and label.lower() not in tag

    found = {}
    for c in sorted(concepts, key=lambda c: _hash(c.slug)):
        if c.category in ("Flags", "Components") or len(c.tags_en) < 4:
            continue
        en = [t for t in c.tags_en if len(t) > 2 and re.fullmatch("[a-z ]+", t) and meaningful(t, c.label_en)]
        zh = [t for t in c.tags_zh if len(t) > 1 and not t.isascii() and meaningful(t, c.label_zh)]
        if en and zh and len(found) < TAG_CONCEPTS:
            found[c.slug] = {
                "en": min(en, key=lambda t: _hash(f"{c.slug}|{t}")),
                "zh": min(zh, key=lambda t: _hash(f"{c.slug}|{t}")),
            }
    return dict(sorted(found.items()))
