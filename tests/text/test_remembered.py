"""Pictures that a user has the model remember."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miaobi
from miaobi.errors import BundleError, InputError
from miaobi.pipeline import Pipeline
from miaobi.text import remembered
from miaobi.text.remembered import Remembered, file_of, nothing


@pytest.fixture
def pipe(tiny_bundle: Path) -> Pipeline:
    return miaobi.load(tiny_bundle)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (4, 128, 128)).astype(np.float32)


def unit(seed: int, size: int = 8) -> np.ndarray:
    key = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return key / np.linalg.norm(key)


def test_a_remembered_picture_is_drawn_after_by_its_name_in_every_style(
    pipe: Pipeline, tiny_bundle: Path
) -> None:
    before = pipe.generate("Bo the fox", seed=1).pixels
    pipe.remember("Bo the fox", picture(), style="noto")
    for style in ("noto", "twemoji"):
        receipt = pipe.generate("Bo the fox", seed=1, style=style).receipt
        assert receipt.neighbours == [["yours/Bo the fox"] * 3]
    after = pipe.generate("Bo the fox", seed=1).pixels
    assert not np.array_equal(before, after)
    # a later process draws the same; forgetting brings back what was
    np.testing.assert_array_equal(miaobi.load(tiny_bundle).generate("Bo the fox", seed=1).pixels, after)
    pipe.forget("Bo the fox")
    np.testing.assert_array_equal(pipe.generate("Bo the fox", seed=1).pixels, before)
    np.testing.assert_array_equal(miaobi.load(tiny_bundle).generate("Bo the fox", seed=1).pixels, before)


def test_the_style_of_a_picture_is_that_of_the_nearest_in_the_memory(pipe: Pipeline) -> None:
    latents = pipe.memory.unpacked(np.arange(len(pipe.memory.ids)))
    assert [pipe.memory.nearest_style(one) for one in latents] == pipe.memory.entry_style.tolist()


@given(st.lists(st.sampled_from(["a", "b", "c", "狐狸"]), max_size=6), st.data())
def test_names_are_kept_once_in_order(names: list[str], data: st.DataObject) -> None:
    kept = nothing(8, (2, 4, 4))
    for index, name in enumerate(names):
        kept = kept.with_picture(name, unit(index), np.full((2, 4, 4), index), index % 3)
    last = {name: index for index, name in enumerate(names)}
    assert sorted(kept.names) == sorted(last)
    for position, name in enumerate(kept.names):
        assert kept.latents[position, 0, 0, 0] == last[name]
    if last:
        gone = data.draw(st.sampled_from(sorted(last)))
        assert gone not in kept.without(gone).names


def test_round_trip(tmp_path: Path) -> None:
    kept = nothing(8, (2, 4, 4)).with_picture("熊猫 Pan", unit(0), np.ones((2, 4, 4)), 2)
    kept.save(tmp_path / "deep" / "kept.safetensors")
    back = Remembered.load(tmp_path / "deep" / "kept.safetensors")
    assert back is not None
    assert back.names == ("熊猫 Pan",)
    np.testing.assert_allclose(back.keys, kept.keys, atol=1e-3)
    np.testing.assert_array_equal(back.latents, kept.latents)
    assert Remembered.load(tmp_path / "none.safetensors") is None


def test_bad_input(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nothing is remembered as"):
        pipe.forget("Bo")
    with pytest.raises(InputError, match="is empty"):
        pipe.remember(" \t", picture())
    with pytest.raises(InputError, match="unknown style"):
        pipe.remember("Bo", picture(), style="oil")
    with pytest.raises(InputError, match="this bundle encodes"):
        pipe.remember("Bo", picture()[:, :64])
    monkeypatch.setattr(remembered, "MOST", 1)
    pipe.remember("Bo", picture())
    pipe.remember("Bo", picture(1))  # takes the place of the first
    with pytest.raises(InputError, match="forget one first"):
        pipe.remember("Mo", picture())
    file_of(pipe.bundle).write_bytes(b"no tensors")
    with pytest.raises(BundleError, match="move the file away"):
        miaobi.load(pipe.bundle.folder)
