"""A tiny data set of shapes, and a judge trained on it."""

import json
from pathlib import Path

import numpy as np
import pytest

STYLES = {"noto": (255, 0, 0), "twemoji": (0, 160, 0), "fluent": (0, 0, 255), "fluent-flat": (90, 90, 90)}
HELDOUT = {("disc", "fluent-flat"), ("bar", "noto")}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three concepts (disc, square, bar) in four styles (colours); two pairs are held out."""
    folder = tmp_path_factory.mktemp("shapes")
    rows, columns = np.mgrid[:128, :128] - 64
    masks = {
        "disc": rows**2 + columns**2 < 40**2,
        "square": np.maximum(abs(rows), abs(columns)) < 50,
        "bar": abs(rows) < 8,
    }
    pictures, lines = [], []
    for concept, mask in sorted(masks.items()):
        for style, colour in STYLES.items():
            picture = np.zeros((128, 128, 4), np.uint8)
            picture[mask] = (*colour, 255)
            pictures.append(picture)
            split = "heldout" if (concept, style) in HELDOUT else "train"
            row = {"id": f"{style}/{concept}", "concept": concept, "style": style, "label_en": concept}
            lines.append(json.dumps({**row, "label_zh": f"中 {concept}", "split": split}))
    np.save(folder / "images.npy", np.stack(pictures))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def judge_folder(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier trained for three steps."""
    from miaobi.evaluate import classifier

    folder = tmp_path_factory.mktemp("judge")
    schedule = {"steps": 3, "batch_size": 4, "lr": 1e-4, "warmup": 1, "precision": "fp32"}
    classifier.train({"data": str(shapes), "schedule": schedule}, folder, resume=False)
    return folder
