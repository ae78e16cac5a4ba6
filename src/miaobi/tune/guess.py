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
        """Fit the trials that did not fail; losses count as at most five times the bound."""
        done = [one for one in trials if one.cost is not None and one.loss is not None]
        steps = dict.fromkeys(effect for one in done for effect in _effects(one.recipe))
        self._place = {step: number for number, step in enumerate(steps)}
        wanted = np.array(
            [(np.log(one.cost), min(one.loss.value, 5 * max_loss)) for one in done if one.cost and one.loss]
        ).reshape(-1, 2)
        known = self._rows([one.recipe for one in done])
        weights = known.T @ known + _RIDGE * np.eye(known.shape[1])
        weights[-1, -1] -= _RIDGE * (1 - 1e-6)  # what all have in common is not shrunk
        self._effects = np.linalg.solve(weights, known.T @ wanted)

    def __call__(self, recipes: Sequence[Recipe]) -> Scores:
        """Log cost and loss (len(recipes), 2)."""
        return np.asarray(self._rows(recipes) @ self._effects)

    def _rows(self, recipes: Sequence[Recipe]) -> Scores:
        rows = np.zeros((len(recipes), len(self._place) + 1))
        rows[:, -1] = 1
        for row, recipe in zip(rows, recipes, strict=True):
            row[[self._place[one] for one in _effects(recipe) if one in self._place]] = 1
        return rows


def _effects(recipe: Recipe) -> list[tuple[Step, ...]]:
    runtimes = [step for step in recipe if isinstance(step, Runtime)]
    return [(step, *runtimes) if isinstance(step, (Precision, Quantize)) else (step,) for step in recipe]
