"""Words of a picture, token by token: what a captioner does alike in PyTorch and as a graph."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from miaobi.errors import InputError

LANGUAGES = ("en", "zh")
"""Languages of captions; the tokens that ask for them follow those of words, in this order."""
END = 0
"""The word token that ends a caption: the tokenizer's padding."""
MOST_WORDS = 32
"""Word tokens of a caption at most."""

Int64 = npt.NDArray[np.int64]
Say = Callable[[Int64, Int64], npt.NDArray[np.float32]]
"""say(word tokens (B, N), their places in the sequence (N,)) → logits (B, words) after the last of them."""


def language_id(language: str) -> int:
    """The number of a language; raises `InputError` for an unknown one."""
    if language not in LANGUAGES:
        raise InputError(f"unknown language {language!r}; captions come in {', '.join(LANGUAGES)}.")
    return LANGUAGES.index(language)


def write_words(
    say: Say, count: int, image_tokens: int, words: int, language: str, most: int = MOST_WORDS
) -> list[list[int]]:
    """Captions of `count` pictures, the likeliest word at each step, without the token that ends them.

    `say` is first asked for the places 0 … image_tokens, which are the start and the picture, and then for
    one word at a time; it keeps what came before in a cache.

    Args:
        words: size of the vocabulary of words.
        language: one of LANGUAGES.
        most: word tokens of a caption at most.

    Raises:
        InputError: the language is unknown.
    """
    token = np.full((count, 1), words + language_id(language))
    written, ended = np.full((count, most), END), np.zeros(count, bool)
    say(np.zeros((count, image_tokens + 1), np.int64), np.arange(image_tokens + 1))
    for step in range(most):
        logits = say(token, np.array([image_tokens + 1 + step]))
        token = np.where(ended, END, logits.argmax(-1))[:, None]
        written[:, step] = token[:, 0]
        ended |= token[:, 0] == END
        if ended.all():
            break
    return [row[row != END].tolist() for row in written]
