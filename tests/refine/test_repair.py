"""Inpaint, outpaint, redraw and restyle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import miaobi
from miaobi import images
from miaobi.drawing import Edit
from miaobi.errors import InputError
from miaobi.pipeline import Pipeline
from miaobi.refine.repair import Inpaint, Outpaint, Redraw, filled, to_square
from miaobi.refine.stage import Subject, refine
from miaobi.refine.style import Restyle


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Pipeline:
    return miaobi.load(tiny_bundle)


@pytest.fixture(scope="module")
def apple() -> np.ndarray:
    """A picture of the shipped model."""
    return images.from_uint8(miaobi.load().generate("red apple", seed=1).pixels[0])


def hole(size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.float32)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 1
    return mask


@pytest.mark.parametrize("shape", [(128, 128), (64, 200), (300, 7), (1, 1)])
def test_a_square_comes_back_to_the_picture_it_was(shape: tuple[int, int]) -> None:
    rows = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    picture = np.broadcast_to(rows, (4, *shape)).astype(np.float32)
    square, back = to_square(picture, 128)
    assert square.shape == (4, 128, 128)
    assert back(square).shape == picture.shape
    assert np.abs(back(square) - picture).mean() < 0.02


@given(
    arrays(np.float32, (3, 3), elements=st.floats(-1, 1, width=32)), st.integers(1, 40), st.integers(1, 40)
)
def test_filling_keeps_what_is_known_and_stays_in_range(seeds: np.ndarray, height: int, width: int) -> None:
    picture = images.resized(np.stack([seeds] * 4), height, width)
    mask = (np.arange(height * width).reshape(height, width) % 3 == 0).astype(np.float32)
    made = filled(picture, mask)
    np.testing.assert_array_equal(made[:, mask == 0], picture[:, mask == 0])
    assert np.abs(made).max() <= 1 + 1e-5


def test_filling_continues_an_even_colour() -> None:
    picture = np.full((4, 128, 128), 0.25, np.float32)
    np.testing.assert_allclose(filled(picture * (1 - hole(128)), hole(128)), picture, atol=1e-5)


@pytest.mark.parametrize("method", ["generator", "telea", "navier-stokes"])
def test_inpainting_changes_the_mask_only(pipe: Pipeline, apple: np.ndarray, method: str) -> None:
    subject = Subject(apple, hole(128), "apple", pipe)
    made, steps = refine(subject, [Inpaint(method)])
    np.testing.assert_array_equal(made[:, hole(128) == 0], apple[:, hole(128) == 0])
    assert np.abs(made - apple).max() > 0.01
    assert steps[0].name == "inpaint"


def test_the_generator_closes_a_hole_better_than_nothing(apple: np.ndarray) -> None:
    empty = apple * (1 - hole(128)) - hole(128)
    made, steps = refine(Subject(empty, hole(128), "red apple"), [Inpaint()], reference=apple)
    left = np.abs(empty - apple)[:, hole(128) > 0].mean()
    assert np.abs(made - apple)[:, hole(128) > 0].mean() < 0.5 * left
    assert steps[0].psnr_db is not None
    assert steps[0].psnr_db > 20


def test_redrawing_keeps_more_with_less_strength(apple: np.ndarray) -> None:
    changed = [
        np.abs(Redraw(strength)(Subject(apple, prompt="red apple")) - apple).mean()
        for strength in (0.25, 1.0)
    ]
    assert changed[0] < changed[1]


def test_outpainting_keeps_the_middle(pipe: Pipeline, apple: np.ndarray) -> None:
    made = Outpaint(0.25)(Subject(apple, prompt="apple", pipeline=pipe))
    assert made.shape == (4, 192, 192)
    np.testing.assert_array_equal(made[:, 32:160, 32:160], apple)


def test_restyling_draws_after_the_picture(pipe: Pipeline, apple: np.ndarray) -> None:
    def restyled(picture: np.ndarray, style: str) -> np.ndarray:
        return Restyle(style, source="noto")(Subject(picture, prompt="apple", pipeline=pipe))

    assert not np.array_equal(restyled(apple, "twemoji"), restyled(apple, "fluent"))
    assert not np.array_equal(restyled(apple, "twemoji"), restyled(-apple, "twemoji"))


def test_other_sizes_are_drawn_and_come_back(pipe: Pipeline) -> None:
    wide = np.zeros((4, 90, 250), np.float32)
    assert Redraw(seed=3)(Subject(wide, prompt="apple", pipeline=pipe)).shape == wide.shape


def test_same_seed_same_picture(pipe: Pipeline, apple: np.ndarray) -> None:
    subject = Subject(apple, prompt="apple", pipeline=pipe)
    np.testing.assert_array_equal(Redraw(seed=5)(subject), Redraw(seed=5)(subject))
    assert not np.array_equal(Redraw(seed=5)(subject), Redraw(seed=6)(subject))


def test_bad_input(pipe: Pipeline, apple: np.ndarray) -> None:
    with pytest.raises(InputError, match="needs a mask"):
        Inpaint()(Subject(apple, prompt="apple"))
    for stage in (Inpaint(), Redraw(), Outpaint(), Restyle()):
        with pytest.raises(InputError, match="--prompt"):
            stage(Subject(apple, hole(128)))
    with pytest.raises(InputError, match="strength is 0"):
        Redraw(0)(Subject(apple, prompt="apple", pipeline=pipe))
    with pytest.raises(ValueError, match="margin is 2"):
        Outpaint(2)
    with pytest.raises(ValueError, match="choose generator, telea"):
        Inpaint("magic")
    with pytest.raises(InputError, match="unknown style"):
        Restyle("oil")(Subject(apple, prompt="apple", pipeline=pipe))
    with pytest.raises(InputError, match="strength"):
        Edit(apple, hole(8), 1.5)


def test_an_edit_takes_enough_steps_for_its_strength(pipe: Pipeline, apple: np.ndarray) -> None:
    fast = Pipeline(replace(pipe.bundle, steps=2))
    edit = Edit(fast.encode(apple[None])[0], np.ones(fast.bundle.latent_shape[1:], np.float32), 0.75)
    assert fast.generate("apple", seed=1).receipt.steps == 2
    assert fast.generate("apple", seed=1, edit=edit).receipt.steps == 4
    assert fast.generate("apple", seed=1, edit=edit, steps=3).receipt.steps == 3
