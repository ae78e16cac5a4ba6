"""Deep caching against the U-Net itself."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from miaobi.accelerate.cache import Every, Full, Shallow, deep_cached
from miaobi.errors import InputError

SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16, 16),
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
    },
    "sd2": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "time_cond_proj_dim": 6,
        "center_input_sample": True,
        "mid_block_type": None,
    },
}


def unet(shape: str = "sd15") -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {"layers_per_block": 2} | SHAPES[shape]
    return UNet2DConditionModel(
        sample_size=16, norm_num_groups=4, attention_head_dim=4, cross_attention_dim=12, **config
    ).eval()


def inputs(shape: str = "sd15", batch: int = 2, size: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    torch.manual_seed(1)
    given: dict[str, Any] = {
        "sample": torch.randn(batch, 4, *size),
        "timestep": torch.tensor(500),
        "text": torch.randn(batch, 5, 12),
    }
    if shape == "sdxl":
        given |= {"text_embeds": torch.randn(batch, 8), "time_ids": torch.randn(batch, 6)}
    if shape == "sd2":
        given["timestep_cond"] = torch.randn(batch, 6)
    return given


def whole(model: UNet2DConditionModel, given: dict[str, Any]) -> Tensor:
    """The U-Net as it is called without a cache."""
    rest = dict(given)
    positional = [rest.pop(name) for name in ("sample", "timestep", "text")]
    condition = rest.pop("timestep_cond", None)
    return model(*positional, timestep_cond=condition, added_cond_kwargs=rest, return_dict=False)[0]


@pytest.mark.parametrize("size", [(16, 16), (18, 13)])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_full_and_shallow_are_the_unet(shape: str, size: tuple[int, int]) -> None:
    model, given = unet(shape), inputs(shape, size=size)
    expected = whole(model, given)
    for layers in range(1, len(model.up_blocks[-1].resnets) + 1):
        noise, deep = Full(model, layers)(**given)
        torch.testing.assert_close(noise, expected, rtol=0, atol=0)
        torch.testing.assert_close(Shallow(model, layers)(**given, deep=deep), expected, rtol=0, atol=0)


@torch.no_grad()
def test_old_features_are_used_and_matter() -> None:
    model, given = unet(), inputs()
    later = given | {"sample": given["sample"] * 0.9, "timestep": torch.tensor(480)}
    _, deep = Full(model)(**given)
    noise = Shallow(model)(**later, deep=deep)
    exact = whole(model, later)
    assert not torch.equal(noise, exact)
    # nearer to the truth than the earlier result, which the network would give if nothing ran
    assert (noise - exact).norm() < (whole(model, given) - exact).norm()


@torch.no_grad()
def test_shallow_leaves_the_deep_blocks_alone() -> None:
    model, given = unet(), inputs()
    deep = Full(model)(**given)[1]
    deeper = Full(model, 2)(**given)[1]
    run: list[str] = []
    for name, module in model.named_modules():
        if hasattr(module, "time_emb_proj"):
            module.register_forward_pre_hook(lambda module, given, name=name: run.append(name))
    Shallow(model)(**given, deep=deep)
    assert run == ["up_blocks.2.resnets.2"]
    run.clear()
    Shallow(model, 2)(**given, deep=deeper)
    assert set(run) == {"down_blocks.0.resnets.0", "up_blocks.2.resnets.1", "up_blocks.2.resnets.2"}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.lists(st.sampled_from([(1, 2), (2, 2)]), min_size=1, max_size=20))
def test_every(interval: int, shapes: list[tuple[int, int]]) -> None:
    """Full at the first call, at each `interval`-th after a full one, and when the shape changes."""
    log: list[str] = []

    def full(sample: Any, timestep: int, text: None) -> tuple[Any, int]:
        log.append("full")
        return sample, timestep

    def shallow(sample: Any, timestep: int, text: None, deep: int) -> Any:
        log.append(f"shallow {deep}")
        return sample

    every = Every(full, shallow, interval)
    for _ in range(2):
        log.clear()
        every.reset()
        expected, last = [], 0
        for step, shape in enumerate(shapes):
            if step == 0 or step - last == interval or shapes[step - 1] != shape:
                last = step
                expected.append("full")
            else:
                expected.append(f"shallow {last}")
            every(np.zeros(shape), step, None)
        assert log == expected
        assert (every.calls, every.full_calls) == (len(shapes), expected.count("full"))


def sample(model: Any, noise: Tensor, steps: int = 5) -> Tensor:
    """A few steps of Euler's method."""
    torch.manual_seed(1)
    text = torch.randn(1, 5, 12).expand(len(noise), -1, -1)
    for step in range(steps):
        timestep = torch.tensor(900 - 150 * step)
        noise = noise - 0.1 * model(noise, timestep, encoder_hidden_states=text, return_dict=False)[0]
    return noise


@torch.no_grad()
def test_cached_unet_in_the_place_of_the_unet() -> None:
    model = unet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(2)
    noise = torch.randn(3, 4, 16, 16)
    exact = sample(model, noise)
    always = deep_cached(model, 1)
    torch.testing.assert_close(sample(always, noise), exact, rtol=0, atol=0)

    cached = deep_cached(model, 2)
    drawn = sample(cached, noise)
    assert (cached.every.calls, cached.every.full_calls) == (5, 3)
    assert not torch.equal(drawn, exact)
    cached.reset()
    torch.testing.assert_close(sample(cached, noise), drawn, rtol=0, atol=0)
    for row in range(3):
        cached.reset()
        torch.testing.assert_close(sample(cached, noise[row : row + 1]), drawn[row : row + 1])

    torch.testing.assert_close(sample(model, noise), exact, rtol=0, atol=0)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert cached.config is model.config
    assert (cached.dtype, cached.device) == (model.dtype, model.device)
    shared_tensors = {id(one) for one in model.parameters()}
    assert all(id(one) in shared_tensors for one in cached.every.full.parameters())  # type: ignore[attr-defined]


@torch.no_grad()
def test_both_functions_exported() -> None:
    """With nothing that depends on values; `tests/accelerate` has graphs of whole pipelines elsewhere."""
    model, given = unet("sd2"), inputs("sd2")
    full, shallow = Full(model), Shallow(model)
    for function, example in ((full, given), (shallow, given | {"deep": full(**given)[1]})):
        program = torch.export.export(function, (), kwargs=example).module()
        other = example | {"sample": -example["sample"], "timestep": torch.tensor(20)}
        torch.testing.assert_close(program(**other), function(**other))


def test_what_cannot_be_cached() -> None:
    model = unet()
    with pytest.raises(InputError, match="layers is 4; choose 1 to 3"):
        deep_cached(model, 2, 4)
    with pytest.raises(InputError, match="interval is 0"):
        deep_cached(model, 0)
    with pytest.raises(InputError, match="cross_attention_kwargs, got scale"):
        deep_cached(model, 2)(torch.zeros(1), 1, torch.zeros(1), cross_attention_kwargs={"scale": 0.5})
    model.enable_freeu(0.9, 0.2, 1.2, 1.4)
    with pytest.raises(InputError, match="FreeU"):
        deep_cached(model, 2)
    odd = UNet2DConditionModel(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
    )
    with pytest.raises(InputError, match="ResnetDownsampleBlock2D"):
        deep_cached(odd, 2)
