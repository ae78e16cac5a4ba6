"""What each refinement stage does to pictures that were damaged in a known way.

    python benchmarks/refine.py --data data/emoji --judge runs/classifier -o docs/refine.md

Held-out pictures without a skin tone are damaged, refined and compared with what they were, over white; every
figure is a mean with its 95 % bootstrap interval, every gain is paired. Settings were found on training
pictures. Style transfer has no right answer: distances of style and content stand instead. With a judge, the
stages that draw are measured too (`benchmarks/edit.py`); what enlarging is worth comes from the upscaler's
card (`benchmarks/upscale.py`). Ends with one line of JSON. A new stage is one more `Case`, a new damage one
more function in `DAMAGES`.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from miaobi import images
from miaobi.evaluate import quality
from miaobi.evaluate.quality import Figure
from miaobi.images import Float
from miaobi.refine.stage import Subject, parse, refine
from miaobi.train.data import Dataset, load_dataset

MOST_DB = 100.0  # stands for "equal", whose PSNR is infinite
SHOWN = 6  # pictures of each case on the sheet
Damage = Callable[[Float, np.random.Generator], tuple[Subject, Float]]
"""A clean picture (4, H, W) and chance to what a stage is given and what it should make of it."""


@dataclass(frozen=True)
class Case:
    """One row: a damage and the stages, as `miaobi.refine.stage.parse` reads them."""

    damage: str
    stages: str
    advised: bool = True
    """False: measured to be told that it does not help, or that something else helps more."""


def on_white(picture: Float) -> Float:
    """The picture (4, H, W), opaque."""
    rgb = images.over_white(picture)
    return np.concatenate([rgb, np.ones_like(rgb[:1])])


def rounded(picture: Float) -> Float:
    """As read from an 8-bit file."""
    return images.from_uint8(images.to_uint8(picture))


def clean(picture: Float, _rng: np.random.Generator) -> tuple[Subject, Float]:
    return Subject(picture), picture


def noise(share: float) -> Damage:
    """Gaussian noise on the opaque picture, clipped to the range."""

    def damage(picture: Float, rng: np.random.Generator) -> tuple[Subject, Float]:
        wanted = on_white(picture)
        seen = wanted.copy()
        seen[:3] += rng.normal(0, 2 * share, seen[:3].shape)
        return Subject(rounded(seen)), wanted

    return damage


def blur(sigma_px: float, share: float = 0.0) -> Damage:
    """A Gaussian blur of colour and alpha; with noise too, of the opaque picture."""

    def damage(picture: Float, rng: np.random.Generator) -> tuple[Subject, Float]:
        from scipy.ndimage import gaussian_filter

        seen = np.stack([gaussian_filter(one, sigma_px, mode="nearest") for one in picture])
        return noise(share)(seen, rng)[0] if share else Subject(rounded(seen)), picture

    return damage


def recolour(change: Callable[[Float], Float]) -> Damage:
    """A change of straight colour (3, H, W) in [0, 1] where something is seen."""

    def damage(picture: Float, _rng: np.random.Generator) -> tuple[Subject, Float]:
        alpha = (picture[3:] + 1) / 2
        straight = np.where(alpha > 0, (picture[:3] + 1) / 2 / np.maximum(alpha, 1e-6), 0)
        seen = np.concatenate([np.clip(change(straight), 0, 1) * alpha, alpha]) * 2 - 1
        return Subject(rounded(seen.astype(np.float32))), picture

    return damage


DAMAGES: dict[str, Damage] = {
    "none": clean,
    "noise 5 %": noise(0.05),
    "noise 10 %": noise(0.10),
    "blur 1 px": blur(1),
    "blur 2 px": blur(2),
    "blur 1.5 px, noise 3 %": blur(1.5, 0.03),
    "half contrast": recolour(lambda rgb: 0.5 * rgb + 0.25),
    "warm light": recolour(lambda rgb: rgb * np.array([1, 0.8, 0.6], np.float32)[:, None, None]),
}
_NOISE = ("denoise", "restore")
_BLUR = ("enhance", "deblur", "deblur:method=richardson-lucy:iterations=100", "sharpen", "restore")
CASES: list[Case] = [
    *(Case("none", stage) for stage in ("enhance", "denoise", "deblur")),
    *(Case("none", stage, False) for stage in ("restore", "contrast", "balance")),
    *(Case(f"noise {share} %", stage) for share in (5, 10) for stage in _NOISE),
    *(Case("noise 10 %", f"denoise:method={method}", False) for method in ("bilateral", "wavelet")),
    *(Case(damage, "enhance") for damage in ("noise 5 %", "noise 10 %")),
    Case("noise 10 %", "restore:ssim_weight=0.3", False),
    Case("noise 10 %", "restore:perceptual_weight=0.1", False),
    *(Case(f"blur {px} px", stage) for px in (1, 2) for stage in _BLUR),
    Case("blur 1 px", "restore:tv_weight=0", False),
    *(Case("blur 1.5 px, noise 3 %", stage) for stage in ("enhance", "deblur:sigma_px=1.5")),
    Case("blur 1.5 px, noise 3 %", "restore:blur_px=1.5"),
    Case("half contrast", "contrast"),
    Case("warm light", "balance"),
    Case("warm light", "balance:method=gray-world", False),
]


@dataclass(frozen=True)
class Row:
    """A case, measured."""

    case: Case
    psnr_before: Figure
    psnr_after: Figure
    psnr_gain: Figure
    ssim_before: Figure
    ssim_after: Figure
    ssim_gain: Figure
    ms: float
    """Median of a picture."""
    sheet: list[Float]
    """Damaged and refined pictures, in turn."""

    def verdict(self) -> str:
        """What the intervals of both gains say."""
        if self.psnr_after.value > MOST_DB - 1 and self.case.damage == "none":
            return "unchanged"
        gains = (self.psnr_gain, self.ssim_gain)
        if all(one.low > 0 for one in gains):
            return "better"
        if all(one.high < 0 for one in gains):
            return "worse"
        return "mixed" if any(one.low > 0 or one.high < 0 for one in gains) else "no difference"


def compare(seen: Float, wanted: Float) -> tuple[float, float]:
    """PSNR in dB and SSIM over white."""
    a, b = (np.moveaxis(images.over_white(one) + 1, 0, -1)[None] / 2 for one in (seen, wanted))
    return min(float(quality.psnr(a, b)[0]), MOST_DB), float(quality.ssim(a, b)[0])


def measure(case: Case, pictures: Sequence[Float]) -> Row:
    """All pictures through a case; the first goes twice, so that nothing is loaded while timed."""
    stages, damage = parse(case.stages), DAMAGES[case.damage]
    refine(damage(pictures[0], np.random.default_rng(0))[0], stages)
    before, after, times, sheet = [], [], [], []
    for index, picture in enumerate(pictures):
        subject, wanted = damage(picture, np.random.default_rng(index))
        made, steps = refine(subject, stages)
        times.append(sum(step.ms for step in steps))
        if subject.image.shape == wanted.shape:
            before.append(compare(subject.image, wanted))
        after.append(compare(made, wanted))
        if index < SHOWN:
            sheet += [subject.image, made]
    a = np.array(before if before else [(np.nan, np.nan)] * len(after))
    b = np.array(after)
    columns = [quality.mean_figure(one[:, k]) for k in (0, 1) for one in (a, b, b - a)]
    return Row(case, *columns, median(times), sheet)


def measure_style(dataset: Dataset, pictures: Sequence[Float], sources: int = 4) -> dict[str, Figure | float]:
    """Style and content distance, before and after, of `pictures` in the styles of training pictures in turn.

    Distances are relative: |Gram - Gram of the style|² / |Gram of the style|² and the same of feature maps.
    """
    import torch

    from miaobi.refine import gatys, losses
    from miaobi.refine.arrays import to_unit

    network = losses.efficientnet(gatys.STYLE_BLOCKS)

    def features(picture: Float) -> tuple[list[Any], Any]:
        unit = torch.from_numpy(to_unit(picture)).permute(2, 0, 1)[None]
        white = losses.over_white(unit)
        return [white, *network(white)], unit[:, 3:]

    plain = [i for i in dataset.split("train") if dataset.records[i].tone == 0]
    found: dict[str, list[float]] = {
        name: [] for name in ("style before", "style after", "content after", "ms")
    }
    with TemporaryDirectory() as folder:
        paths = []
        for index in np.random.default_rng(1).choice(plain, sources, replace=False):
            paths.append(Path(folder) / f"{index}.png")
            images.save_png(paths[-1], images.to_pil(dataset.images[index][None])[0])
        for number, picture in enumerate(pictures):
            stage = gatys.Style(str(paths[number % sources]))
            started = time.perf_counter()
            made = stage(Subject(picture))
            found["ms"].append((time.perf_counter() - started) * 1000)
            shown = stage.shown(max(picture.shape[1:]))
            with torch.no_grad():
                wanted = gatys.grams(*features(shown))
                content, alpha = features(picture)
                drawn, _ = features(made)
                for name, maps in (("style before", content), ("style after", drawn)):
                    found[name].append(float(gatys.gram_distance(gatys.grams(maps, alpha), wanted)))
                found["content after"].append(float(gatys.relative_distance(drawn, content)))
    figures: dict[str, Figure | float] = {
        name: quality.mean_figure(np.array(values)) for name, values in found.items() if name != "ms"
    }
    return figures | {"ms": median(found["ms"])}


def told(figure: Figure, digits: int) -> str:
    """A value with its interval, for a table."""
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def page(rows: Sequence[Row], style: dict[str, Figure | float], count: int, command: str) -> str:
    """The document with all tables."""
    lines = [
        "# What the refinement stages do",
        "",
        f"Written by `{command}` on {platform.machine()}, one thread; do not edit.",
        "",
        f"{count} held-out pictures of 128 px were damaged, refined and compared with what they were, over",
        f"white: mean PSNR (dB; {MOST_DB:.0f} stands for equal) and SSIM, gains with 95 % intervals, median",
        "time of a picture. *Better* and *worse* are told where both intervals exclude 0, *mixed* where they",
        "disagree.",
        "Rows marked · are no advice: they are here to show what does not help, or helps less.",
        "",
        "| damage | stages | PSNR before | after | gain | SSIM before | after | gain | ms | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mark = "" if row.case.advised else " ·"
        lines.append(
            f"| {row.case.damage} | `{row.case.stages}`{mark} | {row.psnr_before.value:.2f} | "
            f"{row.psnr_after.value:.2f} | {told(row.psnr_gain, 2)} | {row.ssim_before.value:.3f} | "
            f"{row.ssim_after.value:.3f} | {told(row.ssim_gain, 3)} | {row.ms:.0f} | {row.verdict()} |"
        )
    harm = [row for row in rows if row.case.damage == "none" and row.verdict() not in ("unchanged",)]
    lines += [
        "",
        "`enhance` is the only stage meant for every picture: it does nothing where it measures nothing.",
    ]
    if harm:
        names = ", ".join(f"`{row.case.stages}`" for row in harm)
        lines += [f"Ask for these only where a picture needs them, they change clean ones: {names}."]
    lines += [
        "",
        "## Style transfer",
        "",
        "`style` (Gatys et al. 2016) has no right answer. Distances are relative: of Gram matrices to those",
        "of the style picture, and of feature maps to those of the picture itself (0 before).",
        "",
        "| style before | style after | content after | ms |",
        "|---|---|---|---|",
    ]
    cells = [told(one, 3) if isinstance(one, Figure) else f"{one:.0f}" for one in style.values()]
    return "\n".join([*lines, f"| {' | '.join(cells)} |", ""])


def drawing(found: Sequence[dict[str, Any]]) -> list[str]:
    """The lines on stages that draw, from the rows of `benchmarks/edit.py`."""
    lines = [
        "",
        "## Stages that draw",
        "",
        "By `benchmarks/edit.py`, on held-out pictures in their own styles, prompted by English names.",
        "PSNR counts every pixel and so prefers a smooth guess to a sharp one: OpenCV's inpainting is the",
        "better choice for small holes in flat art, the generator's where something has to be drawn.",
        "",
        "| stage | on | measure | before | after | ms |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        before, after = (told(one[name], 2) for name in ("before", "after"))
        lines.append(
            f"| {one['stage']} | {one['on']} | {one['metric']} | {before} | {after} | {one['ms']:.0f} |"
        )
    return lines


def enlarging() -> list[str]:
    """The lines on `upscale`, from the card of the network inside the package."""
    from miaobi.refine.upscale import shipped

    card = shipped().card
    lines = [
        "",
        "## Enlarging",
        "",
        "`upscale`, by `benchmarks/upscale.py`, from the upscaler's card.",
        f"{card['small pictures']}. {card['limits']}.",
        "",
        "| small pictures | scale | Lanczos: PSNR, SSIM | ours: PSNR, SSIM | gain |",
        "|---|---|---|---|---|",
    ]
    for kind in ("area", "rendered", "reconstructed"):
        for scale in ("x4", "x2"):
            key = f"{kind}/{scale}"
            both = [
                ", ".join(card[f"{key}/{who}/{what}"].partition(" [")[0] for what in ("psnr_db", "ssim"))
                for who in ("lanczos", "ours")
            ]
            gain = card[f"{key}/gain_db"].partition(" ")[0]
            lines.append(f"| {kind} | {scale} | {both[0]} | {both[1]} | {gain} dB |")
    return lines


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=Path("data/emoji"))
@click.option("-n", "count", type=click.IntRange(2), default=50, show_default=True, help="Pictures.")
@click.option("--only", default="", help="Only cases with this in their name, or `style`.")
@click.option("--judge", type=click.Path(path_type=Path, exists=True), help="Run folder of the classifier.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the tables to this file.")
@click.option("--sheets", type=click.Path(path_type=Path), help="Folder for before/after sheets.")
def main(
    data: Path, count: int, only: str, judge: Path | None, out: Path | None, sheets: Path | None
) -> None:
    import torch

    torch.set_num_threads(1)
    dataset = load_dataset(data)
    plain = [i for i in dataset.split("heldout") if dataset.records[i].tone == 0]
    chosen = np.random.default_rng(0).permutation(plain)[:count]
    pictures = list(images.from_uint8(dataset.images[chosen]))
    cases = [case for case in CASES if only in case.damage or only in case.stages]
    cases.sort(key=lambda case: list(DAMAGES).index(case.damage))
    rows = []
    for case in tqdm(cases, unit="case"):
        rows.append(measure(case, pictures))
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            name = "".join(c if c.isalnum() else "-" for c in f"{case.damage}-{case.stages}")
            pixels = images.to_uint8(np.stack(rows[-1].sheet))
            images.save_png(
                sheets / f"{name}.png", images.contact_sheet(images.to_pil(pixels), columns=2 * SHOWN)
            )
    style = measure_style(dataset, pictures) if only in "style" else {}
    text = page(rows, style, count, "python benchmarks/refine.py --judge runs/classifier -o docs/refine.md")
    if judge is not None:
        import edit

        text += "\n".join([*drawing(edit.rows(data, judge, count)), *enlarging(), ""])
    click.echo(text)
    if out is not None:
        out.write_text(text, "utf-8")
    figures: dict[str, Any] = {
        f"{row.case.damage}/{row.case.stages}": {
            "psnr_before": row.psnr_before.value,
            "psnr_after": row.psnr_after.value,
            "ssim_before": row.ssim_before.value,
            "ssim_after": row.ssim_after.value,
            "ms": row.ms,
        }
        for row in rows
    }
    figures["style"] = {name: one.value if isinstance(one, Figure) else one for name, one in style.items()}
    click.echo(json.dumps({"pictures": count, **figures}, default=float))


if __name__ == "__main__":
    main()
