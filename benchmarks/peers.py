"""Other tools that make pipelines fast, and Miaobi's plans, side by side in one run on one machine.

    python benchmarks/random_pipelines.py sd15 --out FOLDER
    python benchmarks/peers.py FOLDER --venvs VENVS --work WORK [--plan PLAN.toml ...]

Each peer runs in its own virtual environment and process, with the same weights, prompts, initial
noise, sampler, steps, guidance and number of threads; rounds go through all peers in turn, so that a drift of
the machine meets all alike. What a peer converts the model to is made before and kept in WORK. Speed is told
beside stock diffusers in fp32 (ratios of the same round, their median), fidelity as PSNR of 8-bit pictures
against it, which with random weights says nothing of quality. A peer that cannot be installed or fails is
listed with its reason. Prompts are single letters, which every tokenizer here cuts alike. Ends with one line
of JSON.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from runners.environments import ENVIRONMENTS, PeerError, interpreter, reason

PROMPTS = ("a b c", "x y z", "m i a o", "b i")
BASELINE = "diffusers fp32"
RUNNERS = Path(__file__).parent / "runners"


@dataclass(frozen=True)
class Peer:
    """One row of the table."""

    name: str
    runner: str
    """File in `runners`, without its ending."""
    flavour: str
    environment: str = ""
    """Empty: the one this runs in."""
    plan: str = ""


PEERS = (
    Peer(BASELINE, "with_diffusers", "fp32", "diffusers"),
    Peer("diffusers channels-last", "with_diffusers", "channels-last", "diffusers"),
    Peer("diffusers bf16", "with_diffusers", "bf16", "diffusers"),
    Peer("diffusers compile", "with_diffusers", "compile", "diffusers"),
    Peer("diffusers bf16 compile", "with_diffusers", "compile-bf16", "diffusers"),
    Peer("pruna compile", "with_pruna", "compile", "pruna"),
    Peer("pruna deepcache", "with_pruna", "deepcache", "pruna"),
    Peer("openvino fp32", "with_openvino", "fp32", "openvino"),
    Peer("openvino default", "with_openvino", "default", "openvino"),
    Peer("openvino int8 weights", "with_openvino", "int8-weights", "openvino"),
    Peer("openvino int8 hybrid", "with_openvino", "int8-hybrid", "openvino"),
    Peer("onnxruntime fp32", "with_onnxruntime", "fp32", "onnxruntime"),
    Peer("onnxruntime int8 dynamic", "with_onnxruntime", "int8-dynamic", "onnxruntime"),
    Peer("stable-diffusion.cpp f32", "with_sdcpp", "f32", "inferna"),
    Peer("stable-diffusion.cpp q8_0", "with_sdcpp", "q8_0", "inferna"),
)


def noise_of(model: Path, seeds: list[int], size_px: int) -> np.ndarray:
    """Initial noise (N, C, H, W) float32 of a Stable Diffusion pipeline, one seed a picture."""
    import torch

    channels = json.loads((model / "unet" / "config.json").read_text("utf-8"))["in_channels"]
    stages = json.loads((model / "vae" / "config.json").read_text("utf-8"))["block_out_channels"]
    side = size_px // 2 ** (len(stages) - 1)
    shape = (1, channels, side, side)
    every = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy() for seed in seeds]
    return np.concatenate(every)


def psnr_db(picture: np.ndarray, reference: np.ndarray) -> float:
    """PSNR of 8-bit pictures in dB; infinite where they are the same."""
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ask(peer: Peer, python: Path, job: dict[str, Any], folder: Path, limit_s: float) -> dict[str, Any]:
    """Run a peer's process on a job; its figures.

    Raises:
        PeerError: it failed or took longer than `limit_s`.
    """
    file = folder / "job.json"
    file.write_text(json.dumps(job | {"flavour": peer.flavour, "plan": peer.plan}), encoding="utf-8")
    settings = {
        "OMP_NUM_THREADS": str(job["threads"]),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHINDUCTOR_CACHE_DIR": str(Path(job["work"]) / "inductor"),
    }
    command = [str(python), str(RUNNERS / f"{peer.runner}.py"), str(file)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, env=os.environ | settings, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"took longer than {limit_s:.0f} s") from error
    if done.returncode:
        raise PeerError(reason(done.stderr or done.stdout) if done.returncode > 0 else "was killed")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def table(rows: dict[str, dict[str, Any]], failed: dict[str, str]) -> str:
    """The rows, fastest first, then those that failed."""
    head = f"{'peer':28}{'ms':>9}{'× stock':>9}{'PSNR dB':>9}{'first ms':>10}{'peak MB':>9}"
    lines = [head, "-" * len(head)]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["times_stock"]):
        lines.append(
            f"{name:28}{row['picture_ms']:9.0f}{row['times_stock']:9.2f}{row['psnr_db']:9.1f}"
            f"{row['first_ms']:10.0f}{row['peak_bytes'] / 1e6:9.0f}"
        )
    lines += [f"{name:28}failed: {why}" for name, why in failed.items()]
    return "\n".join(lines)


def chosen(only: tuple[str, ...], plans: tuple[Path, ...]) -> list[Peer]:
    """Peers whose names hold one of the words, the baseline first, and one peer for each plan."""
    unknown = [word for word in only if not any(word in peer.name for peer in PEERS)]
    if unknown:
        raise click.UsageError(
            f"no peer is called {unknown[0]!r}; there are: {', '.join(p.name for p in PEERS)}."
        )
    some = [peer for peer in PEERS if not only or peer.name == BASELINE or any(w in peer.name for w in only)]
    return some + [
        Peer(f"miaobi {plan.stem}", "with_miaobi", "plan", plan=str(plan.resolve())) for plan in plans
    ]


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--venvs", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--plan", "plans", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", multiple=True, help="Word in the names of the peers to run; repeatable.")
@click.option("--python", "pythons", multiple=True, help="Interpreter to make environments with; repeatable.")
@click.option("--size", "size_px", default=512, show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--guidance", default=7.5, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--pictures", default=1, show_default=True, help="Timed pictures of a peer in a round.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option(
    "--limit", "limit_s", default=1800.0, show_default=True, help="Seconds a peer may take in a round."
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to write pictures to.")
def main(
    model: Path,
    venvs: Path,
    work: Path,
    plans: tuple[Path, ...],
    only: tuple[str, ...],
    pythons: tuple[str, ...],
    size_px: int,
    steps: int,
    guidance: float,
    rounds: int,
    pictures: int,
    threads: int,
    limit_s: float,
    keep: Path | None,
) -> None:
    peers, failed, ready = chosen(only, plans), {}, {}
    work = work.resolve() / model.resolve().name
    work.mkdir(parents=True, exist_ok=True)
    seeds = list(range(pictures))
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "noise.npy", noise_of(model, seeds, size_px))
        job = {
            "model": str(model.resolve()),
            "work": str(work),
            "prompts": [PROMPTS[seed % len(PROMPTS)] for seed in seeds],
            "seeds": seeds,
            "latents": str(folder / "noise.npy"),
            "pictures": str(folder / "pictures.npy"),
            "steps": steps,
            "first_steps": 1,
            "guidance": guidance,
            "size_px": size_px,
            "threads": threads,
            "prepare": True,
        }
        for peer in peers:
            try:
                own = ENVIRONMENTS.get(peer.environment)
                python = interpreter(own, venvs, pythons) if own else Path(sys.executable)
                took = ask(peer, python, job, folder, limit_s * 4)
                ready[peer] = python
                click.echo(f"{peer.name}: ready after {took['prepare_ms'] / 1000:.0f} s", err=True)
            except PeerError as error:
                failed[peer.name] = str(error)
                click.echo(f"{peer.name}: {error}", err=True)
        reference: np.ndarray | None = None
        for number in range(rounds):
            for peer, python in ready.items():
                if peer.name in failed:
                    continue
                try:
                    figures = ask(peer, python, job | {"prepare": False}, folder, limit_s)
                except PeerError as error:
                    failed[peer.name] = str(error)
                    click.echo(f"{peer.name}: {error}", err=True)
                    continue
                drawn = np.load(folder / "pictures.npy")
                reference = drawn if peer.name == BASELINE and reference is None else reference
                if reference is None:
                    raise click.ClickException(f"{BASELINE} failed; there is nothing to compare with.")
                figures["psnr_db"] = psnr_db(drawn, reference)
                results.setdefault(peer.name, []).append(figures)
                told = f"{median(figures['picture_ms']):.0f} ms, {figures['psnr_db']:.1f} dB"
                click.echo(f"round {number + 1}, {peer.name}: {told}", err=True)
                if keep:
                    save(keep, peer.name, drawn)
    rows = {
        name: summary(name, runs, results[BASELINE]) for name, runs in results.items() if name not in failed
    }
    click.echo(f"{model.name}, {size_px} px, {steps} steps, guidance {guidance}, {threads} threads")
    click.echo(table(rows, failed))
    setting = {
        "model": model.name,
        "size_px": size_px,
        "steps": steps,
        "guidance": guidance,
        "threads": threads,
    }
    click.echo(json.dumps(setting | {"rounds": rounds, "peers": rows, "failed": failed}))


def summary(name: str, runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """A peer's figures over all rounds: medians, ratios to the baseline of the same round, the worst PSNR."""
    ratios = [
        median(stock["picture_ms"]) / median(own["picture_ms"])
        for own, stock in zip(runs, baseline, strict=False)
    ]
    worst = min(run["psnr_db"] for run in runs)
    return {
        "picture_ms": median(ms for run in runs for ms in run["picture_ms"]),
        "times_stock": median(ratios),
        "times_stock_each_round": ratios,
        "psnr_db": worst if math.isfinite(worst) else 99.0,
        "first_ms": runs[0]["first_ms"],
        "load_ms": median(run["load_ms"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "versions": runs[0]["versions"],
    }


def save(folder: Path, name: str, pictures: np.ndarray) -> None:
    """Write a peer's pictures as PNG files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{name.replace(' ', '-')}-{number}.png")


if __name__ == "__main__":
    main()
