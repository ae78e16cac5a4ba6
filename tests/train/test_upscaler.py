import json
from pathlib import Path

import numpy as np
import pytest
import torch

from miaobi.errors import DataError, InputError
from miaobi.images import from_uint8, to_uint8
from miaobi.refine.resample import shrink
from miaobi.train import run, upscaler
from miaobi.train.data import load_dataset


def folder(path: Path, pictures: np.ndarray) -> Path:
    path.mkdir()
    np.save(path / "images.npy", pictures)
    rows = [
        {"id": str(i), "concept": "c", "style": "a", "label_en": "x", "split": split}
        for i, split in enumerate(["train"] * 5 + ["heldout"] * 3)
    ]
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Discs at 64 and 16 px."""
    y, x = np.mgrid[:64, :64]
    large = np.zeros((8, 64, 64, 4), np.uint8)
    for i in range(8):
        large[i][np.hypot(y - 30 - i, x - 32) < 12 + i] = (200, 30 * i, 90, 255)
    small = to_uint8(np.stack([shrink(one, 4) for one in from_uint8(large)]))
    return {"data": folder(tmp_path / "large", large), "rendered": folder(tmp_path / "small", small)}


@pytest.fixture
def recipe(tmp_path: Path, data: dict[str, Path]) -> Path:
    coder = tmp_path / "coder"
    path = tmp_path / "coder.toml"
    path.write_text(
        f'part = "autoencoder"\ndata = "{data["rendered"]}"\n[model]\nchannels = [8, 8]\n'
        "encoder_blocks = [0, 0]\ndecoder_blocks = [0, 0]\nlatent_channels = 2\n"
        "[schedule]\nsteps = 1\nbatch_size = 4\nwarmup = 1\n"
    )
    run(path, coder)
    path = tmp_path / "upscaler.toml"
    path.write_text(
        f'part = "upscaler"\ndata = "{data["data"]}"\nrendered = "{data["rendered"]}"\n'
        f'autoencoder = "{coder}"\ncrop_px = 12\n[model]\nchannels = 8\nblocks = 1\n'
        "[shares]\narea = 0.4\nrendered = 0.2\nreconstructed = 0.2\ndegraded = 0.2\n"
        "[schedule]\nsteps = 3\nbatch_size = 4\nwarmup = 1\nlr = 0.01\n"
    )
    return path


def test_training_resuming_and_loading(recipe: Path, tmp_path: Path, data: dict[str, Path]) -> None:
    out = tmp_path / "out"
    run(recipe, out)
    assert (out / "preview.png").exists()
    first = upscaler.load(out)
    recipe.write_text(recipe.read_text().replace("steps = 3", "steps = 5"))
    run(recipe, out, resume=True)
    second = upscaler.load(out)
    assert not torch.equal(first.tail.weight, second.tail.weight)
    picture = load_dataset(data["rendered"]).take(np.array([0]))[0]
    large = upscaler.upscale(second, picture[:, :15, :13])
    assert large.shape == (4, 60, 52)


def test_small_pictures_match_the_large_ones(recipe: Path, tmp_path: Path, data: dict[str, Path]) -> None:
    large, small = (load_dataset(data[name]) for name in ("data", "rendered"))
    found = upscaler.small_pictures(large, small, tmp_path / "coder", tmp_path / "cache")
    assert set(found) == {"area", "rendered", "reconstructed"}
    np.testing.assert_array_equal(found["area"], found["rendered"])
    assert (tmp_path / "cache" / "reconstructed.npy").exists()
    with pytest.raises(DataError, match="are needed"):
        upscaler.small_pictures(large, large, tmp_path / "coder", tmp_path / "cache")


def test_halves_of_the_held_out_pictures_are_apart(data: dict[str, Path]) -> None:
    dataset = load_dataset(data["data"])
    one, other = set(upscaler.tuning(dataset)), set(upscaler.testing(dataset))
    assert not one & other
    assert one | other == set(dataset.split("heldout"))


@pytest.mark.parametrize(
    ("old", "new"),
    [("crop_px = 12", "crop_px = 17"), ("crop_px = 12", "crop_px = 8"), ("area = 0.4", "area = 0.5")],
)
def test_wrong_recipes_are_told(recipe: Path, tmp_path: Path, old: str, new: str) -> None:
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(InputError, match="correct the recipe"):
        run(recipe, tmp_path / "out")


def test_grounds_are_laid_under_pictures(data: dict[str, Path]) -> None:
    picture = load_dataset(data["rendered"]).take(np.array([0]))[0]
    ground = np.array([1, 0.5, 0, 0.5], np.float32)
    made = upscaler.over(picture, ground)
    np.testing.assert_allclose(made[:, 0, 0], [0, -0.5, -1, 0], atol=1e-6)
    np.testing.assert_allclose(made[:, 8, 8], picture[:, 8, 8], atol=1e-6)


def test_a_negative_of_a_negative_is_the_picture(data: dict[str, Path]) -> None:
    picture = load_dataset(data["rendered"]).take(np.array([0]))[0]
    channels = np.array([0, 2])
    made = upscaler.negative(picture, channels)
    np.testing.assert_array_equal(made[:, 0, 0], -1)
    np.testing.assert_allclose(made[[0, 2], 8, 8], -picture[[0, 2], 8, 8], atol=1e-6)
    np.testing.assert_array_equal(made[[1, 3]], picture[[1, 3]])
    np.testing.assert_allclose(upscaler.negative(made, channels), picture, atol=1e-6)


def test_degraded_pictures_stay_premultiplied(data: dict[str, Path]) -> None:
    picture = load_dataset(data["rendered"]).take(np.array([0]))[0]
    before = picture.copy()
    for seed in range(20):
        made = upscaler.degrade(picture, np.random.default_rng(seed))
        assert made.dtype == np.float32
        assert made.shape == picture.shape
        assert made.min() >= -1
        assert made.max() <= 1
        assert (made[:3] <= made[3:]).all()
    np.testing.assert_array_equal(picture, before)
