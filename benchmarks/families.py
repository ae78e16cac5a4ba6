"""All families of generators on the same data, trained for equally long, measured side by side.

    python benchmarks/families.py --data data/emoji --text runs/text --judge runs/classifier \\
        --autoencoder runs/autoencoder --codes runs/codes --minutes 45 --workers 2 -o docs/families.md

Each family's recipe is given as many steps as take --minutes at the rate of its first steps; that number is
kept in --runs, so that the same command goes on after a stop. Every family that has been trained there,
now or earlier, is exported, measured and put into the table. Ends with one line of JSON.
"""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from families_runs import (
    FAMILIES,
    TRAINED,
    TRIAL_STEPS,
    TRIALS,
    Figures,
    Setting,
    export,
    plan,
    planned,
    steps_done,
    train,
    training,
)
from miaobi import machine
from miaobi.accelerate.bundles import save
from miaobi.bundle import Bundle
from miaobi.errors import InputError, MiaobiError
from miaobi.evaluate import speed
from miaobi.evaluate.intervals import Figure, bootstrap
from miaobi.files import atomic_write, check_writable
from miaobi.images import contact_sheet, save_png, to_pil
from miaobi.pipeline import Pipeline
from miaobi.runtimes.graph import Running

RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
BATCHES = (1, 16)
PROMPTS = (
    *("a brown teddy bear", "一只戴帽子的狗", "a green motorcycle", "热气腾腾的咖啡", "an old steam train"),
    *("紫色的狐狸", "a slice of birthday cake", "下雪的山", "sleepy face", "蓝色的雨伞"),
)
"""The first ten of recipes/emoji/contact_sheet.py, written before there was a model."""
ROWS = {
    "parameters_drawing_m": "parameters that draw, with the decoder, millions",
    "parameters_trained_m": "parameters of the generator in training, millions",
    "train_pictures_per_s": "training images/s",
    "train_minutes": "minutes of training steps",
    "train_steps": "steps",
    "train_batch": "pictures a step",
    "en/top1": "R-precision top-1, English names",
    "en/top5": "R-precision top-5, English names",
    "zh/top1": "R-precision top-1, Chinese names",
    "zh/top5": "R-precision top-5, Chinese names",
    "en/fid": "FID",
    "reconstructions/fid": "FID of its autoencoder's reconstructions",
    "en/kid": "KID",
    **{
        f"{runtime}/{key}_batch_{size}": f"{title}, {told}, batch {size}"
        for size in BATCHES
        for runtime, title in RUNTIMES.items()
        for key, told in {"ms": "ms a picture", "times": "times diffusion's"}.items()
    },
    **{f"{runtime}/peak_memory_mb": f"{title}, peak memory, MB" for runtime, title in RUNTIMES.items()},
}
"""Rows of the table: figures by name, and what they are called."""
PAGE = """# Families of generators, trained equally long

Written by `benchmarks/families.py` (recipes/emoji/README.md has the command); do not edit. In square
brackets: 95 % intervals.

{table}

{missing}![the same prompts and seeds, a family in each row]({sheet})

Rows: {titles}. Columns: {prompts}; two in each style, with seeds 0 to {last}. Nothing was picked.

## How

**Compute.** Each recipe of recipes/emoji was trained for {minutes:g} minutes by {workers} worker
process(es) on the machine below. How many steps that is was decided before, by the times of {trial} steps of
each family, taken in turn {trials} times, so that warm-up and cooldown fit and an hour in which the machine
is faster favours nobody. The minutes in the table are the steps' own, their number times the median of their
time; previews, checkpoints and encoding the pictures (once for each autoencoder) come on top. An image counts
once, also where a step sees it at several noise levels.

**Autoencoders** were trained before and are not in these minutes. {autoencoders}.

**Shared by all:** pictures, captions, retrieved neighbours, text encoder, and how often conditions are left
out. Optimiser, rate and batch are those of each family's recipe. The autoregressive family learns to draw
alone, not to caption; in parallel it draws with the same weights, several tokens at a step.

**Quality:** {pairs} held-out (concept, style) pairs, the same seeds and judge, drawn by the ONNX graphs in
fp32, measured as `miaobi evaluate generation` does. Real pictures score {top1} top-1 and {top5} top-5.

**Speed:** the whole pipeline from prompt to pixels, the same bundle in fp32 in both runtimes (PyTorch eager),
all in turn in one process; medians, and medians of the rounds' ratios. **Memory:** the highest resident
memory of a process that loads the bundle and draws one picture.

**Machine:** {machine}. {date}.
"""


def quality(name: str, setting: Setting, pipe: Pipeline, bench: Any) -> Figures:
    """R-precision, FID and KID as `miaobi evaluate generation` tells them; kept beside the run."""
    from miaobi.evaluate.generation import evaluate_names
    from miaobi.evaluate.report import autoencoder_reconstruct, pipeline_draw

    drawn = {knob: getattr(pipe.bundle, knob) for knob in ("steps", "guidance", "temperature")}
    about = {**drawn, "judge": str(setting.judge), "pairs": len(bench.pairs)}
    path = setting.results(name) / "quality.json"
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        if kept["about"] == about:
            return {key: Figure(**one) for key, one in kept["figures"].items()}
    click.echo(f"{name}: quality", err=True)
    figures, _ = evaluate_names(pipeline_draw(pipe), bench, autoencoder_reconstruct(setting.coder(name)))
    with atomic_write(path) as file:
        told = {"about": about, "figures": {key: asdict(one) for key, one in figures.items()}}
        file.write(json.dumps(told).encode())
    return figures


