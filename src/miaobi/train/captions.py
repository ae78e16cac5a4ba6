"""What people may call a picture: names, keywords, colours and skin tones, in English and in Chinese."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from miaobi.colours import COLOURS
from miaobi.train.data import Record

TONES_EN = (
    "",
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
)
TONES_ZH = ("", "较浅肤色", "中等-浅肤色", "中等肤色", "中等-深肤色", "较深肤色")


@dataclass(frozen=True)
class Frames:
    """What is said around a name, `{}`; each frame is as likely as the others."""

    en: tuple[str, ...] = (
        "{}",
        "{}",
        "a {}",
        "an emoji of a {}",
        "a cute {}",
        "a picture of a {}",
        "{} icon",
    )
    zh: tuple[str, ...] = ("{}", "{}", "一个{}", "{}的图标", "可爱的{}", "画一个{}", "{}表情")

    def __post_init__(self) -> None:
        for language in ("en", "zh"):
            frames = tuple(getattr(self, language))
            if not frames or any(frame.count("{}") != 1 or frame.count("{") != 1 for frame in frames):
                raise ValueError(f"frames.{language} = {frames!r}; give texts with one {{}} each")
            object.__setattr__(self, language, frames)


EMOJI_FRAMES = Frames()


def caption(
    record: Record,
    colour: str | None,
    heldout_tags: Mapping[str, Mapping[str, str]],
    rng: np.random.Generator,
    frames: Frames = EMOJI_FRAMES,
) -> str:
    """A caption of a picture, half of them Chinese: its name three times in four, otherwise a keyword that is
    not held back.

    `colour` (one of COLOURS) is said before the name, and a skin tone after it (unless two people differ in
    it).
    """
    chinese = bool(record.label_zh) and rng.random() < 0.5
    label, tags, language = (
        (record.label_zh, record.tags_zh, "zh") if chinese else (record.label_en, record.tags_en, "en")
    )
    allowed = [tag for tag in tags if tag != heldout_tags.get(record.concept, {}).get(language)]
    name = allowed[rng.integers(len(allowed))] if allowed and rng.random() < 0.25 else label
    if colour is not None:
        words = _colour_words(colour, chinese)
        name = _coloured(name, words[rng.integers(len(words))], chinese)
    around = frames.zh if chinese else frames.en
    return around[rng.integers(len(around))].replace("{}", name) + _tone(record, chinese)


def description(record: Record, colour: str | None, chinese: bool) -> str:
    """What a captioner is to say of a picture: its colour (one of COLOURS) if it was given one, its name in
    that language, and its skin tone.
    """
    name = record.label_zh if chinese else record.label_en
    if colour is not None:
        name = _coloured(name, _colour_words(colour, chinese)[0], chinese)
    return name + _tone(record, chinese)


def _colour_words(colour: str, chinese: bool) -> tuple[str, ...]:
    return COLOURS[colour].zh if chinese else COLOURS[colour].en


def _coloured(name: str, word: str, chinese: bool) -> str:
    if chinese:
        return word + ("的" if word.endswith("色") else "") + name
    return f"{word} {name}"


def _tone(record: Record, chinese: bool) -> str:
    if not record.tone or record.tones:
        return ""
    return f"，{TONES_ZH[record.tone]}" if chinese else f", {TONES_EN[record.tone]}"
