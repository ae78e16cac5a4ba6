from pathlib import Path

import numpy as np
import torch

from miaobi.colours import COLOURS
from miaobi.images import from_uint8
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.train.data import Dataset, Record
from miaobi.train.latents import encode

TINY = AutoencoderConfig(channels=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=4)


def data() -> Dataset:
    """Two red squares (one held out), one with a skin tone, one that a colour names already."""
    images = np.zeros((4, 16, 16, 4), np.uint8)
    images[:, 2:14, 2:14] = (200, 20, 20, 255)
    records = (
        Record("noto/square", "square", "noto", "square"),
        Record("twemoji/square", "square", "twemoji", "square", split="heldout"),
        Record("noto/hand", "hand", "noto", "hand", tone=2),
        Record("noto/red-square", "red-square", "noto", "red square"),
    )
    return Dataset(Path("nowhere"), images, records, ("noto", "twemoji"))


def test_recoloured_copies_of_training_pictures_only_and_the_cache(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, dataset, cache = Autoencoder(TINY).eval(), data(), tmp_path / "latents.npz"
    made = encode(model, dataset, 2, cache)
    assert made.source.tolist() == [0, 1, 2, 3, 0, 0]
    assert made.colour[:4].tolist() == [-1] * 4
    assert list(COLOURS).index("red") not in made.colour[4:]
    assert len(set(made.colour[4:].tolist())) == 2
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(from_uint8(dataset.images))).numpy()
    np.testing.assert_allclose(made.values[:4], expected, atol=0.05)

    written = cache.stat().st_mtime_ns
    again = encode(model, dataset, 2, cache)
    assert cache.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.values, made.values)
    with torch.no_grad():
        model.mean += 1
    encode(model, dataset, 2, cache)
    assert cache.stat().st_mtime_ns != written
