"""What a person typed, made ready for the text encoder."""

import re
import unicodedata

from miaobi.errors import InputError

MAX_CHARACTERS = 1000

JOINERS = "\u200c\u200d"  # parts of emoji and of some scripts, not noise
_TONES = {  # the names that Unicode CLDR gives to skin tones 1..5; longer names first
    "medium-light skin tone": 2,
    "medium-dark skin tone": 4,
    "medium skin tone": 3,
    "light skin tone": 1,
    "dark skin tone": 5,
    "中等-浅肤色": 2,
    "中等-深肤色": 4,
    "中等肤色": 3,
    "较浅肤色": 1,
    "较深肤色": 5,
}


def clean_prompt(prompt: str) -> tuple[str, list[str]]:
    """The prompt in Unicode form NFKC, on one line, without control characters; and what was left out.

    Raises:
        InputError: the prompt is no text, is longer than 1,000 characters, or has nothing to see in it.
    """
    if not isinstance(prompt, str):
        raise InputError(f"a prompt is text, got {type(prompt).__name__}; give a str such as 'red apple'.")
    if len(prompt) > MAX_CHARACTERS:
        raise InputError(
            f"the prompt has {len(prompt)} characters; at most {MAX_CHARACTERS} are read, shorten it."
        )
    text = unicodedata.normalize("NFKC", re.sub(r"\s+", " ", prompt))
    dropped = [
        one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs") and one not in JOINERS
    ]
    text = " ".join("".join(one for one in text if one not in dropped).split())
    if not any(unicodedata.category(one)[0] in "LNPS" for one in text):
        raise InputError(
            f"the prompt {prompt[:40]!r} is empty; say what to draw, such as 'red apple' or '红苹果'."
        )
    if not dropped:
        return text, []
    points = ", ".join(sorted({f"U+{ord(one):04X}" for one in dropped}))
    return text, [f"{len(dropped)} control character(s) of the prompt: {points}"]


def skin_tone(prompt: str) -> int:
    """The skin tone that a prompt names, in words or by an emoji modifier: 1 (light) to 5 (dark), 0 =
    none."""
    modifiers = [ord(one) - 0x1F3FB + 1 for one in prompt if "\U0001f3fb" <= one <= "\U0001f3ff"]
    if modifiers:
        return modifiers[0]
    folded = prompt.casefold()
    return next((tone for name, tone in _TONES.items() if name in folded), 0)
