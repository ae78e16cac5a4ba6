"""How much faster recipes make a full-size Stable Diffusion 1.5, beside stock diffusers in fp32, on the CPU.

    python benchmarks/random_pipelines.py sd15 --out FOLDER
    python benchmarks/sd15.py FOLDER [--steps 4] [--rounds 3] [--only NAME ...] [--recipe FILE.toml ...]
    [--stack]

Each recipe runs in a process of its own, in turn with stock diffusers (`DiffusionPipeline` as it is loaded,
PyTorch fp32) from the same initial noise: ratios are of medians, PSNR is of 8-bit pictures with the weights'
random, so it tells numerical fidelity and nothing of quality. Peak memory is that of the recipe alone,
measured before stock has run. Graphs are exported and networks compiled before the clock runs; what that took
is told. `--stack` adds cache, merged tokens, fewer steps and a small decoder one by one. Ends with one line
of JSON.
"""

import gc
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

PROMPTS = ("a red bicycle beside a lake", "an old lighthouse at dawn", "two cats under an umbrella")
GUIDANCE = 7.5
RECIPES: dict[str, str] = {
    "as it is": "",
    "channels-last": 'kind = "channels-last"',
    "compile": 'kind = "compile"',
    "compile, channels-last": 'kind = "channels-last"\n[[step]]\nkind = "compile"',
    "openvino": 'kind = "runtime"\nruntime = "openvino"',
    "onnxruntime": 'kind = "runtime"\nruntime = "onnxruntime"',
    "channels-last, decoder bf16": 'kind = "precision"\ndtype = "bfloat16"\npart = "decoder"\n'
    '[[step]]\nkind = "channels-last"',
    "bf16, channels-last": 'kind = "precision"\ndtype = "bfloat16"\n[[step]]\nkind = "channels-last"',
    "mnn": 'kind = "runtime"\nruntime = "mnn"',
    "openvino bf16": 'kind = "runtime"\nruntime = "openvino"\n'
    '[[step]]\nkind = "precision"\ndtype = "bfloat16"',
    **{
        f"{runtime} {method}": f'kind = "runtime"\nruntime = "{runtime}"\n[[step]]\nkind = "quantize"\n'
        f'method = "{method}"'
        for runtime, method in (
            ("openvino", "int8-static"),
            ("openvino", "int8-weights"),
            ("onnxruntime", "int8-dynamic"),
            ("onnxruntime", "int8-static"),
            ("onnxruntime", "int8-mixed"),
        )
    },
    "openvino bf16, int8-static": 'kind = "runtime"\nruntime = "openvino"\n'
    '[[step]]\nkind = "precision"\ndtype = "bfloat16"\n[[step]]\nkind = "quantize"\nmethod = "int8-static"',
    "torchao int8-dynamic": 'kind = "quantize"\nmethod = "int8-dynamic"',
}


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Of 8-bit pictures; 99 where they are the same."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def measured(folder: str, toml: str, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """Figures of one recipe, in this process."""
    import torch

    from miaobi.accelerate.diffusers import changed
    from miaobi.accelerate.recipe import loads
    from miaobi.receipt import peak_memory_bytes
    from miaobi.runtimes.diffusers import load

    torch.set_num_threads(threads)
    loaded = load(folder, threads=threads)
    recipe = loads(toml)
    fast = changed(loaded, recipe) if recipe else loaded
    told = next((one.count for one in recipe if one.name == "steps"), steps)  # type: ignore[attr-defined]
    started = time.perf_counter()
    fast.generate("warm up", seed=0, steps=min(told, 2))
    first_ms = (time.perf_counter() - started) * 1000
    stock = type(loaded.pipe)(**loaded.pipe.components)
    stock.set_progress_bar_config(disable=True)
    gc.collect()
    peak = 0
    fast_ms, stock_ms, fidelity, stages = [], [], [], []
    for number in range(rounds):
        prompt = PROMPTS[number % len(PROMPTS)] + f" {number}"
        started = time.perf_counter()
        made = fast.generate(prompt, seed=number, steps=told, guidance=None if _guides(recipe) else GUIDANCE)
        fast_ms.append((time.perf_counter() - started) * 1000)
        stages.append(made.receipt.stages_ms)
        peak = peak or peak_memory_bytes()
        started = time.perf_counter()
        with torch.inference_mode():
            reference = stock(
                prompt,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=torch.Generator().manual_seed(number),
                output_type="np",
            ).images
        stock_ms.append((time.perf_counter() - started) * 1000)
        fidelity.append(psnr_db(made.pixels[..., :3], np.rint(reference * 255).astype(np.uint8)))
    ratios = [slow / quick for slow, quick in zip(stock_ms, fast_ms, strict=True)]
    return {
        "ms": median(fast_ms),
        "stock_ms": median(stock_ms),
        "speedup": median(ratios),
        "speedup_least": min(ratios),
        "psnr_db": min(fidelity),
        "peak_mb": peak / 1e6,
        "first_ms": first_ms,
        "stages_ms": {name: median(one[name] for one in stages) for name in stages[0]},
        "notes": made.receipt.fallbacks,
    }


def _guides(recipe: Any) -> bool:
    return any(one.name == "guidance" for one in recipe)


def apart(folder: str, toml: str, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """`measured` in a process of its own; {"failed": why} where it fails."""
    command = [sys.executable, __file__, folder, "--steps", str(steps), "--rounds", str(rounds)]
    child = subprocess.run(
        [*command, "--threads", str(threads), "--worker", toml], capture_output=True, text=True, check=False
    )
    lines = child.stdout.strip().splitlines()
    if child.returncode < 0:
        return {"failed": f"ended by {signal.Signals(-child.returncode).name}"}
    if child.returncode or not lines:
        return {"failed": (child.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def small_decoder(folder: Path) -> str:
    """A folder with an `AutoencoderTiny` of random weights, of the usual size."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny().save_pretrained(folder / "decoder")
    return str(folder / "decoder")


