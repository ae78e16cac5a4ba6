import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi import sampling
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig, CausalBlock, rotate
from miaobi.models.backbone import BackboneConfig, Condition

Make = Callable[[int], Condition]
LEVELS = (3, 3, 2, 2)


@pytest.fixture
def model(backbone: BackboneConfig) -> Autoregressive:
    torch.manual_seed(0)
    made = Autoregressive(
        replace(backbone, depth=2), AutoregressiveConfig(LEVELS, (0.0, 0.1, -0.5, -0.4), 0.7, kv_heads=1)
    ).eval()
    nn.init.normal_(made.head.weight, std=0.3)
    return made


def pictures(model: Autoregressive, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(5)
    return model.to_latents(torch.randint(math.prod(LEVELS), (count, 4, 4), generator=rng))


def test_codes_round_trip(model: Autoregressive) -> None:
    codes = torch.arange(36).repeat(2)[:64].reshape(4, 4, 4)
    latents = model.to_latents(codes)
    assert latents.shape == (4, 4, 4, 4)
    torch.testing.assert_close(model.to_codes(latents), codes)


def test_rotation_against_complex_numbers() -> None:
    """RoPE as multiplication by e^(i·position·frequency)."""
    x, positions = torch.randn(2, 3, 5, 8), torch.tensor([0, 1, 4, 9, 33])
    turn = torch.polar(torch.ones(5, 4), positions[:, None] * 10_000.0 ** (-torch.arange(4) / 4))
    turned = torch.complex(x[..., :4], x[..., 4:]) * turn
    torch.testing.assert_close(rotate(x, positions), torch.cat([turned.real, turned.imag], -1))


def test_scores_depend_on_the_distance_alone() -> None:
    q, k, at = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8), torch.tensor([7])
    near = (rotate(q, at) * rotate(k, at - 3)).sum()
    torch.testing.assert_close(near, (rotate(q, at + 50) * rotate(k, at + 47)).sum())


