"""What was measured of pairs of steps (docs/composition.md), as data that `check` reads."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from miaobi.accelerate.recipe import Step
from miaobi.traits import Traits

TABLE = Path(__file__).parent / "composition.json"


@cache
def table() -> list[dict[str, Any]]:
    """Rows with "kind", "backbone", "runtime" and "device" of the pipeline, "first" and "second" (names of
    steps, "first" null for a step alone), "verdict" (helps, no effect, hurts) and "reason".
    """
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text("utf-8"))["rows"]
    return rows


def measured(traits: Traits, before: Sequence[Step], step: Step) -> str | None:
    """Why `step` after the steps `before` was measured to be worth nothing, or None."""
    names = {None, *(one.name for one in before)}
    for row in table():
        alike = (row["kind"], row["backbone"], row["device"]) == (traits.kind, traits.backbone, traits.device)
        same_runtime = row["runtime"] in (None, traits.runtime)
        if (
            alike
            and same_runtime
            and row["second"] == step.name
            and row["first"] in names
            and row["verdict"] == "hurts"
        ):
            return str(row["reason"])
    return None
