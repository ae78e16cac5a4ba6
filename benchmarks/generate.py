"""How fast a bundle draws, as ratios measured in one run on one machine.

    python benchmarks/generate.py [-m BUNDLE] [--teacher runs/generator] [--install]

Warm: one picture (median, 95th percentile, by stage) and batches of 8; pictures in turn with the PyTorch fp32
teacher with 50 guided steps, and with the arithmetic limit: the FLOPs of the graphs that really ran, divided
by the rate of this machine's fp32 matrix product with the same threads (`times_the_limit_at_best` is the
median of the warm pictures beside the fastest product). A scene at 512 px (plan, layers, composition,
enlarging) in turn with single pictures, and what 10,000 remembered pictures add. Cold: `miaobi generate` from
process start to file written, and peak memory; a first run, which brings the files into the page cache, is
left out. `--install` adds the sizes of the wheel and of a fresh virtual environment with it. Ends with one
line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import numpy as np

Figures = dict[str, float]
PROMPT = "a colorful parrot"
SCENE, SCENE_PX = "一只在花园里飞翔的彩色鹦鹉", 512


def cold(model: str | None, runs: int, prompt: str, *options: str) -> Figures:
    """Wall time and peak memory of `miaobi generate` as a process of its own, medians of `runs`.

    Measured while this process is still small: a child's peak starts at what its parent held.
    """
    walls, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-c", "import sys; from miaobi.cli import main; sys.exit(main())"]
        output = str(Path(folder) / "cold.png")
        command = [*program, "generate", prompt, *options, "--seed", "1", "--quiet", "-o", output]
        command += ["-m", model] if model else []
        for _ in range(runs + 1):
            started = time.perf_counter()
            child = os.posix_spawn(command[0], command, os.environ)
            _, status, usage = os.wait4(child, 0)
            walls.append(time.perf_counter() - started)
            peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if status:
                raise click.ClickException("`miaobi generate` failed; its message is above")
    return {
        "cold_ms": median(walls[1:]) * 1000,
        "cold_best_ms": min(walls[1:]) * 1000,
        "cold_peak_mb": median(peaks[1:]) / 1e6,
    }


def warm(pipe: Any, runs: int) -> Figures:
    """Milliseconds of one picture at a time, in all and by stage, and of a picture in batches of 8."""
    for seed in range(5):
        pipe.generate(PROMPT, seed=seed)
    times, stages = [], []
    for seed in range(runs):
        started = time.perf_counter()
        receipt = pipe.generate(PROMPT, seed=seed).receipt
        times.append((time.perf_counter() - started) * 1000)
        stages.append(receipt.stages_ms)
    pipe.generate(PROMPT, n=8, seed=0)
    batches = []
    for _ in range(max(3, runs // 8)):
        started = time.perf_counter()
        pipe.generate(PROMPT, n=8, seed=0)
        batches.append((time.perf_counter() - started) * 1000 / 8)
    return {
        "warm_median_ms": median(times),
        "warm_p95_ms": quantiles(times, n=20)[-1],
        "steps": receipt.steps,
        **{f"warm_{stage}_ms": median(one[stage] for one in stages) for stage in stages[0]},
        "batch8_ms_per_picture": median(batches),
        "batch8_pictures_per_s": 1000 / median(batches),
    }


def in_turn(pipe: Any, other: Callable[[], float], blocks: int) -> list[tuple[float, float]]:
    """What `other` tells and the median seconds of the five pictures after it, `blocks` times: what slows the
    machine down for a while slows both."""
    pairs = []
    for _ in range(blocks):
        told, times = other(), []
        for seed in range(5):
            started = time.perf_counter()
            pipe.generate(PROMPT, seed=seed)
            times.append(time.perf_counter() - started)
        pairs.append((told, median(times)))
    return pairs


def limit(pipe: Any, blocks: int) -> Figures:
    """What a picture takes beside its arithmetic at the rate of matrix products."""
    from miaobi.evaluate.flops import gemm, picture_flops

    counted = picture_flops(pipe)
    flops = sum(counted.values())
    pairs = in_turn(pipe, gemm(pipe.running.threads), blocks)
    rates = [rate for rate, _ in pairs]
    return {
        **{f"mflops_{name.removesuffix('.onnx')}": count / 1e6 for name, count in counted.items()},
        "mflops": flops / 1e6,
        "gemm_gflops_per_s": median(rates) / 1e9,
        "gemm_best_gflops_per_s": max(rates) / 1e9,
        "limit_ms": flops / median(rates) * 1000,
        "times_the_limit": median(seconds * rate / flops for rate, seconds in pairs),
    }


def scene(pipe: Any, runs: int) -> Figures:
    """Milliseconds of a scene, in all and by stage, and in single pictures drawn in turn with it."""
    times: dict[str, list[float]] = {SCENE: [], PROMPT: []}
    stages = []
    for seed in range(-3, runs):
        for prompt, size in ((SCENE, SCENE_PX), (PROMPT, None)):
            started = time.perf_counter()
            receipt = pipe.generate(prompt, seed=abs(seed), size_px=size).receipt
            if seed >= 0:
                times[prompt].append((time.perf_counter() - started) * 1000)
                stages += [receipt.stages_ms] if prompt == SCENE else []
    return {
        "scene_median_ms": median(times[SCENE]),
        "scene_p95_ms": quantiles(times[SCENE], n=20)[-1],
        **{f"scene_{stage}_ms": median(one[stage] for one in stages) for stage in stages[0]},
        "scene_times_single": median(a / b for a, b in zip(times[SCENE], times[PROMPT], strict=True)),
    }


def remembering(model: str | None, threads: int | None, names: int, runs: int) -> Figures:
    """What `names` remembered pictures add to the milliseconds of a picture: medians of runs in turn."""
    from miaobi import load
    from miaobi.text.remembered import Remembered, file_of

    plain = load(model, threads=threads)
    if "encoder.onnx" not in plain.bundle.files:
        return {}
    rng, size = np.random.default_rng(0), plain.memory.keys.shape[1]
    keys = rng.standard_normal((names, size), dtype=np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    latents = rng.standard_normal((names, *plain.bundle.latent_shape), dtype=np.float32).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        before, os.environ["MIAOBI_HOME"] = os.environ.get("MIAOBI_HOME"), folder
        every = tuple(f"picture {number}" for number in range(names))
        Remembered(every, keys, latents, np.zeros(names, np.int64)).save(file_of(plain.bundle))
        full = load(model, threads=threads)
        os.environ.pop("MIAOBI_HOME")
        if before is not None:
            os.environ["MIAOBI_HOME"] = before
    times: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(-3, runs):
        for more, pipe in ((False, plain), (True, full)):
            ms = pipe.generate(PROMPT, seed=abs(seed)).receipt.total_ms
            times[more] += [ms] if seed >= 0 else []
    added = median(more - less for less, more in zip(times[False], times[True], strict=True))
    return {f"remembered_{names}_added_ms": added}


def teacher(pipe: Any, folder: Path, blocks: int = 5) -> Figures:
    """What the PyTorch fp32 teacher takes for a picture with 50 guided steps, beside the pipeline's."""
    import torch

    from miaobi.train.generator import load_teacher

    if pipe.running.threads:
        torch.set_num_threads(pipe.running.threads)
    draw = load_teacher(folder)

    def one() -> float:
        started = time.perf_counter()
        draw([PROMPT], [pipe.bundle.default_style], [0])
        return time.perf_counter() - started

    one()
    pairs = in_turn(pipe, one, blocks)
    return {
        "teacher_ms": median(slow for slow, _ in pairs) * 1000,
        "times_faster_than_teacher": median(slow / fast for slow, fast in pairs),
    }


