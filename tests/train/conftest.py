import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from miaobi.colours import COLOURS
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.backbone import BackboneConfig
from miaobi.models.diffusion import Diffusion
from miaobi.text.encoder import TextFeatures
from miaobi.text.memory import Memory, best_scale, pack
from miaobi.train.data import Dataset, Record
from miaobi.train.latents import Latents
from miaobi.train.pairs import Pairs
from miaobi.train.sources import Sources

STYLES = ("noto", "twemoji", "fluent")
CONFIG = BackboneConfig(
    styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=1, heads=2
)


def words(texts: Sequence[str]) -> TextFeatures:
    """A text encoder that knows nothing: each text has a random direction of its own."""
    rows = [
        np.random.default_rng(list(text.encode())).standard_normal((2, 8)).astype(np.float32)
        for text in texts
    ]
    embedding = np.stack([row[0] / np.linalg.norm(row[0]) for row in rows])
    return TextFeatures(np.stack(rows), np.ones((len(texts), 2), bool), embedding, [])


@pytest.fixture
def sources() -> Sources:
    """Five concepts in three styles, one pair held out, and a recoloured copy."""
    names = ("cat", "dog", "sun", "car", "tree")
    records = tuple(
        Record(f"{s}/{n}", n, s, n, "字", split="heldout" if (n, s) == ("sun", "fluent") else "train")
        for n in names
        for s in STYLES
    )
    dataset = Dataset(Path("nowhere"), np.zeros((15, 16, 16, 4), np.uint8), records, STYLES)
    values = np.random.default_rng(0).standard_normal((16, 4, 4, 4)).astype(np.float16)
    colour = np.full(16, -1)
    colour[15] = list(COLOURS).index("blue")
    latents = Latents(values, np.array([*range(15), 0]), colour)
    rows = dataset.split("train")
    kept = values[rows].astype(np.float32)
    scale = best_scale(kept)
    memory = Memory(
        keys=words(names).embedding,
        key_concept=np.arange(5),
        entry_concept=np.array([names.index(records[i].concept) for i in rows]),
        entry_style=dataset.style_ids()[rows],
        entry_tone=np.zeros(len(rows), np.int64),
        latents=pack(kept, scale),
        scale=scale,
        shape=(4, 4, 4),
        concepts=[{"slug": n, "label_en": n, "label_zh": n} for n in names],
        ids=[records[i].id for i in rows],
    )
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig((8, 8), (1, 1), (1, 1), latent_channels=4, patch_px=2)).eval()
    return Sources(dataset, autoencoder, latents, words, memory, rows, {})  # type: ignore[arg-type]


@pytest.fixture
def pairs(sources: Sources) -> Pairs:
    return Pairs(sources, 2, 0.2, 0.5)


@pytest.fixture
def model() -> Diffusion:
    torch.manual_seed(0)
    made = Diffusion(CONFIG)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made


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
