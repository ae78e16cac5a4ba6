import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def tiny() -> Callable[[Path, int], Path]:
    def tiny(folder: Path, steps: int) -> Path:
        """A recipe that trains a very small autoencoder, writing a checkpoint after every step."""
        images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 4), np.uint8)
        np.save(folder / "images.npy", images)
        rows = [{"id": str(i), "concept": "c", "style": "a", "label_en": "x"} for i in range(7)]
        rows.append(rows[0] | {"id": "7", "split": "heldout"})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = folder / "tiny.toml"
        recipe.write_text(
            f'part = "autoencoder"\ndata = "{folder}"\n[model]\nchannels = [8, 8]\nencoder_blocks = [0, 0]\n'
            "decoder_blocks = [0, 0]\nlatent_channels = 2\n"
            f"[schedule]\nsteps = {steps}\nbatch_size = 4\nwarmup = 1\ncheckpoint_every_s = 0.1\n"
        )
        return recipe

    return tiny
