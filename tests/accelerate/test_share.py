from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from miaobi.accelerate.share import shallower, shared
from miaobi.errors import InputError
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan
from miaobi.train import generator, loop

CONFIG = BackboneConfig(
    styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=0, width=16, depth=4, heads=2
)


@pytest.fixture
def draw() -> Callable[[Diffusion | Gan], Tensor]:
    rng = torch.Generator().manual_seed(1)
    condition = Condition(
        torch.randn(2, 3, 8, generator=rng),
        torch.ones(2, 3, dtype=torch.bool),
        torch.randn(2, 8, generator=rng),
        torch.tensor([0, 3]),
        torch.zeros(2, 0, 4, 4, 4),
        torch.zeros(2, 0, dtype=torch.int64),
    )
    x = torch.randn(2, 4, 4, 4, generator=rng)

    @torch.no_grad()
    def drawn(model: Diffusion | Gan) -> Tensor:
        return model.velocity(x, torch.tensor([1.0, 0.3]), *model.prepare(condition))

    return drawn


def model(kind: type = Diffusion) -> Diffusion:
    torch.manual_seed(0)
    made: Diffusion = kind(CONFIG)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made.eval()


@pytest.mark.parametrize("kind", [Diffusion, Gan])
def test_a_run_of_blocks_has_the_weights_of_its_first(
    kind: type, draw: Callable[[Diffusion | Gan], Tensor]
) -> None:
    whole = model(kind)
    blocks = (whole.generator if isinstance(whole, Gan) else whole).blocks
    small = shared(whole, 2)
    assert small.backbone.order == [0, 0, 1, 1]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
    for first in (0, 2):
        blocks[first + 1].load_state_dict(blocks[first].state_dict())
    torch.testing.assert_close(draw(small), draw(whole))


def test_fewer_blocks_are_evenly_chosen(draw: Callable[[Diffusion | Gan], Tensor]) -> None:
    whole = model()
    for depth, chosen in ((1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])):
        small = shallower(whole, depth)
        for block, number in zip(small.blocks, chosen, strict=True):
            torch.testing.assert_close(block.state_dict(), whole.blocks[number].state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(draw(small), draw(whole), rtol=0, atol=0)


def test_a_shared_model_loads_again(draw: Callable[[Diffusion | Gan], Tensor], tmp_path: Path) -> None:
    small = shared(model(), 4)
    loop.save_model(tmp_path, small.state_dict(), {"model": asdict(small.backbone)})
    again = generator.load(tmp_path)
    assert isinstance(again, Diffusion)
    torch.testing.assert_close(draw(again), draw(small), rtol=0, atol=0)


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(InputError, match="with 4 blocks choose one of 2, 4"):
        shared(model(), 3)
    with pytest.raises(InputError, match="use the weights of 2 already"):
        shared(shared(model(), 2), 2)
    with pytest.raises(InputError, match="choose 1 to 4"):
        shallower(model(), 5)
    with pytest.raises(InputError, match="whose blocks share no weights"):
        shallower(shared(model(), 2), 1)