def speeds(pipes: dict[tuple[str, str], Pipeline], rounds: int) -> dict[str, Figures]:
    """Milliseconds of a picture of each (family, runtime), all in turn, and how many times diffusion's."""
    found: dict[str, Figures] = {name: {} for name, _ in pipes}
    named = {"/".join(key): pipe for key, pipe in pipes.items()}
    for size in BATCHES:
        click.echo(f"speed: {rounds} rounds of {size}", err=True)
        timings = speed.take_turns(named, rounds, pictures=size)
        for name, runtime in pipes:
            key, baseline = f"{name}/{runtime}", f"diffusion/{runtime}"
            median_ms = bootstrap(lambda x: float(np.median(x)), timings.ms[key] / size)
            found[name][f"{runtime}/ms_batch_{size}"] = median_ms
            if baseline in named:
                found[name][f"{runtime}/times_batch_{size}"] = timings.ratio(key, baseline)
    return found


def memory(pipes: dict[tuple[str, str], Pipeline], processes: int) -> dict[str, Figures]:
    """Peak memory (MB) of new processes that load a bundle, for its runtime alone, and draw one picture."""
    found: dict[str, Figures] = {name: {} for name, _ in pipes}
    for (name, runtime), pipe in pipes.items() if processes else ():
        click.echo(f"memory: {name}, {runtime}", err=True)
        with TemporaryDirectory() as folder:
            save(pipe, Path(folder))
            fresh = speed.in_fresh_processes(processes, folder)
        found[name][f"{runtime}/peak_memory_mb"] = speed.first_pictures(fresh)["peak_memory_mb"]
    return found


def drawn_with(bundle: Bundle) -> str:
    """How a family draws, in words."""
    if bundle.family == "autoregressive":
        tokens = math.prod(bundle.latent_shape[1:]) // bundle.patch**2
        how = "one by one" if bundle.steps == tokens else f"in {bundle.steps} steps"
        how = f"{tokens} tokens, {how}, temperature {bundle.temperature:g}"
    else:
        how = "one pass" if bundle.steps == 1 else f"{bundle.steps} Euler steps"
    return how + (f", guidance {bundle.guidance:g}" if bundle.guidance != 1 else "")


def page(
    setting: Setting, figures: dict[str, Figures], drawn: dict[str, str], missing: dict[str, str], sheet: str
) -> str:
    """The page in Markdown: figures and how they draw, of the trained families; how far the others are."""
    first, titles = next(iter(figures.values())), [FAMILIES[name].title for name in figures]
    table = [
        f"| | {' | '.join(titles)} |",
        "|---" * (len(titles) + 1) + "|",
        f"| drawn with | {' | '.join(drawn.values())} |",
        *(
            _row(title, [told.get(key) for told in figures.values()])
            for key, title in ROWS.items()
            if any(key in told for told in figures.values())
        ),
    ]
    others = "; ".join(f"{FAMILIES[name].title} ({told})" for name, told in missing.items())
    features = ", ".join(sorted(machine.cpu_features())) or "unknown instructions"
    numbers = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    return PAGE.format(
        table="\n".join(table),
        missing=f"Not in the table: {others}.\n\n" if others else "",
        sheet=sheet,
        titles=", ".join(titles),
        prompts=", ".join(PROMPTS),
        last=len(PROMPTS) - 1,
        minutes=setting.minutes,
        workers=setting.workers,
        trial=TRIAL_STEPS,
        trials=TRIALS,
        autoencoders=f"{_cost(setting.autoencoder, 'Autoencoder')}; "
        + _cost(setting.codes, "FSQ codes (`codes.toml`), of the autoregressive family alone"),
        pairs=first["real/top1"].count,
        top1=_cell(first["real/top1"]),
        top5=_cell(first["real/top5"]),
        machine=f"{platform.system()} {platform.machine()}, {machine.cpus()} CPUs ({features}), {numbers}",
        date=date.today(),
    )


def _row(title: str, figures: Sequence[Figure | None]) -> str:
    counts = {one.count for one in figures if one and one.low != one.high}
    told = f" (n = {counts.pop()})" if len(counts) == 1 else ""
    return f"| {title}{told} | {' | '.join(map(_cell, figures))} |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "not measured"
    value, low, high = (
        f"{one:,.0f}" if abs(one) >= 100 else f"{one:.3g}" for one in (figure.value, figure.low, figure.high)
    )
    return value if figure.low == figure.high else f"{value} [{low}, {high}]"


