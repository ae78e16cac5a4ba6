"""How fast the LLM writes a picture's tokens: with a cache, without one, and several tokens at a time.

    python benchmarks/writing.py [--recipe recipes/emoji/autoregressive.toml] [--model runs/autoregressive]

PyTorch, one picture and sixteen; medians, each beside writing without a cache in the same run. Without a
trained `--model` the weights are random, which changes no time; what parallel writing costs in quality needs
a trained one (`miaobi evaluate generation --steps`). With and without a cache the codes must be the same.
Ends with one line of JSON.
"""

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click


def uncached(model: Any, condition: Any, noise: Any) -> Any:
    """What `model.sample` with temperature 0 writes, the whole sequence computed anew for every token."""
    import torch
    from torch.nn import functional as F

    from miaobi import sampling

    prefix, positions, mask = model.prefix(condition)
    length = prefix.shape[1]

    def logits(codes: Any, known: Any, index: Any) -> Any:
        nonlocal written
        written = torch.cat([written, torch.from_numpy(codes)], dim=1)
        present = torch.cat([present_before[0], torch.from_numpy(known)], dim=1)
        present_before[0] = present
        count = written.shape[1]
        places = torch.arange(count)
        values = model._values(written).transpose(2, 3).flatten(2)
        x = torch.cat([prefix, model._embed(values, present, places, model.unknown[0])], dim=1)
        causal = torch.full((count, count), -1e4).triu(1)
        rows = torch.cat([mask.expand(-1, -1, count, -1), causal.expand(len(x), 1, -1, -1)], dim=-1)
        above = F.pad(mask, (0, count), value=-1e4).expand(-1, -1, length, -1)
        every = torch.cat([positions, model.positions(places)])
        h, _ = model._run(x, every, torch.cat([above, rows], dim=2))
        return model._logits(h[:, -1:]).numpy()

    written = torch.zeros(len(noise), 0, model.codes, dtype=torch.int64)
    present_before = [torch.zeros(len(noise), 0, dtype=torch.bool)]
    chance = sampling.uniform(noise.numpy(), model.backbone.patch)
    codes = sampling.write_tokens(logits, chance, 0, 0.0, 0, 1.0)
    return model.to_latents(torch.from_numpy(codes)).reshape(noise.shape)


def ms(call: Callable[[], Any], runs: int) -> float:
    """Median milliseconds, after one call that does not count."""
    call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1000)
    return median(times)


@click.command(help=__doc__)
@click.option("--recipe", type=click.Path(path_type=Path), default=Path("recipes/emoji/autoregressive.toml"))
@click.option("--model", "folder", type=click.Path(path_type=Path, exists=True), help="Run folder.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
def main(recipe: Path, folder: Path | None, threads: int, runs: int) -> None:
    import torch

    from miaobi.models.backbone import Condition
    from miaobi.train import generator

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if folder:
        model: Any = generator.load(folder)
    else:
        table = tomllib.loads(recipe.read_text("utf-8"))
        table["model"] = {"styles": 8, "latent_shape": [4, 8, 8]} | table["model"]
        table["autoregressive"] |= {"levels": [8] * 4, "mean": [0.0] * 4, "std": 1.0, "captioning": 0.0}
        model = generator.build(table).eval()
        torch.nn.init.normal_(model.head.weight, std=0.05)
    backbone, figures = model.backbone, {}
    for count in (1, 16):
        condition = Condition(
            torch.randn(count, 8, backbone.text_width),
            torch.ones(count, 8, dtype=torch.bool),
            torch.randn(count, backbone.text_width),
            torch.zeros(count, dtype=torch.int64),
            torch.randn(count, backbone.neighbours, *backbone.latent_shape),
            torch.zeros(count, backbone.neighbours, dtype=torch.int64),
        )
        noise = torch.randn(count, *backbone.latent_shape)
        calls: dict[str, Callable[[], Any]] = {
            "one by one, no cache": lambda c=condition, n=noise: uncached(model, c, n),
            "one by one, cache": lambda c=condition, n=noise: model.sample(c, n, 0, temperature=0.0),
            "8 steps": lambda c=condition, n=noise: model.sample(c, n, 8, temperature=0.0),
            "4 steps": lambda c=condition, n=noise: model.sample(c, n, 4, temperature=0.0),
        }
        with torch.no_grad():
            plain, cached = (calls[name]() for name in ("one by one, no cache", "one by one, cache"))
            same = float((model.to_codes(plain) == model.to_codes(cached)).float().mean())
            times = {name: ms(call, runs) for name, call in calls.items()}
        click.echo(
            f"{count} picture(s), {backbone.tokens} tokens; codes equal with and without cache: {same:.1%}"
        )
        for name, value in times.items():
            ratio = times["one by one, no cache"] / value
            click.echo(f"  {name:<22}{value:9.1f} ms {ratio:6.2f} x")
            figures[f"{count}/{name}"] = round(value, 2)
        figures[f"{count}/same"] = same
    click.echo(
        json.dumps({"threads": threads, "trained": bool(folder), "tokens": backbone.tokens, **figures})
    )


if __name__ == "__main__":
    main()
