"""A trained upscaler to the small ONNX graph that the package holds.

`python -m miaobi.accelerate.upscaler runs/upscaler --out src/miaobi/bundles/upscaler`
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
import torch

from miaobi.accelerate.export import Method, Storage, to_onnx
from miaobi.errors import MiaobiError
from miaobi.models.upscaler import MARGIN_PX, SCALE, Upscaler
from miaobi.refine.upscale import SHIPPED, Enlarger, write


def upscaler_graph(model: Upscaler, storage: Storage = "fp16") -> bytes:
    """`upscaler.onnx`: image (B, 4, H, W) premultiplied in [-1, 1], to large (B, 4, 4·H, 4·W), as
    `Upscaler.upscale` makes it.
    """
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    return to_onnx(
        Method(model.upscale, model),
        {"image": torch.zeros(2, 4, 24, 32)},
        ("large",),
        axes,
        storage,
    )


def export_upscaler(
    weights: Path, out: Path, storage: Storage = "fp16", card: Mapping[str, Any] | None = None
) -> Enlarger:
    """Write the upscaler trained in the folder `weights` into the folder `out`, with measured figures `card`.

    Raises:
        TrainingError: it has not been trained.
    """
    from miaobi.train.upscaler import load

    model = load(weights)
    about = {
        "scale": SCALE,
        "margin_px": MARGIN_PX,
        "reach_px": model.config.reach_px,
        "parameters": sum(one.numel() for one in model.parameters()),
        "storage": storage,
        "card": dict(card or {}),
    }
    return write(out, upscaler_graph(model, storage), about)


@click.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=SHIPPED, show_default=True)
@click.option("--storage", type=click.Choice(get_args(Storage)), default="fp16", show_default=True)
@click.option("--card", type=click.Path(path_type=Path), help="JSON file of measured figures.")
def main(weights: Path, out: Path, storage: Storage, card: Path | None) -> None:
    """Export the upscaler trained in the folder WEIGHTS."""
    try:
        figures = json.loads(card.read_text(encoding="utf-8")) if card else {}
        made = export_upscaler(weights, out, storage, figures)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{card}: {error}; give a JSON file of figures") from error
    except MiaobiError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out} ({made.bytes / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
