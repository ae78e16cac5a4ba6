from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from miaobi import colours, images

PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.just(4)))


@given(PIXELS)
def test_round_trip_keeps_what_can_be_seen(pixels: np.ndarray) -> None:
    again = images.to_uint8(images.from_uint8(pixels))
    np.testing.assert_array_equal(again[..., 3], pixels[..., 3])
    seen = pixels[..., 3] > 0
    assert (np.abs(again[seen].astype(int) - pixels[seen]).max(initial=0)) <= 1
    assert (again[~seen] == 0).all()


@given(PIXELS)
def test_inside_range_dtype_and_shape(pixels: np.ndarray) -> None:
    inside = images.from_uint8(pixels)
    assert inside.dtype == np.float32
    assert inside.shape == (len(pixels), 4, *pixels.shape[1:3])
    assert inside.min() >= -1
    assert inside.max() <= 1
    assert (inside[:, :3] <= inside[:, 3:] + 1e-6).all()  # premultiplied: no colour brighter than its alpha


@given(PIXELS)
def test_over_white_is_what_pillow_composes(pixels: np.ndarray) -> None:
    ours = np.rint((images.over_white(images.from_uint8(pixels)) + 1) * 127.5)
    for mine, one in zip(ours, pixels, strict=True):
        white = Image.new("RGBA", (one.shape[1], one.shape[0]), "white")
        theirs = np.array(Image.alpha_composite(white, Image.fromarray(one)))[..., :3]
        assert np.abs(np.moveaxis(mine, 0, -1) - theirs).max() <= 1


def test_values_outside_the_range_are_clipped() -> None:
    wild = np.array([9.0, -9.0, 0.0, 9.0], np.float32).reshape(4, 1, 1)
    np.testing.assert_array_equal(images.to_uint8(wild), [[[255, 0, 128, 255]]])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4, 3), np.uint8), ((4, 4, 4), np.float32), ((4, 4), np.uint8)]
)
def test_other_arrays_are_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        images.from_uint8(np.zeros(shape, dtype))
    with pytest.raises(ValueError, match="expected float"):
        images.to_uint8(np.zeros((3, 4, 4), np.float32))


def test_png_keeps_pixels_and_unicode_text(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    images.save_png(tmp_path / "a.png", Image.fromarray(pixels), {"prompt": "红苹果 🍎", "seed": "7"})
    with Image.open(tmp_path / "a.png") as again:
        np.testing.assert_array_equal(images.from_pil(again), pixels)
        assert again.text == {"prompt": "红苹果 🍎", "seed": "7"}  # type: ignore[attr-defined]


def test_contact_sheet_places_every_picture() -> None:
    colours = [(index * 20, 0, 0, 255) for index in range(1, 8)]
    sheet = images.contact_sheet([Image.new("RGBA", (10, 10), colour) for colour in colours], gap_px=2)
    assert sheet.size == (3 * 12 - 2, 3 * 12 - 2)
    found = [sheet.getpixel((column * 12 + 5, row * 12 + 5)) for row in range(3) for column in range(3)]
    assert found == [*colours, (0, 0, 0, 0), (0, 0, 0, 0)]
    assert sheet.getpixel((10, 5)) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        images.contact_sheet([])


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("blue apple", "blue"),
        ("a Crimson and green kite", "red"),
        ("绿色的猫", "green"),
        ("一个红苹果", "red"),
        ("蓝绿色的杯子", "cyan"),
        ("a bluebird", None),
        ("", None),
    ],
)
def test_the_colour_that_a_text_names(text: str, colour: str | None) -> None:
    assert colours.named(text) == colour
