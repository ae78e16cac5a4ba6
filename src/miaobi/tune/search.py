"""The search: screen many recipes on few samples, then prove the fastest that may pass on fresh ones.

Many recipes are looked at, and the one that looks best has been lucky more often than not. So nothing that
chose a recipe proves it: screening has samples and prompts of its own, and may use them as it likes; the
finalists it chooses are then tested on others, at most three of them and each at three looks planned before,
which share one error of 1 % (Bonferroni, `bound.SHARES`). So the chance that a search returns a plan whose
true loss is above the bound is at most 1 %, however many recipes it tried. Tests without a correction, or
on the samples of screening, would have no such limit; a correction for all recipes tried, on common samples,
would need about twice as many of them for a hundred trials.

The fastest finalist is tested first, and the first that clears the bound is the plan. Times are shares of
the baseline's, measured in turn in the same rounds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from miaobi.accelerate.recipe import Recipe
from miaobi.errors import MachineError, MiaobiError
from miaobi.evaluate.intervals import Figure, bootstrap, mean_figure
from miaobi.tune.confirm import DESPAIR, Finals
from miaobi.tune.guess import Guess
from miaobi.tune.lab import Lab, Scores
from miaobi.tune.measure import CHOOSE, CONFIRM, Budget, Measure
from miaobi.tune.outcome import Finalist, Goal, Outcome, Progress
from miaobi.tune.record import Record
from miaobi.tune.space import Space
from miaobi.tune.study import Study
from miaobi.tune.trial import Origin, Trial

SCREEN = 0.4
"""Share of the budget at whose end screening has to be done."""
SHORTLIST = 6
"""Recipes whose times are measured again in turn, of which the finalists are the first."""
PATIENCE = 200
"""Trials without a new best after which screening is done."""
CHANGES, PROMISING = 3, 32
"""Changes from the best recipe to one that is tried next, and how many are gone on from after each."""
HOPE = 0.25
"""Chance to clear the bound from which a recipe may become a finalist."""
FASTER = 0.98
"""Share of the baseline's cost that a plan has to be below: less is within the noise."""


