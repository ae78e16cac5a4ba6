"""What an untried recipe may cost: as if the effects of steps on log cost and on loss added up.

Those of number formats are one for each runtime. Where other steps spoil each other the guess is wrong, so
it only says what to measure next.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from miaobi.accelerate.recipe import Precision, Quantize, Recipe, Runtime, Step
from miaobi.tune.lab import Scores
from miaobi.tune.trial import Trial

_RIDGE = 0.1
"""Of the squared effects, against one squared error: steps that were never tried have none."""


class Guess:
    """Ridge regression of trials on which steps they have."""

    def __init__(self, trials: Iterable[Trial], max_loss: float) -> None:
        """Fit the trials that did not fail; losses count by their samples, five times the bound at most."""
        done = [one for one in trials if one.cost is not None and one.loss is not None]
        steps = dict.fromkeys(effect for one in done for effect in _effects(one.recipe))
        self._place = {step: number for number, step in enumerate(steps)}
        wanted = np.array(
            [(np.log(one.cost), min(one.loss.value, 5 * max_loss)) for one in done if one.cost and one.loss]
        ).reshape(-1, 2)
        rows = self._rows([one.recipe for one in done])
        samples = np.array([one.loss.count for one in done if one.loss], np.float64)
        self._cost = _fit(rows, wanted[:, 0], np.ones(len(rows)))
        self._loss = _fit(rows, wanted[:, 1], samples / max(samples.mean(), 1) if len(samples) else samples)

        self.unsure = np.sqrt(np.square(wanted - self([one.recipe for one in done])).mean(axis=0))
        """Root-mean-square errors (2,) of log cost and loss."""

    def __call__(self, recipes: Sequence[Recipe]) -> Scores:
        """Log cost and loss (len(recipes), 2)."""
        rows = self._rows(recipes)
        return np.stack([rows @ self._cost, rows @ self._loss], axis=1)

    def _rows(self, recipes: Sequence[Recipe]) -> Scores:
        rows = np.zeros((len(recipes), len(self._place) + 1))
        rows[:, -1] = 1
        for row, recipe in zip(rows, recipes, strict=True):
            row[[self._place[one] for one in _effects(recipe) if one in self._place]] = 1
        return rows


def _fit(rows: Scores, wanted: Scores, weight: Scores) -> Scores:
    """Weighted ridge regression; what all rows have in common, the last column, is not shrunk."""
    shrink = np.full(rows.shape[1], _RIDGE)
    shrink[-1] = 1e-9
    return np.asarray(np.linalg.solve((rows.T * weight) @ rows + np.diag(shrink), (rows.T * weight) @ wanted))


def _effects(recipe: Recipe) -> list[tuple[Step, ...]]:
    runtimes = [step for step in recipe if isinstance(step, Runtime)]
    return [(step, *runtimes) if isinstance(step, (Precision, Quantize)) else (step,) for step in recipe]
