"""What the switches of training cost and save: precision, accumulation, recomputing, shared blocks.

    python benchmarks/training.py [--recipe recipes/emoji/generator.toml] [--steps 6] [--threads 2]

The generator of a recipe takes steps on made-up latents and captions, each setting in a process of its own,
all beside the plain one (fp32, whole batch, everything kept, all blocks distinct). Time is the median of a
step, memory the highest of the process. Ends with one line of JSON.
"""

import json
import multiprocessing
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "accumulate 4": {"accumulate": 4},
    "recompute": {"recompute": True},
    "recompute, accumulate 4": {"recompute": True, "accumulate": 4},
    "2 distinct blocks": {"distinct": 2},
    "1 distinct block": {"distinct": 1},
}


class Task:
    """The generator on made-up batches."""

    def __init__(self, model: Any) -> None:
        import torch

        from miaobi.models.backbone import Condition

        self.model, self._condition, self._torch = model, Condition, torch

    def batch(self, _rng: np.random.Generator, size: int) -> Any:
        torch, backbone = self._torch, self.model.backbone
        condition = self._condition(
            torch.randn(size, 8, backbone.text_width),
            torch.ones(size, 8, dtype=torch.bool),
            torch.randn(size, backbone.text_width),
            torch.zeros(size, dtype=torch.int64),
            torch.randn(size, backbone.neighbours, *backbone.latent_shape),
            torch.zeros(size, backbone.neighbours, dtype=torch.int64),
        )
        return torch.randn(size, *backbone.latent_shape), condition

    def loss(self, batch: Any, rng: Any) -> Any:
        return self.model.loss(*batch, rng)


def measure(recipe: dict[str, Any], setting: dict[str, Any], steps: int, threads: int, out: Any) -> None:
    """Put milliseconds of a step, peak memory and parameters into the queue `out`."""
    import torch

    from miaobi.receipt import peak_memory_bytes
    from miaobi.train import generator, loop

    torch.set_num_threads(threads)
    setting = dict(setting)
    model_table = {"styles": 8, "latent_shape": [16, 8, 8]} | recipe["model"]
    if "distinct" in setting:
        model_table["distinct"] = setting.pop("distinct")
    model = generator.build(recipe | {"model": model_table})
    schedule = loop.Schedule(**recipe["schedule"] | {"steps": steps + 1, "precision": "fp32"} | setting)
    times, before = [], time.perf_counter()
    for _ in loop.fit(Task(model), loop.start(model, schedule), schedule):
        now = time.perf_counter()
        times.append((now - before) * 1000)
        before = now
    parameters = sum(one.numel() for one in model.parameters())
    out.put({"step_ms": median(times[1:]), "peak_mb": peak_memory_bytes() / 1e6, "parameters": parameters})


@click.command(help=__doc__)
@click.option(
    "--recipe", type=click.Path(path_type=Path, exists=True), default=Path("recipes/emoji/generator.toml")
)
@click.option("--steps", type=click.IntRange(2), default=6, show_default=True)
@click.option("--batch", type=click.IntRange(4), default=48, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def main(recipe: Path, steps: int, batch: int, threads: int) -> None:
    table = tomllib.loads(recipe.read_text("utf-8"))
    table["schedule"]["batch_size"] = batch
    context, found = multiprocessing.get_context("spawn"), {}
    click.echo(f"{'setting':<26}{'ms a step':>10}{'ratio':>8}{'peak MB':>9}{'ratio':>8}{'parameters':>12}")
    for name, setting in SETTINGS.items():
        out = context.Queue()
        process = context.Process(target=measure, args=(table, setting, steps, threads, out))
        process.start()
        one = found[name] = out.get()
        process.join()
        time_ratio, memory_ratio = (one[key] / found["plain"][key] for key in ("step_ms", "peak_mb"))
        click.echo(
            f"{name:<26}{one['step_ms']:>10.0f}{time_ratio:>8.2f}{one['peak_mb']:>9.0f}{memory_ratio:>8.2f}"
            f"{one['parameters']:>12,}"
        )
    rounded = {name: {key: round(value, 1) for key, value in one.items()} for name, one in found.items()}
    click.echo(json.dumps({"batch": batch, "threads": threads, **rounded}))


if __name__ == "__main__":
    main()