def stacked(base: str, decoder: str) -> dict[str, str]:
    """Recipes that add one change after the other to the recipe `base` (TOML) of a runtime."""
    smaller = f'[[step]]\nkind = "tiny-decoder"\ndecoder = "{decoder}"\n'
    fewer = '[[step]]\nkind = "steps"\ncount = 3\n'
    merge = '[[step]]\nkind = "merge-tokens"\nratio = 0.5\n'
    cache = '[[step]]\nkind = "cache"\nmethod = "deep"\ninterval = 2\n'
    base = f"[[step]]\n{base}\n" if base else ""
    return {
        "base": base,
        "base + cache": cache + base,
        "base + merged tokens": merge + base,
        "base + 3 of 4 steps": fewer + base,
        "base + small decoder": smaller + base,
        "all together": smaller + fewer + cache + merge + base,
    }


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--steps", default=4, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--only", multiple=True, help="Names of built-in recipes; all without it.")
@click.option("--recipe", "files", multiple=True, type=click.Path(exists=True), help="Recipes as TOML.")
@click.option("--stack", help="Name of the built-in recipe on which other changes are stacked.")
@click.option("--worker", hidden=True)
def main(
    folder: str,
    steps: int,
    rounds: int,
    threads: int,
    only: tuple[str, ...],
    files: tuple[str, ...],
    stack: str | None,
    worker: str | None,
) -> None:
    if worker is not None:
        click.echo(json.dumps(measured(folder, worker, steps, rounds, threads)))
        return
    unknown = sorted(set(only) - set(RECIPES))
    if unknown or (stack and stack not in RECIPES):
        raise click.UsageError(f"unknown recipe; choose among {', '.join(RECIPES)}")
    chosen = {name: RECIPES[name] and f"[[step]]\n{RECIPES[name]}\n" for name in only or RECIPES}
    if stack and not only:
        chosen = {}
    if files:
        chosen = {name: chosen[name] for name in only}
    chosen |= {Path(one).stem: Path(one).read_text("utf-8") for one in files}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if stack:
            chosen |= stacked(RECIPES[stack], small_decoder(Path(scratch)))
        click.echo(
            f"{'recipe':<28}{'ms':>8}{'stock':>8}{'times':>7}{'least':>7}{'dB':>6}{'peak MB':>9}  stages"
        )
        for name, toml in chosen.items():
            one = results[name] = apart(folder, toml, steps, rounds, threads)
            if "failed" in one:
                click.echo(f"{name:<28}failed: {one['failed']}")
                continue
            told = ", ".join(f"{stage} {ms:.0f}" for stage, ms in one["stages_ms"].items())
            click.echo(
                f"{name:<28}{one['ms']:>8.0f}{one['stock_ms']:>8.0f}{one['speedup']:>7.2f}"
                f"{one['speedup_least']:>7.2f}{one['psnr_db']:>6.1f}{one['peak_mb']:>9.0f}  {told}"
            )
    click.echo(json.dumps({"steps": steps, "rounds": rounds, "threads": threads, "recipes": results}))


if __name__ == "__main__":
    main()
