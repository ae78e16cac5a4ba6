"""Prompts to features through any callable that runs the graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.text.encoder import TextEncoder


def test_features(tmp_path: Path) -> None:
    pieces = ["<pad>", "<unk>", "<s>", *(f"<0x{value:02X}>" for value in range(256)), "▁red", "猫"]
    model = {
        "type": "Unigram",
        "unk_id": 1,
        "byte_fallback": True,
        "vocab": [[piece, -1.0] for piece in pieces],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model}), "utf-8")
    seen: dict[str, Any] = {}

    def run(**inputs: Any) -> dict[str, Any]:
        seen.update(inputs)
        rows, length = inputs["ids"].shape
        return {
            "tokens": np.zeros((rows, length, 4), np.float32),
            "embedding": np.ones((rows, 4), np.float32) / 2,
        }

    features = TextEncoder(path, run)(["red 貓", "猫 " * 40])
    assert seen["ids"].dtype == np.int64
    assert seen["ids"][0, :4].tolist() == [2, 259, 260, 0]
    assert seen["mask"].dtype == np.bool_
    assert features.mask is seen["mask"]
    assert features.tokens.shape == (2, 32, 4)
    assert features.embedding.shape == (2, 4)
    assert len(features.ignored) == 1
    assert "last 9 of 41 tokens" in features.ignored[0]