def _cost(folder: Path, title: str) -> str:
    """What an autoencoder's training cost, in words."""
    found = training(folder)
    if not found:
        return f"{title}: no record of its training"
    steps, batch, minutes = (found[f"train_{name}"].value for name in ("steps", "batch", "minutes"))
    return f"{title}: {steps:,.0f} steps of {batch:.0f} pictures, {minutes:,.0f} minutes"


def compare(
    names: Sequence[str], setting: Setting, out: Path, rounds: int, processes: int, limit: int | None
) -> dict[str, Any]:
    """Train `names`, measure all that has been trained, write page and sheet; the figures' values."""
    from miaobi.evaluate.classifier import load_judge
    from miaobi.evaluate.features import FeatureExtractor
    from miaobi.evaluate.generation import Bench
    from miaobi.evaluate.report import pipeline_draw
    from miaobi.train.data import load_dataset

    planned_before = [name for name in TRAINED if setting.plan(name).exists()]
    setting.check([*names, *planned_before])
    check_writable(out)
    setting.runs.mkdir(parents=True, exist_ok=True)
    plan(names, setting)
    for name in names:
        train(name, setting)
    missing, trained = dict.fromkeys(TRAINED, "not trained yet"), []
    for name in dict.fromkeys([*planned_before, *names]):
        steps, done = planned(name, setting)["schedule"]["steps"], steps_done(setting.run(name))
        missing[name] = f"step {done:,} of {steps:,}"
        if done == steps:
            trained.append(name)
            del missing[name]
    if not trained:
        raise InputError(f"no family has been trained in {setting.runs}; name some with --families")
    drawing = [name for name, family in FAMILIES.items() if (family.weights or name) in trained]
    figures = {name: training(setting.run(name)) for name in drawing}
    bundles: dict[str, Bundle] = {}
    for name, told in figures.items():
        bundles[name], parameters = export(name, setting)
        told |= parameters
    pipes = {
        (name, runtime): Pipeline(bundle, Running(runtime, batch=max(BATCHES)))
        for name, bundle in bundles.items()
        for runtime in RUNTIMES
    }
    for found in (memory(pipes, processes), speeds(pipes, rounds)):
        for name, told in found.items():
            figures[name] |= told
    dataset, drawn = load_dataset(setting.data), []
    bench = Bench(dataset, *load_judge(setting.judge), FeatureExtractor(), limit)
    styles = [dataset.styles[number // 2 % len(dataset.styles)] for number in range(len(PROMPTS))]
    for name, told in figures.items():
        pipe = pipes[name, "onnxruntime"]
        told |= quality(name, setting, pipe, bench)
        drawn.append(pipeline_draw(pipe)(PROMPTS, styles, range(len(PROMPTS))))
    sheet = out.with_suffix(".png")
    save_png(sheet, contact_sheet(to_pil(np.concatenate(drawn)), len(PROMPTS)))
    how = {name: drawn_with(bundle) for name, bundle in bundles.items()}
    text = page(setting, figures, how, missing, sheet.name)
    click.echo(text)
    with atomic_write(out) as file:
        file.write(text.encode())
    return {
        name: {key: float(f"{one.value:.6g}") for key, one in told.items()} for name, told in figures.items()
    }


_folder = click.Path(path_type=Path, file_okay=False)


@click.command(help=__doc__)
@click.option("--data", type=_folder, default="data/emoji", show_default=True)
@click.option("--text", type=_folder, default="runs/text", show_default=True, help="Text encoder.")
@click.option("--judge", type=_folder, default="runs/classifier", show_default=True, help="Classifier.")
@click.option("--autoencoder", type=_folder, default="runs/autoencoder", show_default=True)
@click.option(
    "--codes", type=_folder, default="runs/codes", show_default=True, help="Autoencoder of image tokens."
)
@click.option("--recipes", type=_folder, default="recipes/emoji", show_default=True)
@click.option("--runs", type=_folder, default="runs/families", show_default=True, help="Kept between calls.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=45, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--families",
    default="diffusion,gan,vae,autoregressive",
    show_default=True,
    help=f"Which to train now, of {', '.join(TRAINED)}; empty: none.",
)
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True, help="Timed calls of each.")
@click.option(
    "--fresh", type=click.IntRange(0), default=3, show_default=True, help="Processes that tell memory."
)
@click.option("--limit", type=click.IntRange(2), help="Judge only so many held-out pairs.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default="docs/families.md", show_default=True)
def main(
    data: Path,
    text: Path,
    judge: Path,
    autoencoder: Path,
    codes: Path,
    recipes: Path,
    runs: Path,
    minutes: float,
    workers: int,
    families: str,
    rounds: int,
    fresh: int,
    limit: int | None,
    out: Path,
) -> None:
    names = [name.strip() for name in families.split(",") if name.strip()]
    for name in names:
        if name not in TRAINED:
            raise click.BadParameter(f"{name!r} is none of {', '.join(TRAINED)}", param_hint="--families")
    setting = Setting(recipes, data, text, autoencoder, codes, judge, runs, minutes, workers)
    try:
        values = compare(names, setting, out, rounds, fresh, limit)
    except MiaobiError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps({"minutes": minutes, "workers": workers, "families": values}))


if __name__ == "__main__":
    main()
