import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.gan import Discriminator, Gan, GanConfig, matching, squared_gradient

SMALL = GanConfig(width=8, blocks=1)
Make = Callable[[int], Condition]


def test_squared_gradient_against_finite_differences(backbone: BackboneConfig, condition: Make) -> None:
    torch.manual_seed(0)
    judge, one = Discriminator(backbone, SMALL).double(), condition(2)
    at = torch.randn(2, 4, 4, 4, dtype=torch.float64)

    def scores(x: Tensor) -> Tensor:
        return judge(x, one.embedding.double(), one.style)[0]

    leaf = at.clone().requires_grad_()
    found = squared_gradient(scores(leaf), leaf)
    step, expected = 1e-5, torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for index in range(at[0].numel()):
            change = torch.zeros(at[0].numel(), dtype=torch.float64)
            change[index] = step
            change = change.view_as(at[0])
            expected += ((scores(at + change) - scores(at - change)) / (2 * step)).square()
    torch.testing.assert_close(found, expected.mean(), rtol=1e-6, atol=1e-9)


def test_the_penalty_of_a_linear_score_is_its_weights() -> None:
    x = torch.randn(5, 7, requires_grad=True)
    weight = torch.randn(7)
    torch.testing.assert_close(squared_gradient(x @ weight, x), weight.square().sum())


def test_matching_in_closed_form() -> None:
    """Two orthogonal texts: a picture that points at its own has cross-entropy log(1 + e^(-1/T))."""
    texts = torch.eye(4)[:2]
    torch.testing.assert_close(matching(texts, texts, 0.5), torch.tensor(math.log1p(math.exp(-2))))
    torch.testing.assert_close(matching(texts.flip(0), texts, 0.5), torch.tensor(math.log1p(math.exp(2))))


def test_equal_or_missing_texts_are_no_negatives() -> None:
    features = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    same = torch.eye(4)[[0, 0, 1]]
    one, other = matching(features[:1], same[:1], 0.1), matching(features, torch.zeros(3, 4), 0.1)
    assert float(one) == pytest.approx(0, abs=1e-6)
    assert float(other) == 0
    torch.testing.assert_close(
        matching(features[[0, 1]], same[[0, 1]], 0.1), torch.tensor(0.0), rtol=0, atol=1e-6
    )


def test_losses_in_closed_form(backbone: BackboneConfig, condition: Make) -> None:
    """Each loss from its own formula, with the scores taken by hand."""
    torch.manual_seed(0)
    model, one, latents = Gan(backbone, SMALL), condition(4), torch.randn(4, 4, 4, 4)
    losses = model.loss(latents, one, torch.Generator().manual_seed(2))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    fake = model.sample(one, noise)
    with torch.no_grad():
        real_score = model.discriminator(latents, one.embedding, one.style)[0]
        fake_score = model.discriminator(fake, one.embedding, one.style)[0]
        foreign = model.discriminator(latents, one.embedding.roll(1, 0), one.style)[0]
    expected = {
        "generator": torch.log1p(torch.exp(real_score - fake_score)).mean(),
        "discriminator": torch.log1p(torch.exp(fake_score - real_score)).mean(),
        "mismatch": 0.5 * torch.log1p(torch.exp(foreign - real_score)).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_each_player_moves_its_own_weights_alone(backbone: BackboneConfig, condition: Make) -> None:
    torch.manual_seed(0)
    model, latents = Gan(backbone, SMALL), torch.randn(4, 4, 4, 4)
    for names, player, other in (
        (("generator", "text"), model.generator, model.discriminator),
        (("discriminator", "mismatch", "matching", "r1", "r2"), model.discriminator, model.generator),
    ):
        losses = model.loss(latents, condition(4), torch.Generator().manual_seed(0))
        model.zero_grad()
        torch.stack([losses[name] for name in names]).sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in other.parameters())
        assert any(p.grad is not None and p.grad.any() for p in player.parameters())


def test_one_euler_step_of_the_velocity_draws(backbone: BackboneConfig, condition: Make) -> None:
    torch.manual_seed(0)
    model, one, noise = Gan(backbone, SMALL), condition(2), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        v = model.velocity(noise, torch.ones(2), *model.prepare(one))
    torch.testing.assert_close(noise - v, model.sample(one, noise))


def test_spread_tells_a_collapsed_generator(
    backbone: BackboneConfig, condition: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, latents, one = Gan(backbone, SMALL), torch.randn(6, 4, 4, 4), condition(6)
    rng = torch.Generator().manual_seed(0)
    for drawn, spread in ((latents.flip(0), 1.0), (latents[:1].expand(6, -1, -1, -1), 0.0)):
        monkeypatch.setattr(model, "sample", lambda *_, made=drawn: made)
        assert float(model.measure(latents, one, rng)["spread"]) == pytest.approx(spread, abs=1e-6)
