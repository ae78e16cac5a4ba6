"""Chinese tokens that belong together: what describes a noun, and colours said after it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from miaobi.text.lexicon import BACKGROUNDS

_AFTER_NOUNS = ("comma", "join", "of", "relation", "have", "at")
_NAMED_LIKE_VERBS = {"站", "画"}
"""Verbs that end a compound as nouns: 太空站."""
_TOWARDS = re.compile("[向往朝](?:[前后左右上下外里内远](?![面边方侧]))")
_FROM = {"从": "at", "向": "skip", "往": "skip"}
_MOVING = set("飞游跑走跳")
_OPEN_PLACES = {word for kind in ("night", "rain", "sunset", "sunrise") for word in BACKGROUNDS[kind]}
"""Times and weather, which lie around a thing and do not describe it."""
_LOCATIVE = tuple("上中下里边底间顶头端")


@dataclass
class Token:
    """A piece of a Chinese prompt; the kinds are those that `Chinese` reads."""

    kind: str
    value: str
    label: bool = False


def described(tokens: list[Token]) -> list[Token]:
    """Join what describes a noun to it: a place (太空 + 站) or a verb of motion (飞 + 船)."""
    found: list[Token] = []
    for position, token in enumerate(tokens):
        following = tokens[position + 1].kind if position + 1 < len(tokens) else "comma"
        after_place = bool(found) and found[-1].kind == "place"
        if after_place and token.value in _NAMED_LIKE_VERBS and following in _AFTER_NOUNS:
            token = Token("noun", token.value)
        if token.kind == "noun" and found and found[-1].kind == "skip" and found[-1].value in _MOVING:
            before = found[-2].kind if len(found) > 1 else "count"
            if len(token.value) == 1 and before in ("count", "colour", "size", "of", "place"):
                token = Token("noun", found.pop().value + token.value, True)
        before_place = found[-2].kind if len(found) > 1 else ""
        if token.kind == "noun" and found and found[-1].kind == "place" and before_place != "at":
            place = found[-1].value
            if place not in _OPEN_PLACES and not place.endswith(_LOCATIVE):
                token = Token("noun", found.pop().value + token.value, True)
        found.append(token)
    return _coloured(found)


def _coloured(tokens: list[Token]) -> list[Token]:
    """A colour that a clause says of the thing before is "after": 三个气球，红色的; 房子是红色的."""
    for position, token in enumerate(tokens):
        following = tokens[position + 1].kind if position + 1 < len(tokens) else "comma"
        before = tokens[position - 1] if position else Token("", "")
        said = before.kind == "comma" or before.value in ("是", "都", "全")
        if token.kind == "colour" and following == "comma" and said:
            token.kind = "after"
    return tokens


def leads_to(
    found: Sequence[Token], text: str, at: int, known: Callable[[str], bool]
) -> tuple[str, str] | None:
    """The kind and words of 从, 向 or 往 here in a text, where it leads to a place or direction and is no
    part of an unknown noun. `known` says whether a word is a name or function word."""
    if towards := _TOWARDS.match(text, at):
        return "skip", towards[0]
    if text[at] not in _FROM or at + 1 >= len(text):
        return None
    ahead = (text[at + 1 : at + 1 + length] for length in range(1, 5))
    longest = max((len(word) for word in ahead if known(word)), default=0)
    noun = bool(found) and found[-1].kind == "noun"
    within = noun and not found[-1].label
    return (_FROM[text[at]], text[at]) if (noun and not within) or longest > within else None
