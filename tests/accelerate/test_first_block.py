"""Skipping a transformer's blocks against the transformer itself, and against diffusers' own cache."""

from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor, nn

from miaobi.accelerate.copies import shared
from miaobi.accelerate.first_block import CachedTransformer
from miaobi.errors import InputError

KINDS = ("flux", "qwen", "sd3", "zimage")


def transformer(kind: str, layers: int = 3) -> Any:
    torch.manual_seed(0)
    model: Any
    if kind == "flux":
        model = FluxTransformer2DModel(
            in_channels=8,
            num_layers=layers - 2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=6,
            axes_dims_rope=(2, 2, 4),
        )
    elif kind == "qwen":
        model = QwenImageTransformer2DModel(
            in_channels=8,
            out_channels=2,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            axes_dims_rope=(2, 2, 4),
        )
    elif kind == "sd3":
        model = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=6,
            out_channels=4,
            pos_embed_max_size=8,
        )
    else:
        model = ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=layers,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=12,
            axes_dims=[2, 2, 4],
            axes_lens=[64, 16, 16],
        )
    # what a block adds has to be seen: PyTorch begins with almost nothing
    for name, one in model.named_parameters():
        if name.endswith("weight") and one.ndim > 1 and not one.any():
            nn.init.normal_(one, std=0.2)
    return model.eval()


def call(kind: str, model: Any, x: Tensor, t: float) -> Tensor:
    """One evaluation; x is (B, 16, 8) tokens or (B, 4, 8, 8) latents."""
    torch.manual_seed(1)
    batch = len(x)
    text, pooled = torch.randn(1, 5, 12).expand(batch, -1, -1), torch.randn(1, 6).expand(batch, -1)
    time = torch.full((batch,), t)
    if kind == "flux":
        places = torch.stack([torch.zeros(16), torch.arange(16) // 4, torch.arange(16) % 4], 1)
        return model(
            x, text, pooled, time, img_ids=places, txt_ids=torch.zeros(5, 3), guidance=None, return_dict=False
        )[0]
    if kind == "qwen":
        return model(
            x, text, torch.ones(batch, 5), time, img_shapes=[[(1, 4, 4)]] * batch, return_dict=False
        )[0]
    if kind == "sd3":
        return model(x, text, pooled, time * 1000, return_dict=False)[0]
    return torch.stack(model(list(x[:, :, None]), time, list(text), return_dict=False)[0])[:, :, 0]


def noise(kind: str, batch: int = 1) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, 16, 8) if kind in ("flux", "qwen") else torch.randn(batch, 4, 8, 8)


def path(kind: str, model: Any, steps: int = 8) -> list[Tensor]:
    """What a model answers along a short path, on which its input changes little by little."""
    x, answers = noise(kind), []
    for step in range(steps):
        answers.append(call(kind, model, x, 0.9 - 0.0002 * step))
        x = x - 0.01 * x
    return answers


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_nothing_skipped_is_the_transformer(kind: str) -> None:
    model = transformer(kind)
    exact = path(kind, model)
    cached = CachedTransformer(model, 1e-9)
    torch.testing.assert_close(path(kind, cached), exact, rtol=0, atol=0)
    assert (cached.calls, cached.full_calls) == (8, 8)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_skipped_blocks(kind: str) -> None:
    model = transformer(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = path(kind, model)
    cached = CachedTransformer(model, 0.1)
    run: list[int] = []
    for blocks in (
        getattr(cached, name, []) for name in ("transformer_blocks", "single_transformer_blocks", "layers")
    ):
        for one in blocks:
            one.block.register_forward_hook(lambda *_: run.append(1))
    answers = path(kind, cached)
    assert 1 <= cached.full_calls < 8
    assert len(run) == 3 * cached.full_calls + (8 - cached.full_calls)
    for one, other in zip(answers, exact, strict=True):
        assert (one - other).norm() < 0.2 * other.norm()

    cached.reset()
    torch.testing.assert_close(path(kind, cached), answers, rtol=0, atol=0)
    torch.testing.assert_close(path(kind, model), exact, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert {id(one) for one in model.parameters()} == {id(one) for one in cached.parameters()}
    assert cached.config == model.config


@pytest.mark.parametrize("kind", ["flux", "qwen"])
@pytest.mark.parametrize("threshold", [0.03, 0.05])
@torch.no_grad()
def test_as_the_cache_of_diffusers(kind: str, threshold: float) -> None:
    model = transformer(kind)
    theirs = shared(model)
    theirs.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    with theirs.cache_context("cond"):
        expected = path(kind, theirs)
    ours = CachedTransformer(model, threshold)
    torch.testing.assert_close(path(kind, ours), expected, rtol=0, atol=0)
    assert 1 <= ours.full_calls < 8


@torch.no_grad()
def test_each_kind_of_evaluation_has_its_memory() -> None:
    model = transformer("flux")
    x, y = noise("flux"), -noise("flux")
    cached = CachedTransformer(model, 0.5)
    for _ in range(2):
        with cached.cache_context("cond"):
            first = call("flux", cached, x, 0.9)
        with cached.cache_context("uncond"):
            second = call("flux", cached, y, 0.9)
        torch.testing.assert_close(first, call("flux", model, x, 0.9))
        torch.testing.assert_close(second, call("flux", model, y, 0.9))
    assert (cached.calls, cached.full_calls) == (4, 2)
    # guidance that ends changes the number of rows: nothing that was kept fits
    with cached.cache_context("cond"):
        call("flux", cached, noise("flux", 2), 0.9)
    assert cached.full_calls == 3


def test_what_cannot_be_skipped() -> None:
    with pytest.raises(InputError, match="with 2 known blocks"):
        CachedTransformer(transformer("qwen", 2), 0.1)
    odd = nn.Module()
    odd.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    with pytest.raises(InputError, match="what a Linear returns"):
        CachedTransformer(odd, 0.1)
