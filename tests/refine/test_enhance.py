from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, wiener

from miaobi.errors import MachineError
from miaobi.images import Float
from miaobi.refine import arrays
from miaobi.refine.enhance import Balance, Contrast, Deblur, Denoise, Enhance, Sharpen, gaussian
from miaobi.refine.measure import blur_px, noise_level
from miaobi.refine.stage import Stage, Subject, parse

STAGES: list[Stage] = [
    *(Denoise(method, strength) for method in ("nlm", "bilateral", "wavelet") for strength in (0.0, 0.1)),
    *(Deblur(method, sigma, 3) for method in ("wiener", "richardson-lucy") for sigma in (0.0, 1.0)),
    *(Sharpen(), Contrast(), Balance("gray-world"), Balance("white-patch"), Enhance()),
]


def error(a: Float, b: Float) -> float:
    return float(np.square(a - b).mean())


def blurred(picture: Float, sigma_px: float) -> Float:
    return np.stack([gaussian_filter(one, sigma_px, mode="nearest") for one in picture])


def test_nlm_is_the_library_call(noisy: Float) -> None:
    pixels = np.moveaxis((noisy[:3] + 1) / 2, 0, -1)
    expected = denoise_nl_means(
        pixels, patch_size=5, patch_distance=6, h=0.07, sigma=0.1, fast_mode=True, channel_axis=-1
    )
    made = Denoise(strength=0.1)(Subject(noisy))
    np.testing.assert_allclose(np.moveaxis(made[:3], 0, -1), np.clip(expected, 0, 1) * 2 - 1, atol=1e-5)
    assert (made[3] == 1).all()


def test_bilateral_is_the_library_call(noisy: Float) -> None:
    pixels = np.ascontiguousarray(np.moveaxis((noisy[:3] + 1) / 2, 0, -1))
    expected = cv2.bilateralFilter(pixels, -1, 0.4, 2)
    made = Denoise("bilateral", 0.1)(Subject(noisy))
    np.testing.assert_allclose(np.moveaxis(made[:3], 0, -1), expected * 2 - 1, atol=1e-5)


def test_wiener_is_the_library_call(opaque: Float) -> None:
    seen = blurred(opaque, 1)
    plane = np.pad((seen[1] + 1) / 2, 6, mode="edge")
    expected = wiener(plane, gaussian(1), 3e-4 + 27 * noise_level(seen) ** 2, clip=False)[6:-6, 6:-6]
    made = Deblur(sigma_px=1)(Subject(seen))
    np.testing.assert_allclose(made[1], np.clip(expected, 0, 1) * 2 - 1, atol=1e-4)


@pytest.mark.parametrize("method", ["nlm", "bilateral", "wavelet"])
def test_noise_goes(method: str, noisy: Float, opaque: Float) -> None:
    assert error(Denoise(method)(Subject(noisy)), opaque) < 0.7 * error(noisy, opaque)


@pytest.mark.parametrize("stage", [Deblur(), Deblur("richardson-lucy", 1.2), Sharpen()])
def test_blur_goes(stage: Stage, drawn: Float) -> None:
    seen = blurred(drawn, 1.2)
    assert error(stage(Subject(seen)), drawn) < 0.8 * error(seen, drawn)


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_noise_is_measured(sigma: float) -> None:
    picture = np.full((4, 64, 64), 1, np.float32)
    picture[:3] = 0.1 + np.random.default_rng(1).normal(0, 2 * sigma, (3, 64, 64))
    assert noise_level(picture) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma_px", [1.0, 1.5, 2.0])
def test_blur_is_measured(sigma_px: float) -> None:
    edge = np.where(np.arange(64) < 31, -0.8, 0.7)
    picture = np.stack([np.tile(gaussian_filter(edge, sigma_px), (64, 1))] * 3 + [np.ones((64, 64))])
    assert blur_px(picture.astype(np.float32)) == pytest.approx(sigma_px, rel=0.15)


def test_enhance_leaves_clean_pictures_and_mends_others(drawn: Float, opaque: Float, noisy: Float) -> None:
    for clean in (drawn, opaque):
        assert np.array_equal(Enhance()(Subject(clean)), clean)
    assert error(Enhance()(Subject(noisy)), opaque) < 0.7 * error(noisy, opaque)
    seen = blurred(drawn, 1.2)
    assert error(Enhance()(Subject(seen)), drawn) < 0.8 * error(seen, drawn)


def test_contrast_rises_and_alpha_stays(drawn: Float) -> None:
    alpha = (drawn[3:] + 1) / 2
    dull = np.concatenate([(0.4 + 0.1 * (drawn[:3] + 1) / 2) * alpha, alpha]) * 2 - 1
    made = Contrast(8, 1)(Subject(dull))
    assert np.array_equal(made[3], drawn[3])
    seen = drawn[3] == 1
    assert np.ptp(made[:3, seen].mean(axis=0)) > 1.2 * np.ptp(dull[:3, seen].mean(axis=0))


def test_balance_takes_a_cast_away(drawn: Float) -> None:
    grey = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(1, 32, 32)
    alpha = (drawn[3:] + 1) / 2
    cast = np.concatenate([grey * alpha * np.array([1, 0.8, 0.5])[:, None, None], alpha]) * 2 - 1
    for method in ("gray-world", "white-patch"):
        made = Balance(method)(Subject(cast.astype(np.float32)))
        np.testing.assert_allclose(made[0], made[2], atol=1e-4)
        np.testing.assert_allclose(made[3], drawn[3], atol=1e-6)


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8), (17, 33)])
@pytest.mark.parametrize("alpha", [-1.0, 1.0, 0.3])
def test_any_size_and_alpha(stage: Stage, shape: tuple[int, int], alpha: float) -> None:
    rng = np.random.default_rng(0)
    unit = rng.uniform(0, 1, (3, *shape)) * (alpha + 1) / 2
    picture = np.concatenate([unit * 2 - 1, np.full((1, *shape), alpha)]).astype(np.float32)
    before = picture.copy()
    made = stage(Subject(picture))
    assert made.shape == picture.shape
    assert made.dtype == np.float32
    assert np.array_equal(picture, before)
    assert made is not picture
    assert made.min() >= -1
    assert made.max() <= 1
    assert (made[:3] <= made[3:] + 1e-6).all()
    if alpha == -1:
        np.testing.assert_allclose(made, picture, atol=0.01)


@given(st.floats(0, 10), st.floats(0.1, 20))
def test_sharpening_a_flat_picture_changes_nothing(amount: float, radius_px: float) -> None:
    flat = np.full((4, 9, 9), 0.25, np.float32)
    np.testing.assert_allclose(Sharpen(amount, radius_px)(Subject(flat)), flat, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Denoise("median"),
        lambda: Denoise(strength=2),
        lambda: Deblur("blind"),
        lambda: Deblur(iterations=0),
        lambda: Contrast(0),
        lambda: Balance("retinex"),
        lambda: Sharpen(float("nan")),
    ],
)
def test_settings_are_checked(make: Callable[[], Stage]) -> None:
    with pytest.raises(ValueError, match="choose"):
        make()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MachineError, match=r"no_such_package.*pip install 'miaobi\[refine\]'"):
        arrays.library("no_such_package")


def test_the_chain_reads_them() -> None:
    assert parse("contrast:clip=3,balance:method=gray-world,enhance") == [
        Contrast(3.0),
        Balance("gray-world"),
        Enhance(),
    ]
