from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from miaobi.errors import InputError
from miaobi.evaluate import fidelity, report
from miaobi.images import UInt8


class Noise:
    """Draws the noise of its seed, and some of its own over it."""

    def __init__(self, own: int = 0) -> None:
        self.own = own

    def generate(self, prompt: str, n: int = 1, seed: int | None = None) -> SimpleNamespace:
        rng = np.random.default_rng([seed or 0, len(prompt)])
        pixels = rng.integers(40, 200, (n, 32, 32, 4)).astype(np.uint8)
        pixels[..., 3] = 255
        pixels[..., :3] += rng.integers(0, self.own + 1, pixels[..., :3].shape).astype(np.uint8)
        return SimpleNamespace(pixels=pixels)


def test_identical_pictures_are_capped_and_counted() -> None:
    figures = fidelity.fidelity(Noise(), Noise(), 3)
    assert (figures["psnr_db"].value, figures["psnr_db"].high) == (100, 100)
    assert figures["ssim"].value == pytest.approx(1)
    assert figures["identical"].value == 1
    assert figures["feature_distance"].value == 0
    assert {one.count for one in figures.values()} == {3}


def test_more_noise_is_farther_in_every_figure() -> None:
    little, much = (fidelity.fidelity(Noise(), Noise(own), 4) for own in (2, 40))
    assert little["psnr_db"].value > much["psnr_db"].value
    assert little["ssim"].value > much["ssim"].value
    assert little["feature_distance"].high < much["feature_distance"].low
    assert little["identical"].value == 0


def test_features_are_compared_without_being_asked_for_pytorch() -> None:
    assert "feature_distance" not in fidelity.fidelity(Noise(), Noise(), 2, features=False)


def test_distance_is_symmetric_and_that_of_each_picture_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 48, 48, 3)).astype(np.float32)
    both = fidelity.feature_distances(a, b)
    np.testing.assert_allclose(both, fidelity.feature_distances(b, a), rtol=1e-5)
    np.testing.assert_allclose(both[1:2], fidelity.feature_distances(a[1:2], b[1:2]), rtol=1e-5)


def test_pictures_of_other_sizes_are_refused() -> None:
    one: UInt8 = np.zeros((1, 16, 16, 4), np.uint8)
    with pytest.raises(InputError, match="one size"):
        fidelity.compare(one, np.zeros((1, 32, 32, 4), np.uint8))
    with pytest.raises(InputError, match="as many"):
        fidelity.compare(one[:0], one[:0])


def test_command_compares_a_changed_bundle(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text('[[step]]\nkind = "steps"\ncount = 1\n')
    files = [
        "-m",
        str(tiny_bundle),
        "--recipe",
        str(tmp_path / "recipe.toml"),
        "--out",
        str(tmp_path / "out"),
    ]
    report.main(["fidelity", *files, "--count", "3"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("psnr_db", "ssim", "feature_distance", "(n=3)"))
    assert (tmp_path / "out" / "reference_and_changed.png").exists()
