"""Measuring recipes inside a budget: costs as shares of the baseline's, losses from recorded samples."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from miaobi.accelerate.recipe import Recipe
from miaobi.errors import MachineError
from miaobi.tune.bound import Loss, look_errors
from miaobi.tune.lab import Lab, Scores
from miaobi.tune.outcome import Goal
from miaobi.tune.record import Record

FIRST = 32
"""Screening samples of a recipe that is no faster than the best so far."""
ROUNDS, FINAL_ROUNDS = 3, 15
CHOOSE, CONFIRM = 0.45, 0.95
"""Shares of the budget at whose end the choice of finalists and their tests have to be done."""
_SMALL, _LARGE = 0.02, 0.05
"""Shares of the budget that one recipe's times, or its first samples, may take; and at most its first
picture."""


_MOST = 0.8
"""Share of the time for all finalists that one may take."""


class Budget:
    """Seconds that a search may take, those of its earlier runs counted in."""

    def __init__(self, total_s: float, spent_s: float, clock: Callable[[], float]) -> None:
        self.total_s, self.clock, self._began = total_s, clock, clock() - spent_s

    @property
    def elapsed_s(self) -> float:
        """Since the search began."""
        return self.clock() - self._began

    def until(self, share: float) -> float:
        """The clock at the end of a share of the budget."""
        return self._began + share * self.total_s

    def left_s(self, share: float) -> float:
        """Until the end of a share of the budget, negative after it."""
        return self.until(share) - self.clock()


class Measure:
    """A lab, what it has measured, and how much it may still take."""

    def __init__(self, lab: Lab, goal: Goal, record: Record, budget: Budget) -> None:
        self.lab, self.goal, self.record, self.budget = lab, goal, record, budget
        self.baseline_ms = 0.0
        self._chances: dict[tuple[Recipe, int, int], float] = {}

    def baseline(self) -> None:
        """Time the baseline, which costs are shares of."""
        self.baseline_ms = float(np.median(self._times([()])))
        self.record.expect((), self.baseline_ms)

    def share(self, recipe: Recipe) -> float:
        """Median share of the baseline's time over rounds in turn."""
        if not recipe:
            return 1.0
        times = self._times([(), recipe])
        share = float(np.median(times[:, 1] / times[:, 0]))
        # the baseline's picture may have to be drawn beside it
        self.record.expect(recipe, (1 + share) * self.baseline_ms)
        return share

    def _times(self, recipes: Sequence[Recipe]) -> Scores:
        """Times of `ROUNDS` rounds after a first that warms up; of that one where it took long.

        Raises:
            MachineError: a recipe's first picture took more than a twentieth of the budget.
        """
        started = self.budget.clock()
        times = self.lab.times_ms(recipes, 1)
        took = self.budget.clock() - started
        if len(recipes) > 1 and took > _LARGE * self.budget.total_s + self.baseline_ms / 1000:
            raise MachineError(f"its first picture took {took:.0f} s; give a larger --budget.")
        if took > _SMALL * self.budget.total_s / ROUNDS:
            return times
        return self.lab.times_ms(recipes, ROUNDS)

    def rounds(self, recipes: Sequence[Recipe], share: float) -> Scores:
        """Times of up to `FINAL_ROUNDS` rounds, fewer where they would take more than a share of the
        budget.
        """
        started = self.budget.clock()
        times = self.lab.times_ms(recipes, 1)
        took = max(self.budget.clock() - started, 1e-9)
        rounds = min(FINAL_ROUNDS, int(share * self.budget.total_s / took))
        return self.lab.times_ms(recipes, rounds) if rounds > 1 else times

    def soon(self) -> float:
        """When first samples have to be done: clock."""
        return self.budget.clock() + _SMALL * self.budget.total_s

    def cost(self, recipe: Recipe, share: float) -> float:
        """What is minimised: ms of a picture, or bytes."""
        if self.goal.objective == "memory":
            return float(self.lab.memory_bytes(recipe))
        if self.goal.objective == "size":
            return float(self.lab.size_bytes(recipe))
        return share * self.baseline_ms

    def first(self) -> int:
        """Samples that every recipe is given: fewer where one takes long, but two."""
        most = int(_SMALL * self.budget.total_s / max(self.baseline_ms / 1000, 1e-6))
        return max(2, min(FIRST, most, self.screening))

    @property
    def screening(self) -> int:
        """Screening samples of a recipe that may be the best: as many as a fifth of the budget pays for at
        the speed of one picture alone.
        """
        paid = 0.2 * self.budget.total_s / max(self.baseline_ms / 1000, 1e-6)
        return min(self.lab.screening, _even(paid, 2))

    def sample(self, recipe: Recipe, count: int, pool: int = 0, deadline: float = math.inf) -> int:
        """Measure samples of the baseline and of the recipe; gives how many both have."""
        base = self.record.measure((), pool, count, deadline)
        return self.record.measure(recipe, pool, base, deadline) if recipe else base

    def known(self, recipe: Recipe, pool: int = 0) -> int:
        """Samples from `pool` on that both the baseline and the recipe have."""
        return min(self.record.count((), pool), self.record.count(recipe, pool))

    def loss(self, recipe: Recipe, pool: int = 0, count: int | None = None) -> Loss:
        """Of the samples that both have, or of the first `count` of them."""
        return self.record.loss(recipe, pool, self.known(recipe, pool) if count is None else count)

    def chance(self, recipe: Recipe) -> float:
        """To clear the bound in the end, as all screening samples so far see it."""
        asked = (recipe, self.known(recipe), self.planned(recipe))
        if asked not in self._chances:
            error = look_errors()[-1][1]
            self._chances[asked] = self.loss(recipe).chance(self.goal.max_loss, asked[2], error)
        return self._chances[asked]

    def planned(self, recipe: Recipe) -> int:
        """Fresh samples of a finalist: as many as its share of the budget pays for."""
        most, pool = self.lab.samples - self.lab.screening, self.lab.screening
        own, base = self.record.seconds(recipe), self.record.seconds(())
        if own is None or base is None:
            return most
        known = self.record.count((), pool)
        # most of it: the baseline's samples, which cost the most, serve every finalist
        left = _MOST * max((CONFIRM - CHOOSE) * self.budget.total_s, self.budget.left_s(CONFIRM))
        paid = left / own if left <= known * own else known + (left - known * own) / (own + base)
        return min(most, _even(paid, 8))


def _even(count: float, least: int) -> int:
    """A number of samples that does not follow each jitter of the clock: a multiple of 32 from there on."""
    step = 32 if count >= 32 else 1
    return max(least, int(count) // step * step)
