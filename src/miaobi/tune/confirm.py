"""Testing finalists against the bound, on samples that had no part in choosing them."""

from collections.abc import Callable
from dataclasses import replace

from miaobi.accelerate.recipe import Recipe
from miaobi.errors import MiaobiError
from miaobi.tune.bound import SHARES, look_errors
from miaobi.tune.measure import CONFIRM, Measure
from miaobi.tune.outcome import Finalist
from miaobi.tune.study import Study

DESPAIR = 0.05
"""Chance to clear the bound under which no sample more is spent on a recipe."""


class Finals:
    """The finalists of a search, kept in its journal: a verdict stands, also after a stop."""

    def __init__(self, measure: Measure, study: Study, tell: Callable[[str], None]) -> None:
        self._measure, self._study, self._tell = measure, study, tell

    @property
    def finalists(self) -> list[Finalist]:
        """In the order in which they were tested."""
        return [Finalist.from_json(one) for one in self._study.noted("finalists", [])]

    def cleared(self, recipe: Recipe) -> bool:
        """Test a recipe against the bound, or read its verdict; whether it clears it.

        False also where others have had all of `SHARES`, or the budget ends: a finalist that is left open
        goes on when the search is resumed with a larger budget.
        """
        finalists = self.finalists
        place = next((i for i, one in enumerate(finalists) if one.recipe == recipe), len(finalists))
        if place == len(finalists):
            if place >= len(SHARES) or self._measure.budget.left_s(CONFIRM) <= 0:
                return False
            finalists.append(Finalist(recipe, self._measure.planned(recipe)))
            self._keep(finalists)
        looks = look_errors(place)
        for share, error in looks:
            if finalists[place].verdict != "open":
                break
            wanted = max(2, round(share * finalists[place].samples))
            self._tell(f"finalist {place + 1} of at most {len(SHARES)}, {wanted} samples")
            looked = self._look(finalists[place], wanted, error, looks[-1][1])
            if looked is None:
                break
            finalists[place] = looked
            self._keep(finalists)
        return finalists[place].verdict == "cleared"

    def _look(self, finalist: Finalist, wanted: int, error: float, final: float) -> Finalist | None:
        """The finalist after a look with that error, `final` being that of the last; None: out of time."""
        measure, pool = self._measure, self._measure.lab.screening
        bound = measure.goal.max_loss
        try:
            if measure.sample(finalist.recipe, wanted, pool, measure.budget.until(CONFIRM)) < wanted:
                return None
        except MiaobiError:
            return replace(finalist, verdict="dropped")
        loss = measure.loss(finalist.recipe, pool, wanted)
        hopeless = error == final or loss.chance(bound, finalist.samples, final) < DESPAIR
        verdict = "cleared" if loss.high(error) < bound else "dropped" if hopeless else "open"
        return replace(finalist, verdict=verdict, loss=loss.figure(error), confidence=1 - 2 * error)

    def _keep(self, finalists: list[Finalist]) -> None:
        self._study.note("finalists", [one.to_json() for one in finalists])
