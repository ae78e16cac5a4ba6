from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from miaobi.errors import InputError
from miaobi.images import Float
from miaobi.refine import gatys
from miaobi.refine.arrays import straight, to_unit
from miaobi.refine.gatys import Style
from miaobi.refine.stage import Subject


@pytest.fixture
def strokes(tmp_path: Path) -> str:
    pixels = np.full((40, 48, 4), 255, np.uint8)
    pixels[::4, :, :3] = (20, 40, 200)
    pixels[1::4, :, :3] = (10, 90, 120)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "strokes.png")
    return str(tmp_path / "strokes.png")


def test_style_comes_nearer_and_alpha_stays(drawn: Float, strokes: str) -> None:
    stage = Style(strokes, steps=15)
    made, distances = stage.descend(Subject(drawn))
    assert min(distances[1:]) < 0.9 * distances[0]
    assert made.shape == drawn.shape
    np.testing.assert_allclose(made[3], drawn[3], atol=1e-6)
    assert not np.array_equal(made, drawn)
    assert np.array_equal(stage(Subject(drawn)), made)


def test_the_style_picture_is_cut_and_scaled(strokes: str) -> None:
    assert Style(strokes).shown(96).shape == (4, 72, 96)
    assert Style(strokes, size_px=48).shown(96).shape == (4, 36, 48)


def test_colours_take_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)
    seen, style = (np.ones((16, 16, 4), np.float32) for _ in range(2))
    seen[..., :3] = rng.uniform(0.2, 0.8, (16, 16, 3))
    style[..., :3] = 0.5 + rng.normal(0, 0.1, (16, 16, 3)) @ np.array([[1, 0.4, 0], [0, 1, 0], [0, 0, 0.8]])
    made = gatys.recoloured(seen, style).reshape(-1, 3)
    wanted = straight(style).reshape(-1, 3)
    np.testing.assert_allclose(made.mean(0), wanted.mean(0), atol=0.01)
    np.testing.assert_allclose(np.cov(made.T), np.cov(wanted.T), atol=2e-3)


def test_gram_matrices_count_what_is_seen() -> None:
    maps = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., :4] = 1
    flat = maps[0, :, :, :2].flatten(1)
    assert_close(gatys.grams([maps], alpha)[0], flat @ flat.T / 8)


@pytest.mark.parametrize("alpha", [-1.0, 1.0])
@pytest.mark.parametrize("side", [1, 9])
def test_small_and_empty_pictures(alpha: float, side: int, strokes: str) -> None:
    picture = np.full((4, side, side), -1, np.float32)
    picture[3] = alpha
    made = Style(strokes, steps=1)(Subject(picture))
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made[3], picture[3])
    assert to_unit(made).shape == (side, side, 4)


def test_what_is_no_picture_is_refused(drawn: Float, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGBA", (4, 4)).save(tmp_path / "empty.png")
    for name, told in (("", "cannot be read"), ("text.png", "cannot be read"), ("empty.png", "transparent")):
        with pytest.raises(InputError, match=told):
            Style(str(tmp_path / name))(Subject(drawn))


def test_settings_are_checked() -> None:
    for settings in ({"strength": -1}, {"steps": 0}, {"size_px": 4}, {"smoothness": 1e9}):
        with pytest.raises(ValueError, match="choose"):
            Style("style.png", **settings)  # type: ignore[arg-type]
