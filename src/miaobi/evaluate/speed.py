"""How fast pipelines draw, measured side by side: latency, throughput, first picture, memory, arithmetic.

Pipelines take turns round by round, so that what else the machine does meets them alike; ratios are of pairs
of one round.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from miaobi.errors import InputError, MachineError, MiaobiError
from miaobi.evaluate.energy import Energy
from miaobi.evaluate.intervals import Figure, bootstrap, mean_figure

Figures = dict[str, Figure]
Floats = npt.NDArray[np.float64]

_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
_THINGS = (
    *("parrot", "bicycle", "lighthouse", "rose", "train", "owl", "tractor", "key", "teapot", "guitar"),
    *("fish", "house", "boat", "mushroom", "hat", "umbrella", "butterfly", "car", "candle", "mountain"),
)
PROMPTS = tuple(
    f"a {_COLOURS[(number + turn) % len(_COLOURS)]} {thing}"
    for turn in range(len(_COLOURS))
    for number, thing in enumerate(_THINGS)
)
"""160 things of one colour each; enough for no two rounds of most measurements to share a prompt."""
BATCHES = (1, 2, 4, 8, 16)


class Draws(Protocol):
    """Anything that draws as `Pipeline.generate` does."""

    def generate(self, prompt: str, n: int = 1, seed: int | None = None) -> Any:
        """Draw `n` pictures of the prompt with seeds `seed`, `seed + 1`, …"""


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each call, (rounds,) for each pipeline; all made the same pictures round by round."""

    ms: Mapping[str, Floats]
    joules: Mapping[str, Floats]
    """Energy of each call; no entries where the machine does not tell."""
    pictures: int = 1
    """Pictures of one call."""

    def latency(self, name: str) -> Figures:
        """Median and 95th percentile of a call."""
        return {
            "p50_ms": bootstrap(lambda x: float(np.median(x)), self.ms[name]),
            "p95_ms": bootstrap(lambda x: float(np.quantile(x, 0.95)), self.ms[name]),
        }

    def throughput(self, name: str) -> Figure:
        """Pictures a second, all rounds together."""
        return bootstrap(lambda x: self.pictures * 1000 / float(np.mean(x)), self.ms[name])

    def energy(self, name: str) -> Figure | None:
        """Joules of a picture, or None where the machine does not tell."""
        return mean_figure(self.joules[name] / self.pictures) if name in self.joules else None

    def ratio(self, name: str, baseline: str) -> Figure:
        """How many times the baseline's time a call takes: the median of the rounds' ratios."""
        return bootstrap(lambda x: float(np.median(x)), self.ms[name] / self.ms[baseline])

    def speedup(self, name: str, baseline: str) -> Figure:
        """How many times as fast as the baseline: the median of the rounds' ratios; above 1: faster."""
        return bootstrap(lambda x: float(np.median(x)), self.ms[baseline] / self.ms[name])


