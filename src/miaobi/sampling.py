"""Samplers as plain functions; they work on NumPy arrays and on torch tensors alike.

Rectified flow (Liu et al. 2022, "Flow Straight and Fast", eq. 1): x_t = (1 - t)·x_0 + t·noise, and the model
predicts velocity = dx_t/dt = noise - x_0. Sampling walks from t = 1 (noise) to t = 0 (the picture's latents).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor, (B, ...)
Velocity = Callable[[Any, float], Any]
"""velocity(x_t, t): x_t (B, ...) and one time t in (0, 1] for the whole batch -> (B, ...)."""


def timesteps(steps: int, shift: float = 1.0) -> list[float]:
    """`steps` + 1 times from 1.0 down to 0.0.

    Evenly spaced for shift 1; shift > 1 spends more steps near the noise: t' = s·t / (1 + (s - 1)·t)
    (Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 23).

    Raises:
        ValueError: `steps` is below 1 or `shift` is not above 0.
    """
    if steps < 1 or shift <= 0:
        raise ValueError(f"steps must be >= 1 and shift > 0, got steps={steps}, shift={shift}")
    even = [1 - index / steps for index in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def euler(velocity: Velocity, noise: Array, times: Sequence[float]) -> Array:
    """Euler's method on the flow: x_{t'} = x_t + (t' - t)·velocity(x_t, t). Noise -> x_0, (B, ...)."""
    x: Any = noise
    for t, following in pairwise(times):
        x = x + (following - t) * velocity(x, t)
    result: Array = x
    return result


def consistency(
    velocity: Velocity, noise: Array, times: Sequence[float], fresh_noise: Callable[[], Any]
) -> Array:
    """Multistep consistency sampling, for distilled models (Song et al. 2023, "Consistency Models", alg. 1).

    Each step jumps to the end, x_0 = x_t - t·velocity(x_t, t), and goes back to the next time with new noise:
    x_{t'} = (1 - t')·x_0 + t'·fresh_noise(). `noise` and every `fresh_noise()` are (B, ...) -> x_0 (B, ...).
    """
    x: Any = noise
    for t, following in pairwise(times):
        x = x - t * velocity(x, t)
        if following > 0:
            x = (1 - following) * x + following * fresh_noise()
    result: Array = x
    return result


def guide(conditional: Any, unconditional: Any, guidance: float) -> Any:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): v = v_uncond + guidance·(v_cond - v_uncond)."""
    return unconditional + guidance * (conditional - unconditional)


def generators(seeds: Sequence[int]) -> list[np.random.Generator]:
    """One counter-based random generator per picture: a picture depends on its own seed alone."""
    return [np.random.Generator(np.random.Philox(seed)) for seed in seeds]


def draw(sources: Sequence[np.random.Generator], shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """The next standard normal noise of each source: (len(sources), *shape) float32."""
    return np.stack([source.standard_normal(tuple(shape), dtype=np.float32) for source in sources])
