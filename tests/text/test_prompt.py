import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.errors import InputError
from miaobi.text.prompt import MAX_CHARACTERS, clean_prompt, skin_tone


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [
        ("  red \n apple\t", "red apple"),
        ("ｒｅｄ　ａｐｐｌｅ", "red apple"),
        ("一只彩色的鹦鹉", "一只彩色的鹦鹉"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("Красное яблоко تفاحة 🍎", "Красное яблоко تفاحة 🍎"),
    ],
)
def test_prompts_that_are_read(prompt: str, clean: str) -> None:
    assert clean_prompt(prompt) == (clean, [])


def test_control_characters_are_left_out_and_reported() -> None:
    assert clean_prompt("red\x00 app\x1b\u202ele") == (
        "red apple",
        ["3 control character(s) of the prompt: U+0000, U+001B, U+202E"],
    )


@pytest.mark.parametrize("prompt", ["", " \n\t ", "\x00\x01", "\u200d", "\u202e \u2066", "\u0301"])
def test_empty_prompts_are_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="empty; say what to draw"):
        clean_prompt(prompt)


def test_long_prompts_are_refused_with_the_limit() -> None:
    clean_prompt("a" * MAX_CHARACTERS)
    with pytest.raises(InputError, match=r"10000 characters; at most 1000"):
        clean_prompt("a" * 10_000)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="got int"):
        clean_prompt(7)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_any_text_is_cleaned_once_and_for_all_or_refused(prompt: str) -> None:
    try:
        clean, _ = clean_prompt(prompt)
    except InputError:
        return
    assert clean_prompt(clean) == (clean, [])
    assert unicodedata.is_normalized("NFKC", clean)


@pytest.mark.parametrize(
    ("prompt", "tone"),
    [
        ("waving hand", 0),
        ("waving hand: Medium-Light skin tone", 2),
        ("dark skin tone", 5),
        ("medium-dark skin tone", 4),
        ("挥手: 中等-深肤色", 4),
        ("挥手: 较浅肤色", 1),
        ("👋🏽", 3),
    ],
)
def test_skin_tones_are_read(prompt: str, tone: int) -> None:
    assert skin_tone(prompt) == tone
