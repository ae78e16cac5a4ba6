from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miaobi.models import fsq

levels = st.lists(st.integers(2, 9), min_size=1, max_size=4)


@given(levels)
def test_every_code_round_trips(levels: list[int]) -> None:
    codes = torch.arange(prod(levels)).reshape(1, -1)
    values = fsq.values(codes, levels)
    assert values.shape == (1, len(levels), prod(levels))
    assert values.abs().max() <= 1
    torch.testing.assert_close(fsq.indices(values, levels), codes)


@given(levels, st.integers(0, 100))
def test_quantised_values_are_those_of_their_codes(levels: list[int], seed: int) -> None:
    z = 3 * torch.randn(2, len(levels), 3, 4, generator=torch.Generator().manual_seed(seed))
    values = fsq.quantise(z, levels)
    torch.testing.assert_close(fsq.values(fsq.indices(values, levels), levels), values)


@pytest.mark.parametrize("count", range(2, 10))
def test_every_level_is_reached_and_keeps_its_order(count: int) -> None:
    values = fsq.quantise(torch.linspace(-6, 6, 2001)[:, None], [count])[:, 0]
    assert len(values.unique()) == count
    assert (values.diff() >= 0).all()
    assert values[0] == -1


def test_five_levels_in_closed_form() -> None:
    """round(2.002 · tanh z) / 2."""
    z = torch.linspace(-3, 3, 50)[:, None]
    torch.testing.assert_close(fsq.quantise(z, [5]), torch.round(2.002 * torch.tanh(z)) / 2)


def test_gradients_pass_straight_through() -> None:
    z = torch.randn(4, 2, requires_grad=True)
    fsq.quantise(z, [5, 5]).sum().backward()
    torch.testing.assert_close(z.grad, 2.002 / 2 * (1 - torch.tanh(z.detach()).square()))


def test_codes_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"0 … 24, got 3 … 25"):
        fsq.values(torch.tensor([[3, 25]]), [5, 5])
