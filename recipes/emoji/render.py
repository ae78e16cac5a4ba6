"""Icons of an Iconify set as RGBA pictures: one svg each, rendered with resvg in resumable parts."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from miaobi.errors import DataError
from miaobi.files import atomic_write

PART = 200
"""Pictures in one part: what a killed build loses at most, per process."""


@dataclass(frozen=True)
class Icon:
    """One icon of a set; `svg` is a complete document."""

    name: str
    svg: str
    hidden: bool


def icons(data: dict[str, Any]) -> list[Icon]:
    """The icons of a parsed `icons.json`, sorted by name.

    Of its aliases only those that mirror or turn their parent are pictures of their own.
    """
    found = []
    for name, icon in data["icons"].items():
        found.append(Icon(name, _svg(data, icon, {}), bool(icon.get("hidden"))))
    for name, alias in data.get("aliases", {}).items():
        parent = data["icons"].get(alias["parent"])
        if parent and any(key in alias for key in ("hFlip", "vFlip", "rotate")):
            found.append(Icon(name, _svg(data, parent, alias), bool(alias.get("hidden"))))
    return sorted(found, key=lambda icon: icon.name)


def _svg(data: dict[str, Any], icon: dict[str, Any], alias: dict[str, Any]) -> str:
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", data.get("width", 16))
    height = icon.get("height", data.get("height", 16))
    body, cx, cy = icon["body"], left + width / 2, top + height / 2
    if alias.get("hFlip") or alias.get("vFlip"):
        sx, sy = -1 if alias.get("hFlip") else 1, -1 if alias.get("vFlip") else 1
        body = f'<g transform="translate({cx} {cy}) scale({sx} {sy}) translate({-cx} {-cy})">{body}</g>'
    if alias.get("rotate"):
        body = f'<g transform="rotate({alias["rotate"] * 90} {cx} {cy})">{body}</g>'
    side = max(width, height)  # a square view box around the icon's centre
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{cx - side / 2} {cy - side / 2} {side} {side}" width="{side}" height="{side}">{body}</svg>'
    )


def render(svg: str, size_px: int) -> NDArray[np.uint8]:
    """An svg as uint8 (size_px, size_px, 4) RGBA with straight alpha."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size_px, height=size_px, skip_system_fonts=True)
    picture = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if picture.shape != (size_px, size_px, 4):
        raise ValueError(f"rendered to {picture.shape}, expected {(size_px, size_px, 4)}")
    return picture


def render_parts(
    style: str, items: Sequence[Icon], size_px: int, folder: Path, pool: ProcessPoolExecutor
) -> Iterator[tuple[Path, int]]:
    """Render `items` into `folder`/NNNN.npy, uint8 (n, size_px, size_px, 4); yields path and length of each.

    Parts left whole by an earlier run are kept. Raises DataError naming an icon that cannot be rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, start in enumerate(range(0, len(items), PART)):
        chunk, path = items[start : start + PART], folder / f"{number:04d}.npy"
        done = _is_whole(path, (len(chunk), size_px, size_px, 4))
        job = None if done else pool.submit(_render_part, style, chunk, size_px, path)
        jobs.append((path, len(chunk), job))
    for path, count, job in jobs:
        if job is not None:
            job.result()
        yield path, count


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError):
        return False


def _render_part(style: str, chunk: Sequence[Icon], size_px: int, path: Path) -> None:
    pictures = np.empty((len(chunk), size_px, size_px, 4), np.uint8)
    for i, icon in enumerate(chunk):
        try:
            pictures[i] = render(icon.svg, size_px)
        except (ValueError, OSError) as error:
            raise DataError(
                f"cannot render {style}/{icon.name}: {error}; leave it out in aliases.tsv"
            ) from error
    with atomic_write(path) as file:
        np.lib.format.write_array(file, pictures)
