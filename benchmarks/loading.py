"""What preparing batches costs: augmentations, loader threads, and the share of a step that waits for data.

    python benchmarks/loading.py --data data/emoji [--recipe recipes/emoji/codes.toml] [--batch 64]

Batches of an autoencoder's training are made with nothing changed, with each augmentation of all pictures,
and with all of them; then by 1, 2 and 4 loaders, and last in training by the recipe, whose `augment` counts.
Medians; ends with one line of JSON.
"""

import json
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.train import loop, read_recipe
from miaobi.train.augment import Augment
from miaobi.train.autoencoder import AutoencoderTask, training_shares, tuples
from miaobi.train.data import load_dataset

LOADERS = (1, 2, 4)
KINDS = tuple(field.name for field in fields(Augment))


def milliseconds(work: Callable[[int], object], count: int) -> float:
    """Median of `count` calls, after one that does not count."""
    times = []
    for number in range(count + 1):
        begin = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - begin) * 1000)
    return median(times[1:])


@click.command(help=__doc__)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), default="data/emoji", show_default=True
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True),
    default="recipes/emoji/codes.toml",
    show_default=True,
)
@click.option("--batch", type=click.IntRange(1), help="Pictures.  [default: the recipe's]")
@click.option("--steps", type=click.IntRange(4), default=8, show_default=True)
def main(data: Path, recipe: Path, batch: int | None, steps: int) -> None:
    table = read_recipe(recipe)
    size = batch or table["schedule"]["batch_size"]
    dataset = load_dataset(data)
    model = Autoencoder(AutoencoderConfig(**tuples(table["model"])))

    def task(augment: Augment) -> AutoencoderTask:
        return AutoencoderTask(model, dataset, *training_shares(dataset, table), augment=augment)

    found: dict[str, Any] = {}

    def tell(name: str, ms: float) -> None:
        found[name] = round(ms, 2)
        click.echo(f"{name:<28}{ms:>10.1f}{ms / found['nothing changed']:>10.2f}")

    click.echo(f"{f'batch of {size}, one thread':<28}{'ms':>10}{'ratio':>10}")
    settings = {
        "nothing changed": {},
        **{kind: {kind: 1.0} for kind in KINDS},
        "all": dict.fromkeys(KINDS, 1.0),
    }
    for seed in range(steps + 1):  # the same pictures for all, read from the disk before
        task(Augment()).batch(np.random.default_rng(seed), size)
    for name, shares in settings.items():
        made = task(Augment(**shares))
        tell(name, milliseconds(lambda seed, made=made: made.batch(np.random.default_rng(seed), size), steps))
    everything = task(Augment(**dict.fromkeys(KINDS, 1.0)))
    for loaders in LOADERS:
        source = loop.prefetch(
            lambda seed: everything.batch(np.random.default_rng(seed), size), range(4 * steps), loaders
        )
        list(zip(range(loaders + 2), source, strict=False))  # what was made ahead does not count
        tell(f"all, {loaders} loaders", milliseconds(lambda _, source=source: next(source), 2 * steps))
        source.close()  # type: ignore[attr-defined]
    schedule = loop.Schedule(**table["schedule"] | {"steps": steps, "batch_size": size})
    trained = task(Augment(**table.get("augment", {})))
    *_, last = loop.fit(trained, loop.start(model, schedule), schedule)
    found["step_ms"], found["waiting_share"] = (
        round(1000 * size / last.items_per_s, 1),
        round(last.data_share, 4),
    )
    click.echo(
        f"{recipe.name}: a step takes {found['step_ms']:.0f} ms, {last.data_share:.1%} of it waiting for data"
    )
    click.echo(json.dumps({"batch": size, **found}))


if __name__ == "__main__":
    main()
