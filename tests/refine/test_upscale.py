import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from miaobi.errors import BundleError, InputError, MachineError
from miaobi.images import Float
from miaobi.refine import foreign
from miaobi.refine.resample import by_tiles, resample, shrink
from miaobi.refine.stage import Subject, parse, refine
from miaobi.refine.upscale import SHIPPED, Enlarger, Upscale, shipped


def disc(height: int, width: int, empty: int = 0) -> Float:
    """A premultiplied coloured disc with a soft edge over half-transparent ground, `empty` columns clear."""
    y, x = np.mgrid[:height, :width]
    inside = np.clip(height / 3 - np.hypot(y - height / 2, x - width / 2), 0, 1)
    alpha = 0.5 + 0.5 * inside
    alpha[:, :empty] = 0
    unit = np.stack([alpha * inside, alpha * 0.4, alpha * (1 - inside), alpha])
    return np.asarray(unit * 2 - 1, np.float32)


@pytest.mark.parametrize("scale", [1, 3, 8, 0])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match="choose 2 or 4"):
        Upscale(scale)
    with pytest.raises(InputError, match="choose 2 or 4"):
        parse(f"upscale:scale={scale}")


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4]))
def test_any_size_gives_a_premultiplied_picture(height: int, width: int, scale: int) -> None:
    image = disc(height, width, empty=width // 3)
    before = image.copy()
    large = Upscale(scale)(Subject(image))
    np.testing.assert_array_equal(image, before)
    assert large.shape == (4, scale * height, scale * width)
    assert large.dtype == np.float32
    assert large.min() >= -1
    assert large.max() <= 1
    assert (large[:3] <= large[3:] + 1e-6).all()
    assert (large[..., : scale * (width // 3)] == -1).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_make_what_the_whole_picture_does(scale: int) -> None:
    image = disc(75, 91, empty=5)
    whole = shipped().upscale(image, scale)
    tiles = shipped().upscale(image, scale, tile_px=24)
    np.testing.assert_allclose(tiles, whole, atol=1 / 255)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(0, 3))
def test_tiling_loses_and_moves_nothing(height: int, width: int, tile: int, margin: int) -> None:
    image = np.random.default_rng(0).random((2, height, width)).astype(np.float32)

    def enlarge(window: Float) -> Float:
        return window.repeat(2, 1).repeat(2, 2)

    made = by_tiles(enlarge, image, 2, overlap_px=3, margin_px=margin, tile_px=tile)
    np.testing.assert_array_equal(made, image.repeat(2, 1).repeat(2, 2))


def test_flat_colour_does_not_ring_at_the_border() -> None:
    colour = np.array([0.2, 0.5, 0.9, 1.0], np.float32) * 2 - 1
    flat = np.broadcast_to(colour[:, None, None], (4, 24, 24)).astype(np.float32)
    large = Upscale(4)(Subject(flat))
    np.testing.assert_allclose(large, np.broadcast_to(colour[:, None, None], large.shape), atol=8 / 255)


def test_it_beats_lanczos_on_a_drawing() -> None:
    y, x = np.mgrid[:160, :160]
    inside = np.clip(60 - np.hypot(y - 80, x - 80), 0, 1)
    large = np.asarray(np.stack([inside, 0.7 * inside, 0.1 * inside, inside]) * 2 - 1, np.float32)
    small = shrink(large, 4)
    ours, lanczos = Upscale(4)(Subject(small)), resample(small, 4)
    assert np.square(ours - large).mean() < np.square(lanczos - large).mean() / 1.5


def test_twice_is_the_average_of_four_times() -> None:
    image = disc(20, 24)
    np.testing.assert_allclose(Upscale(2)(Subject(image)), shrink(Upscale(4)(Subject(image)), 2), atol=1e-6)


def test_it_is_a_stage_and_takes_the_mask_along() -> None:
    mask = np.zeros((16, 16), np.float32)
    made, steps = refine(Subject(disc(16, 16), mask=mask), parse("upscale:scale=2,upscale:scale=4"))
    assert made.shape == (4, 128, 128)
    assert [step.size_px for step in steps] == [(32, 32), (128, 128)]


def test_results_beyond_memory_are_refused() -> None:
    huge = np.broadcast_to(np.float32(0), (4, 3000, 3000))
    with pytest.raises(InputError, match="million pixels"):
        Upscale(4)(Subject(huge))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED, tmp_path / "upscaler")


def test_an_altered_missing_or_unknown_network_is_refused(copy: Path) -> None:
    path, about = copy / "upscaler.onnx", copy / "upscaler.json"
    content, told = path.read_bytes(), json.loads(about.read_text())
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="altered"):
        Enlarger.load(copy)
    path.unlink()
    with pytest.raises(BundleError, match="missing"):
        Enlarger.load(copy)
    path.write_bytes(content)
    Enlarger.load(copy)
    about.write_text(json.dumps(told | {"format": 9}))
    with pytest.raises(BundleError, match="format"):
        Enlarger.load(copy)
    about.write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        Enlarger.load(copy)


def test_the_shipped_network_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_000_000


def test_shrink_averages() -> None:
    image = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    expected = image.reshape(2, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(shrink(image, 2), expected)


@pytest.mark.parametrize("method", [Image.Resampling.LANCZOS, Image.Resampling.NEAREST])
def test_resampling_keeps_the_range(method: Image.Resampling) -> None:
    large = resample(disc(9, 7), 4, method)
    assert large.shape == (4, 36, 28)
    assert large.min() >= -1
    assert large.max() <= 1


# other people's weights


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """spandrel; where torchvision is missing, with a stand-in for the three names of it that two of
    spandrel's architectures, neither an upscaler, import.
    """
    pytest.importorskip("torch")
    if "spandrel" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except ImportError:
            functional = types.ModuleType("torchvision.transforms.functional")
            for name in ("InterpolationMode", "rotate", "normalize"):
                setattr(functional, name, types.SimpleNamespace(NEAREST=0, BILINEAR=2))
            for name in ("torchvision", "torchvision.transforms"):
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
            monkeypatch.setitem(sys.modules, functional.__name__, functional)
    foreign.load.cache_clear()
    return pytest.importorskip("spandrel")


@pytest.fixture
def weights(spandrel: types.ModuleType, tmp_path: Path) -> dict[str, Path]:
    """A tiny Compact network that enlarges twice and only repeats pixels, in both formats."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=1, upscale=2)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    found = {"safetensors": tmp_path / "x2.safetensors", "pth": tmp_path / "x2.pth"}
    save_file(network.state_dict(), found["safetensors"])
    torch.save({"params": network.state_dict()}, found["pth"])
    return found


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_of_others_enlarge_colour_and_alpha(weights: dict[str, Path], kind: str) -> None:
    image = disc(20, 30, empty=4)
    large = Upscale(2, str(weights[kind]))(Subject(image))
    np.testing.assert_allclose(large, image.repeat(2, 1).repeat(2, 2), atol=1e-5)
    assert (large[..., :8] == -1).all()


def test_weights_of_others_work_by_tiles_and_on_opaque_pictures(weights: dict[str, Path]) -> None:
    image = disc(12, 300)
    image[3] = 1
    large = Upscale(2, str(weights["safetensors"]))(Subject(image))
    np.testing.assert_allclose(large, image.repeat(2, 1).repeat(2, 2), atol=1e-5)


def test_weights_of_others_do_not_give_more_than_they_can(weights: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="enlarges 2 times"):
        Upscale(4, str(weights["pth"]))(Subject(disc(8, 8)))


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_pickle_that_would_run_code_is_refused(spandrel: types.ModuleType, tmp_path: Path) -> None:
    import torch

    path, sign = tmp_path / "trap.pth", tmp_path / "ran"
    torch.save({"weight": Trap(sign)}, path)
    with pytest.raises(InputError, match="cannot be used"):
        Upscale(4, str(path))(Subject(disc(8, 8)))
    assert not sign.exists()


def test_files_that_hold_no_upscaler_are_refused(spandrel: types.ModuleType, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    for path in (other, damaged):
        with pytest.raises(InputError, match="cannot be used"):
            foreign.load(str(path))


def test_other_files_are_refused_before_anything_is_imported(tmp_path: Path) -> None:
    for name in ("model.bin", "model.ckpt", "model"):
        with pytest.raises(InputError, match="safetensors"):
            foreign.load(str(tmp_path / name))
    with pytest.raises(InputError, match="no file"):
        foreign.load(str(tmp_path / "missing.safetensors"))


def test_without_spandrel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.safetensors"
    path.touch()
    monkeypatch.setitem(sys.modules, "spandrel", None)
    foreign.load.cache_clear()
    with pytest.raises(MachineError, match=r"miaobi\[spandrel\]"):
        foreign.load(str(path))