def install_sizes(root: Path) -> Figures:
    """Megabytes of the wheel built from `root`, and of a fresh virtual environment with that alone.

    Installed as `make generate` does, without compiling, and after a first picture; then with every module
    compiled, as a plain `pip install` leaves it.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheels, fresh = Path(folder) / "wheels", Path(folder) / "venv"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(root)], check=True)
        wheel = next(wheels.glob("*.whl"))
        venv.create(fresh, with_pip=True)
        python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
        subprocess.run([python, *pip[1:], "install", "--no-compile", str(wheel)], check=True)

        def size_mb() -> float:
            files = [path for path in fresh.rglob("*") if path.is_file() and not path.is_symlink()]
            return sum(path.stat().st_size for path in files) / 1e6

        first = "import miaobi; miaobi.load().generate('cat', seed=0)"
        subprocess.run([python, "-c", first], check=True, cwd=folder)
        as_made = size_mb()
        subprocess.run([python, "-m", "compileall", "-q", str(fresh)], check=False)
        with_torch = any(path.name == "torch" for path in fresh.rglob("site-packages/torch"))
        return {
            "wheel_mb": wheel.stat().st_size / 1e6,
            "install_mb": as_made,
            "install_compiled_mb": size_mb(),
            "install_has_torch": float(with_torch),
        }


@click.command(help=__doc__)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the runtime chooses]")
@click.option("--runs", type=click.IntRange(2), default=50, show_default=True, help="Warm pictures to time.")
@click.option("--cold-runs", type=click.IntRange(1), default=5, show_default=True, help="Processes to time.")
@click.option(
    "--teacher",
    "teacher_folder",
    type=click.Path(path_type=Path, exists=True),
    help="Run folder of the generator.",
)
@click.option("--install", is_flag=True, help="Also measure a fresh installation.")
def main(
    model: str | None,
    threads: int | None,
    runs: int,
    cold_runs: int,
    teacher_folder: Path | None,
    install: bool,
) -> None:
    figures: Figures = cold(model, cold_runs, PROMPT)
    of_scene = cold(model, cold_runs, SCENE, "--size", str(SCENE_PX))
    figures |= {f"scene_{name}": value for name, value in of_scene.items()}

    from miaobi import load

    pipe = load(model, threads=threads)
    figures |= warm(pipe, runs)
    figures |= scene(pipe, max(3, runs // 2))
    figures |= remembering(model, threads, 10_000, runs)
    figures |= limit(pipe, max(3, runs // 2))
    best = figures["gemm_best_gflops_per_s"] / figures["mflops"]
    figures["times_the_limit_at_best"] = figures["warm_median_ms"] * best
    if teacher_folder is not None:
        figures |= teacher(pipe, teacher_folder)
    if install:
        figures |= install_sizes(Path(__file__).resolve().parents[1])
    for name, value in figures.items():
        click.echo(f"{name:<27} {value:12,.2f}")
    about = {
        "bundle": f"{pipe.bundle.name} {pipe.bundle.version}",
        "threads": pipe.running.threads,
        "cpus": os.cpu_count(),
    }
    click.echo(json.dumps(about | {name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
