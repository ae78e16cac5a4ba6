"""What was measured of pairs of steps (docs/composition.md), as data that `check` reads.

`benchmarks/composition.py` writes it. A row holds for machines with the same deciding CPU features and about
as many CPUs, and for models of the same build and about the same size; elsewhere nothing is known, and
nothing is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from miaobi import machine
from miaobi.accelerate.recipe import (
    Distill,
    Precision,
    Prune,
    Quantize,
    Recipe,
    ShareLayers,
    Step,
    TinyDecoder,
    describe,
    from_tables,
)
from miaobi.traits import Traits

TABLE = Path(__file__).parent / "composition.json"
FORMAT = 2
Verdict = Literal["helps", "no effect", "hurts", "unclear"]
_ALIKE = 0.03
"""Ratios this near to 1 are no effect."""
_ABOUT_PARAMETERS, _ABOUT_CPUS = 3.0, 1.5
"""Models and machines at most so many times larger or smaller are alike."""
_SMALLER = (Distill, Precision, Prune, Quantize, ShareLayers, TinyDecoder)
"""Steps that make a model smaller, and are worth it though they leave it as fast as it was."""


def verdict(low: float, high: float) -> Verdict:
    """What an interval of (time with the step) / (time without it) says; "unclear" where it is too wide."""
    if low >= 1 - _ALIKE and high <= 1 + _ALIKE:
        return "no effect"
    if high < 1:
        return "helps"
    return "hurts" if low > 1 else "unclear"


@dataclass(frozen=True)
class Row:
    """A step measured after another one, or alone."""

    first: Step | None
    second: Step
    runtime: str
    """Where the second step ran."""
    verdict: Verdict
    ratio: float
    """Time with the second step / time without it; `low` to `high` is its 95 % interval of `count` rounds."""
    low: float
    high: float
    count: int

    @property
    def reason(self) -> str:
        """Why it is not worth it."""
        after = f"after {describe((self.first,))}" if self.first else "alone"
        span = f"({self.low:.2f}-{self.high:.2f}, n={self.count})"
        if self.verdict == "hurts":
            return f"measured {self.ratio:.2f} x slower {span} {after} on a machine like this one."
        return (
            f"measured to do nothing, {self.ratio:.2f} x the time {span}, {after} on a machine like this one."
        )


@dataclass(frozen=True)
class Group:
    """Rows of one model on one machine."""

    kind: str
    family: str
    backbone: str
    device: str
    size_px: int
    parameters: int
    features: frozenset[str]
    """Deciding CPU features of the machine."""
    cpus: int
    rows: tuple[Row, ...]

    def fits(self, traits: Traits) -> bool:
        """Whether these rows hold for such a model on this machine."""
        mine, theirs = (
            (one.kind, one.family, one.backbone, one.device, one.size_px) for one in (self, traits)
        )
        return (
            mine == theirs
            and bool(self.features)
            and self.features == machine.cpu_features()
            and _about(self.cpus, machine.cpus(), _ABOUT_CPUS)
            and _about(self.parameters, traits.parameters, _ABOUT_PARAMETERS)
        )


def _about(a: float, b: float, times: float) -> bool:
    return a == b or (min(a, b) > 0 and max(a, b) / min(a, b) <= times)


@cache
def groups(path: Path = TABLE) -> tuple[Group, ...]:
    """All that was measured."""
    content = json.loads(path.read_text("utf-8"))
    return tuple(
        Group(
            **one["model"],
            features=frozenset(one["machine"]["features"]),
            cpus=one["machine"]["cpus"],
            rows=tuple(_row(*row) for row in one["rows"]),
        )
        for one in content["measured"]
    )


def _row(first: object, second: object, runtime: str, told: Verdict, *numbers: float) -> Row:
    ratio, low, high, count = numbers
    one: Recipe = from_tables([first]) if first else ()
    return Row(one[0] if one else None, from_tables([second])[0], runtime, told, ratio, low, high, int(count))


def measured_reason(traits: Traits, before: Sequence[Step], step: Step) -> str | None:
    """Why `step` after the steps `before` was measured to be worth nothing, or None.

    Rows of the step after one of those before count; where there are none, its row alone. One that helped is
    enough for no objection. The figures told are those of the model nearest in size.
    """
    alike = [one for one in groups() if one.fits(traits)]
    about = [
        row
        for group in sorted(alike, key=lambda one: abs(one.parameters - traits.parameters))
        for row in group.rows
        if row.second == step and row.runtime == traits.runtime
    ]
    rows = [row for row in about if row.first in before] or [row for row in about if row.first is None]
    if any(row.verdict in ("helps", "unclear") for row in rows):
        return None
    wrong = ("hurts",) if isinstance(step, _SMALLER) else ("hurts", "no effect")
    return next((row.reason for row in rows if row.verdict in wrong), None)
