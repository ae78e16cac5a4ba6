"""Diffusion, GAN and VAE each learn eight pictures by heart; the LLM does so in test_autoregressive.py."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.diffusion import Diffusion, DiffusionConfig
from miaobi.models.gan import Gan, GanConfig
from miaobi.models.vae import Vae, VaeConfig

Make = Callable[[int], Condition]
Model = Diffusion | Gan | Vae


def learned(
    model: Model, pictures: Tensor, condition: Condition, steps: int, lr: float, betas: tuple[float, float]
) -> Model:
    """The model after so many steps on the eight pictures, the last half of its weights averaged."""
    rng = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr, betas)
    average = torch.optim.swa_utils.AveragedModel(model)
    for step in range(steps):
        optimiser.zero_grad()
        torch.stack(list(model.loss(pictures, condition, rng).values())).sum().backward()
        optimiser.step()
        if step >= steps // 2:
            average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    return model


FAMILIES: dict[str, tuple[Callable[[BackboneConfig], Model], int, float, tuple[float, float]]] = {
    "diffusion": (lambda shape: Diffusion(shape, DiffusionConfig(repeats=4)), 400, 3e-3, (0.9, 0.99)),
    "gan": (lambda shape: Gan(shape, GanConfig(width=32, blocks=1)), 450, 1e-3, (0.0, 0.99)),
    "vae": (lambda shape: Vae(shape, VaeConfig(depth=1)), 300, 3e-3, (0.9, 0.99)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_pictures_are_learned_by_heart(backbone: BackboneConfig, condition: Make, family: str) -> None:
    torch.manual_seed(0)
    make, steps, lr, betas = FAMILIES[family]
    one, pictures = condition(8), torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    model = learned(make(replace(backbone, width=48, depth=2)), pictures, one, steps, lr, betas)
    knobs = {"steps": 12, "guidance": 1.0} if family == "diffusion" else {}
    drawn = model.eval().sample(one, torch.randn(8, 4, 4, 4), **knobs)
    distance = (drawn[:, None] - pictures[None]).square().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(8))
    assert distance.diagonal().mean() < 0.02 * pictures.square().mean()
