"""Pictures at the edges: range, dtype, alpha, PNG. Nothing else in Miaobi touches uint8.

Inside, pictures are (…, 4, H, W) float32 in [-1, 1] with premultiplied alpha: a channel c in [0, 1] and its
alpha a are held as 2·c·a - 1 and 2·a - 1, so that "nothing" is -1 everywhere and blending is linear (Porter &
Duff 1984, "Compositing Digital Images").
"""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from miaobi.files import atomic_write

Float = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


def from_uint8(pixels: UInt8) -> Float:
    """Straight RGBA uint8 (…, H, W, 4) to premultiplied float32 (…, 4, H, W) in [-1, 1]."""
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 4:
        raise ValueError(f"expected uint8 (..., H, W, 4), got {pixels.dtype} {pixels.shape}")
    unit = np.moveaxis(pixels, -1, -3).astype(np.float32)
    unit *= np.float32(1 / 255)
    unit[..., :3, :, :] *= unit[..., 3:, :, :]
    unit *= 2
    unit -= 1
    return np.ascontiguousarray(unit)


def to_uint8(images: npt.NDArray[np.floating]) -> UInt8:
    """Premultiplied float (…, 4, H, W) in [-1, 1] (clipped) to straight RGBA uint8 (…, H, W, 4).

    Pixels whose alpha rounds to 0 become (0, 0, 0, 0), which compresses best and shows no colour when
    blended.
    """
    if images.ndim < 3 or images.shape[-3] != 4:
        raise ValueError(f"expected float (..., 4, H, W), got {images.dtype} {images.shape}")
    unit = np.asarray(images, np.float32) * np.float32(127.5)
    unit += np.float32(127.5)
    np.clip(unit, 0, 255, out=unit)
    alpha = unit[..., 3:, :, :]
    seen = alpha >= 0.5
    unit[..., :3, :, :] *= seen * (255 / np.maximum(alpha, 0.5))
    alpha *= seen
    np.minimum(unit, 255, out=unit)
    np.rint(unit, out=unit)
    # far faster than `ascontiguousarray`
    return np.stack(list(np.moveaxis(unit.astype(np.uint8), -3, 0)), axis=-1)


def over_white(images: npt.NDArray[np.floating]) -> Float:
    """Premultiplied RGBA (…, 4, H, W) in [-1, 1] to RGB (…, 3, H, W) in [-1, 1] on white: c·a + (1 - a)."""
    images = np.asarray(images, dtype=np.float32)
    return np.asarray(np.clip(images[..., :3, :, :] + 1 - images[..., 3:, :, :], -1, 1), dtype=np.float32)


def resized(image: Float, height: int, width: int, how: Image.Resampling = Image.Resampling.LANCZOS) -> Float:
    """A picture (C, H, W) in [-1, 1] resampled channel by channel."""
    if image.shape[1:] == (height, width):
        return image
    planes = np.ascontiguousarray(image, np.float32)
    made = [np.asarray(Image.fromarray(plane).resize((width, height), how)) for plane in planes]
    return np.asarray(np.stack(made).clip(-1, 1), np.float32)


def to_pil(pixels: UInt8) -> list[Image.Image]:
    """Straight RGBA uint8 (B, H, W, 4) to a list of B PIL pictures in mode RGBA."""
    return [Image.fromarray(one) for one in np.ascontiguousarray(pixels)]


def from_pil(picture: Image.Image) -> UInt8:
    """Any PIL picture to straight RGBA uint8 (H, W, 4)."""
    return np.array(picture.convert("RGBA"), dtype=np.uint8)


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int | None = None, gap_px: int = 4
) -> Image.Image:
    """Equal-sized pictures side by side on a transparent sheet, row by row; `columns` defaults to a
    near-square sheet."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = columns or int(np.ceil(np.sqrt(len(pictures))))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    sheet = Image.new("RGBA", (columns * (width + gap_px) - gap_px, rows * (height + gap_px) - gap_px))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap_px), row * (height + gap_px)))
    return sheet


def png_bytes(picture: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """The picture as PNG; `text` goes into iTXt chunks (UTF-8), readable as `Image.open(path).text`."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(
    path: str | os.PathLike[str], picture: Image.Image, text: Mapping[str, str] | None = None
) -> None:
    """Write the picture to `path` as PNG, whole or not at all; raises what `files.atomic_write` raises."""
    data = png_bytes(picture, text)
    with atomic_write(path) as file:
        file.write(data)