def test_a_block_against_torch() -> None:
    """Grouped-query attention and SwiGLU against torch's own attention, positions all zero."""
    torch.manual_seed(0)
    block, x = CausalBlock(16, 4, 2), torch.randn(2, 5, 16)
    mask = torch.full((5, 5), -1e4).triu(1)[None, None]
    found, _ = block(x, torch.zeros(5), mask)
    h = F.rms_norm(x, (16,), eps=1e-6)
    query = (h @ block.query.weight.T).view(2, 5, 4, 4).transpose(1, 2)
    key, value = (h @ block.key_value.weight.T).view(2, 5, 2, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    y = x + mixed.transpose(1, 2).flatten(2) @ block.out.weight.T
    gate, up = (F.rms_norm(y, (16,), eps=1e-6) @ block.gate_up.weight.T).chunk(2, -1)
    torch.testing.assert_close(found, y + (F.silu(gate) * up) @ block.down.weight.T)


def all_logits(model: Autoregressive, latents: Tensor, one: Condition) -> Tensor:
    """Logits of every next token in one pass without a cache."""
    stored: list[Tensor] = []
    hook = model.head.register_forward_hook(lambda *call: stored.append(call[2]))
    config, model.config = model.config, replace(model.config, masked=0.0)
    model.loss(latents, one, torch.Generator())
    model.config = config
    hook.remove()
    return stored[0].unflatten(-1, (model.codes, model.vocabulary))


@torch.no_grad()
def test_the_cache_changes_nothing(model: Autoregressive, condition: Make) -> None:
    one, latents = condition(3), pictures(model, 3)
    codes, expected = model.to_codes(latents), all_logits(model, latents, one)
    keys, values, mask = model.prepare(one)
    for index in range(4):
        before = max(index - 1, 0)
        logits, keys, values = model.write(
            codes[:, before : before + 1],
            torch.full((3, 1), index > 0),
            torch.tensor([index]),
            torch.tensor([0]),
            keys,
            values,
            mask,
        )
        mask = F.pad(mask, (0, 1))
        torch.testing.assert_close(logits[:, 0], expected[:, index], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_sees_those_before_it_alone(model: Autoregressive, condition: Make) -> None:
    one, latents = condition(1), pictures(model, 2)
    changed = latents[:1].clone()
    changed[:, :, 2:, :2] = latents[1:, :, 2:, :2]  # token 2 of 4
    a, b = (all_logits(model, each, one) for each in (latents[:1], changed))
    torch.testing.assert_close(a[:, :3], b[:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(a[:, 3], b[:, 3])


def test_the_loss_is_the_cross_entropy_of_the_codes(model: Autoregressive, condition: Make) -> None:
    one, latents = condition(3), pictures(model, 3)
    model.config = replace(model.config, masked=0.0)
    with torch.no_grad():
        loss = model.loss(latents, one, torch.Generator())
        logits, codes = all_logits(model, latents, one), model.to_codes(latents)
    expected = -logits.log_softmax(-1).gather(-1, codes[..., None]).mean()
    assert set(loss) == {"next"}
    torch.testing.assert_close(loss["next"], expected)


@torch.no_grad()
def test_padding_and_batch_change_nothing(model: Autoregressive, condition: Make) -> None:
    both, noise = condition(2), torch.randn(2, 4, 4, 4)
    longer = replace(
        both,
        text=torch.cat([both.text, torch.randn(2, 4, 8)], 1),
        mask=torch.cat([both.mask, torch.zeros(2, 4, dtype=torch.bool)], 1),
    )
    alone = Condition(*(getattr(longer, name)[1:] for name in Condition.__dataclass_fields__))
    for steps in (0, 2):
        drawn = model.sample(both, noise, steps, guidance=2.0)
        torch.testing.assert_close(model.sample(longer, noise, steps, guidance=2.0), drawn)
        torch.testing.assert_close(model.sample(alone, noise[1:], steps, guidance=2.0), drawn[1:])


def test_it_learns_eight_pictures_by_heart_both_ways(backbone: BackboneConfig, condition: Make) -> None:
    torch.manual_seed(0)
    config = AutoregressiveConfig(LEVELS, (0.0,) * 4, 1.0, kv_heads=1, masked=0.5)
    model = Autoregressive(replace(backbone, width=48, depth=2), config)
    one, latents, rng = condition(8), pictures(model, 8), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    for _ in range(250):
        optimiser.zero_grad()
        rows = torch.randperm(8, generator=rng)  # the first of a batch learn to fill in, the others to go on
        some = Condition(*(getattr(one, name)[rows] for name in Condition.__dataclass_fields__))
        torch.stack(list(model.loss(latents[rows], some, rng).values())).sum().backward()
        optimiser.step()
    model.config = replace(config, masked=0.0)
    for steps in (0, 4):
        drawn = model.sample(one, torch.randn(8, 4, 4, 4), steps, temperature=0.0)
        assert (model.to_codes(drawn) == model.to_codes(latents)).float().mean() > 0.95


def test_latents_without_levels_are_refused(backbone: BackboneConfig) -> None:
    with pytest.raises(ValueError, match="the autoencoder must be one with levels"):
        Autoregressive(backbone, AutoregressiveConfig())


def test_choice_follows_the_distribution_and_its_cuts() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    chance = ((np.arange(1000) + 0.5) / 1000).astype(np.float32)
    many = np.broadcast_to(logits, (1000, 4))
    for how, shares in (
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
    ):
        taken, had = sampling.choose(many, chance, **how)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.bincount(taken, minlength=4) / 1000, shares, atol=0.002)
        np.testing.assert_allclose(had, np.array(shares)[taken], atol=1e-5)
    with pytest.raises(ValueError, match="top_p"):
        sampling.choose(many, chance, top_p=0)


def test_filling_in_keeps_more_in_every_round_and_never_changes_what_is_kept() -> None:
    rng = np.random.default_rng(0)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def logits(codes: np.ndarray, known: np.ndarray, index: np.ndarray) -> np.ndarray:
        seen.append((codes.copy(), known.copy()))
        return rng.standard_normal((3, 16, 4, 7)).astype(np.float32)

    chosen = sampling.write_tokens(logits, sampling.uniform(rng.standard_normal((3, 2, 8, 8)), 2), steps=5)
    assert chosen.shape == (3, 16, 4)
    counts = [known.sum(1) for _, known in seen]
    assert counts[0].tolist() == [0, 0, 0]
    assert all((a < b).all() for a, b in pairwise(counts))
    for codes, known in seen:
        np.testing.assert_array_equal(codes[known], chosen[known])