class Search:
    """One run of a search; what it needs after a stop is in the study and the record."""

    def __init__(
        self,
        lab: Lab,
        space: Space,
        goal: Goal,
        folder: Path,
        *,
        resume: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Open the folder's journal and record.

        Args:
            clock: seconds that the budget is counted in.
            on_progress: called after every trial and look.

        Raises:
            InputError: the folder holds a search and `resume` is false, or one of another model or goal.
            MachineError: the journal cannot be read or written, or Optuna is not installed.
        """
        settings = {
            "digest": lab.digest,
            "objective": goal.objective,
            "max_loss": goal.max_loss,
            "seed": goal.seed,
        }
        self._space, self._goal, self._on_progress = space, goal, on_progress
        self._study = Study(space, folder, settings, resume)
        spent = max([0.0, *(one.elapsed_s for one in self._study.trials)], default=0.0)
        spent = max(spent, float(self._study.noted("elapsed_s", 0.0)))
        self._budget = Budget(goal.budget_s, spent, clock)
        self._measure = Measure(
            lab, goal, Record(lab, folder, clock, max(1.0, goal.budget_s / 60)), self._budget
        )
        self._finals = Finals(self._measure, self._study, self._tell)

    def run(self) -> Outcome:
        """Search until the budget is used or the best is proved.

        Raises:
            MiaobiError: the baseline itself cannot be measured.
        """
        self._tell("measuring the baseline")
        self._measure.baseline()
        self._screen()
        self._tell("choosing finalists")
        shortlist = self._shortlist()
        earlier = [one.recipe for one in self._finals.finalists if one.recipe not in shortlist]
        chosen = next((one for one in (*shortlist, *earlier) if self._finals.cleared(one)), ())
        self._tell("measuring the plan's speed")
        outcome = self._outcome(chosen)
        self._study.note("elapsed_s", self._budget.elapsed_s)
        return outcome

    def _tell(self, doing: str) -> None:
        if self._on_progress:
            trials = self._study.trials
            failed = sum(one.failure is not None for one in trials)
            left_s = max(0.0, self._budget.left_s(1.0))
            self._on_progress(Progress(len(trials), failed, self._best(), doing, left_s))

    # Screening

    def _screen(self) -> None:
        starts = self._space.starts()
        waited, best = 0, self._best()
        while waited <= PATIENCE and (self._budget.left_s(SCREEN) > 0 or () not in self._study.known):
            known, barred = self._study.known, self._study.barred
            recipe = next((one for one in starts if one not in known and barred.isdisjoint(one)), None)
            origin: Origin = "start"
            if recipe is None and waited % 3:
                recipe, origin = self._near(waited / PATIENCE), "neighbour"
            if recipe is not None:
                self._study.begin(recipe)
            else:
                recipe, origin = self._study.suggest(), "suggested"
            if recipe is None:
                return  # all that is suggested is known
            self._study.finish(self._trial(recipe, origin))
            self._tell("screening")
            found = self._best()
            waited = 0 if found != best or origin == "start" else waited + 1
            best = found

    def _near(self, patience: float) -> Recipe | None:
        """An untried recipe that is guessed to be the cheapest whose loss keeps the bound: of those a few
        changes away from the best, going on from the most promising (after SMAC, Hutter et al. 2011).

        Guesses vary with how unsure they are (after Thompson 1933), and the more, the longer nothing better
        was found: `patience` in [0, 1] is how much of it is used up.
        """
        best, known, barred = self._best(), self._study.known, self._study.barred
        guess = Guess(self._study.trials, self._goal.max_loss)
        rng = np.random.default_rng([self._goal.seed, len(known)])
        costs: dict[Recipe, float] = {}
        promising = [best.recipe if best else ()]
        for _ in range(CHANGES):
            near = [two for one in promising for two in self._space.neighbours(one, barred)]
            near = [one for one in dict.fromkeys(near) if one not in costs]
            if not near:
                break
            guessed = guess(near)
            guessed += (0.3 + patience) * guess.unsure * rng.standard_normal(guessed.shape)
            kept = guessed[:, 1] <= self._goal.max_loss
            costs |= zip(near, np.where(kept, guessed[:, 0], np.inf).tolist(), strict=True)
            promising = sorted(costs, key=costs.__getitem__)[:PROMISING]
        fresh = [one for one, cost in costs.items() if one not in known and cost < math.inf]
        return min(fresh, key=costs.__getitem__, default=None)

    def _trial(self, recipe: Recipe, origin: Origin) -> Trial:
        """Measure a recipe: its cost, and its loss on as many samples as it is worth."""
        measure, best = self._measure, self._best()
        try:
            share = measure.share(recipe)
            cost = measure.cost(recipe, share)
            count = measure.sample(recipe, measure.first(), deadline=measure.soon() if recipe else math.inf)
            if recipe and (best is None or cost < (best.cost or 0)):
                self._look_closer(recipe, count, SCREEN)
            loss = measure.loss(recipe).figure()
        except MiaobiError as error:
            if not recipe:
                raise MachineError(f"the model as it is cannot be measured: {error}") from error
            return Trial(recipe, origin, failure=str(error), elapsed_s=self._budget.elapsed_s)
        ms = share * measure.baseline_ms
        return Trial(recipe, origin, cost, ms, loss, None, self._budget.elapsed_s)

    def _look_closer(self, recipe: Recipe, count: int, share: float) -> None:
        """Add screening samples while there is a chance, and time."""
        most = self._measure.screening
        while count < most and self._measure.chance(recipe) >= DESPAIR and self._budget.left_s(share) > 0:
            count = self._measure.sample(recipe, min(2 * count, most), 0, self._budget.until(share))

    def _best(self) -> Trial | None:
        """The cheapest trial that screening gives a chance, on all its samples."""
        measure = self._measure
        seen = (one for one in self._cheaper() if measure.known(one.recipe) >= measure.screening)
        return next((one for one in seen if measure.chance(one.recipe) >= HOPE), None)

    def _cheaper(self) -> list[Trial]:
        """Trials that did not fail and are cheaper than the baseline, the cheapest first."""
        base = self._study.known.get(())
        limit = FASTER * base.cost if base and base.cost else math.inf
        done = [(one.cost, number, one) for number, one in enumerate(self._study.trials) if one.cost]
        return [one for cost, _, one in sorted(done) if one.recipe and cost < limit]

    # Finalists

    def _shortlist(self) -> list[Recipe]:
        """The cheapest recipes that may pass, in the order of times measured again in turn."""
        hopeful: list[Recipe] = []
        for one in self._cheaper():
            if len(hopeful) == SHORTLIST:
                break
            # without time left, by the samples that there are
            self._look_closer(one.recipe, self._measure.known(one.recipe), CHOOSE)
            if self._measure.chance(one.recipe) >= HOPE:
                hopeful.append(one.recipe)
        if len(hopeful) < 2 or self._goal.objective in ("memory", "size"):
            return hopeful
        times = self._measure.rounds(hopeful, (CONFIRM - CHOOSE) / 4)
        order = np.argsort(np.median(times / times.mean(axis=1, keepdims=True), axis=0))
        return [hopeful[number] for number in order]

    # The end

    def _outcome(self, recipe: Recipe) -> Outcome:
        measure, finalists = self._measure, self._finals.finalists
        times = measure.rounds([(), recipe] if recipe else [()], 1 - CONFIRM)
        pool = measure.lab.screening if recipe else 0
        count = measure.known(recipe, pool)
        return Outcome(
            recipe,
            self._reason(recipe, finalists),
            self._goal,
            list(self._study.trials),
            finalists,
            _median(times[:, -1]),
            _median(times[:, 0]),
            _median(times[:, 0] / times[:, -1]),
            self._score(recipe, pool, count),
            self._score((), pool, count),
            self._budget.elapsed_s,
        )

    def _score(self, recipe: Recipe, pool: int, count: int) -> Figure:
        scores = self._measure.record.scores(recipe, pool, count)
        _, group = np.unique(self._measure.lab.groups(pool, count), return_inverse=True)
        prompts = np.bincount(group, scores) / np.bincount(group)
        return replace(mean_figure(prompts), value=float(scores.mean()), count=count)

    def _reason(self, recipe: Recipe, finalists: list[Finalist]) -> str:
        tried = [one for one in self._study.trials if one.recipe]
        failed = [one for one in tried if one.failure]
        bound = f"{self._goal.max_loss:g}"
        if recipe:
            return f"its loss is below {bound}, and no cheaper finalist's was shown to be."
        if not tried:
            return "no recipe was tried; give a larger --budget, or a student to exchange the model for."
        if len(failed) == len(tried):
            return f"all {len(tried)} recipes failed, the last because {failed[-1].failure}"
        if not self._cheaper():
            return f"none of {len(tried)} recipes was cheaper than the model as it is."
        if not finalists:
            return f"none of {len(tried)} recipes looked as if its loss could be shown to be below {bound}."
        if any(one.verdict == "open" for one in finalists):
            return f"the budget ended before a loss below {bound} was shown; --resume with a larger one."
        return f"{len(finalists)} finalists were tested on fresh samples; none showed a loss below {bound}."


def _median(times: Scores) -> Figure:
    return bootstrap(lambda one: float(np.median(one)), times)
