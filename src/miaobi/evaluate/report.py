"""`miaobi evaluate`: what can be plugged in, the commands, the table and the JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from miaobi.accelerate.recipe import describe
from miaobi.bundle import MANIFEST
from miaobi.errors import InputError
from miaobi.evaluate import generation, prompts
from miaobi.evaluate.bench import read_prompts, read_recipe
from miaobi.evaluate.classifier import load_judge
from miaobi.evaluate.features import FeatureExtractor
from miaobi.evaluate.generation import Bench, Draw, Figures, Reconstruct
from miaobi.evaluate.prompts import CLIP, FEATURES
from miaobi.evaluate.speed import PROMPTS
from miaobi.files import atomic_write
from miaobi.images import UInt8, contact_sheet, from_uint8, save_png, to_pil, to_uint8
from miaobi.loading import load as load_any
from miaobi.pipeline import Pipeline, load
from miaobi.train.data import load_dataset

TAGS = Path("recipes/emoji/heldout_tags.json")
PARTS = ("names", "paraphrases", "diversity", "copying")


def pipeline_draw(pipe: Pipeline, steps: int | None = None) -> Draw:
    """A bundle as a `Draw`, without skin tones."""

    def draw(prompts: Sequence[str], styles: Sequence[str], seeds: Sequence[int]) -> UInt8:
        made = [
            pipe.generate(prompt, 1, seed, style, steps, expand=None).pixels
            for prompt, style, seed in zip(prompts, styles, seeds, strict=True)
        ]
        return np.concatenate(made)

    return draw


def autoencoder_reconstruct(folder: Path) -> Reconstruct:
    """The autoencoder in `folder`, a bundle or a run of PyTorch's, as a `Reconstruct`."""
    if (folder / MANIFEST).exists():
        pipe = load(folder)
        return lambda pixels: np.concatenate(
            [to_uint8(pipe.decode(pipe.encode(from_uint8(one[None])))) for one in pixels]
        )
    from miaobi.train import autoencoder

    model = autoencoder.load(folder)
    return lambda pixels: to_uint8(autoencoder.reconstruct(model, from_uint8(pixels)))


def show(figures: Figures) -> str:
    """Figures as a table of two columns."""
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {figure}" for name, figure in figures.items())


def _finish(figures: Figures, out: Path | None, about: dict[str, object]) -> None:
    click.echo(show(figures))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {**about, "figures": {name: asdict(figure) for name, figure in figures.items()}}
        with atomic_write(out / "report.json") as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=1, default=str).encode() + b"\n")


_folder = click.Path(path_type=Path, file_okay=False)
_data = click.option(
    "--data", type=_folder, default="data/emoji", show_default=True, help="Folder of the data set."
)
_out = click.option("--out", type=_folder, help="Folder for report.json and the sheets.")

