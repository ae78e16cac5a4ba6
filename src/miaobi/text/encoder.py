"""Prompts to text features, with the tokenizer and the ONNX graph of a bundle; no PyTorch."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from miaobi.text.tokenizer import MAX_TOKENS, Tokenizer


class TextFeatures(NamedTuple):
    """What B prompts mean, L ≤ 32 tokens long."""

    tokens: npt.NDArray[np.float32]
    """(B, L, D) float32 features of each token; zero where there is none."""
    mask: npt.NDArray[np.bool_]
    """(B, L) bool, true where there is a token."""
    embedding: npt.NDArray[np.float32]
    """(B, D) float32 of unit norm; prompts for the same thing lie close."""
    ignored: list[str]
    """What was not read, in words."""


def joined(features: Sequence[TextFeatures], multiple: int = 1) -> TextFeatures:
    """The features of several calls as those of one, their length padded to a multiple."""
    length = max(one.mask.shape[1] for one in features)
    length = -(-length // multiple) * multiple

    if len(features) == 1 and features[0].mask.shape[1] == length:
        return features[0]

    def padded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        made = np.zeros((len(array), length, *array.shape[2:]), array.dtype)
        made[:, : array.shape[1]] = array
        return made

    return TextFeatures(
        np.concatenate([padded(one.tokens) for one in features]),
        np.concatenate([padded(one.mask) for one in features]),
        np.concatenate([one.embedding for one in features]),
        [what for one in features for what in one.ignored],
    )


class TextEncoder:
    """Callable: prompts -> `TextFeatures`.

    Args:
        tokenizer: path of tokenizer.json.
        model: runs text.onnx: called with ids (B, L) int64 and mask (B, L) bool by name, it returns the
        outputs by name.
    """

    def __init__(self, tokenizer: str | os.PathLike[str], model: Callable[..., dict[str, Any]]) -> None:
        self.tokenizer = Tokenizer(tokenizer)
        self._model = model

    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Encode prompts together; a prompt's features do not depend on the others beyond float rounding.

        Raises MachineError or BundleError as the runtime does.
        """
        ids, mask, cut = self.tokenizer.batch(prompts)
        output = self._model(ids=ids, mask=mask)
        ignored = [
            f"the last {count} of {count + MAX_TOKENS} tokens of the prompt {prompt[:40]!r}"
            for prompt, count in zip(prompts, cut, strict=True)
            if count
        ]
        return TextFeatures(output["tokens"], mask, output["embedding"], ignored)
