"""Reads Chinese prompts by longest match over names and function words; no segmenter, no model."""

import re
import unicodedata
from dataclasses import dataclass, field

from miaobi.text.compounds import Token, described, leads_to
from miaobi.text.draft import Draft, Index, Look, Noun, plain_chinese
from miaobi.text.lexicon import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    ZH_AT,
    ZH_DIGITS,
    ZH_HAVE,
    ZH_JOINS,
    ZH_MEASURES,
    ZH_ONTO,
    ZH_RELATIONS,
    ZH_SIZES,
    ZH_SKIPPED,
    ZH_WEARING,
)

_COLOUR = {word: name for name, (_, words) in COLOURS.items() for word in words}
_PLACES = {word for words in BACKGROUNDS.values() for word in words if not word.isascii()}
_WORDS: dict[str, tuple[str, str]] = {
    word: (kind, value)
    for kind, table in (
        ("skip", {word: word for word in ZH_SKIPPED}),
        ("have", {word: word for word in ZH_HAVE}),
        ("join", {word: word for word in ZH_JOINS}),
        ("wear", {word: word for word in ZH_WEARING}),
        ("at", {word: word for word in ZH_AT}),
        ("size", ZH_SIZES),
        ("onto", ZH_ONTO),
        ("relation", ZH_RELATIONS),
        ("place", {word: word for word in _PLACES}),
        ("of", {"的": "的"}),
        ("comma", {word: word for word in "，,。.；;：:！!？?"}),
    )
    for word, value in table.items()
}
_WORDS |= {word + "的": ("colour", name) for word, name in _COLOUR.items()}
_WORDS |= {word: ("colour", name) for word, name in _COLOUR.items()}
_LONGEST = max(map(len, _WORDS))
_COUNT = re.compile(
    rf"({'|'.join(sorted(ZH_DIGITS, key=len, reverse=True))}|\d{{1,5}})([{ZH_MEASURES}]|(?=[^\d]))"
)
_ONE_PAIR = {"筷子", "袜子", "手套", "鞋子"}
_NO_MEASURE = {"一", "多", "数"}  # count only before a measure word
_ACTING = re.compile("[\u4e00-\u9fff](在|着)")
_LATIN = re.compile(r"[a-z0-9]+(?: [a-z0-9]+)*")
_PART = ("above", "below", "left", "right")


@dataclass
class _Described:
    """What was said before a noun."""

    count: int = 0
    colour: str | None = None
    size: str = "medium"


@dataclass
class _Waiting:
    """A place that waits for what lies there: "在桌子上的 …", "桌子上有 …"."""

    word: str
    to: tuple[int, ...]
    used: bool = False


