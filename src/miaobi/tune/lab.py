"""What the search asks for, and nothing of how it is found out: a `Lab` measures recipes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from miaobi.accelerate.recipe import Recipe
from miaobi.traits import Traits

Scores = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


class Lab(Protocol):
    """Measures recipes of one pipeline; `()` is the pipeline as it is, the baseline.

    A recipe that cannot be applied or fails while it runs raises `MiaobiError`; the search writes the reason
    down and goes on.
    """

    @property
    def traits(self) -> Traits:
        """Of the baseline."""

    @property
    def digest(self) -> str:
        """Tells this model, measured with this data by this scale, from every other."""

    @property
    def scale(self) -> str:
        """What a score is, for reports."""

    @property
    def worst_loss(self) -> float | None:
        """The most that one sample can lose, such as 1 where a hit becomes a miss; None: no such limit."""

    @property
    def screening(self) -> int:
        """So many samples come first and are set aside for screening: no prompt is common to them and to
        those that follow.
        """

    @property
    def samples(self) -> int:
        """All samples there are, those for screening among them."""

    def times_ms(self, recipes: Sequence[Recipe], rounds: int) -> Scores:
        """Milliseconds of a picture (rounds, len(recipes)): in every round each recipe runs in turn, so that
        within a round they meet the same machine.
        """

    def scores(self, recipe: Recipe, first: int, count: int) -> Scores:
        """Quality (count,) of the samples from `first` on, the more the better; sample i has the same prompt
        and seed for every recipe.
        """

    def groups(self, first: int, count: int) -> Groups:
        """Which prompt each of these samples (count,) is of; those of one prompt depend on each other."""

    def memory_bytes(self, recipe: Recipe) -> int:
        """The highest resident memory of a process that loads the pipeline and draws."""

    def size_bytes(self, recipe: Recipe) -> int:
        """Bytes of all weights as they are held."""
