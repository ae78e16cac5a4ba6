from dataclasses import fields

import numpy as np
import pytest
import torch

from miaobi import images
from miaobi.train.augment import Augment, affine


@pytest.fixture
def pictures() -> images.Float:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 16, 16, 4), np.uint8)
    pixels[:, :4] = 0
    return images.from_uint8(pixels)


def changed(pictures: images.Float, seed: int = 1, **shares: float) -> images.Float:
    return Augment(**shares)(pictures, np.random.default_rng(seed))


@pytest.mark.parametrize("name", [field.name for field in fields(Augment)])
def test_each_changes_its_share_and_leaves_pictures(name: str, pictures: images.Float) -> None:
    before = pictures.copy()
    made = changed(pictures, **{name: 1.0})
    np.testing.assert_array_equal(pictures, before)
    assert made.shape == pictures.shape
    assert made.dtype == np.float32
    assert (np.abs(made - pictures).max(axis=(1, 2, 3)) > 0.01).sum() >= 4
    rgb, alpha = made[:, :3], made[:, 3:]
    assert -1 - 1e-5 <= made.min() <= made.max() <= 1 + 1e-5
    assert (rgb <= alpha + 1e-5).all()  # still premultiplied
    np.testing.assert_array_equal(changed(pictures, **{name: 1.0}), made)  # by its generator alone
    np.testing.assert_array_equal(changed(pictures), pictures)


def test_what_each_does(pictures: images.Float) -> None:
    np.testing.assert_array_equal(changed(pictures, flip=1.0), pictures[..., ::-1])
    tinted = changed(pictures, colour=1.0)
    np.testing.assert_array_equal(np.sort(tinted[:, :3], axis=1), np.sort(pictures[:, :3], axis=1))
    np.testing.assert_array_equal(tinted[:, 3], pictures[:, 3])
    composed = changed(pictures, composition=1.0)
    assert ((composed == pictures).all(axis=1).mean(axis=(1, 2)) >= 0.7).all()  # a quarter is drawn over
    assert (composed[:, 3] >= pictures[:, 3] - 1e-6).all()


def test_affine_moves_as_torch_does_and_brings_in_nothing() -> None:
    ones = torch.ones(8, 1, 32, 32)
    moved = affine(ones, np.random.default_rng(0), 0.3, 0.3, 0.15)
    assert 0 <= moved.min() < moved.max() <= 1 + 1e-6
    assert (moved[:, :, 12:20, 12:20] > 0.999).all()
    same = affine(ones, np.random.default_rng(0), 0, 0, 0)
    torch.testing.assert_close(same, ones)
    picture = torch.rand(3, 2, 8, 8)
    mirrored = affine(picture, np.random.default_rng(0), 0, 0, 0, mirror=1.0)
    torch.testing.assert_close(mirrored, picture.flip(-1), atol=1e-5, rtol=0)


def test_a_share_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"flip = 1\.5 must lie in 0 to 1"):
        Augment(flip=1.5)