@dataclass
class Chinese:
    """Reads one prompt into a draft; make a new one for each."""

    prompt: str
    index: Index
    look: Look
    draft: Draft = field(default_factory=Draft)
    said: _Described = field(default_factory=_Described)
    outer: _Described | None = None
    """What was said before 在 or a verb, for the noun that comes after the place: "一只 在…里 的 鹦鹉"."""
    group: list[int] = field(default_factory=list)
    """Things that 和 joins."""
    subjects: list[int] = field(default_factory=list)
    at: bool = False
    """Whether the next nouns are a place, up to its 里 or 上."""
    onto: str | None = None
    """A verb's relation, which waits for its object."""
    worn: bool = False
    waiting: _Waiting | None = None
    about: tuple[int, ...] = ()
    """What the last place was relative to."""
    joined: bool = False
    object: bool = False
    """Whether the next noun is the object of a verb, so that the subject stays."""
    acted: bool = False
    """Whether a verb stood before the last noun, so that 的 ends a clause."""

    topic: int | None = None
    """What the clause before was about."""
    begun: int = 0
    """How many things there were when this clause began."""
    leaves: bool = False
    """Whether the place is one that something comes from."""

    def read(self) -> Draft:
        tokens = self._tokens(plain_chinese(self.prompt))
        for position, token in enumerate(tokens):
            getattr(self, f"_on_{token.kind}")(token, tokens[position + 1 :])
        self._end_clause()
        return self.draft

    def _tokens(self, text: str) -> list[Token]:
        found: list[Token] = []
        at = 0
        while at < len(text):
            known = next(
                (n for n in range(min(_LONGEST, len(text) - at), 0, -1) if text[at : at + n] in _WORDS), 0
            )
            if known == 1 and text[at] in _COLOUR and not self._colours(text, at):
                known = 0
            label = next(
                (
                    n
                    for n in range(min(self.index.longest[1], len(text) - at), 0, -1)
                    if text[at : at + n] in self.index.chinese
                ),
                0,
            )
            count = _COUNT.match(text, at)
            if count and (count[1] in _NO_MEASURE and not count[2]):
                count = None
            counted = len(count[0]) if count else 0
            count_after = bool(found) and found[-1].kind == "have" and text[at] in ZH_MEASURES
            if known == 1 and text[at] in _PLACES and not self._ends_place(text, at + 1):
                known = 0
            if counted and counted >= known and (counted >= label or label < 3):
                assert count is not None
                value = ZH_DIGITS.get(count[1]) or int(count[1])
                found.append(Token("count", str(value)))
                at += counted
            elif label and label >= known and text[at : at + label] not in _PLACES:
                found.append(Token("noun", text[at : at + label], True))
                at += label
            elif (acting := self._acting(found, text, at)) and known < 2 and not label:
                found.append(Token("at" if acting[1] == "在" else "have", acting[0]))
                at += 2
            elif (leads := leads_to(found, text, at, self._known)) and not known and not label:
                found.append(Token(*leads))
                at += len(leads[1])
            elif count_after and not known:
                found.append(Token("count", "1"))
                at += 1
            elif known:
                found.append(Token(*_WORDS[text[at : at + known]]))
                at += known
            else:
                latin = _LATIN.match(text, at)
                length = len(latin[0]) if latin else 1
                if found and found[-1].kind == "noun" and not found[-1].label and not latin:
                    found[-1].value += text[at]
                elif unicodedata.category(text[at])[0] in "LNS":
                    found.append(Token("noun", text[at : at + length]))
                at += length
        return self._compounds(found)

    def _colours(self, text: str, at: int) -> bool:
        """Whether a colour of one character colours what follows."""
        following = text[at + 1 : at + 2]
        return bool(following) and following not in ZH_MEASURES

    def _acting(self, found: list[Token], text: str, at: int) -> re.Match[str] | None:
        """A verb of one character before 在 or 着, where it cannot be the end of an unknown noun."""
        acting = _ACTING.match(text, at)
        within = bool(found) and found[-1].kind == "noun" and not found[-1].label
        return None if acting and acting[1] == "在" and within else acting

    def _known(self, word: str) -> bool:
        return word in _WORDS or word in self.index.chinese

    def _ends_place(self, text: str, at: int) -> bool:
        """Whether a place of one character ends here, so that 屋顶 is not 屋."""
        return at >= len(text) or text[at] in _WORDS or bool(_COUNT.match(text, at))

    def _compounds(self, tokens: list[Token]) -> list[Token]:
        """Join the parts of a noun that is known in part: 毛线 + 球, 木 + 椅子; skip unknown verbs."""
        found: list[Token] = []
        for token in described(tokens):
            before = found[-1] if found else None
            if token.kind == "noun" and not token.label and before is not None and before.kind == "size":
                known = {"small": "小", "large": "大"}[before.value]
                found.append(Token("noun", known + token.value))  # 小朋友 is more than a small 朋友
            elif token.kind != "noun" or before is None or before.kind != "noun":
                found.append(token)
            elif len(token.value) == 1 or not before.label:
                found[-1] = Token("noun", before.value + token.value, True)
            elif token.label or self.index.noun(token.value, self.look):
                found.append(token)
            else:
                found.append(Token("skip", token.value))
        return found

    def _on_after(self, token: Token, _rest: list[Token]) -> None:
        number = self.topic if self.topic is not None and not self.group else len(self.draft.nouns) - 1
        if number >= 0 and self.draft.nouns[number].colour is None:
            self.draft.nouns[number].colour = token.value

    def _on_skip(self, token: Token, _rest: list[Token]) -> None:
        if self.at and self.group:
            self._end_place()
        elif self.at and token.value not in ("那", "这"):
            self.at = False
            self.group = self.subjects
        if self.draft.nouns and token.value not in ("着", "了"):
            self.acted = True
            self.object = bool(self.group) and self.waiting is None
        self.acted = self.acted or not self.draft.nouns

    def _on_have(self, token: Token, rest: list[Token]) -> None:
        self.acted = self.acted or self.waiting is None

    def _on_comma(self, _token: Token, _rest: list[Token]) -> None:
        self._end_clause()
        if self.waiting and self.waiting.used:
            self.waiting = None
        self.group, self.joined, self.acted, self.object = [], False, False, False

    def _end_clause(self) -> None:
        """Give a place that nothing was said to be at to what the clause before was about."""
        self._end_place()
        new = range(self.begun, len(self.draft.nouns))
        waiting = self.waiting
        if waiting and not waiting.used and self.topic is not None and set(new) == set(waiting.to) != set():
            if waiting.word in RELATIONS:
                self.draft.relate([self.topic], waiting.word, waiting.to)
                self.waiting = None
        elif new:
            targets = {one for number in new for one in (self.draft.nouns[number].relation or ("", ()))[1]}
            self.topic = next((number for number in new if number not in targets), self.topic)
        self.begun = len(self.draft.nouns)

    def _on_join(self, token: Token, _rest: list[Token]) -> None:
        self.joined = token.value != "带着"

    def _on_wear(self, _token: Token, _rest: list[Token]) -> None:
        if self.waiting is None or self.waiting.used:
            self.worn, self.subjects = True, list(self.group)
            self._set_aside()

    def _on_at(self, token: Token, _rest: list[Token]) -> None:
        self._end_place()
        self.leaves = token.value == "从"
        self.at, self.subjects, self.group = True, list(self.group), []
        self._set_aside()

    def _set_aside(self) -> None:
        if self.said != _Described():
            self.outer, self.said = self.said, _Described()

    def _on_onto(self, token: Token, rest: list[Token]) -> None:
        if not any(one.kind in ("noun", "place") for one in rest):
            return
        if self.waiting and not self.waiting.used and not self.group:
            return  # "彩虹上坐着 …" has its place already
        self.onto, self.subjects = token.value, list(self.group)
        self._set_aside()

    def _on_size(self, token: Token, rest: list[Token]) -> None:
        self.said.size = token.value

    def _on_colour(self, token: Token, _rest: list[Token]) -> None:
        self.said.colour = token.value

    def _on_count(self, token: Token, _rest: list[Token]) -> None:
        self.said.count = int(token.value)

    def _on_of(self, _token: Token, rest: list[Token]) -> None:
        """的 between two nouns makes them one, unless a place or a verb stands before it."""
        following = next((one for one in rest if one.kind not in ("colour", "size", "skip")), None)
        if not (following and following.kind == "noun" and self.group) or self.acted or self.at:
            return
        last, placed = len(self.draft.nouns) - 1, self.waiting is not None
        if self.waiting and not self.waiting.used:
            return
        if self.group[-1] != last or (self.draft.nouns[last].relation and not placed):
            return
        if any(noun.relation and last in noun.relation[1] for noun in self.draft.nouns):
            return
        owner = self.draft.nouns.pop()
        self.group.pop()
        if self.waiting:
            self.waiting.used = False
        if self.index.noun(owner.words, self.look):
            following.value = f"{owner.words}的{following.value}"
        self.said = _Described(owner.count, self.said.colour or owner.colour, self.said.size)

    def _on_place(self, token: Token, rest: list[Token]) -> None:
        """A background, in a place of its own or as the target of a relation."""
        if self.said.count > 1 and not self.at:
            self._on_noun(token, rest)
            return
        self.draft.place(token.value)
        self.said = self.outer or _Described()
        self.outer = None
        if self.at:
            self.at = False
            self.group = self.subjects
        self.onto = None
        if rest and rest[0].kind == "relation" and rest[0].value not in ("left", "right"):
            rest[0].kind = "skip"
            rest[0].value = "着"

    def _on_relation(self, token: Token, rest: list[Token]) -> None:
        word = token.value
        targets = tuple(self.group)
        if self.at:
            self.at = False
            if word == "between" and len(targets) < 2 and targets and self.draft.nouns[targets[0]].count < 2:
                word = "in"
            if self.subjects and targets:
                self.draft.relate(self.subjects, word, targets)
                self.about, self.waiting = targets, None
            elif self.subjects and word in _PART:
                self.draft.relate(self.subjects, word, ())
            else:
                self.waiting = _Waiting(word, targets)
            self.group, self.acted = [], False
        else:
            to = targets or self.about if word != "above" or targets else ()
            if not targets and word not in _PART and not self.about:
                to = () if self.topic is None else (self.topic,)
            self.waiting = _Waiting(word, to)
            self.group = []
        if targets:
            self.about = targets
        if self.outer:
            self.said, self.outer = self.outer, None
        self.joined = False

    def _end_place(self) -> None:
        """A place without 里 or 上: "在桌子旁" was read before, "坐在椅子" is on it."""
        if self.at:
            if self.subjects and self.group and not self.leaves:
                self.draft.relate(self.subjects, "on", self.group)
            self.at = False

    def _on_noun(self, token: Token, _rest: list[Token]) -> None:
        if token.value in _ONE_PAIR and self.said.count == 2:
            self.said.count = 1
        noun = Noun(token.value, max(1, self.said.count), self.said.colour, self.said.size)
        self.said = _Described()
        number = self.draft.add(noun)
        if self.onto is not None:
            word, self.onto = self.onto, None
            if self.subjects:
                self.draft.relate(self.subjects, word, [number])
                self.group = []
            else:
                self.waiting = _Waiting(word, (number,))
                self.group = []
            self._restore()
            return
        if self.worn:
            self.worn = False
            if self.subjects:
                self.draft.relate([number], "on", self.subjects)
                self.group = list(self.subjects)
            else:
                self.waiting = _Waiting("worn", (number,))
                self.group = []
            self._restore()
            return
        if self.at:
            self.group = [*self.group, number] if self.joined else [number]
            self.joined = False
            return
        if self.waiting and not (self.waiting.used and not self.joined):
            if self.waiting.word == "worn":
                self.draft.relate(self.waiting.to, "on", [number])
                self.waiting = None
            else:
                self.draft.relate([number], self.waiting.word, self.waiting.to)
                self.waiting.used = True
        elif self.waiting:
            self.waiting = None
        if self.joined:
            self.group = [*self.group, number]
        elif not self.object or not self.group:
            self.group = [number]
        self.joined = self.object = False

    def _restore(self) -> None:
        if self.outer:
            self.said, self.outer = self.outer, None
