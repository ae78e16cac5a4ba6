"""Samplers as plain functions; they work on NumPy arrays and on torch tensors alike.

Rectified flow (Liu et al. 2022, "Flow Straight and Fast", eq. 1): x_t = (1 - t)·x_0 + t·noise, and the model
predicts velocity = dx_t/dt = noise - x_0. Sampling walks from t = 1 (noise) to t = 0 (the picture's latents).
"""

import math
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


def edit(velocity: Velocity, known: Array, noise: Array, times: Sequence[float], mask: Array) -> Array:
    """Redraw a picture where the mask says so: `euler` from known latents that are noisy as at times[0].

    Known latents, noise and mask are (B, ...), the mask 1 where to draw and 0 where to keep. After each step
    what is kept is put back, as noisy as the rest is by then: x_t = (1 - t)·known + t·noise (Lugmayr et al.
    2022, "RePaint"). times[0] below 1 keeps the rough shapes (Meng et al. 2022, "SDEdit").
    """

    def noisy(t: float) -> Any:
        return (1 - t) * known + t * noise  # type: ignore[operator]

    x: Any = noisy(times[0])
    for t, following in pairwise(times):
        x = x + (following - t) * velocity(x, t)
        x = mask * x + (1 - mask) * noisy(following)  # type: ignore[operator]
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


Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Logits = Callable[[Int64, Bool, Int64], Float32]
"""logits(codes (B, N, P), known (B, N), index (N,)) -> (B, N, P, vocabulary); see `write_tokens`."""


def choose(
    logits: Float32, chance: Float32, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Int64, Float32]:
    """Codes drawn from logits (…, V) by inverting their distribution at `chance` (…) in (0, 1).

    Args:
        temperature: below 1 sharpens; 0 takes the likeliest.
        top_k: keep only so many of the likeliest; 0 keeps all.
        top_p: keep the likeliest that together reach this share (Holtzman et al. 2020); 1 keeps all.

    Returns:
        Codes int64 (…) and the probability that each had, (…).
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature must be >= 0, top_k >= 0 and top_p in (0, 1], got {temperature}, {top_k}, {top_p}"
        )
    if temperature == 0:
        likeliest = logits.argmax(axis=-1)
        return likeliest, np.ones(likeliest.shape, np.float32)
    weights = np.exp((logits - logits.max(-1, keepdims=True)).astype(np.float64) / temperature)
    weights /= weights.sum(-1, keepdims=True)
    if top_k or top_p < 1:  # sorting a vocabulary takes most of the time, so only where it is needed
        order = np.argsort(-weights, axis=-1, kind="stable")
        ranked = np.take_along_axis(weights, order, -1)
        dropped = ranked.cumsum(-1) - ranked >= top_p
        if top_k:
            dropped[..., top_k:] = True
        np.put_along_axis(weights, order, np.where(dropped, 0, ranked), -1)
        weights /= weights.sum(-1, keepdims=True)
    taken = (weights.cumsum(-1) <= chance[..., None]).sum(-1)
    # chance may lie above the last sum by rounding: then the last code that has a chance at all
    last = weights.shape[-1] - 1 - (weights[..., ::-1] > 0).argmax(-1)
    taken = np.minimum(taken, last)
    return taken, np.take_along_axis(weights, taken[..., None], -1)[..., 0].astype(np.float32)


def uniform(noise: Float32, patch: int) -> Float32:
    """Normal noise (B, C, h, w) to chances in (0, 1) by its distribution function, (B, C, tokens, patch²) for
    tokens that are patches.
    """
    chance = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(noise / math.sqrt(2)))
    batch, channels, height, width = noise.shape
    cut = chance.reshape(batch, channels, height // patch, patch, width // patch, patch)
    chances = cut.transpose(0, 1, 2, 4, 3, 5).reshape(batch, channels, -1, patch**2)
    return np.asarray(chances, np.float32)


def write_tokens(
    logits: Logits,
    chance: Float32,
    steps: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int64:
    """Codes (B, N, P) of N tokens, drawn with the chances (B, C, N, P).

    With `steps` = 0, or as many as there are tokens, they are written one by one: `logits` gets the codes of
    the token before, whether there is one, and the index of the token that is asked for. With fewer, all are
    filled in at once, and in each of `steps` rounds the surest are kept, a share that follows the cosine
    (Chang et al. 2022, "MaskGIT"); `logits` gets all codes and which of them are kept.
    """
    batch, channels, count, codes = chance.shape
    chosen, known = np.zeros((batch, count, codes), np.int64), np.zeros((batch, count), bool)
    how = (temperature, top_k, top_p)
    if steps == 0 or steps >= count:
        steps = 0
        for index in range(count):
            before = max(index - 1, 0)
            told = logits(chosen[:, before : before + 1], known[:, before : before + 1], np.array([index]))
            chosen[:, index], _ = choose(told[:, 0], chance[:, 0, index], *how)
            known[:, index] = True
    for step in range(steps):
        told = logits(chosen, known, np.arange(count))
        drawn, sure = choose(told, chance[:, step % channels], *how)
        chosen = np.where(known[..., None], chosen, drawn)
        kept = count - math.floor(count * math.cos(0.5 * math.pi * (step + 1) / steps) + 1e-9)
        surest = np.where(known, np.inf, sure.mean(-1)).argsort(axis=1, kind="stable")[:, count - kept :]
        np.put_along_axis(known, surest, True, axis=1)
    return chosen
