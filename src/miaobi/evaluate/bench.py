"""`miaobi bench`: how fast a model draws here, as it is and as a recipe changes it."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from miaobi.accelerate.recipe import Recipe, Stage, describe, dumps, loads
from miaobi.errors import InputError, MachineError
from miaobi.evaluate import flops, speed
from miaobi.evaluate.energy import Energy
from miaobi.evaluate.intervals import Figure, exact
from miaobi.evaluate.speed import Draws, Figures

if TYPE_CHECKING:
    from miaobi.traits import Traits

BASELINE, CHANGED = "as it is", "changed"
_PATH = click.Path(path_type=Path, dir_okay=False)


@dataclass
class Report:
    """What was measured: figures by name for each pipeline, ratios of the changed one, and notes."""

    about: dict[str, Any]
    figures: dict[str, Figures] = field(default_factory=dict)
    ratios: Figures = field(default_factory=dict)
    """"speedup" (latency) and "throughput_N": how many times the baseline's; above 1: faster."""
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Figures for people, a column for each pipeline."""
        names = list(dict.fromkeys(name for one in self.figures.values() for name in one))
        rows = [["", *self.figures]]
        rows += [[name, *(_cell(one.get(name)) for one in self.figures.values())] for name in names]
        rows += [
            [f"{name}, times", *[""] * (len(self.figures) - 1), str(one)] for name, one in self.ratios.items()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        told = [f"{name}: {value}" for name, value in self.about.items()]
        return "\n".join([*told, "", *(line.rstrip() for line in lines), *self.notes])

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else str(figure)


def measure(
    pipelines: dict[str, Draws],
    *,
    rounds: int,
    batches: Sequence[int],
    warm_up: int = 2,
    prompts: Sequence[str] = speed.PROMPTS,
    energy: Energy | None = None,
) -> tuple[dict[str, Figures], Figures, list[str]]:
    """Latency, throughput and energy of pipelines in turn; ratios of the last against the first; notes."""
    energy = energy or Energy.find()
    single = speed.take_turns(pipelines, rounds, warm_up=warm_up, prompts=prompts, energy=energy)
    found = {name: single.latency(name) for name in pipelines}
    first, last = next(iter(pipelines)), list(pipelines)[-1]
    ratios = {"speedup": single.speedup(last, first)} if last != first else {}
    for name in pipelines:
        joules = single.energy(name)
        found[name] |= {"energy_j": joules} if joules else {}
    notes = [f"energy: {energy.why_not}"] if energy.why_not else ["energy: of the whole processor package"]
    grown, failure = speed.throughput(pipelines, batches, prompts=prompts) if batches else ({}, "")
    for size, timings in grown.items():
        for name in pipelines:
            found[name][f"pictures_per_s_batch_{size}"] = timings.throughput(name)
        if last != first:
            ratios[f"throughput_{size}"] = timings.speedup(last, first)
    return found, ratios, [*notes, *([failure] if failure else [])]


def gemm_share(pipe: Draws, rate: float, p50_ms: Figure) -> Figures:
    """Arithmetic of a picture in GFLOP, and its share (%) of what fp32 products of this `rate` could do in
    the measured time.
    """
    total = sum(flops.picture_flops(pipe).values())
    limit_ms = total / rate * 1000
    share, low, high = (100 * limit_ms / ms for ms in (p50_ms.value, p50_ms.high, p50_ms.low))
    return {
        "gflop": exact(total / 1e9),
        "gemm_limit_ms": exact(limit_ms),
        "share_of_gemm_limit_percent": Figure(share, low, high, p50_ms.count),
    }


def changes_arithmetic(recipe: Recipe) -> Recipe:
    """The steps that change what is computed, not where or in which numbers."""
    return tuple(step for step in recipe if step.stage <= Stage.NETWORK)


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-m", "--model", help="Bundle, diffusers folder or hub id.  [default: the bundle inside]")
@click.option(
    "--recipe", "--plan", "path", type=_PATH, help="TOML with [[step]] tables, against the model as it is."
)
@click.option("--rounds", default=20, show_default=True, help="Pictures to time, of each in turn.")
@click.option("--warm-up", default=2, show_default=True, help="Pictures before them that are not timed.")
@click.option(
    "--batches", default=",".join(map(str, speed.BATCHES)), show_default=True, help="Sizes; empty: none."
)
@click.option("--fresh", default=3, show_default=True, help="New processes to time the first picture in.")
@click.option("--prompts", type=_PATH, help="A prompt a line.  [default: 160 things of one colour each]")
@click.option("--threads", type=int, help="CPU threads.  [default: the runtime chooses]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def command(
    model: str | None,
    path: Path | None,
    rounds: int,
    warm_up: int,
    batches: str,
    fresh: int,
    prompts: Path | None,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how fast a model draws: latency, throughput, first picture, memory, size, energy.

    With --recipe (or a tuner's --plan) the model as it is and the changed one take turns, and ratios have
    their 95 % interval. Every figure has its count n.
    """
    sizes, texts = parse_batches(batches), read_prompts(prompts) if prompts else speed.PROMPTS
    recipe = read_recipe(path) if path else ()
    names = {BASELINE: ()} | ({CHANGED: recipe} if recipe else {})
    _progress(f"first pictures in {fresh} new processes" if fresh else "")
    # processes first: this one is still small and has no threads that spin
    firsts = {
        name: speed.in_fresh_processes(fresh, model, dumps(steps), threads=threads, device=device)
        for name, steps in names.items()
    }
    from miaobi.loading import load

    pipe: Any = load(model, threads=threads, device=device)
    pipelines, counted = {BASELINE: pipe}, {BASELINE: pipe}
    if recipe:
        from miaobi.accelerate.transform import apply

        pipelines[CHANGED] = apply(pipe, recipe, measured=False)
        counted[CHANGED] = apply(pipe, changes_arithmetic(recipe), measured=False)
    report = Report(_about(pipe.traits, recipe, model))
    _progress(f"{rounds} pictures one by one, then batches of {batches or 'nothing'}")
    report.figures, report.ratios, report.notes = measure(
        pipelines, rounds=rounds, batches=sizes, warm_up=warm_up, prompts=texts
    )
    _progress("arithmetic")
    try:
        rate = flops.gemm_rate(threads or 0)
        report.about["fp32 GEMM"] = f"{rate / 1e9:.0f} GFLOP/s"
        for name, one in counted.items():
            report.figures[name] |= gemm_share(one, rate, report.figures[name]["p50_ms"])
    except MachineError as error:
        report.notes.append(f"share of the GEMM limit: {error}")
    for name, runs in firsts.items():
        report.figures[name] |= speed.first_pictures(runs) if runs else {}
    size = speed.size_on_disk(model)
    if size is not None:
        report.figures[BASELINE]["disk_mb"] = exact(size / 1e6)
    for name, one in pipelines.items():
        weights = speed.weights_bytes(one)
        report.figures[name] |= {"weights_mb": exact(weights / 1e6)} if weights else {}
    click.echo(report.table())
    if as_json:
        click.echo(report.to_json())


