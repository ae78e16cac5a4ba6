"""Reads English prompts by longest match, clause by clause; no grammar, no model."""

import re
from dataclasses import dataclass, field
from itertools import pairwise

from miaobi.text.clauses import PARTICIPLE, Token, without_clauses
from miaobi.text.draft import Draft, Index, Look, Noun, singular
from miaobi.text.lexicon import (
    BACKGROUNDS,
    COLOURS,
    EN_BREAKS,
    EN_COUNTS,
    EN_HOLDING,
    EN_JOINS,
    EN_PARTS,
    EN_PRONOUNS,
    EN_RELATIONS,
    EN_SIZES,
    EN_SKIPPED,
    EN_WEARING,
)

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[,.;:!?]")
_COLOUR = {word: name for name, (words, _) in COLOURS.items() for word in words}
_PLACES = {word for words in BACKGROUNDS.values() for word in words if word.isascii()}
_ONE_PAIR = {
    *("glasses", "sunglasses", "scissors", "chopsticks", "jeans", "shorts", "socks", "gloves", "skis"),
    *("briefs", "headphones", "pants", "trousers", "binoculars", "goggles", "grapes"),
}
"""Nouns whose plural is one thing."""
_DETERMINERS = {"the", "that", "these", "this", "those", "his", "its", "my", "their", "your"}
_ATTRIBUTIVE = {"sports", "clothes", "goods", "arms"}
"""Plurals that stand before the noun they describe."""
_PHRASES: dict[tuple[str, ...], tuple[str, str]] = {
    tuple(phrase.split()): (kind, value)
    for kind, table in (
        ("skip", {word: word for word in EN_SKIPPED}),
        ("break", {word: word for word in EN_BREAKS}),
        ("join", {word: word for word in EN_JOINS}),
        ("wear", dict.fromkeys(EN_WEARING, "on")),
        ("wear", dict.fromkeys(EN_HOLDING, "in")),
        ("pronoun", dict.fromkeys(EN_PRONOUNS, "")),
        ("colour", _COLOUR),
        ("size", EN_SIZES),
        ("count", {word: str(count) for word, count in EN_COUNTS.items()}),
        ("relation", EN_RELATIONS),
        ("part", EN_PARTS),
        ("top", {"on top": "on"}),
    )
    for phrase, value in table.items()
}
_LONGEST = max(map(len, _PHRASES))


@dataclass
class _Phrase:
    """A noun phrase that is being read."""

    count: int = 0
    colour: str | None = None
    size: str = "medium"
    the: bool = False
    words: list[Token] = field(default_factory=list)


