"""Layers to a picture, and to an OpenRaster file."""

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from miaobi import images
from miaobi.compose import Layer, composite, place, save_ora, to_picture
from miaobi.errors import InputError
from miaobi.scenery import SCENERIES, backdrop
from miaobi.text.lexicon import BACKGROUNDS


def square(colour: tuple[int, int, int, int], side: int = 16) -> np.ndarray:
    return images.from_uint8(np.full((side, side, 4), colour, np.uint8))


def test_composition_is_what_pillow_composes() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 32, 32, 4), dtype=np.uint8)
    layers = [Layer(str(i), images.from_uint8(one), 0, 0) for i, one in enumerate(pixels)]
    made = np.asarray(to_picture(composite(layers, 32)), int)
    expected = Image.new("RGBA", (32, 32))
    for one in pixels:
        expected.alpha_composite(Image.fromarray(one))
    alpha = np.asarray(expected, int)[..., 3:]
    # both round colours of pixels that hardly show
    assert (np.abs(made - np.asarray(expected, int)) * alpha / 255).max() <= 2.5


@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 30))
def test_what_sticks_out_is_cut(left: int, top: int, side: int) -> None:
    made = composite([Layer("a", square((255, 0, 0, 255), side), left, top)], 24)
    assert made.shape == (4, 24, 24)
    columns = max(0, min(24, left + side) - max(0, left))
    rows = max(0, min(24, top + side) - max(0, top))
    assert (made[3] > 0).sum() == columns * rows


def test_a_picture_is_fitted_into_its_box() -> None:
    green = square((0, 255, 0, 255))
    small = place("a", green, (0.25, 0.5, 0.75, 0.75), 64, lambda _: pytest.fail("no need"))
    assert (small.image.shape, small.left_px, small.top_px) == ((4, 16, 16), 24, 32)
    large = place("a", green, (0, 0, 1, 1), 64, lambda one: images.resized(one, 128, 128))
    assert (large.image.shape, large.left_px, large.top_px) == ((4, 64, 64), 0, 0)


def test_openraster_holds_every_layer_from_the_top_down(tmp_path: Path) -> None:
    layers = [
        Layer("sky & <ground>", square((0, 0, 255, 255), 64), 0, 0),
        Layer("红色的房子", square((255, 0, 0, 128)), 8, 40),
    ]
    save_ora(tmp_path / "a.ora", layers, 64)
    with zipfile.ZipFile(tmp_path / "a.ora") as file:
        assert file.infolist()[0].filename == "mimetype"
        assert file.infolist()[0].compress_type == zipfile.ZIP_STORED
        assert file.read("mimetype") == b"image/openraster"
        image = ElementTree.fromstring(file.read("stack.xml"))
        found = image.findall("./stack/layer")
        assert [one.get("name") for one in found] == ["红色的房子", "sky & <ground>"]
        assert (image.get("w"), found[0].get("x"), found[0].get("y")) == ("64", "8", "40")
        merged = Image.new("RGBA", (64, 64))
        for one in reversed(found):
            picture = Image.open(io.BytesIO(file.read(one.get("src") or "")))
            merged.alpha_composite(picture, (int(one.get("x") or 0), int(one.get("y") or 0)))
        whole = Image.open(io.BytesIO(file.read("mergedimage.png")))
        assert np.abs(np.asarray(whole, int) - np.asarray(merged, int)).max() <= 1
        assert Image.open(io.BytesIO(file.read("Thumbnails/thumbnail.png"))).size == (64, 64)


def test_openraster_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        save_ora(tmp_path / "none" / "a.ora", [Layer("a", square((1, 2, 3, 4)), 0, 0)], 16)


def test_every_background_that_prompts_name_has_a_scenery() -> None:
    assert set(SCENERIES) == set(BACKGROUNDS)
    for one in SCENERIES.values():
        made = backdrop(one, 40)
        assert made.shape == (4, 40, 40)
        assert np.all(made[3] == 1)
        assert np.abs(made).max() <= 1
