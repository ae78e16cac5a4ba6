"""Layers to a picture: transparent pictures placed over a backdrop, and the same as an OpenRaster file."""

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from miaobi import images
from miaobi.files import atomic_write
from miaobi.images import Float

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the canvas."""


@dataclass(frozen=True)
class Layer:
    """A picture in its place on the canvas."""

    name: str
    """What it shows, in the prompt's words."""
    image: Float
    """(4, h, w) float32 in [-1, 1], premultiplied, at its final size."""
    left_px: int
    top_px: int


def place(name: str, picture: Float, box: Box, size_px: int, enlarge: Callable[[Float], Float]) -> Layer:
    """A square picture (4, S, S) fitted into a box of a canvas of `size_px`.

    Where it must grow by more than a quarter, `enlarge` (a super-resolution stage: (4, S, S) → (4, k·S,
    k·S)) does it before it is resampled to the exact size.
    """
    left, top, right, bottom = (round(edge * size_px) for edge in box)
    side = max(1, min(right - left, bottom - top))
    if side > 1.25 * picture.shape[-1]:
        picture = enlarge(picture)
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    return Layer(name, images.resized(picture, side, side), left, top)


def composite(layers: Sequence[Layer], size_px: int) -> Float:
    """The layers over each other, the first at the bottom, (4, size_px, size_px); what sticks out is cut.

    Over, on premultiplied colours: result = above + below·(1 - alpha of above) (Porter & Duff 1984).
    """
    canvas = np.zeros((4, size_px, size_px), np.float32)
    for layer in layers:
        _, height, width = layer.image.shape
        top, left = max(0, layer.top_px), max(0, layer.left_px)
        bottom, right = min(size_px, layer.top_px + height), min(size_px, layer.left_px + width)
        if bottom <= top or right <= left:
            continue
        rows, columns = slice(top, bottom), slice(left, right)
        above = layer.image[
            :, top - layer.top_px : bottom - layer.top_px, left - layer.left_px : right - layer.left_px
        ]
        above = ((above + 1) * np.float32(0.5)).clip(0, 1)
        canvas[:, rows, columns] = above + canvas[:, rows, columns] * (1 - above[3:])
    return canvas * 2 - 1


def save_ora(path: str | os.PathLike[str], layers: Sequence[Layer], size_px: int) -> None:
    """Write the layers on a canvas of `size_px` as OpenRaster (freedesktop.org's format, read by GIMP and
    Krita), whole or not at all.

    Raises what `files.atomic_write` raises.
    """
    from xml.sax.saxutils import quoteattr  # here, as it brings urllib along

    merged = to_picture(composite(layers, size_px))
    rows = [
        f'<layer name={quoteattr(layer.name)} src="data/{index}.png" x="{layer.left_px}" y="{layer.top_px}"/>'
        for index, layer in enumerate(layers)
    ]
    stack = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<image version="0.0.3" w="{size_px}" h="{size_px}">'
        f"<stack>{''.join(reversed(rows))}</stack></image>\n"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:  # PNGs do not shrink; mimetype comes first
        file.writestr("mimetype", "image/openraster")
        file.writestr("stack.xml", stack)
        for index, layer in enumerate(layers):
            file.writestr(f"data/{index}.png", images.png_bytes(to_picture(layer.image)))
        file.writestr("mergedimage.png", images.png_bytes(merged))
        thumbnail = merged.copy()
        thumbnail.thumbnail((256, 256))
        file.writestr("Thumbnails/thumbnail.png", images.png_bytes(thumbnail))
    with atomic_write(path) as out:
        out.write(buffer.getbuffer())


def to_picture(image: Float) -> Image.Image:
    """(4, H, W) in [-1, 1], premultiplied, as a PIL picture."""
    return Image.fromarray(images.to_uint8(image))
