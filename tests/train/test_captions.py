import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.colours import COLOURS
from miaobi.text.prompt import skin_tone
from miaobi.train.captions import TONES_EN, TONES_ZH, Frames, caption, description
from miaobi.train.data import Record

APPLE = Record("noto/apple", "apple", "noto", "apple", "苹果", ("fruit", "secret"), ("水果", "秘密"))
HELDOUT = {"apple": {"en": "secret", "zh": "秘密"}}


@given(st.integers(0, 10_000))
def test_held_back_keywords_are_never_said(seed: int) -> None:
    text = caption(APPLE, None, HELDOUT, np.random.default_rng(seed))
    assert "secret" not in text
    assert "秘密" not in text
    assert any(name in text for name in ("apple", "fruit", "苹果", "水果"))


@given(st.integers(0, 10_000), st.sampled_from(list(COLOURS)))
def test_the_colour_is_said(seed: int, colour: str) -> None:
    text = caption(APPLE, colour, HELDOUT, np.random.default_rng(seed))
    assert any(word in text for word in COLOURS[colour].en + COLOURS[colour].zh)


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_tone_that_is_said_is_the_tone_that_a_prompt_is_read_for(seed: int, tone: int) -> None:
    hand = Record("noto/hand", "hand", "noto", "hand", "手", tone=tone)
    assert skin_tone(caption(hand, None, {}, np.random.default_rng(seed))) == tone


def test_both_languages_are_used_and_names_prevail() -> None:
    texts = [caption(APPLE, None, HELDOUT, np.random.default_rng(seed)) for seed in range(400)]
    chinese = sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts)
    named = sum("apple" in text or "苹果" in text for text in texts)
    assert 150 < chinese < 250
    assert 260 < named < 340


def test_a_label_in_one_language_is_enough() -> None:
    only = Record("x", "x", "noto", "teapot")
    assert all("teapot" in caption(only, None, {}, np.random.default_rng(seed)) for seed in range(20))


def test_frames_of_ones_own() -> None:
    frames = Frames(("a photo of {}",), ("{}的照片",))
    texts = {caption(APPLE, None, HELDOUT, np.random.default_rng(seed), frames) for seed in range(60)}
    assert texts == {"a photo of apple", "a photo of fruit", "苹果的照片", "水果的照片"}
    with pytest.raises(ValueError, match=r"frames.en = \('a photo',\); give texts with one \{\} each"):
        Frames(("a photo",))


def test_tone_names_line_up() -> None:
    for names in (TONES_EN, TONES_ZH):
        assert [skin_tone(name) for name in names[1:]] == [1, 2, 3, 4, 5]


def test_a_description_is_the_name_with_colour_and_tone() -> None:
    assert [description(APPLE, None, chinese) for chinese in (False, True)] == ["apple", "苹果"]
    blue = COLOURS["blue"]
    assert description(APPLE, "blue", False) == f"{blue.en[0]} apple"
    assert description(APPLE, "blue", True).startswith(blue.zh[0])
    hand = Record("noto/hand", "hand", "noto", "hand", "手", tone=1)
    assert description(hand, None, False) == "hand, light skin tone"
    assert description(hand, None, True) == "手，较浅肤色"
