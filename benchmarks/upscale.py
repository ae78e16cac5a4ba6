"""How well and how fast the upscaler inside the package enlarges held-out vector art.

    python benchmarks/upscale.py [--data data/emoji/512] [--rendered data/emoji] [--pictures 200]

PSNR and SSIM over white, times 4 (128 -> 512 px) and times 2 (-> 256 px), of nearest, bicubic and Lanczos
interpolation of premultiplied pictures (Pillow) and of the network: of small pictures that are averages of
the large ones, that were drawn that small, and that the shipped autoencoder reconstructed. Pictures are of
the half of the held-out ones that no training run was compared by, spread over all styles. Time is of
128 -> 512 px, one picture at a time, after a warm-up. Ends with one line of JSON.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

SCALES = (4, 2)
METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def chosen(dataset: Any, count: int) -> Any:
    """Positions of `count` pictures to measure, evenly over the list, which is sorted by style."""
    from miaobi.train.upscaler import testing

    every = testing(dataset)
    return every[np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int))]


def measure(enlarge: Callable[[Any], Any], small: Any, large: list[Any]) -> tuple[Any, Any]:
    """PSNR and SSIM over white of each enlarged picture, (n,) both."""
    from miaobi.evaluate.quality import psnr, ssim
    from miaobi.images import over_white

    scores = []
    for one, real in zip(small, large, strict=True):
        pair = [np.moveaxis((over_white(x) + 1) / 2, 0, -1)[None] for x in (enlarge(one), real)]
        # 60 dB: no error that 8 bits could show
        scores.append((min(float(psnr(*pair)[0]), 60.0), float(ssim(*pair)[0])))
    psnrs, ssims = np.array(scores).T
    return psnrs, ssims


def times_ms(enlarge: Callable[[Any], Any], small: Any, runs: int) -> list[float]:
    """Milliseconds of each of `runs` pictures."""
    for one in small[:5]:
        enlarge(one)
    times = []
    for run in range(runs):
        started = time.perf_counter()
        enlarge(small[run % len(small)])
        times.append((time.perf_counter() - started) * 1000)
    return times


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/emoji/512"), show_default=True)
@click.option("--rendered", type=click.Path(path_type=Path), default=Path("data/emoji"), show_default=True)
@click.option("--coder", type=click.Path(path_type=Path), default=Path("recipes/emoji/weights/autoencoder"))
@click.option("--pictures", default=200, show_default=True, help="Held-out pictures.")
@click.option("--runs", default=100, show_default=True, help="Pictures that are timed.")
@click.option("--upscaler", type=click.Path(path_type=Path), help="Folder of another upscaler.")
def main(data: Path, rendered: Path, coder: Path, pictures: int, runs: int, upscaler: Path | None) -> None:
    """Measure the upscaler's quality and speed."""
    from miaobi.evaluate.quality import mean_figure
    from miaobi.images import from_uint8
    from miaobi.refine.resample import resample, shrink
    from miaobi.refine.upscale import SHIPPED, Enlarger
    from miaobi.train.data import load_dataset
    from miaobi.train.upscaler import small_pictures

    ours = Enlarger.load(upscaler or SHIPPED)
    dataset = load_dataset(data)
    kinds = small_pictures(dataset, load_dataset(rendered), coder, data / "small")
    indices = chosen(dataset, pictures)
    large = {4: [dataset.take(indices[i : i + 1])[0] for i in range(len(indices))]}
    large[2] = [shrink(one, 2) for one in large[4]]
    figures: dict[str, float] = {"pictures": len(indices), "bytes": ours.bytes}
    click.echo(f"{len(indices)} held-out pictures, over white\n")
    click.echo(f"{'small picture':14} {'scale':5} {'method':8} {'PSNR dB':>28} {'SSIM':>28} {'gain dB':>8}")
    for kind, source in kinds.items():
        small = from_uint8(source[indices])
        for scale in SCALES:
            methods: dict[str, Callable[[Any], Any]] = {
                name: lambda x, s=scale, m=method: resample(x, s, m) for name, method in METHODS.items()
            }
            methods["ours"] = lambda x, s=scale: ours.upscale(x, s)
            scores = {name: measure(enlarge, small, large[scale]) for name, enlarge in methods.items()}
            for name, (psnr, ssim) in scores.items():
                gain = mean_figure(psnr - scores["lanczos"][0]).value
                click.echo(
                    f"{kind:14} x{scale:<4} {name:8} {mean_figure(psnr)!s:>28} {mean_figure(ssim)!s:>28} "
                    f"{gain:+8.2f}"
                )
                key = f"{kind}_x{scale}_{name}"
                figures |= {f"{key}_psnr_db": psnr.mean(), f"{key}_ssim": ssim.mean()}
            figures[f"{kind}_x{scale}_gain_db"] = float((scores["ours"][0] - scores["lanczos"][0]).mean())
    small = from_uint8(kinds["area"][indices])
    for scale in SCALES:
        times = times_ms(lambda x, s=scale: ours.upscale(x, s), small, runs)
        middle, late = np.percentile(times, [50, 95])
        figures |= {f"x{scale}_p50_ms": middle, f"x{scale}_p95_ms": late}
        click.echo(f"\n128 px x{scale}: p50 {middle:.1f} ms, p95 {late:.1f} ms, best {min(times):.1f} ms")
    figures |= {"cpus": float(os.cpu_count() or 0)}
    click.echo(json.dumps({name: round(float(value), 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
