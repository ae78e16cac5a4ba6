"""Figures: a value, its 95 % confidence interval and the number of samples behind it. NumPy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % confidence interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        digits = 3 if abs(self.value) < 10 else 2
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}] (n={self.count})"


def exact(value: float) -> Figure:
    """What was counted, not sampled."""
    return Figure(value, value, value, 1)


def bootstrap(
    statistic: Callable[..., float], *samples: npt.NDArray[np.generic], resamples: int = 1000, seed: int = 0
) -> Figure:
    """A statistic of paired samples, each (n, ...), with the 95 % percentile interval of its bootstrap
    (Efron 1979).
    """
    values, count = _resampled(statistic, samples, resamples, seed)
    low, high = np.quantile(values, [0.025, 0.975])
    return Figure(float(statistic(*samples)), float(low), float(high), count)


def bootstrap_normal(
    statistic: Callable[..., float], *samples: npt.NDArray[np.generic], resamples: int = 30, seed: int = 0
) -> Figure:
    """Like `bootstrap`, with value ± 1.96 bootstrap standard errors: for statistics biased in n, such as FID.

    A resample repeats samples, which shifts such a statistic; its spread still tells how sure the value is.
    """
    values, count = _resampled(statistic, samples, resamples, seed)
    value, margin = float(statistic(*samples)), 1.96 * float(values.std(ddof=1))
    return Figure(value, value - margin, value + margin, count)


def _resampled(
    statistic: Callable[..., float], samples: Sequence[npt.NDArray[np.generic]], resamples: int, seed: int
) -> tuple[npt.NDArray[np.float64], int]:
    count = len(samples[0])
    if count < 1 or any(len(sample) != count for sample in samples):
        raise ValueError(
            f"expected paired samples of one non-zero length, got {[len(sample) for sample in samples]}"
        )
    rng = np.random.default_rng(seed)
    picks = (rng.integers(count, size=count) for _ in range(resamples))
    return np.array([statistic(*(sample[pick] for sample in samples)) for pick in picks]), count


def mean_figure(values: npt.NDArray[np.generic], resamples: int = 1000) -> Figure:
    """The mean of values (n,) with its bootstrap interval."""
    return bootstrap(lambda x: float(np.mean(x)), values, resamples=resamples)


def ratio_figure(top: npt.NDArray[np.generic], bottom: npt.NDArray[np.generic]) -> Figure:
    """mean(top) / mean(bottom) of paired samples (n,) with its bootstrap interval; nan where bottom is all
    zero.
    """
    return bootstrap(lambda x, y: float(np.mean(x) / np.mean(y)) if np.any(y) else float("nan"), top, bottom)
