"""One measured recipe: what is written down of it, and read back after a stop."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from miaobi.accelerate.recipe import Recipe, describe, from_tables, to_tables
from miaobi.evaluate.intervals import Figure

Origin = Literal["start", "suggested", "neighbour"]


@dataclass(frozen=True)
class Trial:
    """A recipe as screening found it."""

    recipe: Recipe
    origin: Origin
    cost: float | None = None
    """What is minimised: ms of a picture, or bytes; None where it failed."""
    picture_ms: float | None = None
    """Its share of the baseline's time in the same rounds, times the baseline's."""
    loss: Figure | None = None
    """Of the screening samples."""
    failure: str | None = None
    """The reason, where the recipe could not be applied or run."""
    elapsed_s: float = 0.0
    """Of the budget, when it was done."""

    def __str__(self) -> str:
        return describe(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON keeps."""
        return asdict(self) | {"recipe": to_tables(self.recipe)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Trial":
        """The reverse of `to_json`."""
        loss = values["loss"]
        made = {"recipe": from_tables(values["recipe"]), "loss": Figure(**loss) if loss else None}
        return cls(**(values | made))
