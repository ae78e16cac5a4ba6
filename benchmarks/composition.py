"""Every step of a recipe alone, and every pair of them: which helps, does nothing, hurts or is refused.

    python benchmarks/composition.py [-m MODEL ...] [--journal runs/composition]

A pair is checked first (without what was measured earlier); a legal one is applied, and draws in turns with
the pipeline that has its first step alone: time ratio with its 95 % interval, and PSNR of its pictures to
that pipeline's, same prompts and seeds. Helps: the interval is wholly below 1; hurts: wholly above; no
effect: within 3 % of 1; unclear: too wide to tell. With Batch the time is that of a picture in such batches.
What trains (Distill, fine-tuning) and what needs another model's files (TinyDecoder) is left out; pruned and
shared weights are not fine-tuned here, so that their PSNR is a floor. Random weights show speed and
closeness, nothing about looks.

Each pair goes into a journal as it is measured, and a killed run goes on there (delete it to measure anew).
At the end docs/composition.md and the data that `check` reads are written from the journals, what the data
knew of other models and machines staying in them; then one line of JSON.
"""

import gc
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from composition_page import page
from miaobi import machine
from miaobi.accelerate.composition import FORMAT, TABLE, verdict
from miaobi.accelerate.recipe import (
    Batch,
    Cache,
    ChannelsLast,
    Compile,
    Guidance,
    MergeTokens,
    Precision,
    Prune,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Sampler,
    ShareLayers,
    Step,
    Steps,
    Threads,
    to_tables,
)
from miaobi.accelerate.rules import check
from miaobi.accelerate.transform import apply
from miaobi.evaluate.speed import PROMPTS, take_turns
from miaobi.traits import RUNTIMES, Traits

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "composition.md"
PACKAGES = ("diffusers", "nncf", "onnxruntime", "openvino", "torch", "torchao", "transformers")
METHODS = get_args(Quantize.__annotations__["method"])
TEXTS = PROMPTS[:4]
Line = dict[str, Any]


