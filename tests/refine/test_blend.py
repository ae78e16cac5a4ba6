from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.errors import InputError
from miaobi.images import Float
from miaobi.refine import blend as module
from miaobi.refine.blend import METHODS, Recognised, best_of, blend


def pictures(seed: int, count: int, height: int, width: int) -> Float:
    unit = np.random.default_rng(seed).uniform(0, 1, (count, 4, height, width))
    unit[:, :3] *= unit[:, 3:]
    return (unit * 2 - 1).astype(np.float32)


@given(
    st.integers(0, 99), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.sampled_from(METHODS)
)
def test_range_and_shape(seed: int, count: int, height: int, width: int, method: str) -> None:
    given_ones = pictures(seed, count, height, width)
    made = blend(given_ones, method)
    assert made.shape == (4, height, width)
    assert made.dtype == np.float32
    assert made.min() >= -1
    assert made.max() <= 1
    assert (made[:3] <= made[3:] + 1e-6).all()
    if method != "laplacian":
        assert (made >= given_ones.min(axis=0) - 1e-5).all()
        assert (made <= given_ones.max(axis=0) + 1e-5).all()


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.sampled_from(METHODS))
def test_equal_pictures_give_themselves(seed: int, height: int, width: int, method: str) -> None:
    one = pictures(seed, 1, height, width)
    np.testing.assert_allclose(blend(np.repeat(one, 3, axis=0), method), one[0], atol=1e-5)


@pytest.mark.parametrize("method", ["mean", "laplacian"])
def test_a_mask_of_ones_gives_that_picture(method: str) -> None:
    given_ones, masks = pictures(0, 3, 37, 64), np.zeros((3, 37, 64), np.float32)
    masks[1] = 1
    np.testing.assert_allclose(blend(given_ones, method, masks=masks), given_ones[1], atol=1e-5)


def test_mean_and_median() -> None:
    given_ones = pictures(1, 3, 5, 6)
    np.testing.assert_allclose(blend(given_ones, "mean"), given_ones.mean(axis=0), atol=1e-6)
    weighted = 0.25 * given_ones[0] + 0.75 * given_ones[2]
    np.testing.assert_allclose(blend(given_ones, "mean", weights=[1, 0, 3]), weighted, atol=1e-6)
    alpha = np.median(given_ones[:, 3], axis=0)
    np.testing.assert_allclose(blend(given_ones, "median")[3], alpha, atol=1e-6)


def test_halves_meet_softly() -> None:
    ends = np.stack([np.full((4, 64, 64), value, np.float32) for value in (-1.0, 1.0)])
    masks = np.zeros((2, 64, 64), np.float32)
    masks[0, :, :32], masks[1, :, 32:] = 1, 1
    hard, soft = (blend(ends, method, masks=masks)[3, 32] for method in ("mean", "laplacian"))
    assert np.abs(np.diff(hard)).max() == 2
    assert np.abs(np.diff(soft)).max() < 1
    assert (soft[0], soft[-1]) == pytest.approx((-1, 1), abs=0.1)


def test_the_sharper_picture_wins() -> None:
    sharp = np.ones((4, 64, 64), np.float32)
    sharp[:3, ::2] = -1
    flat = np.ones_like(sharp)
    flat[:3] = sharp[:3].mean()
    made = blend(np.stack([flat, sharp]), "laplacian")
    assert np.abs(made - sharp).mean() < 0.1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "max"}, "choose mean or median or laplacian"),
        ({"method": "median", "weights": [1, 1]}, "weights are for method mean"),
        ({"method": "median", "masks": np.ones((2, 8, 8), np.float32)}, "masks are for"),
        ({"method": "mean", "weights": [1, 1, 1]}, "give 2 numbers"),
        ({"method": "mean", "weights": [0, 0]}, "not all 0"),
        ({"masks": np.ones((2, 4, 8), np.float32)}, r"give \(2, 8, 8\)"),
    ],
)
def test_bad_input(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        blend(pictures(0, 2, 8, 8), **settings)
    with pytest.raises(InputError, match="at least one picture"):
        best_of(np.zeros((0, 4, 8, 8), np.float32), lambda some: some.mean(axis=(1, 2, 3)))


def test_best_of_takes_the_first_of_the_best() -> None:
    given_ones = pictures(2, 4, 8, 8)
    made, index = best_of(given_ones, lambda _: np.array([0.1, 0.7, 0.7, 0.2]))
    assert index == 1
    assert np.array_equal(made, given_ones[1])


def test_a_judge_scores_by_the_probability_of_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def load_judge(folder: Path) -> tuple[str, list[str]]:
            return "judge", ["cat", "dog"]

        @staticmethod
        def classify(judge: str, pixels: np.ndarray) -> np.ndarray:
            assert (judge, pixels.dtype, pixels.shape) == ("judge", np.uint8, (2, 8, 8, 4))
            return np.log(np.array([[0.5, 1.5], [3, 1]], np.float32))

    monkeypatch.setattr(module, "library", lambda name, extra: Fake)
    score = Recognised(Path("judge"), "dog")
    np.testing.assert_allclose(score(pictures(0, 2, 8, 8)), [0.75, 0.25], rtol=1e-5)
    with pytest.raises(InputError, match="no concept 'fox'"):
        Recognised(Path("judge"), "fox")(pictures(0, 2, 8, 8))