def _progress(what: str) -> None:
    if what:
        click.echo(f"measuring: {what} …", err=True)


def read_recipe(path: Path) -> Recipe:
    """The [[step]] tables of a recipe or plan; raises `RecipeError`, or `InputError` for a missing file."""
    return loads(_text(path))


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that hold something; raises `InputError`."""
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{str(path)!r} holds no prompts; write one a line.")
    return lines


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}; give a text file in UTF-8.") from error


def parse_batches(text: str) -> list[int]:
    """[1, 2, 4] of "1,2,4"; raises `InputError`."""
    try:
        sizes = [int(one) for one in text.split(",") if one.strip()]
    except ValueError:
        sizes = [0]
    if any(not 1 <= one <= 64 for one in sizes):
        raise InputError(f"batches are {text!r}; give sizes from 1 to 64, such as 1,2,4.")
    return sizes


def _about(traits: "Traits", recipe: Recipe, model: str | None) -> dict[str, Any]:
    how = f"{traits.runtime}, {traits.device}, {traits.dtypes()}, {traits.steps} steps, {traits.size_px} px"
    return {
        "model": f"{traits.model} ({model or 'the bundle inside the package'})",
        "runs on": how,
        "recipe": describe(recipe),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def main(arguments: list[str]) -> None:
    """`miaobi bench` with these arguments; raises what click and `miaobi.errors` raise."""
    command.main(arguments, prog_name="miaobi bench", standalone_mode=False)
