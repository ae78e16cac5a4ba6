"""How much quality a recipe loses: paired differences, their interval, and the bound they have to clear.

The loss of a recipe is the mean over samples of (score of the baseline - score of the recipe), the same
prompts and seeds for both, so that what makes a prompt hard cancels. Samples of one prompt (several seeds)
depend on each other: the interval treats prompts as what was drawn at random, so it covers other prompts of
the same kind and other seeds (cluster-robust variance, Liang & Zeger 1986).

Differences of hits are -1, 0 or 1 and mostly 0: where no loss was seen yet, their variance is 0 and a plain
t-interval would be sure. So one prompt more, on which everything is lost, is counted in on the side that is
asked for, in the manner of Agresti & Coull (1998); for hits it costs what the "rule of three" asks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from miaobi.evaluate.intervals import Figure
from miaobi.tune.lab import Groups, Scores

ERROR = 0.01
"""Chance that a search returns a plan that breaks the bound, at most."""
SHARES = (0.6, 0.3, 0.1)
"""Share of `ERROR` of each recipe that is tested against the bound, in their order (weighted Bonferroni): the
first is the fastest, and needs the fewest samples for its proof."""
LOOKS = ((0.25, 0.1), (0.5, 0.2), (1.0, 0.7))
"""After which share of its samples a finalist may clear the bound, and the share of its error spent there."""


def look_errors(place: int = 0) -> tuple[tuple[float, float], ...]:
    """For each look at the finalist in that place, the share of the samples and the error that its one-sided
    test is allowed.
    """
    return tuple((share, ERROR * SHARES[place] * spent) for share, spent in LOOKS)


@dataclass(frozen=True)
class Loss:
    """Paired losses of a recipe and where they come from."""

    losses: Scores
    """(n,) score of the baseline minus that of the recipe."""
    groups: Groups
    """(n,) prompt of each."""
    worst: float | None
    """The most that a sample can lose; None: twice the most that any lost or won here."""

    @property
    def mean(self) -> float:
        """The loss, positive where the recipe is worse."""
        return float(self.losses.mean())

    def figure(self, error: float = 0.025) -> Figure:
        """The loss with an interval that each end of is wrong with a chance of `error`."""
        low, high = -self._end(-1, error), self._end(1, error)
        return Figure(self.mean, low, high, len(self.losses))

    def high(self, error: float) -> float:
        """What the loss is below, but for a chance of `error`."""
        return self._end(1, error)

    def chance(self, bound: float, samples: int, error: float) -> float:
        """Rough chance in [0, 1] that after so many samples (drawn anew) the interval clears the bound."""
        mean, spread, count = self._moments(1)
        needed = float(norm.ppf(1 - error)) * spread * (count / samples) ** 0.5
        return float(norm.cdf((bound - mean - needed) / max(spread, 1e-12)))

    def _end(self, sign: int, error: float) -> float:
        mean, spread, _ = self._moments(sign)
        return mean + float(t.ppf(1 - error, len(np.unique(self.groups)))) * spread

    def _moments(self, sign: int) -> tuple[float, float, int]:
        """Mean of sign * losses, its standard error and the sample count, with one lost prompt more."""
        _, group = np.unique(self.groups, return_inverse=True)
        sizes, sums = np.bincount(group), np.bincount(group, sign * self.losses)
        worst = 2 * float(np.abs(self.losses).max()) if self.worst is None else self.worst
        size = len(group) / len(sizes)
        sizes, sums = np.append(sizes, size), np.append(sums, worst * size)
        mean = float(sums.sum() / sizes.sum())
        count = len(sums)
        spread = np.sqrt(count / (count - 1) * np.square(sums - sizes * mean).sum()) / sizes.sum()
        return mean, float(spread), len(group)