def take_turns(
    pipelines: Mapping[str, Draws],
    rounds: int,
    *,
    warm_up: int = 2,
    pictures: int = 1,
    prompts: Sequence[str] = PROMPTS,
    energy: Energy | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Timings:
    """Let each pipeline draw once a round, prompts and seeds other in every round; orders alternate.

    Args:
        pipelines: by name.
        rounds: 2 or more; `warm_up` further ones before are not timed.
        pictures: drawn together by one call.
        energy: counters to read around each call.
        on_round: called with the number of each timed round that is done.

    Raises:
        InputError: there are fewer than 2 rounds or no prompts.
    """
    if rounds < 2 or not prompts:
        raise InputError(
            f"{rounds} rounds of {len(prompts)} prompts given; give 2 or more rounds and a prompt."
        )
    counters = energy if energy is not None and energy.packages else None
    ms: dict[str, list[float]] = {name: [] for name in pipelines}
    joules: dict[str, list[float]] = {name: [] for name in pipelines} if counters else {}
    order = list(pipelines)
    for number in range(-warm_up, rounds):
        prompt = prompts[number % len(prompts)]
        for name in order:
            before = counters.read() if counters else []
            started = time.perf_counter()
            pipelines[name].generate(prompt, pictures, seed=(number + warm_up) * pictures)
            passed = (time.perf_counter() - started) * 1000
            if number >= 0:
                ms[name].append(passed)
                if counters:
                    joules[name].append(counters.joules_since(before))
        order.reverse()
        if on_round and number >= 0:
            on_round(number + 1)
    return Timings(
        {name: np.array(one) for name, one in ms.items()},
        {name: np.array(one) for name, one in joules.items()},
        pictures,
    )


def throughput(
    pipelines: Mapping[str, Draws],
    batches: Sequence[int] = BATCHES,
    *,
    rounds: int = 3,
    prompts: Sequence[str] = PROMPTS,
) -> tuple[dict[int, Timings], str]:
    """Timings of growing batches, up to the first that the machine cannot draw, and what it failed with."""
    found: dict[int, Timings] = {}
    for size in sorted(batches):
        try:
            found[size] = take_turns(pipelines, rounds, warm_up=1, pictures=size, prompts=prompts)
        except (MiaobiError, MemoryError) as error:
            return found, f"{size} pictures together failed: {error or 'out of memory'}"
    return found, ""


@dataclass(frozen=True)
class Fresh:
    """What one new process needed for its first picture."""

    first_picture_ms: float
    """From the process's start: Python, imports, loading, the recipe, drawing."""
    load_ms: float
    apply_ms: float
    """Of the recipe; 0 where there is none."""
    draw_ms: float
    peak_memory_bytes: int
    resident_bytes: int
    """Memory of the loaded pipeline before it draws."""


def in_fresh_process(
    model: str | None,
    recipe: str = "",
    *,
    threads: int | None = None,
    device: str = "cpu",
    prompt: str = PROMPTS[0],
) -> Fresh:
    """Load a model, apply a recipe (TOML text) and draw one picture in a process of its own.

    Raises:
        MachineError: that process failed; the message has its last line.
    """
    asked = {"model": model, "recipe": recipe, "threads": threads, "device": device, "prompt": prompt}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "miaobi.evaluate.fresh", json.dumps(asked)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as child:
            assert child.stdout is not None
            line, passed = "", 0.0
            for told in child.stdout:  # the last line; libraries may have written before it
                line = told
                passed = (time.perf_counter() - started) * 1000
        if child.returncode or not line:
            errors.seek(0)
            said = [one.strip() for one in errors if one.strip()]
            raise MachineError(f"a new process could not draw: {said[-1] if said else child.returncode}")
    return Fresh(first_picture_ms=passed, **json.loads(line))


def in_fresh_processes(count: int, *asked: Any, **named: Any) -> list[Fresh]:
    """`in_fresh_process` so many times, after one that only brings files into the page cache and leaves what
    a recipe keeps for later (graphs made once).
    """
    prompts = [PROMPTS[-1 - number] for number in range(count + 1)] if count else []
    return [in_fresh_process(*asked, **named, prompt=prompt) for prompt in prompts][1:]


def first_pictures(runs: Sequence[Fresh]) -> Figures:
    """Means of what new processes needed, in ms and MB."""
    columns: dict[str, list[float]] = {
        "first_picture_ms": [one.first_picture_ms for one in runs],
        "load_ms": [one.load_ms for one in runs],
        "apply_ms": [one.apply_ms for one in runs],
        "peak_memory_mb": [one.peak_memory_bytes / 1e6 for one in runs],
        "loaded_memory_mb": [one.resident_bytes / 1e6 for one in runs],
    }
    return {name: mean_figure(np.array(column)) for name, column in columns.items()}


def size_on_disk(model: str | None) -> int | None:
    """Bytes of a model's files: those that a bundle lists, or all of a folder; None for a hub's id."""
    from miaobi.bundle import MANIFEST, SHIPPED, Bundle

    folder = SHIPPED if model is None else Path(model)
    if (folder / MANIFEST).exists():
        return sum(int(one["bytes"]) for one in Bundle.load(folder).files.values())
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def weights_bytes(pipe: Any) -> int | None:
    """Bytes of a pipeline's weights as it holds them, or None where it does not tell."""
    if hasattr(pipe, "bundle"):
        return sum(int(one["bytes"]) for one in pipe.bundle.files.values())
    told: int | None = getattr(pipe, "model_bytes", None)
    return told
