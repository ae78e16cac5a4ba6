from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miaobi import sampling


@given(st.integers(1, 100), st.floats(0.1, 10))
def test_times_fall_from_one_to_zero(steps: int, shift: float) -> None:
    times = sampling.timesteps(steps, shift)
    assert len(times) == steps + 1
    assert times[0] == pytest.approx(1)
    assert times[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(times))


def test_bad_times_are_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        sampling.timesteps(0)
    with pytest.raises(ValueError, match="shift"):
        sampling.timesteps(4, 0)


@given(st.integers(1, 20), st.integers(0, 2**32))
def test_straight_flow_ends_at_the_target_for_any_steps(steps: int, seed: int) -> None:
    """For x_t = (1 - t)·x_0 + t·noise the velocity noise - x_0 is constant, so Euler is exact."""
    target, noise = np.random.default_rng(seed).standard_normal((2, 3, 4))
    drawn = sampling.euler(lambda x, t: noise - target, noise, sampling.timesteps(steps))
    np.testing.assert_allclose(drawn, target, atol=1e-9)


def test_euler_converges_on_the_exact_solution() -> None:
    """dx/dt = x from t = 1 down to 0 gives x(0) = x(1) / e, with an error that falls as 1 / steps."""
    start = np.ones(1)
    errors = [
        abs(sampling.euler(lambda x, t: x, start, sampling.timesteps(n))[0] - np.exp(-1))
        for n in (10, 20, 40)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_consistency_jumps_to_the_end_and_back() -> None:
    rng = np.random.default_rng(0)
    target, noise = rng.standard_normal((2, 2, 5))
    seen = []

    def velocity(x: np.ndarray, t: float) -> np.ndarray:
        seen.append(t)
        return (x - target) / t

    drawn = sampling.consistency(
        velocity, noise, sampling.timesteps(4), lambda: rng.standard_normal(noise.shape)
    )
    np.testing.assert_allclose(drawn, target, atol=1e-12)
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_torch_and_numpy_agree() -> None:
    noise = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    times = sampling.timesteps(5)
    ours = sampling.euler(lambda x, t: x * t, noise, times)
    theirs = sampling.euler(lambda x, t: x * t, torch.from_numpy(noise), times)
    torch.testing.assert_close(torch.from_numpy(ours), theirs)


def test_guidance_of_one_is_the_condition() -> None:
    conditional, unconditional = np.random.default_rng(2).standard_normal((2, 4))
    np.testing.assert_allclose(sampling.guide(conditional, unconditional, 1), conditional)
    np.testing.assert_allclose(sampling.guide(conditional, unconditional, 0), unconditional)


def test_noise_depends_on_the_seed_alone() -> None:
    together = sampling.draw(sampling.generators([5, 6, 7]), (2, 3))
    alone = sampling.draw(sampling.generators([6]), (2, 3))
    np.testing.assert_array_equal(together[1:2], alone)
    assert together.dtype == np.float32
    reference = np.random.Generator(np.random.Philox(6)).standard_normal((2, 3), np.float32)
    np.testing.assert_array_equal(alone[0], reference)
    assert not np.array_equal(together[0], together[2])
