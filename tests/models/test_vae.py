from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Reference
from torch.distributions import kl_divergence

from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.vae import Normal, Vae, VaeConfig

Make = Callable[[int], Condition]


@pytest.fixture
def model(backbone: BackboneConfig) -> Vae:
    torch.manual_seed(0)
    made = Vae(backbone, VaeConfig(depth=1, beta=0.5, free_bits=0.0)).eval()
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made


def test_divergence_against_torch() -> None:
    torch.manual_seed(0)
    a, b = (Normal(torch.randn(5, 3), 0.5 * torch.randn(5, 3)) for _ in range(2))
    expected = kl_divergence(Reference(a.mean, a.log_std.exp()), Reference(b.mean, b.log_std.exp()))
    torch.testing.assert_close(a.divergence(b), expected)
    torch.testing.assert_close(a.divergence(a), torch.zeros(5, 3))


def test_the_loss_is_squared_error_and_divergence(model: Vae, condition: Make) -> None:
    latents, one = torch.randn(3, 4, 4, 4), condition(3)
    losses = model.loss(latents, one, torch.Generator().manual_seed(4))
    with torch.no_grad():
        prepared = model.prepare(one)
        prior, posterior = model.prior_of(*prepared[:2]), model.posterior_of(latents, *prepared[:2])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
        drawn = model.decode(posterior.mean + posterior.log_std.exp() * noise, *prepared)
        kl = kl_divergence(
            Reference(posterior.mean, posterior.log_std.exp()), Reference(prior.mean, prior.log_std.exp())
        )
    torch.testing.assert_close(losses["reconstruction"], (drawn - latents).square().mean())
    torch.testing.assert_close(losses["kl"], 0.5 * kl.mean())


def test_free_bits_cost_nothing(model: Vae, condition: Make) -> None:
    model.config = VaeConfig(depth=1, beta=1.0, free_bits=100.0)
    losses = model.loss(torch.randn(3, 4, 4, 4), condition(3), torch.Generator())
    assert losses["kl"].item() == 100
    losses["kl"].backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_one_euler_step_of_the_velocity_draws(model: Vae, condition: Make) -> None:
    one, noise = condition(2), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        v = model.velocity(noise, torch.ones(2), *model.prepare(one))
    torch.testing.assert_close(noise - v, model.sample(one, noise))


def test_interpolation_begins_and_ends_with_the_reconstructions(model: Vae, condition: Make) -> None:
    one, pictures = condition(2), torch.randn(2, 4, 4, 4)
    ends = [
        model.interpolate(pictures, pictures.flip(0), one, torch.full((2,), share)) for share in (0.0, 1.0)
    ]
    torch.testing.assert_close(ends[0], model.reconstruct(pictures, one))
    torch.testing.assert_close(ends[1], model.reconstruct(pictures.flip(0), one))
    middle = model.interpolate(pictures, pictures.flip(0), one, torch.full((2,), 0.5))
    assert not torch.allclose(middle, ends[0])
