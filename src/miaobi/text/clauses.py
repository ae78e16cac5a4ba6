"""What an English prompt says about things without naming new ones, found among its tokens: clauses with
"that" and "for", colours said afterwards, and parts of the picture said in one word."""

import re
from dataclasses import dataclass

PARTICIPLE = re.compile(r"(ing|ed)$")
_RELATIVE = ("that", "which", "who")
_BE = ("is", "are")
_SIDES = {"left": "left", "right": "right", "top": "above", "bottom": "below"}


@dataclass
class Token:
    """A piece of an English prompt; the kinds are those that `English` reads."""

    kind: str
    value: str
    label: bool = False
    """Whether `value`, of kind "word", is a name of a concept or place."""
    plural: bool = False


def without_clauses(tokens: list[Token]) -> list[Token]:
    """The tokens as they are to be read: verbs of relative clauses are "break", purposes are gone, a colour
    said afterwards is "after", and "left" in "cat left, dog right" is "part"."""
    return _sides(_colours_after(_without_purposes(_without_verbs(tokens))))


def _without_verbs(tokens: list[Token]) -> list[Token]:
    """ "a cat that purrs", "a cat which is smiling": the verb of a relative clause is no thing."""
    found: list[Token] = []
    for token in tokens:
        before = found[-1] if found else Token("", "")
        relative = before.kind == "skip" and before.value in _RELATIVE
        named = len(found) > 1 and found[-2].kind in ("word", "break", "comma")
        single = token.kind == "word" and " " not in token.value
        being = before.kind == "break" and before.value in _BE
        if single and (
            (relative and named) or (being and len(token.value) > 5 and PARTICIPLE.search(token.value))
        ):
            token = Token("break", "")
        found.append(token)
    return found


def _without_purposes(tokens: list[Token]) -> list[Token]:
    """ "a cake for a birthday party": what a thing is for is not in the picture."""
    found: list[Token] = []
    purpose = False
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else Token("", "")
        if token.kind == "skip" and token.value == "for" and found and found[-1].kind == "word":
            purpose = not PARTICIPLE.search(found[-1].value) or found[-1].label
        elif token.kind == "join":
            purpose = purpose and token.value == "and" and following.kind == "word"
        elif token.kind not in ("word", "count", "colour", "size", "skip"):
            purpose = False
        if not purpose:
            found.append(token)
    return found


def _colours_after(tokens: list[Token]) -> list[Token]:
    """ "four balloons, red ones", "a car that is blue": the colour is that of the thing before."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        found.append(token)
        at += 1
        if not (token.value == "," or (token.kind == "break" and token.value in _BE)):
            continue
        end = at
        while end < len(tokens) and (
            tokens[end].value in ("both", "all", "each") or tokens[end].kind in ("count", "skip")
        ):
            end += 1
        if end == len(tokens) or tokens[end].kind != "colour":
            continue
        colour, article = tokens[end], end > at
        end += 1
        one = end < len(tokens) and (tokens[end].value in ("one", "ones") or _is_one(tokens, end))
        end += one
        ends = end == len(tokens) or tokens[end].kind not in ("word", "colour", "size", "count")
        joined = not one and [each.kind for each in tokens[end : end + 2]] in (
            ["join", "colour"],
            ["join", "word"],
        )
        if ends and not joined and (one or not (article or token.value == ",") or colour.value != "orange"):
            found.append(Token("after", colour.value))
            at = end
    return found


def _is_one(tokens: list[Token], at: int) -> bool:
    """Whether "one" stands here for a noun."""
    following = tokens[at + 1 : at + 2]
    counts = tokens[at].kind == "count" and tokens[at].value == "1"
    return counts and not (following and following[0].kind in ("word", "colour", "size"))


def _sides(tokens: list[Token]) -> list[Token]:
    """ "cat left, dog right" and "left cat, right dog": parts of the picture, where there are two of them."""
    edges = ("comma", "join")
    kinds = ["comma", *(token.kind for token in tokens), "comma"]
    after = [
        token
        for at, token in enumerate(tokens, 1)
        if token.value in _SIDES and kinds[at] == kinds[at - 1] == "word" and kinds[at + 1] in edges
    ]
    before = [
        token
        for at, token in enumerate(tokens, 1)
        if token.value in _SIDES
        and kinds[at] == "word"
        and kinds[at - 1] in edges
        and kinds[at + 1] in ("word", "count", "colour", "size")
    ]
    for sides in (after, before):
        if len(sides) > 1:
            for token in sides:
                token.kind, token.value = "part", _SIDES[token.value]
    return tokens
