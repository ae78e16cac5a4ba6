"""What it gains to draw several pictures and keep one, or to mix them into one.

    python benchmarks/best_of.py --data data/emoji --chooser runs/classifier --judge runs/classifier2

Draws N pictures of held-out (concept, style) pairs by their English names. `--chooser` picks the one that it
is surest shows the concept, the one that retrieval finds first for the prompt; `--judge`, trained by the same
recipe with `seed = 1` in its schedule, measures: choosing and measuring with one judge would be circular.
Ends with one line of JSON.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np


def found_concept(pipe: Any, neighbours: list[str]) -> str:
    """The concept of the first neighbour of a picture, by the receipt's ids."""
    memory = pipe.memory
    return str(memory.concepts[memory.entry_concept[memory.ids.index(neighbours[0])]]["slug"])


@click.command(help=__doc__)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=Path("data/emoji"))
@click.option("--chooser", type=click.Path(path_type=Path, exists=True), default=Path("runs/classifier"))
@click.option("--judge", type=click.Path(path_type=Path, exists=True), default=Path("runs/classifier2"))
@click.option(
    "-n", "count", type=click.IntRange(2, 64), default=4, show_default=True, help="Pictures of each."
)
@click.option("--limit", type=click.IntRange(1), help="Only so many pairs.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the table to this file.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Save a sheet: 4 candidates, chosen, fusions.")
def main(
    model: str | None,
    data: Path,
    chooser: Path,
    judge: Path,
    count: int,
    limit: int | None,
    out: Path | None,
    sheet: Path | None,
) -> None:
    from miaobi import images, load
    from miaobi.evaluate import quality
    from miaobi.evaluate.classifier import classify, heldout_pairs, labels, load_judge
    from miaobi.refine.blend import METHODS, best_of, blend
    from miaobi.train.data import load_dataset

    dataset, pipe = load_dataset(data), load(model)
    pairs = np.random.default_rng(0).permutation(heldout_pairs(dataset))[:limit]
    (chooser_judge, chooser_concepts), (measuring, concepts) = load_judge(chooser), load_judge(judge)
    made: dict[str, list[Any]] = {name: [] for name in ("single", "best", *METHODS)}
    shown, right = [], 0
    for i in pairs:
        record = dataset.records[i]
        drawn = pipe.generate(record.label_en, n=count, seed=int(i), style=record.style)
        candidates = images.from_uint8(drawn.pixels)
        found = found_concept(pipe, drawn.receipt.neighbours[0])
        right += found == record.concept
        scores = classify(chooser_judge, drawn.pixels)
        column = chooser_concepts.index(found)
        probabilities = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))[:, column]
        made["best"].append(best_of(candidates, lambda _, known=probabilities: known)[0])
        made["single"].append(candidates[0])
        for method in METHODS:
            made[method].append(blend(candidates, method))
        if len(shown) < 10 * (count + 4):
            shown += [*candidates, *(made[name][-1] for name in ("best", *METHODS))]
    target = labels(dataset, concepts)[pairs]
    hits = {}
    for name, pictures in made.items():
        scores = classify(measuring, images.to_uint8(np.stack(pictures)))
        hits[name] = [quality.hits(scores, target, k) for k in (1, 5)]
    figures: dict[str, Any] = {}
    lines = [
        "# Several pictures of a prompt",
        "",
        "Written by `python benchmarks/best_of.py --data data/emoji -o docs/best_of.md`; do not edit.",
        "",
        f"{count} pictures of each of {len(pairs)} held-out (concept, style) pairs by the shipped model: the",
        "first one, the one that a judge is surest of, and mixtures of all. R-precision is told by a second",
        "judge of another training seed, with 95 % intervals; gains are paired. What mixtures gain they pay",
        "with ghosts of every candidate's outline: `--sheet` shows them.",
        "",
        "| | top-1 | gain | top-5 | gain |",
        "|---|---|---|---|---|",
    ]
    for name, (top1, top5) in hits.items():
        gains = [now.astype(float) - one for now, one in zip((top1, top5), hits["single"], strict=True)]
        columns = [quality.mean_figure(one) for one in (top1, gains[0], top5, gains[1])]
        told = " | ".join(f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in columns)
        lines.append(f"| {name} | {told} |")
        figures[name] = dict(
            zip(("top1", "top1_gain", "top5", "top5_gain"), (x.value for x in columns), strict=True)
        )
    text = "\n".join([*lines, ""])
    click.echo(text)
    if out is not None:
        out.write_text(text, "utf-8")
    if sheet is not None:
        pixels = images.to_uint8(np.stack(shown))
        images.save_png(sheet, images.contact_sheet(images.to_pil(pixels), columns=count + 4))
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 4))
    click.echo(json.dumps({"pairs": len(pairs), "n": count, "concept_found": right / len(pairs), **rounded}))


if __name__ == "__main__":
    main()
