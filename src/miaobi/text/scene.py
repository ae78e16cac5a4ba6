"""A prompt as a checked scene: things, how many, in which colour, and how they lie to each other.

Whoever wrote it, a planner or a language model, nothing but these validated fields reaches the drawing.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

from miaobi.errors import InputError
from miaobi.text.lexicon import BACKGROUNDS, COLOURS, RELATIONS
from miaobi.text.prompt import JOINERS

MAX_LAYERS = 16
MAX_COUNT = 12
MAX_CHARACTERS = 80
MAX_JSON_CHARACTERS = 16_000
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Relation:
    """How a thing lies: `word`, one of RELATIONS, to the things numbered `to`, at most two.

    Without `to` the word must be above, below, left or right and means that part of the picture.
    """

    word: str
    to: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.word not in RELATIONS:
            raise ValueError(f"relation {self.word!r} is none of {', '.join(RELATIONS)}")
        if not isinstance(self.to, tuple) or not all(type(one) is int for one in self.to):
            raise ValueError(f"relation to {self.to!r}; give a tuple of thing numbers")
        most = 2 if self.word == "between" else 1
        if len(self.to) > most or len(set(self.to)) < len(self.to):
            raise ValueError(f"{self.word!r} of {self.to}; give at most {most} different things")
        if not self.to and self.word not in ("above", "below", "left", "right"):
            raise ValueError(f"{self.word!r} needs another thing; alone go above, below, left and right")


@dataclass(frozen=True)
class Thing:
    """What to draw, once or several times."""

    concept: str
    """Words of 1 to 80 characters, such as "parrot" or "鹦鹉"."""
    colour: str | None = None
    """A name of `lexicon.COLOURS`, among them "colorful"; None: as it comes."""
    count: int = 1
    """1 to 12."""
    size: str | float = "medium"
    """"small", "medium", "large", or the side of one of them as a share of the picture's, in (0, 1]."""
    relation: Relation | None = None
    place: tuple[float, float] | None = None
    """Asked centre (x, y) in [0, 1], y down; None: `Scene.layout` finds it. It goes before `relation`."""

    def __post_init__(self) -> None:
        _check_text("concept", self.concept)
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"colour {self.colour!r} is none of {', '.join(COLOURS)}")
        if type(self.count) is not int or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count {self.count!r} is outside 1 to {MAX_COUNT}")
        if isinstance(self.size, str):
            if self.size not in SIZES:
                raise ValueError(f"size {self.size!r} is none of {', '.join(SIZES)}, nor a number")
        elif not _is_number(self.size) or not 0 < self.size <= 1:
            raise ValueError(f"size {self.size!r} is outside (0, 1]")
        if self.relation is not None and not isinstance(self.relation, Relation):
            raise ValueError(f"relation {self.relation!r} is no Relation")
        if self.place is not None and not (
            isinstance(self.place, tuple)
            and len(self.place) == 2
            and all(_is_number(value) and 0 <= value <= 1 for value in self.place)
        ):
            raise ValueError(f"place {self.place!r} is not (x, y) within 0 to 1")


class Layer(NamedTuple):
    """One picture to draw and where it goes."""

    thing: int
    """Number of the thing in `Scene.things`."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in [0, 1], y down; a square on a square canvas."""


