"""What the stages that draw are worth: inpaint, outpaint, redraw and restyle on held-out pictures.

    python benchmarks/edit.py --data data/emoji --judge runs/classifier --limit 60

inpaint   a hole of a third of the picture's side where it shows something: PSNR inside the hole, against the
          hole left empty and against OpenCV's inpainting
outpaint  the middle 64 % of a picture, its margins drawn: PSNR of the margins, against edges continued
redraw    a sketch of 16x16 flat squares, redrawn: whether the judge sees the concept in it
restyle   a picture brought to another style: whether it looks like that style and still shows the concept

PSNR is over white. Ends with one line of JSON. `benchmarks/refine.py` puts these rows into docs/refine.md.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

Rows = list[dict[str, Any]]


def rows(data: Path, judge: Path, limit: int) -> Rows:
    """{"stage", "on", "metric", "before", "after", "ms"} for each case; before and after are `Figure`s."""
    from miaobi import images, load
    from miaobi.evaluate.classifier import classify, heldout_pairs, labels, load_judge
    from miaobi.evaluate.features import FeatureExtractor
    from miaobi.evaluate.quality import Figure, hits, mean_figure, ridge_classifier
    from miaobi.refine.repair import Inpaint, Outpaint, Redraw
    from miaobi.refine.stage import Subject, refine
    from miaobi.refine.style import Restyle
    from miaobi.train.data import load_dataset

    dataset, pipe = load_dataset(data), load()
    known, concepts = load_judge(judge)
    extractor, of_concepts = FeatureExtractor(), labels(dataset, concepts)
    chosen = np.random.default_rng(1).permutation(heldout_pairs(dataset))[:limit]
    records = [dataset.records[i] for i in chosen]
    truth = [images.from_uint8(np.array(dataset.images[i])) for i in chosen]
    size = truth[0].shape[-1]
    made: Rows = []

    def run(call: Callable[[int], Any]) -> tuple[list[Any], float]:
        begin = time.perf_counter()
        results = [call(index) for index in range(len(chosen))]
        return results, (time.perf_counter() - begin) * 1000 / len(chosen)

    def error_db(drawn: list[Any], where: list[Any]) -> Figure:
        """PSNR where the mask is 1."""
        values = []
        for one, real, mask in zip(drawn, truth, where, strict=True):
            off = (images.over_white(one) - images.over_white(real)) / 2 * mask
            values.append(-10 * np.log10(max(float(np.square(off).sum() / (3 * mask.sum())), 1e-10)))
        return mean_figure(np.array(values))

    def row(stage: str, on: str, metric: str, before: Figure, after: Figure, ms: float) -> None:
        made.append({"stage": stage, "on": on, "metric": metric, "before": before, "after": after, "ms": ms})

    # a hole where the picture shows something
    holes, rng = [], np.random.default_rng(0)
    for real in truth:
        side = size // 3
        ys, xs = np.nonzero(real[3, side // 2 : size - side // 2, side // 2 : size - side // 2] > 0)
        at = rng.integers(len(ys)) if len(ys) else 0
        top, left = (int(ys[at]), int(xs[at])) if len(ys) else (side, side)
        mask = np.zeros((size, size), np.float32)
        mask[top : top + side, left : left + side] = 1
        holes.append(mask)
    empty = [real * (1 - mask) - mask for real, mask in zip(truth, holes, strict=True)]
    before = error_db(empty, holes)
    for stage in (Inpaint(), Inpaint("telea"), Inpaint("navier-stokes")):

        def inpainted(index: int, stage: Any = stage) -> Any:
            record, own = records[index], stage
            if stage.method == "generator":
                own = Inpaint(style=record.style, seed=index)
            return refine(Subject(empty[index], holes[index], record.label_en, pipe), [own])[0]

        drawn, ms = run(inpainted)
        row(
            f"inpaint ({stage.method})",
            "a hole, left empty",
            "PSNR in it, dB",
            before,
            error_db(drawn, holes),
            ms,
        )

    # the margins of a picture
    edge = round(size * 0.18)
    middle = slice(edge, size - edge)
    margins = np.ones((size, size), np.float32)
    margins[middle, middle] = 0
    cut = [real[:, middle, middle] for real in truth]
    share = edge / (size - 2 * edge)
    continued = [np.pad(one, [(0, 0), (edge, edge), (edge, edge)], mode="edge") for one in cut]

    def outpainted(index: int) -> Any:
        record = records[index]
        stage = Outpaint(share, seed=index, style=record.style)
        return stage(Subject(cut[index], None, record.label_en, pipe))

    drawn, ms = run(outpainted)
    everywhere = [margins] * len(truth)
    before, after = error_db(continued, everywhere), error_db(drawn, everywhere)
    row("outpaint", "the middle, edges continued", "PSNR of the margins, dB", before, after, ms)

    def shown(pictures: list[Any]) -> Figure:
        scores = classify(known, images.to_uint8(np.stack(pictures)))
        return mean_figure(hits(scores, of_concepts[chosen], 5))

    def squares(real: Any) -> Any:
        return images.resized(
            images.resized(real, 16, 16, images.Image.Resampling.BOX),
            size,
            size,
            images.Image.Resampling.NEAREST,
        )

    sketches = [squares(real) for real in truth]

    def redrawn(index: int) -> Any:
        record = records[index]
        stage = Redraw(0.75, seed=index, style=record.style)
        return stage(Subject(sketches[index], None, record.label_en, pipe))

    drawn, ms = run(redrawn)
    row("redraw (0.75)", "squares of 8 px", "top-5 by the judge", shown(sketches), shown(drawn), ms)

    styles = list(dataset.styles)
    targets = [styles[(styles.index(record.style) + 3) % len(styles)] for record in records]

    def restyled(index: int) -> Any:
        record = records[index]
        return Restyle(targets[index], record.style, seed=index)(
            Subject(truth[index], None, record.label_en, pipe)
        )

    drawn, ms = run(restyled)
    wanted = np.array([styles.index(one) for one in targets])

    seen = np.sort(np.random.default_rng(2).choice(dataset.split("train"), 3000, replace=False))
    looks_like = ridge_classifier(extractor(dataset.images[seen]), dataset.style_ids()[seen])

    def in_style(pictures: list[Any]) -> Figure:
        scores = looks_like(extractor(images.to_uint8(np.stack(pictures))))
        return mean_figure(scores.argmax(1) == wanted)

    row(
        "restyle",
        "a picture of another style",
        "looks like the style asked",
        in_style(truth),
        in_style(drawn),
        ms,
    )
    row("restyle", "the same", "top-5 by the judge", shown(truth), shown(drawn), ms)
    return made


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=Path("data/emoji"))
@click.option("--judge", type=click.Path(path_type=Path, exists=True), default=Path("runs/classifier"))
@click.option("--limit", type=click.IntRange(2), default=60, show_default=True, help="Held-out pictures.")
def main(data: Path, judge: Path, limit: int) -> None:
    found = rows(data, judge, limit)
    for one in found:
        told = f"{one['stage']:<24} {one['on']:<28} {one['metric']:<28}"
        click.echo(f"{told} {one['before']} -> {one['after']}  {one['ms']:.0f} ms")
    brief = [one | {name: round(one[name].value, 4) for name in ("before", "after")} for one in found]
    click.echo(json.dumps({"pictures": limit, "rows": brief}))


if __name__ == "__main__":
    main()
