from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from miaobi.errors import InputError
from miaobi.train import autoencoder, loop, run


@pytest.fixture
def whole(tmp_path: Path, tiny: Callable[[Path, int], Path]) -> Path:
    """The folder of an autoencoder with residual blocks, trained for two steps."""
    recipe = tiny(tmp_path, 2)
    recipe.write_text(recipe.read_text().replace("decoder_blocks = [0, 0]", "decoder_blocks = [1, 2]"))
    return run(recipe, tmp_path / "whole")


def recipe(folder: Path, whole: Path, model: str, steps: int = 2, more: str = "") -> Path:
    path = folder / "decoder.toml"
    path.write_text(
        f'part = "decoder"\ndata = "{folder}"\nautoencoder = "{whole}"\nrecoloured_copies = 0\n{more}'
        f"[model]\n{model}\n[schedule]\nsteps = {steps}\nbatch_size = 4\nwarmup = 1\nlr = 3e-3\n"
    )
    return path


def test_a_narrower_decoder_of_the_same_latents(tmp_path: Path, whole: Path) -> None:
    out = run(recipe(tmp_path, whole, "decoder_blocks = [1, 1]\ndecoder_inner = [4, 2]"), tmp_path / "out")
    before, small = autoencoder.load(whole), autoencoder.load(out)
    assert small.config.decoder_inner == (4, 2)
    assert small.config.channels == before.config.channels
    pictures = torch.rand(2, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(small.encode(pictures), before.encode(pictures), rtol=0, atol=0)
        assert small.decode(small.encode(pictures)).shape == pictures.shape


def test_it_comes_nearer_to_the_whole_decoder_from_where_it_was(tmp_path: Path, whole: Path) -> None:
    model = "decoder_inner = [4, 4]"
    first = run(recipe(tmp_path, whole, model, 1), tmp_path / "first")
    weights, made = loop.load_model(first)
    assert made["model"]["decoder_inner"] == [4, 4]
    rng = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if name.startswith("decoder.") and value.ndim == 4:
            value.copy_(0.1 * torch.randn(value.shape, generator=rng))
    loop.save_model(first, weights, made)
    more = f'whole_weight = 4.0\nstart_from = "{first}"\n'
    trained = run(recipe(tmp_path, whole, model, 40, more), tmp_path / "trained")
    with torch.no_grad():
        latents = torch.randn(4, 2, 4, 4, generator=rng)
        wanted = autoencoder.load(whole).decode(latents)
        far, near = (
            float((autoencoder.load(one).decode(latents) - wanted).square().mean())
            for one in (first, trained)
        )
    assert near < 0.8 * far


def test_another_width_is_no_part_of_the_whole(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="decoder_inner and decoder_blocks alone"):
        run(recipe(tmp_path, whole, "decoder_channels = [4, 4]"), tmp_path / "out")