@dataclass(frozen=True)
class Scene:
    """Things, ordered back to front, before a background; 1 to 16 layers in all, a count of 2 being two."""

    things: tuple[Thing, ...]
    background: str | None = None
    """Words of 1 to 80 characters, such as "garden" or "花园"; None: transparent."""
    notes: tuple[str, ...] = ()
    """What was asked for and is not in the scene, in words."""

    def __post_init__(self) -> None:
        if not isinstance(self.things, tuple) or not all(isinstance(one, Thing) for one in self.things):
            raise ValueError(f"things are {type(self.things).__name__}; give a tuple of Thing")
        layers = sum(thing.count for thing in self.things)
        if not 1 <= layers <= MAX_LAYERS:
            raise ValueError(f"{layers} layers; a scene has 1 to {MAX_LAYERS}, all counts together")
        if self.background is not None:
            _check_text("background", self.background)
        for number, thing in enumerate(self.things):
            seen, waiting = set(), [number]
            while waiting:
                relation = self.things[waiting.pop()].relation
                for other in relation.to if relation else ():
                    if not 0 <= other < len(self.things):
                        raise ValueError(
                            f"thing {number} ({thing.concept!r}) refers to thing {other};"
                            f" there are 0 to {len(self.things) - 1}"
                        )
                    if other == number:
                        raise ValueError(f"thing {number} ({thing.concept!r}) lies relative to itself")
                    if other not in seen:
                        seen.add(other)
                        waiting.append(other)

    @property
    def simple(self) -> bool:
        """True where one picture of the whole prompt, without a composition, is all that is asked."""
        only = self.things[0]
        return (
            len(self.things) == 1
            and only.count == 1
            and self.background is None
            and only.relation is None
            and only.place is None
            and only.size == "medium"
        )

    @property
    def background_kind(self) -> str | None:
        """The name in `lexicon.BACKGROUNDS` of the background, None where there is none or an unknown one."""
        words = (self.background or "").casefold()
        return next((kind for kind, known in BACKGROUNDS.items() if words == kind or words in known), None)

    def layout(self) -> list[Layer]:
        """The box of each single picture, in the order to paste them; see `miaobi.text.layout`."""
        from miaobi.text.layout import layout

        return layout(self)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads; `notes` are left out."""
        things = []
        for thing in self.things:
            one: dict[str, Any] = {"concept": thing.concept, "count": thing.count, "size": thing.size}
            one |= {"colour": thing.colour, "place": list(thing.place) if thing.place else None}
            one["relation"] = (
                {"word": thing.relation.word, "to": list(thing.relation.to)} if thing.relation else None
            )
            things.append(one)
        return json.dumps({"background": self.background, "things": things}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """Read a scene strictly: no unknown fields, no other types, no values outside their range.

        Text is cleaned of control characters first; `MAX_JSON_CHARACTERS` at most are looked at.
        Raises:
            InputError: it is no JSON or no scene; the message says what is wrong and what is allowed.
        """
        if not isinstance(text, str) or len(text) > MAX_JSON_CHARACTERS:
            raise InputError(
                f"a scene of {len(text) if isinstance(text, str) else type(text).__name__} characters;"
                f" give JSON text of at most {MAX_JSON_CHARACTERS}."
            )
        try:
            data = _object(json.loads(text, parse_constant=_no_constant), "scene", ("background", "things"))
            if not isinstance(data.get("things"), list):
                raise ValueError("things must be a list")
            if len(data["things"]) > MAX_LAYERS:
                raise ValueError(f"{len(data['things'])} things; give 1 to {MAX_LAYERS}")
            background = data.get("background")
            return cls(
                tuple(_thing(one) for one in data["things"]),
                None if background is None else _cleaned("background", background),
            )
        except (ValueError, RecursionError) as error:
            raise InputError(f"not a scene: {error}; see Scene.schema() for what is.") from error

    @staticmethod
    def schema() -> dict[str, Any]:
        """JSON Schema of a scene, for a language model."""
        words = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
        share = {"type": "number", "minimum": 0, "maximum": 1}
        number = {"type": "integer", "minimum": 0, "maximum": MAX_LAYERS - 1}
        relation = _record(
            ("word", "to"),
            word={"enum": list(RELATIONS)},
            to={"type": "array", "items": number, "maxItems": 2},
        )
        thing = _record(
            ("concept", "count"),
            concept=words,
            count={"type": "integer", "minimum": 1, "maximum": MAX_COUNT},
            colour={"enum": [*COLOURS, None]},
            size={"enum": list(SIZES)},
            relation={"anyOf": [relation, {"type": "null"}]},
            place={
                "anyOf": [{"type": "array", "items": share, "minItems": 2, "maxItems": 2}, {"type": "null"}]
            },
        )
        things = {"type": "array", "items": thing, "minItems": 1, "maxItems": MAX_LAYERS}
        return _record(("things",), background={"anyOf": [words, {"type": "null"}]}, things=things)


def prompt_of(thing: Thing) -> str:
    """What the generator is to draw for a thing, in the language of its words: "red house", "红色的房子"."""
    if thing.colour is None:
        return thing.concept
    english, chinese = COLOURS[thing.colour]
    words = thing.concept.casefold()
    if any(word in words for word in chinese) or set(english) & set(re.findall(r"[\w-]+", words)):
        return thing.concept
    return f"{chinese[0]}的{thing.concept}" if has_han(words) else f"{english[0]} {thing.concept}"


@cache
def _han() -> re.Pattern[str]:
    return re.compile("[㐀-鿿豈-﫿]")


def has_han(text: str) -> bool:
    """True where a Chinese character is in the text."""
    return bool(_han().search(text))


def cleaned(text: str) -> str:
    """The text in Unicode form NFKC on one line, without control, private and invisible characters."""
    plain = unicodedata.normalize("NFKC", re.sub(r"\s+", " ", text))
    kept = (
        one for one in plain if one in JOINERS or unicodedata.category(one) not in ("Cc", "Cf", "Co", "Cs")
    )
    return " ".join("".join(kept).split())


def shortened(text: str) -> str:
    """The text, cleaned, from its first visible character, 80 characters at most; "?" without one."""
    plain = cleaned(text)
    start = next((at for at, one in enumerate(plain) if _visible(one)), len(plain))
    return plain[start : start + MAX_CHARACTERS].strip() or "?"


def _visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS"


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_CHARACTERS:
        raise ValueError(f"{name} {str(text)[:40]!r}: give text of 1 to {MAX_CHARACTERS} characters")
    if text != cleaned(text):
        raise ValueError(f"{name} {text[:40]!r} holds control characters or stray spaces")
    if not any(map(_visible, text)):
        raise ValueError(f"{name} {text[:40]!r} has nothing to see in it")


def _cleaned(name: str, text: object) -> str:
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARACTERS:
        raise ValueError(f"{name} must be text, got {type(text).__name__}")
    plain = cleaned(text)
    if "://" in plain or "\\" in plain or re.search(r"(^|\s)[./~]*/\w|\w/\w+[./]", plain):
        raise ValueError(f"{name} {plain[:40]!r} is a path or an address; give words for what to see")
    return plain


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that can be used")


def _object(value: object, name: str, allowed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {type(value).__name__}")
    unknown = [str(key)[:40] for key in value if key not in allowed]
    if unknown:
        raise ValueError(f"{name} has unknown fields {unknown[:3]}; known are {', '.join(allowed)}")
    return value


def _thing(value: object) -> Thing:
    known = _object(value, "thing", [field.name for field in fields(Thing)])
    if "concept" not in known:
        raise ValueError("a thing has no concept")
    given: dict[str, Any] = {key: one for key, one in known.items() if one is not None}
    given["concept"] = _cleaned("concept", known["concept"])
    if isinstance(given.get("colour"), (list, dict)):
        raise ValueError("colour must be text or null")
    if "place" in given:
        if not isinstance(given["place"], list):
            raise ValueError(f"place must be [x, y] or null, got {type(given['place']).__name__}")
        given["place"] = tuple(given["place"])
    if "relation" in given:
        relation = _object(given["relation"], "relation", ("word", "to"))
        if not isinstance(relation.get("word"), str) or not isinstance(relation.get("to", []), list):
            raise ValueError("a relation has a word and a list of thing numbers")
        given["relation"] = Relation(relation["word"], tuple(relation.get("to", [])))
    return Thing(**given)


def _record(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
