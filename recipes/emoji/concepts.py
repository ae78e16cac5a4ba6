"""Which thing an icon shows: the sets' own names brought to one concept each, named in English and Chinese.

A concept is an emoji without its skin tone, or a picture that is no emoji (`concepts.tsv`). An icon's name
finds it by `aliases.tsv` (reviewed by looking at the pictures), then by code point where its set knows one,
then by the emoji's labels, Unicode names and short codes.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sources import HERE, Source

from miaobi.errors import DataError

LEFT_OUT = "-"
"""What aliases.tsv sends a picture to that is broken in its set."""
TONES = {"light": 1, "medium-light": 2, "medium": 3, "medium-dark": 4, "dark": 5}
SHORTCODES = ("cldr", "emojibase", "joypixels", "github", "iamcal", "emojibase-legacy")
_TONE = r"(?:medium-light|medium-dark|light|medium|dark)"
_TONE_SUFFIX = re.compile(rf"^(.+?)(?:-skin-tone)?-({_TONE})(?:-skin-tone)?(?:-({_TONE})(?:-skin-tone)?)?$")
_NUMBERED_TONE = re.compile(r"^(.+)-tone([1-5])$")


@dataclass(frozen=True)
class Concept:
    """One thing that can be drawn, named in both languages."""

    slug: str
    label_en: str
    label_zh: str
    tags_en: tuple[str, ...]
    tags_zh: tuple[str, ...]
    category: str


@dataclass(frozen=True)
class Match:
    """What an icon shows: a concept's slug and the skin tones in it (none, one, or two people's)."""

    concept: str
    tones: tuple[int, ...] = ()


def slug(text: str) -> str:
    """A name as lower-case words joined by hyphens."""
    for old, new in (("#", " hash"), ("*", " asterisk"), ("&", " and "), ("’", ""), ("'", "")):
        text = text.replace(old, new)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _squeeze(text: str) -> str:
    return slug(text).replace("-", "")


def _code(hexcode: str) -> tuple[str, tuple[int, ...]]:
    """A code point sequence without variation selectors and skin tones, and its tones."""
    parts = hexcode.upper().split("-")
    tones = tuple(int(p, 16) - 0x1F3FA for p in parts if 0x1F3FB <= int(p, 16) <= 0x1F3FF)
    kept = [p for p in parts if p != "FE0F" and not 0x1F3FB <= int(p, 16) <= 0x1F3FF]
    if not kept:  # a tone swatch by itself
        return "-".join(parts), ()
    return "-".join(kept), tones


def _table(path: Path, columns: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            row = line.split("\t")
            if len(row) != columns:
                raise DataError(
                    f"{path.name} line {number} has {len(row)} columns, expected {columns} (tabs)"
                )
            rows.append(row)
    return rows


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(w.strip().lower() for w in words if w.strip()))


def _flag_names(label: str, prefix: str, *patterns: str) -> list[str]:
    """How people say "flag: China"."""
    if not label.startswith(prefix):
        return []
    return [pattern.format(label.removeprefix(prefix)) for pattern in patterns]


class Concepts:
    """Every concept by slug, and the way from an icon's name to it."""

    def __init__(self, emojibase: Source, folder: Path = HERE) -> None:
        english, chinese = emojibase.json("en/data.json"), emojibase.json("zh/data.json")
        messages = emojibase.json("en/messages.json")
        groups = {g["order"]: g["message"].title() for g in messages["groups"]}
        zh = {e["hexcode"]: e for e in chinese}
        self.by_slug: dict[str, Concept] = {}
        self._by_code: dict[str, str] = {}
        for e in english:
            z = zh.get(e["hexcode"], {})
            name = slug(e["label"])
            label_zh = z.get("label", "")
            self.by_slug[name] = Concept(
                name,
                e["label"].replace(": ", " ") if e["label"].startswith("keycap") else e["label"],
                label_zh,
                _unique([*e.get("tags", []), *_flag_names(e["label"], "flag: ", "{} flag", "flag of {}")]),
                _unique([*z.get("tags", []), *_flag_names(label_zh, "旗: ", "{}旗", "{}旗帜")]),
                groups.get(e.get("group"), "Symbols"),
            )
            self._by_code[_code(e["hexcode"])[0]] = name
        for name, en, zh_label, category, tags_en, tags_zh in _table(folder / "concepts.tsv", 6):
            old = self.by_slug.get(name)
            self.by_slug[name] = Concept(
                name,
                en or (old.label_en if old else ""),
                zh_label,
                _unique([*tags_en.split(","), *(old.tags_en if old else ())]),
                _unique([*tags_zh.split(","), *(old.tags_zh if old else ())]),
                category or (old.category if old else ""),
            )
        self._reviewed: dict[tuple[str, str], str] = {}
        for style, name, target in _table(folder / "aliases.tsv", 3):
            if target not in self.by_slug and target != LEFT_OUT:
                raise DataError(f"aliases.tsv sends {style}/{name} to {target!r}, which is no concept")
            self._reviewed[style, name] = target
        self._names = self._index(english, emojibase)
        self._codes: dict[str, dict[str, str]] = {}
        self._renames: dict[str, str] = {}

    def _index(self, english: list[dict[str, Any]], emojibase: Source) -> dict[str, str]:
        """Squeezed name -> slug; where two emojis claim a name, the better kind of name wins, then nobody."""
        levels: list[list[tuple[str, str]]] = [[(c.slug, c.slug) for c in self.by_slug.values()]]
        levels += [[(c.label_en, c.slug) for c in self.by_slug.values()]]
        unicode_names = []
        for e in english:
            characters = [chr(int(p, 16)) for p in e["hexcode"].split("-") if p != "FE0F"]
            if len(characters) == 1:
                unicode_names.append((unicodedata.name(characters[0], ""), slug(e["label"])))
        levels.append(unicode_names)
        for kind in SHORTCODES:
            codes = emojibase.json(f"en/shortcodes/{kind}.json")
            level = []
            for hexcode, names in codes.items():
                bare, tones = _code(hexcode)
                if not tones and bare in self._by_code:
                    names = [names] if isinstance(names, str) else names
                    level += [(name, self._by_code[bare]) for name in names]
            levels.append(level)
        index: dict[str, str] = {}
        for level in levels:
            claims: dict[str, set[str]] = {}
            for name, target in level:
                claims.setdefault(_squeeze(name), set()).add(target)
            for name, targets in claims.items():
                if name and len(targets) == 1:
                    index.setdefault(name, next(iter(targets)))
        return index

    def learn(self, style: str, chars: dict[str, str], aliases: dict[str, Any]) -> None:
        """Take in what a set knows: `chars.json` (code point -> icon) and the aliases in `icons.json`."""
        self._codes[style] = {}
        for hexcode, name in chars.items():
            old = self._codes[style].get(name)
            if old is None or len(hexcode) > len(old):
                self._codes[style][name] = hexcode
        for name, alias in aliases.items():
            if not any(key in alias for key in ("hFlip", "vFlip", "rotate")):
                self._renames.setdefault(name, alias["parent"])

    def match(self, style: str, name: str) -> Match | None:
        """What the icon `name` of a set shows, or None where nothing knows its name."""
        for key in (style, "*"):
            if (key, name) in self._reviewed:
                return Match(self._reviewed[key, name])
        hexcode = self._codes.get(style, {}).get(name)
        if hexcode is not None:
            bare, tones = _code(hexcode)
            if bare in self._by_code:
                return Match(self._by_code[bare], tones)
        name = re.sub(rf"^(man|woman|person)-({_TONE}-skin-tone)-(blond-hair)$", r"\1-\3-\2", name)
        found = self._plain(style, name)
        if found:
            return Match(found)
        numbered, worded = _NUMBERED_TONE.match(name), _TONE_SUFFIX.match(name)
        if numbered:
            base, tones = numbered[1], (int(numbered[2]),)
        elif worded:
            base, tones = worded[1], tuple(TONES[t] for t in worded.groups()[1:] if t)
        else:
            return None
        found = self._plain(style, base)
        return Match(found, tones) if found else None

    def _plain(self, style: str, name: str) -> str | None:
        """The concept of a name that has no skin tone in it."""
        for key in (style, "*"):
            if (key, name) in self._reviewed:
                return self._reviewed[key, name]
        hexcode = self._codes.get(style, {}).get(name)
        if hexcode is not None and (target := self._by_code.get(_code(hexcode)[0])) is not None:
            return target
        numbered = re.sub(r"-\d$", "", name)  # streamline draws many things twice
        guesses = [
            name,
            numbered,
            numbered.removesuffix("-face"),
            re.sub(r"^flag-for-(flag-)?", "flag-", name),
        ]
        if style == "streamline":
            guesses[2:2] = [f"{numbered}-face", f"flag-{name}"]
        for guess in guesses:
            if (target := self._names.get(_squeeze(guess))) is not None:
                return target
        parent = self._renames.get(name)
        if parent is not None and (target := self._names.get(_squeeze(parent))) is not None:
            return target
        children = [alias for alias, target in self._renames.items() if target == name]
        found = {self._names[_squeeze(child)] for child in children if _squeeze(child) in self._names}
        return found.pop() if len(found) == 1 else None
