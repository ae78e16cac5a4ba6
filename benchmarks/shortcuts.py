"""What cached features, merged tokens and a small decoder cost and bring in a pipeline of diffusers.

    python benchmarks/shortcuts.py PIPELINE [--size 512] [--repeats 5] [--steps 20] [--threads 2]

PIPELINE is a folder (`benchmarks/random_pipelines.py` makes some). First, one evaluation of the denoiser, on
inputs caught from the pipeline itself: plain, with its deep or later blocks skipped, and with tokens merged;
and one decoding, by the pipeline's decoder and by an untrained one of TAESD's shape. Each is run in turn,
`--repeats` times: milliseconds (median), processor seconds (least), and the ratio of plain to it, in the same
turn (median). Then, with `--steps` above 0, whole pictures of one seed: seconds, evaluations that were whole
ones, and the PSNR to the plain picture.

With random weights, PSNR says how far a shortcut strays from the plain pipeline, and nothing about how its
pictures look. Ends with one line of JSON.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

PROMPT = "a red apple"
RATIOS = (0.25, 0.5, 0.75)
INTERVALS = (2, 3, 5)
THRESHOLDS = (0.1, 0.3, 0.6)


def tiny_autoencoder(latent_channels: int) -> Any:
    """An untrained autoencoder of TAESD's shape, for 4 or 16 latent channels: for its speed only."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny(latent_channels=latent_channels).eval()


def draw(pipe: Any, size_px: int, steps: int, latents: bool = False) -> Any:
    """One picture (H, W, 3) in [0, 1], or its latents."""
    import torch

    return pipe(
        PROMPT,
        height=size_px,
        width=size_px,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent" if latents else "np",
    ).images[0]


