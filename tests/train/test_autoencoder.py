from collections.abc import Callable
from pathlib import Path

import torch

from miaobi.train import autoencoder, loop, run


def test_a_decoder_alone_goes_on_from_where_it_was(tmp_path: Path, tiny: Callable[[Path, int], Path]) -> None:
    recipe, first, second = tiny(tmp_path, 2), tmp_path / "first", tmp_path / "second"
    run(recipe, first)
    text = recipe.read_text()
    recipe.write_text(f'start_from = "{first}"\nencoder = "{first}"\n{text}lr = 1e-9\n')
    run(recipe, second)
    before, after = (loop.load_model(folder)[0] for folder in (first, second))
    for name, value in before.items():
        exact = not name.startswith("decoder.")
        torch.testing.assert_close(after[name], value, rtol=0, atol=0 if exact else 1e-6)
    pictures = torch.rand(2, 4, 16, 16)
    one, other = (autoencoder.load(folder) for folder in (first, second))
    with torch.no_grad():
        torch.testing.assert_close(other.encode(pictures), one.encode(pictures), rtol=0, atol=0)