class English:
    """Reads one prompt into a draft; make a new one for each."""

    def __init__(self, prompt: str, index: Index, look: Look) -> None:
        self.draft, self.index, self.look = Draft(), index, look
        self.phrase = _Phrase()
        self.group: list[int] = []  # things that "and" joins, subjects of the next relation
        self.closed = True  # whether the next thing starts a new group
        self.kept_apart = False  # whether the next thing comes after "with"
        self.worn_by: list[int] = []
        self.worn_how = "on"
        self.asked: str | None = None  # a relation that waits for what it refers to
        self.subjects: list[int] = []
        self.targets: list[int] = []
        self.ahead: tuple[str, tuple[int, ...]] | None = None  # a relation said before its subject
        self.last: int | None = None
        self.tokens = without_clauses(self._tokens(_TOKEN.findall(prompt.casefold().replace("’", "'"))))

    def read(self) -> Draft:
        for position, token in enumerate(self.tokens):
            getattr(self, f"_on_{token.kind}")(token, position)
        self._end_phrase()
        return self.draft

    def _tokens(self, words: list[str]) -> list[Token]:
        found: list[Token] = []
        at = 0
        while at < len(words):
            label, plural, length = self._label(words, at)
            size = next(
                (
                    n
                    for n in range(min(_LONGEST, len(words) - at), 0, -1)
                    if tuple(words[at : at + n]) in _PHRASES
                ),
                0,
            )
            if words[at] in ",.;:!?":
                found.append(Token("comma", words[at]))
                at += 1
            elif size >= max(length, 1):
                found.append(Token(*_PHRASES[tuple(words[at : at + size])]))
                at += size
            elif length:
                found.append(Token("word", label, True, plural))
                at += length
            elif words[at].isdecimal() and len(words[at]) < 6:
                found.append(Token("count", words[at]))
                at += 1
            else:
                found.append(Token("word", words[at]))
                at += 1
        return found

    def _label(self, words: list[str], at: int) -> tuple[str, bool, int]:
        """The longest known name that begins here: its words in the singular, whether it was plural, and how
        many words it takes."""
        for length in range(min(self.index.longest[0], len(words) - at), 0, -1):
            these = tuple(words[at : at + length])
            single = (*these[:-1], singular(these[-1]))
            if single != these and single in self.index.english and these[-1] not in _ONE_PAIR:
                place = these in self.index.english and self.index.english[these] in _PLACES
                return self.index.english[these if place else single], not place, length
            if these in self.index.english:
                return self.index.english[these], False, length
        return "", False, 0

    def _on_skip(self, token: Token, position: int) -> None:
        before = self.tokens[position - 1] if position else None
        if (
            before is not None
            and before.kind == "word"
            and self.phrase.words
            and token.value == "of"
            and self._names_more(position, before)
        ):
            self.phrase.words.append(Token("word", "of"))
            return
        if self._after_of():
            self.phrase.words.append(Token("word", token.value))
            return
        if self.phrase.words:
            self._end_phrase()
        self.phrase.the = token.value == "the"

    def _names_more(self, position: int, before: Token) -> bool:
        """Whether "of" leads to a noun of the same thing, maybe after adjectives: "a glass of red wine"."""
        adjectives = ("colour", "size", "skip") if before.value not in _PLACES else ()
        rest = self.tokens[position + 1 :]
        following = next(
            (one for one in rest if one.kind not in adjectives or one.value in _DETERMINERS), None
        )
        orange = bool(rest) and rest[0].value == "orange"  # "a slice of orange"
        return orange if following is None else following.kind == "word" or orange

    def _after_of(self) -> bool:
        return bool(self.phrase.words) and self.phrase.words[-1].value == "of"

    def _on_after(self, token: Token, _position: int) -> None:
        """A colour of the thing before: "four balloons, red ones"."""
        self._end_phrase()
        if self.last is not None and self.draft.nouns[self.last].colour is None:
            self.draft.nouns[self.last].colour = token.value

    def _on_top(self, _token: Token, position: int) -> None:
        """ "on top" of what was named before, or of the picture."""
        self._end_phrase()
        last, rest = self.last, self.tokens[position + 1 :]
        opens = bool(rest) and rest[0].kind in ("count", "word", "colour", "size")
        if last is not None and opens and self.tokens[position - 1].kind in ("comma", "join", "break"):
            self.ahead, self.closed = ("on", (last,)), True
        elif last and (self.draft.nouns[last - 1].relation or ("", (0,)))[1]:
            self.draft.relate([last], "on", [last - 1])
            self.closed = True
        else:
            self._on_part(Token("part", "above"), position)

    def _on_break(self, _token: Token, _position: int) -> None:
        self._end_phrase()

    def _on_comma(self, token: Token, _position: int) -> None:
        self._end_phrase()
        if token.value in ".;!?":
            self.closed, self.group, self.ahead = True, [], None

    def _on_join(self, token: Token, _position: int) -> None:
        if not self.phrase.words and self.phrase.colour and token.value == "and":
            return  # "red and blue balloons"
        self._end_phrase()
        self.kept_apart = token.value not in ("and", "plus", "then")

    def _on_wear(self, token: Token, _position: int) -> None:
        self._end_phrase()
        self.worn_how = token.value
        self.worn_by = [] if self.last is None else [self.last]

    def _on_pronoun(self, _token: Token, _position: int) -> None:
        self._end_phrase()
        if self.asked is not None:
            here = [self.last] if self.last is not None else []
            others = [one for one in range(len(self.draft.nouns)) if one not in here]
            if others:
                self.draft.relate(here, self.asked, others[-1:])
            self.asked = None

    def _on_colour(self, token: Token, _position: int) -> None:
        if self._after_of():
            self.phrase.words.append(Token("word", token.value))
            return
        if self.phrase.words and not self.phrase.words[-1].value.endswith("'s"):
            self._end_phrase()
        self.phrase.colour = token.value

    def _on_size(self, token: Token, _position: int) -> None:
        if self._after_of():
            self.phrase.words.append(Token("word", token.value))
            return
        if self.phrase.words and not self.phrase.words[-1].value.endswith("'s"):
            self._end_phrase()
        self.phrase.size = token.value

    def _on_count(self, token: Token, _position: int) -> None:
        self._end_phrase()
        self.phrase.count = int(token.value)

    def _on_word(self, token: Token, _position: int) -> None:
        acting = not token.label and PARTICIPLE.search(token.value) is not None
        if acting and any(one.label for one in self.phrase.words) and not self._after_of():
            self._end_phrase()  # "robots shaking hands"
            return
        self.phrase.words.append(token)

    def _on_part(self, token: Token, _position: int) -> None:
        self._end_phrase()
        free = [one for one in self.group if self.draft.nouns[one].relation is None]
        if free:
            self.draft.relate(free, token.value, ())
            self.closed = True
        else:
            self.ahead = (token.value, ())

    def _on_relation(self, token: Token, position: int) -> None:
        self._end_phrase()
        rest = self.tokens[position + 1 :]
        stop = next((one for one in rest if one.kind not in ("skip", "colour", "size", "count")), None)
        if stop is None or stop.kind in ("comma", "join", "break", "part"):
            self._alone(token.value)
            return
        self.asked, self.targets = token.value, []
        self.subjects = list(self.group)

    def _alone(self, word: str) -> None:
        """A relation that names nothing: to the canvas, or to what was named before."""
        if self.last is None:
            self.ahead = (word, ()) if word in ("above", "below") else None
            return
        if word in ("above", "below", "left", "right"):
            self.draft.relate([self.last], word, ())
        elif self.last > 0:
            self.draft.relate([self.last], word, [self.last - 1])
        self.closed = True

    def _end_phrase(self) -> None:
        """Make a thing, or the background, of the noun phrase that ends here."""
        phrase = self.phrase
        if not phrase.words:
            if phrase.colour != "orange":
                return
            phrase.words = [Token("word", "orange")]
            phrase.colour = None
        self.phrase = _Phrase()
        words = self._trimmed(self._subject(phrase), phrase.the or phrase.count == 1)
        last = words[-1].value
        portion = any(one.value == "of" for one in words) and words[0].value not in _PLACES
        plain = phrase.colour is None or last == "sky" or self.asked is not None
        if last in _PLACES and not portion and phrase.count < 2 and plain and self.asked != "between":
            self.draft.place(last)
            self.asked, self.worn_by = None, []
            return
        head = words[0] if any(one.value == "of" for one in words) else words[-1]
        plural = head.plural or (not head.label and singular(head.value) != head.value)
        if not head.label and head.value not in _ONE_PAIR:
            head.value = singular(head.value)
        elif phrase.count > 1 and head.value not in _ONE_PAIR:
            kept, _, last_word = head.value.rpartition(" ")
            head.value = f"{kept} {singular(last_word)}".strip()
        if head.value in _ONE_PAIR and phrase.count in (2, 3):
            phrase.count, plural = 1, False
        text = " ".join(one.value for one in words)
        many = plural and phrase.count == 0
        noun = Noun(text, max(phrase.count, 1), phrase.colour, phrase.size, many)
        self._add(self.draft.add(noun))

    def _subject(self, phrase: _Phrase) -> list[Token]:
        """A noun phrase up to its plural: "two birds sing"; nouns before a noun are in the singular."""
        words = phrase.words
        if phrase.count == 1 or words[0].value in _ATTRIBUTIVE or any(one.value == "of" for one in words):
            return words
        for position, (one, following) in enumerate(pairwise(words), 1):
            plural = one.plural or (phrase.count > 1 and not one.label and singular(one.value) != one.value)
            if plural and not following.plural and singular(following.value) == following.value:
                return words[:position]
        return words

    def _trimmed(self, words: list[Token], one_alone: bool) -> list[Token]:
        """A noun phrase without verbs and adjectives in -ing and -ed, nor verbs after a known name, as in
        "one cat jumps"."""
        if any(one.value == "of" for one in words):
            return words
        nouns = [one for one in words if one.label or not PARTICIPLE.search(one.value)]
        words = nouns or words
        known = [position for position, one in enumerate(words) if one.label]
        if not known:
            verb = (n for n, one in enumerate(words) if n and one_alone and singular(one.value) != one.value)
            return words[: next(verb, len(words))]
        end = known[-1] + 1
        for one in words[end:]:
            single = singular(one.value)
            if (one_alone and single != one.value) or not self.index.noun(single, self.look):
                break
            end += 1
        return words[:end]

    def _add(self, number: int) -> None:
        """Join a new thing to what was read before it."""
        self.last = number
        if self.worn_by:
            self.draft.relate([number], self.worn_how, self.worn_by)
            self.worn_by = []
            return
        if self.asked is not None:
            self.targets.append(number)
            count = self.draft.nouns[number].count
            several = count > 1 or self.draft.nouns[number].plural
            if self.asked == "between" and len(self.targets) < 2 and not several:
                return
            if self.subjects:
                self.draft.relate(self.subjects, self.asked, self.targets)
                self.ahead = None
            else:
                self.ahead = (self.asked, tuple(self.targets))
            self.asked = None
            self.group, self.closed = [number], True
            return
        if self.ahead is not None and (self.closed or not self.group):
            word, to = self.ahead
            self.draft.relate([number], word, to)
            self.group, self.closed = [number], True
            if to == () or not self.group:
                self.ahead = None
            return
        if self.kept_apart and self.group:
            self.kept_apart = False
            return
        if self.closed:
            self.group, self.closed = [], False
        self.group.append(number)