def candidates(traits: Traits) -> list[Step]:
    """The steps that are tried, legal or not, in the order of recipes."""
    samplers = [Sampler(one) for one in traits.samplers if one != traits.sampler][:1]
    guided = [Guidance(1.0), Guidance(traits.guidance, 0.0, 0.5)] if traits.guided else []
    return [
        *(Prune(0.5, "unstructured"), Prune(0.3, "structured"), ShareLayers(2)),
        *(Steps(max(1, traits.steps // 2)), *samplers, *guided),
        *(Cache("deep"), Cache("first-block"), MergeTokens(0.5)),
        *(Runtime(one) for one in RUNTIMES if one != traits.runtime),
        *(Precision("float16"), Precision("bfloat16"), Precision("bfloat16", "decoder")),
        *(Quantize(method) for method in METHODS),
        *(ChannelsLast(), Compile(), Threads(1), Batch(16 if traits.batch == 8 else 8)),
    ]


def pairs(steps: list[Step]) -> Iterator[tuple[Step | None, Step]]:
    """Each step alone, then after each that may stand before it; steps of one kind are no pair."""
    for first in (None, *steps):
        for second in steps:
            if first is None or (type(first) is not type(second) and first.stage <= second.stage):
                yield first, second


@dataclass
class Bench:
    """Measures the pairs of one pipeline; the pipeline with a pair's first step is kept for the next pair."""

    pipe: Any
    rounds: int
    pictures: int
    """For PSNR."""
    first: Step | None = None
    changed: Any = None

    def measure(self, first: Step | None, second: Step) -> Line:
        """A line of the journal."""
        before: Recipe = () if first is None else (first,)
        line = {"first": to_tables(before)[0] if before else None, "second": to_tables((second,))[0]}
        try:
            between = check(self.pipe.traits, before, measured=False)
            check(self.pipe.traits, (*before, second), measured=False)
        except RecipeError as error:
            return line | {"verdict": "refused", "reason": reason(error, self.pipe.traits.model)}
        try:
            return line | {"runtime": between.runtime} | self._timed(first, second)
        except RecipeError as error:  # what only the transform itself can tell
            return line | {"verdict": "refused", "reason": reason(error, self.pipe.traits.model)}
        except Exception as error:  # a tool's own error is what is to be shown here
            told = (str(error).strip().splitlines() or [""])[0]
            return line | {"verdict": "failed", "reason": f"{type(error).__name__}: {told}"[:300]}

    def _timed(self, first: Step | None, second: Step) -> Line:
        if first is None:
            base = self.pipe
        else:
            if first != self.first or self.changed is None:
                self.first, self.changed = first, None
                gc.collect()
                self.changed = apply(self.pipe, (first,), measured=False)
            base = self.changed
        before = () if first is None else (first,)
        after = apply(self.pipe, (*before, second), measured=False)
        together = max([1, *(step.size for step in (*before, second) if isinstance(step, Batch))])
        timings = take_turns(
            {"without": base, "with": after},
            self.rounds,
            warm_up=len(TEXTS),  # graphs may be made for each length of a text
            pictures=together,
            prompts=TEXTS,
        )
        ratio = timings.ratio("with", "without")
        found = {
            "verdict": verdict(ratio.low, ratio.high),
            "ratio": round(ratio.value, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4),
            "count": ratio.count,
            "ms": round(float(np.median(timings.ms["with"])) / together, 2),
        }
        return found | {"psnr_db": round(closeness(base, after, self.pictures), 1), "pictures": self.pictures}


def closeness(reference: Any, changed: Any, count: int) -> float:
    """Mean PSNR (dB, at most 100) of `count` pictures to the reference's."""
    from miaobi.evaluate.fidelity import fidelity

    return fidelity(reference, changed, count, TEXTS, features=False)["psnr_db"].value


def reason(error: RecipeError, model: str) -> str:
    """Why `check` refused, without the model's name."""
    return re.sub(r"\s+", " ", str(error).removeprefix(f"{model} cannot be changed so. "))


def about(pipe: Any, name: str) -> Line:
    """The first line of a journal: the model, the machine and the packages."""
    traits, versions = pipe.traits, {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    keys = ("kind", "family", "backbone", "device", "size_px", "parameters")
    return {
        "name": name,
        "model": {key: getattr(traits, key) for key in keys},
        "runs": f"{traits.runtime}, {traits.dtype}, {traits.steps} steps, {traits.size_px} px",
        "machine": {"features": sorted(machine.cpu_features()), "cpus": machine.cpus()},
        "system": f"{platform.system()} {platform.machine()}",
        "date": date.today().isoformat(),
        "versions": versions,
        "load": round(os.getloadavg()[0], 1),
    }


def run(
    model: str | None,
    journal: Path,
    rounds: int,
    pictures: int,
    minutes: float | None = None,
    steps: int | None = None,
    size_px: int | None = None,
) -> None:
    """Measure what the journal of the model does not hold yet, for so many minutes at most.

    With `steps` the baseline samples in so many; a diffusers pipeline draws `size_px`, where given.
    """
    from miaobi.loading import load

    pipe: Any = load(model)
    if size_px is not None and pipe.traits.kind == "diffusers":
        pipe = pipe.with_size(size_px)
    if steps is not None and steps != pipe.traits.steps:
        pipe = apply(pipe, (Steps(steps),), measured=False)
    name = "emoji" if model is None else Path(model).name
    path = journal / f"{name}.jsonl"
    journal.mkdir(parents=True, exist_ok=True)
    lines = read_journal(path)
    if not lines:
        append(path, about(pipe, name))
    if os.getloadavg()[0] > machine.cpus() / 2:
        click.echo(
            f"{name}: this machine is busy (load {os.getloadavg()[0]:.1f}); figures are rough", err=True
        )
    done = {json.dumps([line["first"], line["second"]]) for line in lines[1:]}
    bench, started = Bench(pipe, rounds, pictures), time.monotonic()
    todo = [
        (first, second)
        for first, second in pairs(candidates(pipe.traits))
        if json.dumps([to_tables((first,))[0] if first else None, to_tables((second,))[0]]) not in done
    ]
    for number, (first, second) in enumerate(todo, 1):
        if minutes is not None and time.monotonic() - started > minutes * 60:
            click.echo(
                f"{name}: stopped after {minutes:g} minutes, {len(todo) - number + 1} pairs left", err=True
            )
            return
        line = bench.measure(first, second)
        append(path, line)
        if line["verdict"] != "refused":
            told = (
                f"{line['ratio']:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
                if "ratio" in line
                else line["reason"]
            )
            click.echo(f"{name}: {first or 'alone'} + {second}: {line['verdict']} {told}", err=True)


def append(path: Path, line: Line) -> None:
    """One more line, safely on disk."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_journal(path: Path) -> list[Line]:
    """What was measured; a last line that a kill cut off is dropped."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text("utf-8").splitlines(keepends=True):
        if text.endswith("\n"):
            found.append(json.loads(text))
    if found and not path.read_text("utf-8").endswith("\n"):
        path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found), "utf-8")
    return found


def measured(journals: list[list[Line]], before: list[Line]) -> list[Line]:
    """What was timed, and what is known `before` of other models and machines."""
    numbers = ("verdict", "ratio", "low", "high", "count")
    groups = [
        {key: head[key] for key in ("name", "model", "machine", "date", "versions")}
        | {
            "rows": [
                [line["first"], line["second"], line["runtime"], *(line[one] for one in numbers)]
                for line in lines
                if "ratio" in line
            ]
        }
        for head, *lines in journals
    ]
    new = [(one["name"], one["machine"]) for one in groups]
    return groups + [one for one in before if (one["name"], one["machine"]) not in new]


def table(groups: list[Line]) -> str:
    """composition.json, one row a line."""
    texts = []
    for one in groups:
        told = json.dumps({key: value for key, value in one.items() if key != "rows"})
        texts.append(told[:-1] + ', "rows": [\n' + ",\n".join(map(json.dumps, one["rows"])) + "\n]}")
    return f'{{"format": {FORMAT}, "measured": [\n' + ",\n".join(texts) + "\n]}\n"


@click.command(help=__doc__)
@click.option(
    "-m", "--model", "models", multiple=True, help="Bundle or diffusers folder.  [default: the bundle inside]"
)
@click.option("--journal", type=click.Path(path_type=Path), default="runs/composition", show_default=True)
@click.option("--rounds", type=click.IntRange(4), default=16, show_default=True, help="Turns of each pair.")
@click.option("--pictures", type=click.IntRange(1), default=4, show_default=True, help="Compared for PSNR.")
@click.option("--minutes", type=float, help="Stop each model after so long; a later run goes on.")
@click.option("--steps", type=int, help="Sampling steps of the baseline.  [default: the model's]")
@click.option(
    "--size", "size_px", type=int, help="Side in px for diffusers pipelines.  [default: the model's]"
)
@click.option("--render", is_flag=True, help="Only write the data and the page from the journals.")
@click.option("--data", type=click.Path(path_type=Path), default=TABLE, help="composition.json to write.")
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, help="Page to write.")
def main(
    models: tuple[str, ...],
    journal: Path,
    rounds: int,
    pictures: int,
    minutes: float | None,
    steps: int | None,
    size_px: int | None,
    render: bool,
    data: Path,
    docs: Path,
) -> None:
    logging.disable(logging.WARNING)  # tools tell of every graph
    if not render:
        for model in models or (None,):
            run(model, journal, rounds, pictures, minutes, steps, size_px)
    journals = [read_journal(path) for path in sorted(journal.glob("*.jsonl"))]
    before = json.loads(data.read_text("utf-8"))["measured"] if data.exists() else []
    groups = measured(journals, before)
    data.write_text(table(groups), "utf-8")
    docs.write_text(page(journals, groups[len(journals) :]), "utf-8")
    counts: dict[str, dict[str, int]] = {}
    for head, *lines in journals:
        counts[head["name"]] = {}
        for line in lines:
            own = counts[head["name"]]
            own[line["verdict"]] = own.get(line["verdict"], 0) + 1
    for name, own in counts.items():
        click.echo(f"{name:<16}" + "  ".join(f"{kind} {count}" for kind, count in sorted(own.items())))
    click.echo(json.dumps(counts))


if __name__ == "__main__":
    main()
