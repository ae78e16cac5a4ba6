import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from miaobi.errors import MachineError
from miaobi.images import Float
from miaobi.refine import losses
from miaobi.refine.enhance import Deblur, Denoise
from miaobi.refine.restore import Restore
from miaobi.refine.stage import Subject


def error(a: Float, b: Float) -> float:
    return float(np.square(a - b).mean())


@pytest.fixture
def soft(drawn: Float) -> Float:
    return np.stack([gaussian_filter(one, 1.2, mode="nearest") for one in drawn])


def test_noise_goes_further_than_by_the_guide(noisy: Float, opaque: Float) -> None:
    made, found = Restore(steps=40).descend(Subject(noisy))
    assert found[-1] < found[0]
    assert error(made, opaque) < error(Denoise()(Subject(noisy)), opaque) < error(noisy, opaque)
    assert (made[3] == 1).all()


def test_blur_goes_further_than_by_the_guide(soft: Float, drawn: Float) -> None:
    made, found = Restore(blur_px=1.2, steps=60).descend(Subject(soft))
    assert found[-1] < found[0]
    guide = Deblur(sigma_px=1.2)(Subject(soft))
    assert error(made, drawn) < error(guide, drawn) < error(soft, drawn)
    assert (made[:3] <= made[3:] + 1e-6).all()


def test_the_seed_decides(noisy: Float) -> None:
    first, again, other = (Restore(steps=2, seed=seed)(Subject(noisy)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_all_terms_at_once(noisy: Float) -> None:
    stage = Restore(ssim_weight=0.1, perceptual_weight=0.1, guide="wavelet", guide_weight=1.0, steps=3)
    made, found = stage.descend(Subject(noisy))
    assert np.isfinite(made).all()
    assert len(found) == 3


@pytest.mark.parametrize("alpha", [-1.0, 1.0])
@pytest.mark.parametrize("side", [1, 8])
def test_small_and_empty_pictures(alpha: float, side: int) -> None:
    picture = np.full((4, side, side), -1, np.float32)
    picture[3] = alpha
    np.testing.assert_allclose(Restore(steps=40)(Subject(picture)), picture, atol=0.02)


def test_vgg_without_its_weights_is_refused(
    noisy: Float, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MachineError, match="torchvision"):
        Restore(perceptual_weight=1.0, network="vgg16", steps=1)(Subject(noisy))


@pytest.mark.parametrize(
    "settings",
    [{"guide": "median"}, {"tv_weight": -1}, {"steps": 0}, {"guide_weight": -2}, {"network": "resnet"}],
)
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="choose"):
        Restore(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        Restore(guide_weight=0, data_weight=0)


def test_blur_is_scipys() -> None:
    picture = torch.rand(1, 2, 20, 24, generator=torch.Generator().manual_seed(0))
    expected = np.stack([gaussian_filter(one, 1.3, mode="nearest", radius=5) for one in picture[0].numpy()])
    assert_close(losses.gaussian_blur(picture, 1.3)[0], torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert losses.gaussian_blur(picture, 0) is picture


def test_ssim_is_that_of_scikit_image() -> None:
    a, b = torch.rand(2, 1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    _, expected = structural_similarity(  # type: ignore[no-untyped-call, unused-ignore]
        a[0].numpy(),
        b[0].numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    crop = slice(10, 30)  # the edges are repeated here and mirrored there
    x, y = (one[:, :, 4:36, 4:36] for one in (a, b))
    assert float(losses.ssim(x, y)) == pytest.approx(float(expected[:, crop, crop].mean()), abs=0.03)
    assert float(losses.ssim(a, a)) == pytest.approx(1)


def test_total_variation_of_an_edge_is_its_height() -> None:
    picture = torch.zeros(1, 1, 4, 10)
    picture[..., 5:] = 0.7
    assert float(losses.total_variation(picture)) == pytest.approx(0.7 / 10, abs=2e-3)


def test_mean_of_clipped_noise() -> None:
    values = torch.linspace(-0.3, 1.3, 17)
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    seen = (values + 0.1 * noise).clamp(0, 1).mean(0)
    assert_close(losses.clipped_mean(values, 0.1), seen, atol=2e-3, rtol=0)
    assert losses.clipped_mean(values, 0) is values
