"""Whether generated pictures help a lane detector that has few real ones.

    python recipes/roads/lanes.py --data data/roads --bundle runs/roads/bundle -o docs/roads.md

Trains a small U-Net on few real pictures with their masks: alone, with pictures that the bundle draws after
the masks of fresh scenes, each by the scene's caption, and with true renderings of the same fresh scenes,
which is the most that could be gained. All see the same number of pictures, and are measured on held-out
scenes. Ends with one line of JSON.
"""

import hashlib
import json
import multiprocessing
import textwrap
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from build import FIRST_FRESH, STYLES
from canvas import LABELS, MARKING, OWN_LANE, ROAD, VEHICLE
from render import Rendered, mask_picture, render
from tqdm import tqdm
from unet import Labelled, iou, train
from words import words

from miaobi import images, machine
from miaobi.drawing import After
from miaobi.errors import DataError, InputError, MiaobiError
from miaobi.files import atomic_write
from miaobi.pipeline import Pipeline, load
from miaobi.train import devices

ARMS = ("real", "real + generated", "real + rendered")
SHEET = """
![masks, generated and rendered pictures]({})

In threes, the first fresh scenes, none picked: the mask, what the bundle drew after it, the true rendering.
"""
Float = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """What is compared; a journal keeps results of equal settings."""

    data: str
    bundle: str
    real: int
    generated: int
    test: int
    steps: int
    batch: int
    dtype: str
    """Of the matrix products in training: bfloat16 where that is faster."""


def photographs(folder: Path) -> tuple[Labelled, dict[str, Rows]]:
    """The photographs of a data set with their masks, memory-mapped, and the rows of each part of it."""
    try:
        pictures = np.load(folder / "images.npy", mmap_mode="r")
        masks = np.load(folder / "masks.npy", mmap_mode="r")
        lines = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {folder} ({error}); build it with recipes/roads/build.py") from error
    part = np.array([json.loads(line)["part"] for line in lines[: len(masks)]])
    rows = {name: np.flatnonzero(part == name) for name in ("train", "test")}
    return Labelled(pictures[: len(masks), ..., :3], masks), rows


def drawn(pipe: Pipeline, scenes: list[Rendered]) -> Labelled:
    """A picture of each scene, drawn by its caption, English or Chinese in turn, after its mask."""
    mask_style = pipe.bundle.style_id(STYLES[1])
    pictures = []
    for number, one in enumerate(tqdm(scenes, "generating", unit=" pictures")):
        shown = images.from_uint8(mask_picture(one.mask))
        after = After(pipe.encode(shown[None])[0], mask_style)
        said = words(one.scene)
        text = said.label_zh if number % 2 else said.label_en
        made = pipe.generate(text, seed=one.scene.seed, style=STYLES[0], after=after)
        pictures.append(made.pixels[0, ..., :3])
    return Labelled(np.stack(pictures), np.stack([one.mask for one in scenes]))


def interval(values: Float) -> tuple[float, float, float]:
    """Mean of values (n,), and the ends of its 95 % interval by Student's t."""
    from scipy.stats import t

    margin = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - margin), float(values.mean() + margin)