def caught(pipe: Any, name: str, size_px: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the pipeline gives its denoiser in the second of two steps."""
    kept: list[Any] = []
    handle = getattr(pipe, name).register_forward_pre_hook(
        lambda module, args, kwargs: kept.append((args, kwargs)), with_kwargs=True
    )
    draw(pipe, size_px, 2, latents=True)
    handle.remove()
    return kept[-1]  # type: ignore[no-any-return]


def networks(denoiser: Any) -> dict[str, Callable[[], Any]]:
    """What can stand in for the denoiser when whole pictures are drawn."""
    from miaobi.accelerate.cache import deep_cached
    from miaobi.accelerate.first_block import CachedTransformer
    from miaobi.accelerate.merge import merged

    if not hasattr(denoiser, "down_blocks"):
        return {
            f"first-block, threshold {one:g}": lambda one=one: CachedTransformer(denoiser, one)  # type: ignore[misc]
            for one in THRESHOLDS
        }
    found: dict[str, Callable[[], Any]] = {
        f"deep, interval {one}": lambda one=one: deep_cached(denoiser, one)  # type: ignore[misc]
        for one in INTERVALS
    }
    found["merged 0.5"] = lambda: merged(denoiser, 0.5)
    found["deep, interval 3, merged 0.5"] = lambda: deep_cached(merged(denoiser, 0.5), 3)
    return found


def evaluations(denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Ways to evaluate the denoiser once."""
    from miaobi.accelerate.cache import deep_cached
    from miaobi.accelerate.first_block import CachedTransformer
    from miaobi.accelerate.merge import merged

    def asked(network: Any) -> Callable[[], Any]:
        return lambda: network(*args, **kwargs)

    found = {"plain": asked(denoiser)}
    if not hasattr(denoiser, "down_blocks"):
        skipping = CachedTransformer(denoiser, 1e9)
        skipping(*args, **kwargs)
        return found | {"later blocks skipped": asked(skipping)}
    for layers in range(1, len(denoiser.up_blocks[-1].resnets) + 1):
        shallow = deep_cached(denoiser, 10**9, layers)
        shallow(*args, **kwargs)
        found[f"shallow, {layers} of the outermost layers"] = asked(shallow)
    for ratio in RATIOS:
        found[f"merged {ratio:g}"] = asked(merged(denoiser, ratio))
    return found


def decodings(pipe: Any, size_px: int) -> dict[str, Callable[[], Any]]:
    """Ways to decode one picture's latents."""
    import torch

    channels = pipe.vae.config.get("latent_channels")
    if channels not in (4, 16) or not hasattr(pipe.vae.config, "scaling_factor"):
        return {}
    side = size_px // pipe.vae_scale_factor
    latents = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    small = tiny_autoencoder(channels)
    return {
        "decoder": lambda: pipe.vae.decode(latents, return_dict=False),
        "small decoder": lambda: small.decode(latents, return_dict=False),
    }


def timed(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Times of each, run in turns after a warm-up; ratios are to the first, turn by turn."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started, busy = time.perf_counter(), time.process_time()
            way()
            if turn:
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - busy)
    base = next(iter(ways))
    return {
        name: {
            "ms": round(median(wall[name]) * 1000, 1),
            "processor_s": round(min(processor[name]), 3),
            "times_faster": round(median(a / b for a, b in zip(wall[base], wall[name], strict=True)), 3),
            "times_less_work": round(min(processor[base]) / min(processor[name]), 3),
        }
        for name in ways
    }


def pictures(pipe: Any, name: str, size_px: int, steps: int) -> dict[str, dict[str, float | None]]:
    """Whole pictures with each network in the denoiser's place."""
    denoiser = getattr(pipe, name)
    found: dict[str, dict[str, float | None]] = {}
    plain: Any = None
    for told, make in {"plain": lambda: denoiser, **networks(denoiser)}.items():
        network = make()
        count = _whole_evaluations(network)
        setattr(pipe, name, network)
        started = time.perf_counter()
        picture = draw(pipe, size_px, steps)
        seconds = time.perf_counter() - started
        plain = picture if plain is None else plain
        error = float(np.mean((picture - plain) ** 2))
        found[told] = {
            "s": round(seconds, 2),
            "whole": len(count),
            "psnr_db": round(-10 * np.log10(error), 2) if error else None,
        }
        setattr(pipe, name, denoiser)
    return found


def _whole_evaluations(network: Any) -> list[int]:
    """Grows by one with each evaluation that runs the network's deepest block."""
    found: list[int] = []
    inner = getattr(network, "network", network)
    deepest = getattr(inner, "mid_block", None)
    if deepest is None:
        lists = [one for name, one in inner.named_children() if name.endswith(("blocks", "layers"))]
        last = lists[-1][-1]
        deepest = getattr(last, "block", last)
    deepest.register_forward_hook(lambda *_: found.append(1))
    return found


@click.command(help=__doc__.split("\n")[0] if __doc__ else None)
@click.argument("pipeline", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--size", "size_px", default=512, show_default=True, help="Pixels of a side.")
@click.option("--repeats", default=5, show_default=True, help="Turns that are timed.")
@click.option("--steps", default=0, show_default=True, help="Steps of whole pictures; 0: none are drawn.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
def main(pipeline: Path, size_px: int, repeats: int, steps: int, threads: int) -> None:
    """Measure, print tables and one line of JSON."""
    import torch
    from diffusers import DiffusionPipeline

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    pipe = DiffusionPipeline.from_pretrained(pipeline, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    denoiser = getattr(pipe, name)
    args, kwargs = caught(pipe, name, size_px)
    report: dict[str, Any] = {"pipeline": pipeline.name, "size_px": size_px, "threads": threads}
    tables = {"evaluation": evaluations(denoiser, args, kwargs), "decoding": decodings(pipe, size_px)}
    for title, ways in tables.items():
        if not ways:
            continue
        report[title] = timed(ways, repeats)
        click.echo(f"{title:<44}{'ms':>10}{'CPU s':>9}{'faster':>9}{'less work':>11}")
        for way, row in report[title].items():
            click.echo(
                f"  {way:<42}{row['ms']:>10.1f}{row['processor_s']:>9.2f}{row['times_faster']:>8.2f}×"
                f"{row['times_less_work']:>10.2f}×"
            )
    if steps:
        report["steps"] = steps
        report["pictures"] = pictures(pipe, name, size_px, steps)
        click.echo(f"{'picture of ' + str(steps) + ' steps':<44}{'s':>10}{'whole':>9}{'PSNR dB':>9}")
        for way, row in report["pictures"].items():
            told = "-" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
            click.echo(f"  {way:<42}{row['s']:>10.2f}{row['whole']:>9}{told:>9}")
    click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
