"""What every runner of `benchmarks/peers.py` shares: the job it reads, the clock, the line it ends with.

A runner is a process of its own in its peer's environment: `python RUNNER.py JOB.json`. Of the packages
there, this module needs NumPy alone.
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

# prompt, initial noise (1, C, H, W) or None, seed, steps -> (H, W, 3) uint8
Draw = Callable[[str, Any, int, int], np.ndarray]


@dataclass(frozen=True)
class Job:
    """One peer's task in one round."""

    model: str
    """Folder of a diffusers pipeline, or of a bundle."""
    flavour: str
    """Which of the runner's variants to run."""
    work: str
    """Folder for what a peer converts the model to; kept between runs."""
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    """One for each picture, and so is `latents`."""
    latents: str
    """File with the initial noise, (N, C, H, W) float32 of unit deviation, drawn by PyTorch's CPU generator
    from `seeds`; empty where a model draws its own."""
    pictures: str
    """File to write the pictures to: (N, H, W, 3) uint8."""
    steps: int
    first_steps: int
    """Steps of the untimed first picture."""
    guidance: float
    size_px: int
    threads: int
    prepare: bool
    """Convert only, and write no pictures: the memory of a conversion is none of a peer's."""
    plan: str = ""
    """File of a recipe or plan, for Miaobi's own runner."""


def run(
    load: Callable[[Job], Draw], packages: Sequence[str], prepare: Callable[[Job], Any] | None = None
) -> None:
    """Read the job named on the command line, do it, and print its figures as the last line."""
    started = time.perf_counter()
    values = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    job = Job(**values | {"prompts": tuple(values["prompts"]), "seeds": tuple(values["seeds"])})
    if job.prepare:
        if prepare is not None:
            prepare(job)
        print(json.dumps({"prepare_ms": (time.perf_counter() - started) * 1000}))
        return
    noise = np.load(job.latents) if job.latents else [None] * len(job.seeds)
    draw = load(job)
    loaded = time.perf_counter()
    draw(job.prompts[0], noise[:1] if job.latents else None, job.seeds[0], job.first_steps)
    first = time.perf_counter()
    pictures, times = [], []
    for prompt, seed, one in zip(job.prompts, job.seeds, noise, strict=True):
        begun = time.perf_counter()
        picture = draw(prompt, None if one is None else one[None], seed, job.steps)
        times.append((time.perf_counter() - begun) * 1000)
        pictures.append(picture)
    np.save(job.pictures, np.stack(pictures))
    figures = {
        "picture_ms": times,
        "load_ms": (loaded - started) * 1000,
        "first_ms": (first - started) * 1000,
        "peak_bytes": peak_bytes(),
        "versions": {"python": platform.python_version()} | {one: told(one) for one in packages},
    }
    print(json.dumps(figures))


def peak_bytes() -> int:
    """The highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held before it started this process
        return 1024 * int(status.read_text("utf-8").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def told(package: str) -> str:
    """Version of an installed package, or that it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def drawer(pipe: Any, job: Job, noise: Callable[[Any], Any]) -> Draw:
    """How a Stable Diffusion pipeline with the call of diffusers draws; `noise` makes its kind of tensor."""
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str, latents: Any, seed: int, steps: int) -> np.ndarray:
        picture = pipe(
            prompt,
            latents=noise(latents),
            num_inference_steps=steps,
            guidance_scale=job.guidance,
            height=job.size_px,
            width=job.size_px,
            output_type="np",
        ).images[0]
        return np.rint(np.asarray(picture) * 255).astype(np.uint8)

    return draw
