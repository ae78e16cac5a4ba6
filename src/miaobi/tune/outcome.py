"""What is asked of a search, and what it gives back."""

from dataclasses import dataclass
from typing import Any

from miaobi.accelerate.recipe import Recipe, from_tables, to_tables
from miaobi.evaluate.intervals import Figure
from miaobi.tune.space import Objective
from miaobi.tune.trial import Trial


@dataclass(frozen=True)
class Goal:
    """What is asked of a search."""

    objective: Objective = "latency"
    max_loss: float = 0.02
    """Of the scores' mean, in their own unit: 0.02 of hits are two points of R-precision."""
    budget_s: float = 600.0
    seed: int = 0


@dataclass(frozen=True)
class Finalist:
    """A recipe that is tested against the bound."""

    recipe: Recipe
    samples: int
    """Planned; the looks are shares of them."""
    verdict: str = "open"
    """"open", "cleared" or "dropped"."""
    loss: Figure | None = None
    """With the interval that was tested, at its confidence."""
    confidence: float = 0.95
    """Of the interval."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON keeps."""
        loss = self.loss.__dict__ if self.loss else None
        return self.__dict__ | {"recipe": to_tables(self.recipe), "loss": loss}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finalist":
        """The reverse of `to_json`."""
        loss = Figure(**values["loss"]) if values["loss"] else None
        return cls(**(values | {"recipe": from_tables(values["recipe"]), "loss": loss}))


@dataclass(frozen=True)
class Outcome:
    """What a search found; `recipe` is the baseline's, (), where nothing cleared the bound."""

    recipe: Recipe
    reason: str
    """Why it is this one."""
    goal: Goal
    trials: list[Trial]
    finalists: list[Finalist]
    picture_ms: Figure | None = None
    baseline_ms: Figure | None = None
    speedup: Figure | None = None
    """Paired ratios of the baseline's time to the plan's."""
    score: Figure | None = None
    baseline_score: Figure | None = None
    elapsed_s: float = 0.0

    @property
    def finalist(self) -> Finalist | None:
        """The one that the plan is."""
        return next((one for one in self.finalists if self.recipe and one.recipe == self.recipe), None)


@dataclass(frozen=True)
class Progress:
    """What is going on, for whoever waits."""

    trials: int
    failed: int
    best: Trial | None
    doing: str
    left_s: float