def compare(
    data: Labelled,
    rows: dict[str, Rows],
    added: dict[str, Labelled],
    settings: Settings,
    seeds: int,
    journal: Path | None,
) -> tuple[dict[str, Float], Float]:
    """IoU of each label for each arm, (seeds, 5), and how well the network of the third arm, which has seen
    most true pictures, reads the generated ones by their masks, (seeds, 5).

    A seed chooses the real pictures, the weights at the start and the order of batches: arms are paired.
    Networks are trained side by side, each by one thread.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    if journal and journal.exists():
        lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
        found = {(one["arm"], one["seed"]): one for one in lines if one["settings"] == asdict(settings)}
    left = [(arm, seed) for seed in range(seeds) for arm in ARMS if (arm, seed) not in found]
    test = data.take(rows["test"][: settings.test])
    context = multiprocessing.get_context("spawn")  # a fork would take over PyTorch's threads half-way
    with ProcessPoolExecutor(machine.cpus(), context, torch.set_num_threads, (1,)) as pool:
        running = {}
        for arm, seed in left:
            real = data.take(np.random.default_rng(seed).permutation(rows["train"])[: settings.real])
            tests = {"iou": test} | ({"read": added[ARMS[1]]} if arm == ARMS[2] else {})
            running[pool.submit(_learned, real, added.get(arm), tests, settings, seed)] = (arm, seed)
        for done in tqdm(as_completed(running), f"training on {settings.real}", len(left), unit=" networks"):
            arm, seed = running[done]
            result = {"settings": asdict(settings), "arm": arm, "seed": seed, **done.result()}
            found[arm, seed] = result
            if journal:
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    told = {arm: np.array([found[arm, seed]["iou"] for seed in range(seeds)]) for arm in ARMS}
    return told, np.array([found[ARMS[2], seed]["read"] for seed in range(seeds)])


def _learned(
    real: Labelled, added: Labelled | None, tests: dict[str, Labelled], settings: Settings, seed: int
) -> dict[str, list[float]]:
    """IoU of each label, on each of the tests, of a network trained on real and added pictures."""
    dtype = getattr(torch, settings.dtype)
    model = train(real, added, settings.steps, settings.batch, seed, dtype)
    return {name: iou(model, test).tolist() for name, test in tests.items()}


def page(
    results: dict[int, tuple[dict[str, Float], Float]], settings: Settings
) -> tuple[str, dict[str, Any]]:
    """The table as Markdown, and its figures, of what `compare` tells by the number of real scenes."""
    columns = {"mean": list(range(len(LABELS))), "lanes": [OWN_LANE, MARKING]}
    columns |= {LABELS[one]: [one] for one in (OWN_LANE, MARKING, ROAD, VEHICLE)}
    seeds = len(next(iter(results.values()))[1])
    about = (
        f"A U-Net of half a million weights is trained on {' or '.join(map(str, results))} real scenes with "
        f"masks: alone, with {settings.generated} pictures that the bundle drew after the masks of fresh "
        "scenes, each by the scene's caption, and with true renderings of the same scenes, which is the most "
        "that could be gained. Real means drawn by `render.py`. "
        f"Each takes {settings.steps} steps of {settings.batch} pictures, half of them added ones where "
        "there are any; all are mirrored and vary in brightness and tint. Intersection over union on "
        f"{settings.test} held-out scenes, mean and 95 % interval (Student's t) over {seeds} seeds, "
        "which choose the real scenes, the first weights and the order; gains are paired. Mean is that of "
        "all five labels, lanes that of own lane and marking. The generator saw masks and photographs of "
        "every training scene, far more than the detector: the question is whether its pictures carry that "
        "over, not whether they come from nothing."
    )
    lines = [
        "# Do generated road scenes help a lane detector?",
        "",
        "Written by `python recipes/roads/lanes.py -o docs/roads.md`; do not edit.",
        "",
        *textwrap.wrap(about, 110),
        "",
        f"| real scenes | | {' | '.join(columns)} | gain in the mean | gain in lanes |",
        f"|---|---|{'---|' * (len(columns) + 2)}",
    ]
    figures: dict[str, Any] = {}
    for real, (found, read) in results.items():
        figures[str(real)] = told = {}
        for arm, values in found.items():
            row = {name: interval(values[:, some].mean(axis=1)) for name, some in columns.items()}
            for name in ("mean", "lanes"):
                gained = (values - found[ARMS[0]])[:, columns[name]].mean(axis=1)
                row[f"gain in {name}"] = interval(gained)
            lines.append(f"| {real} | {arm} | {' | '.join(_told(one) for one in row.values())} |")
            told[arm] = {name: _rounded(one) for name, one in row.items()}
        told["generated pictures, read"] = _rounded(interval(read[:, columns["lanes"]].mean(axis=1)))
    lines += [
        "",
        "How well the generated pictures show their masks: the network trained with true renderings reads",
        f"lanes in them with {_told(interval(read[:, columns['lanes']].mean(axis=1)))}.",
        "",
    ]
    return "\n".join(lines), figures


def _rounded(figure: tuple[float, float, float]) -> list[float]:
    return [round(value, 4) for value in figure]


def _told(figure: tuple[float, float, float]) -> str:
    value, low, high = figure
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/roads"), show_default=True)
@click.option(
    "--bundle", type=click.Path(path_type=Path), default=Path("runs/roads/bundle"), show_default=True
)
@click.option(
    "--real", type=click.IntRange(1), multiple=True, default=(15, 60), show_default=True, help="Real scenes."
)
@click.option("--generated", type=click.IntRange(1), default=600, show_default=True, help="Added scenes.")
@click.option("--test", type=click.IntRange(1), default=500, show_default=True, help="Held-out scenes.")
@click.option("--steps", type=click.IntRange(1), default=400, show_default=True, help="Of each training.")
@click.option("--batch", type=click.IntRange(2), default=16, show_default=True, help="Pictures of a step.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Trainings of each kind.")
@click.option("--journal", type=click.Path(path_type=Path), help="Keep results here, and go on from them.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Write the table to this Markdown file, and pictures to a PNG beside it.",
)
def main(
    data: Path,
    bundle: Path,
    real: tuple[int, ...],
    generated: int,
    test: int,
    steps: int,
    batch: int,
    seeds: int,
    journal: Path | None,
    out: Path | None,
) -> None:
    try:
        (pictures, rows), pipe = photographs(data), load(bundle)
        if not set(STYLES) <= set(pipe.bundle.styles):
            raise InputError(f"bundle {pipe.bundle.name} has no styles {STYLES}; train it as README.md says")
        if len(rows["train"]) < max(real) or len(rows["test"]) < test:
            have = f"{len(rows['train'])} training and {len(rows['test'])} test scenes"
            raise DataError(f"{data} has {have}; ask for fewer with --real and --test, or build more")
    except MiaobiError as error:
        raise click.ClickException(str(error)) from error
    numbers = range(FIRST_FRESH, FIRST_FRESH + generated)
    scenes = [render(number) for number in tqdm(numbers, "rendering", unit=" scenes")]
    masks = np.stack([one.mask for one in scenes])
    added = {
        ARMS[1]: drawn(pipe, scenes),
        ARMS[2]: Labelled(np.stack([one.photo[..., :3] for one in scenes]), masks),
    }
    if out is not None:
        shown = [mask_picture(masks[:16]), *(_opaque(added[arm].pictures[:16]) for arm in ARMS[1:])]
        sheet = np.stack(shown, 1).reshape(-1, *shown[0].shape[1:])
        images.save_png(out.with_suffix(".png"), images.contact_sheet(images.to_pil(sheet), columns=12))
    dtype = str(devices.precision("auto", torch.device("cpu"))).removeprefix("torch.")
    digest = hashlib.sha256(json.dumps(pipe.bundle.files, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{pipe.bundle.name} {digest}"
    results = {}
    for few in sorted(set(real)):
        settings = Settings(str(data), name, few, generated, test, steps, batch, dtype)
        results[few] = compare(pictures, rows, added, settings, seeds, journal)
    text, figures = page(results, settings)
    click.echo(text)
    if out is not None:
        text += SHEET.format(out.with_suffix(".png").name)
        with atomic_write(out) as file:
            file.write(text.encode())
    click.echo(json.dumps({"seeds": seeds, **asdict(settings), "real": real, "iou": figures}))


def _opaque(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB (..., 3) → RGBA (..., 4)."""
    return np.concatenate([pictures, np.full_like(pictures[..., :1], 255)], axis=-1)


if __name__ == "__main__":
    main()
