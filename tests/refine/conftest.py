"""A small drawn picture that noise and blur are put on."""

import numpy as np
import pytest

from miaobi.images import Float


@pytest.fixture
def drawn() -> Float:
    """(4, 32, 32): a smooth-edged disc in two colours on a transparent ground."""
    rows, columns = np.mgrid[:32, :32].astype(np.float32)
    alpha = np.clip(12.5 - np.hypot(rows - 15.5, columns - 15.5), 0, 1)
    inner = np.clip(6.5 - np.hypot(rows - 15.5, columns - 15.5), 0, 1)
    outside, inside = np.array([0.8, 0.3, 0.2]), np.array([0.2, 0.6, 0.9])
    colour = outside[:, None, None] * (1 - inner) + inside[:, None, None] * inner
    return (np.concatenate([colour * alpha, alpha[None]]) * 2 - 1).astype(np.float32)


@pytest.fixture
def opaque(drawn: Float) -> Float:
    """The same on a grey ground, opaque."""
    alpha = (drawn[3:] + 1) / 2
    colour = (drawn[:3] + 1) / 2 + 0.5 * (1 - alpha)
    return (np.concatenate([colour, np.ones_like(alpha)]) * 2 - 1).astype(np.float32)


@pytest.fixture
def noisy(opaque: Float) -> Float:
    seen = opaque.copy()
    seen[:3] += np.random.default_rng(0).normal(0, 0.16, seen[:3].shape)
    return np.clip(seen, -1, 1)