_prompts = click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A prompt a line.  [default: 160 things of one colour each]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Measure quality; every figure has its 95 % interval and sample count."""


@cli.command("autoencoder")
@click.argument("weights", type=_folder)
@_data
@_out
def autoencoder_command(weights: Path, data: Path, out: Path | None) -> None:
    """PSNR and SSIM of the autoencoder in the folder WEIGHTS, of a run or a bundle."""
    figures = generation.evaluate_autoencoder(autoencoder_reconstruct(weights), load_dataset(data))
    _finish(figures, out, {"autoencoder": weights})


@cli.command("generation")
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@_data
@click.option(
    "--judge",
    type=_folder,
    default="runs/classifier",
    show_default=True,
    help="Run folder of the classifier.",
)
@click.option(
    "--autoencoder",
    type=_folder,
    help="Folder of the autoencoder, of a run or a bundle: adds its reconstructions' FID.",
)
@click.option(
    "--teacher", type=_folder, help="Run folder of the generator: adds its 50 guided steps in PyTorch."
)
@click.option(
    "--tags", type=click.Path(path_type=Path), default=TAGS, show_default=True, help="Held-back tags."
)
@click.option("--steps", type=int, help="Sampling steps.  [default: what the bundle was made for]")
@click.option(
    "--only",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure this part; may be repeated.  [default: all]",
)
@click.option("--limit", type=click.IntRange(2), help="Use only so many pictures of each part.")
@_out
def generation_command(
    model: str | None,
    data: Path,
    judge: Path,
    autoencoder: Path | None,
    teacher: Path | None,
    tags: Path,
    steps: int | None,
    only: tuple[str, ...],
    limit: int | None,
    out: Path | None,
) -> None:
    """R-precision, FID, KID, paraphrases, diversity and copying of a bundle's pictures."""
    draw, parts, figures = pipeline_draw(load(model), steps), only or PARTS, Figures()
    bench = Bench(load_dataset(data), *load_judge(judge), FeatureExtractor(), limit)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if "names" in parts:
        reference = None
        if teacher is not None:
            from miaobi.train.generator import load_teacher

            reference = load_teacher(teacher)
        reconstruct = autoencoder_reconstruct(autoencoder) if autoencoder is not None else None
        found, made = generation.evaluate_names(draw, bench, reconstruct, reference)
        figures |= found
        if out is not None:
            both = np.concatenate(
                [x[start : start + 16] for start in range(0, 64, 16) for x in (bench.real.pixels, made)]
            )
            save_png(out / "real_and_drawn.png", contact_sheet(to_pil(both), 16))
    if "paraphrases" in parts:
        figures |= generation.evaluate_paraphrases(draw, bench, _read_tags(tags))
    if "diversity" in parts:
        figures |= generation.evaluate_diversity(draw, bench)
    if "copying" in parts:
        found, worst = generation.evaluate_copying(draw, bench)
        figures |= found
        if out is not None:
            save_png(out / "nearest_to_memory.png", contact_sheet(to_pil(worst), len(worst) // 2))
    _finish(
        figures,
        out,
        {"bundle": model or "shipped", "steps": steps, "autoencoder": autoencoder, "teacher": teacher},
    )


@cli.command("fidelity")
@click.option("-m", "--model", help="Bundle, diffusers folder or hub id.  [default: the bundle inside]")
@click.option(
    "--recipe",
    "--plan",
    "recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="TOML with [[step]] tables: what is changed.",
)
@click.option("--count", type=click.IntRange(1), default=32, show_default=True, help="Pictures of each.")
@_prompts
@_out
def fidelity_command(
    model: str | None, recipe: Path, count: int, prompts: Path | None, out: Path | None
) -> None:
    """PSNR, SSIM and feature distance of a changed model's pictures to those of the model as it is."""
    from miaobi.accelerate.transform import apply
    from miaobi.evaluate import fidelity

    reference: Any = load_any(model)
    steps = read_recipe(recipe)
    changed = apply(reference, steps, measured=False)
    texts = read_prompts(prompts) if prompts else PROMPTS
    seeds = range(count)
    asked = [texts[seed % len(texts)] for seed in seeds]
    a, b = (fidelity.draw(pipe, asked, seeds) for pipe in (reference, changed))
    _finish(fidelity.compare(a, b), out, {"model": model or "shipped", "recipe": describe(steps)})
    if out is not None:
        both = np.concatenate([x[start : start + 8] for start in range(0, min(count, 32), 8) for x in (a, b)])
        save_png(out / "reference_and_changed.png", contact_sheet(to_pil(both), 8))


@cli.command("prompts")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-m", "--model", help="Bundle, diffusers folder or hub id.  [default: the bundle inside]")
@click.option(
    "--recipe", "--plan", "recipe", type=click.Path(path_type=Path, dir_okay=False), help="Change it so."
)
@click.option(
    "--clip", default=CLIP, show_default=True, help="CLIP: hub id or folder; empty: no R-precision."
)
@click.option("--real", type=_folder, help="Folder of real pictures: adds FID and KID.")
@click.option(
    "--features",
    type=click.Choice(FEATURES),
    default=FEATURES[0],
    show_default=True,
    help="For FID and KID.",
)
@_out
def prompts_command(
    file: Path,
    model: str | None,
    recipe: Path | None,
    clip: str,
    real: Path | None,
    features: str,
    out: Path | None,
) -> None:
    """CLIP score and R-precision of a picture of each line of FILE; with --real, FID and KID."""
    from miaobi.accelerate.transform import apply
    from miaobi.evaluate import fidelity

    if not clip and real is None:
        raise InputError("nothing to measure; give --clip or --real.")
    pipe: Any = load_any(model)
    steps = read_recipe(recipe) if recipe else ()
    pipe = apply(pipe, steps, measured=False) if steps else pipe
    texts = list(dict.fromkeys(read_prompts(file)))
    pixels = fidelity.draw(pipe, texts, range(len(texts)))
    figures = prompts.r_precision(pixels, texts, clip) if clip else Figures()
    if real is not None:
        pictures = prompts.real_pictures(real, pixels.shape[1])
        figures |= prompts.distances(pixels, pictures, prompts.extractor(features))
    _finish(figures, out, {"model": model or "shipped", "recipe": describe(steps), "prompts": file})
    if out is not None:
        save_png(out / "drawn.png", contact_sheet(to_pil(pixels[:64]), 8))


def _read_tags(path: Path) -> dict[str, dict[str, str]]:
    try:
        tags: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read held-back tags from {path}: {error}; give --tags, or --only without paraphrases"
        ) from error
    return tags


def main(arguments: list[str]) -> None:
    """`miaobi evaluate` with these arguments; raises what click and `miaobi.errors` raise."""
    cli.main(arguments or ["--help"], prog_name="miaobi evaluate", standalone_mode=False)
