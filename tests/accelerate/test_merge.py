"""Token merging against loops, and against attention without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.accelerate import graph_mnn
from miaobi.accelerate.export import Method, to_onnx
from miaobi.accelerate.merge import Grid, MergedAttention, merge, merged, slots, tokens_left, unmerge
from miaobi.errors import InputError, MachineError

SIZE = st.integers(1, 9)
RATIO = st.floats(0, 0.75)


def unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": 12,
        "sample_size": 16,
    }
    return UNet2DConditionModel(**config | changes).eval()


def inputs(batch: int = 2, height: int = 8, width: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 4, height, width), torch.tensor(500), torch.randn(batch, 5, 12)


def looped(tokens: Tensor, height: int, width: int, ratio: float) -> Tensor:
    """The paper's algorithm in loops, for one picture's tokens (N, C): each token replaced by the mean of
    its group.
    """
    at = {(y, x): tokens[y * width + x] for y in range(height) for x in range(width)}
    corners = [place for place in at if place[0] % 2 == 0 and place[1] % 2 == 0]
    sources = [place for place in at if place not in corners]
    pairs = []
    for place in sources:
        cosines = [float(F.cosine_similarity(at[place], at[corner], dim=0)) for corner in corners]
        best = int(np.argmax(cosines))
        pairs.append((cosines[best], place, corners[best]))
    pairs.sort(key=lambda pair: -pair[0])
    groups = {corner: [corner] for corner in corners}
    for _, place, corner in pairs[: min(int(ratio * len(at)), len(pairs))]:
        groups[corner].append(place)
    out = dict(at)
    for group in groups.values():
        mean = sum(at[place] for place in group) / len(group)
        out |= dict.fromkeys(group, mean)
    return torch.stack([out[y, x] for y in range(height) for x in range(width)])


@settings(max_examples=40, deadline=None)
@given(SIZE, SIZE, RATIO, st.integers(0, 1000))
def test_against_loops(height: int, width: int, ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    tokens = torch.randn(2, height * width, 6, dtype=torch.float64)
    slot = slots(tokens, height, width, ratio)
    found = unmerge(merge(tokens, slot), slot)
    expected = torch.stack([looped(one, height, width, ratio) for one in tokens])
    torch.testing.assert_close(found, expected)


@settings(max_examples=100, deadline=None)
@given(SIZE, SIZE, RATIO, st.integers(0, 1000))
def test_every_token_has_a_slot_and_every_slot_a_token(
    height: int, width: int, ratio: float, seed: int
) -> None:
    torch.manual_seed(seed)
    tokens = torch.randn(3, height * width, 5)
    left = tokens_left(height, width, ratio)
    slot = slots(tokens, height, width, ratio)
    for row in slot.of_token:
        assert sorted(set(row.tolist())) == list(range(left))
    assert left >= max(height * width * (1 - ratio), 1)
    if not height % 2 and not width % 2:
        assert left == height * width - int(ratio * height * width)
    # what is alike within a slot comes back as it was, and the mean of all tokens is kept by weight
    joined = merge(tokens, slot)
    torch.testing.assert_close(merge(unmerge(joined, slot), slot), joined)
    members = torch.stack([row.bincount(minlength=left) for row in slot.of_token])
    torch.testing.assert_close((joined * members[..., None]).sum(1), tokens.sum(1), rtol=1e-4, atol=1e-4)


def test_the_same_picture_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 96, 16, dtype=torch.float64)
    slot = slots(tokens, 8, 12, 0.5)
    for row in range(4):
        alone = slots(tokens[row : row + 1], 8, 12, 0.5).of_token[0]
        torch.testing.assert_close(alone, slot.of_token[row], rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float64, 1), (torch.float16, 1000), (torch.float16, 0)])
def test_equal_tokens_lose_nothing(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    coarse = (scale * torch.randn(1, 4, 4, 7)).to(dtype)
    tokens = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    slot = slots(tokens, 8, 8, 0.75)
    torch.testing.assert_close(unmerge(merge(tokens, slot), slot), tokens)


@torch.no_grad()
def test_nothing_merged_is_plain_attention() -> None:
    model, given = unet().double(), inputs()
    given = tuple(one.double() if one.is_floating_point() else one for one in given)  # type: ignore[assignment]
    expected = model(*given).sample
    # so small a share that no token goes: only the order of tokens differs
    torch.testing.assert_close(merged(model, 0.001)(*given).sample, expected)
    errors = [float((merged(model, ratio)(*given).sample - expected).norm()) for ratio in (0.02, 0.75)]
    assert 0 < errors[0] < errors[1]


@torch.no_grad()
def test_the_unet_stays_as_it_was() -> None:
    model, given = unet(), inputs()
    expected = model(*given).sample
    copy = merged(model, 0.5)
    first = copy(*given).sample
    torch.testing.assert_close(copy(*given).sample, first, rtol=0, atol=0)
    assert not torch.equal(first, expected)
    torch.testing.assert_close(model(*given).sample, expected, rtol=0, atol=0)
    assert {id(one) for one in copy.parameters()} == {id(one) for one in model.parameters()}
    for row in range(2):
        alone = copy(given[0][row : row + 1], given[1], given[2][row : row + 1]).sample
        torch.testing.assert_close(alone, first[row : row + 1])


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, {"down_blocks.0", "up_blocks.1"}),
        (
            {
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "block_out_channels": (8, 16, 16),
                "transformer_layers_per_block": (1, 2, 1),
            },
            {"down_blocks.1", "up_blocks.1"},
        ),
    ],
)
@torch.no_grad()
def test_only_the_finest_attention_merges(changes: dict[str, Any], where: set[str]) -> None:
    copy = merged(unet(**changes), 0.5)
    seen: list[int] = []
    changed = [name for name, one in copy.attn_processors.items() if isinstance(one, MergedAttention)]
    assert {".".join(name.split(".")[:2]) for name in changed} == where
    assert all(".attn1." in name for name in changed)
    for name, module in copy.named_modules():
        if f"{name}.processor" in changed:
            module.to_q.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    copy(*inputs())
    assert set(seen) == {8 * 12 // 2 if not changes else 4 * 6 // 2}
    assert len(seen) == len(changed)


@torch.no_grad()
def test_in_onnx_runtime() -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=8, heads=2, dim_head=4).eval()
    grid = Grid()
    grid.height, grid.width = 6, 10
    attention.set_processor(MergedAttention(attention.processor, grid, 0.5))
    example = {"tokens": torch.randn(2, 60, 8)}
    graph = to_onnx(Method(attention, attention), example, ("attended",), {"tokens": {0: "batch"}}, "fp32")
    session = ort.InferenceSession(graph)
    for batch in (2, 3):
        tokens = torch.randn(batch, 60, 8)
        found = session.run(None, {"tokens": tokens.numpy()})[0]
        np.testing.assert_allclose(found, attention(tokens).numpy(), rtol=1e-3, atol=1e-5)


class OfTokens(nn.Module):
    """A function of tokens as a network, for graphs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.function(tokens),)


@torch.no_grad()
def test_in_mnn(tmp_path: Path) -> None:
    pytest.importorskip("MNN")
    torch.manual_seed(0)
    tokens = torch.randn(2, 60, 8)

    def through(tokens: Tensor) -> Tensor:
        slot = slots(tokens, 6, 10, 0.5)
        return unmerge(merge(tokens, slot), slot)

    graph_mnn.export(OfTokens(through), (tokens,), tmp_path, None, list)
    (found,) = graph_mnn.load(tmp_path, "float32", 1, None)((tokens,))
    torch.testing.assert_close(found, through(tokens))
    with pytest.raises(MachineError, match="MNN computes ReduceL2 wrongly"):
        graph_mnn.export(OfTokens(F.normalize), (tokens,), tmp_path, None, list)


def test_what_cannot_be_merged() -> None:
    for ratio in (0.0, 0.8, -1.0):
        with pytest.raises(InputError, match=f"ratio is {ratio}"):
            merged(unet(), ratio)
    plain = unet(down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
    with pytest.raises(InputError, match="no self-attention"):
        merged(plain, 0.5)
