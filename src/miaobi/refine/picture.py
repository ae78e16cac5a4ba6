"""Pictures from files that nobody vouches for: whole, upright, of a known size, as RGBA."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from miaobi.errors import InputError
from miaobi.images import Float, from_pil, from_uint8

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MOST_MEGAPIXELS = 40.0


def open_picture(
    path: str | os.PathLike[str], most_megapixels: float = MOST_MEGAPIXELS
) -> tuple[Float, list[str]]:
    """A picture as premultiplied RGBA (4, H, W) float32 in [-1, 1], and what was changed to get there.

    EXIF orientation is applied, colours are brought from an ICC profile to sRGB, 16 bits a channel scaled to
    8; grey, palette and CMYK become RGB. Of an animation the first frame is taken. The size is checked before
    any pixel is decoded.

    Raises:
        InputError: there is no such file, it is no picture of a known format, is damaged, empty or too large.
    """
    picture, notes = _open(path, most_megapixels)
    picture = _to_srgb(_eight_bits(picture, notes), notes)
    return from_uint8(from_pil(picture)), notes


def open_mask(path: str | os.PathLike[str], most_megapixels: float = MOST_MEGAPIXELS) -> Float:
    """A mask (H, W) float32 in [0, 1]: where it is white; where the file is transparent it counts as black.

    Raises:
        InputError: as `open_picture`.
    """
    picture = from_pil(_eight_bits(_open(path, most_megapixels)[0], [])).astype(np.float32) / 255
    return np.asarray(picture[..., :3].mean(-1) * picture[..., 3], np.float32)


def _open(path: str | os.PathLike[str], most_megapixels: float) -> tuple[Image.Image, list[str]]:
    what, notes = repr(os.fspath(path)), []
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {what}; give the path of a picture.") from error
    except IsADirectoryError as error:
        raise InputError(f"{what} is a folder; give the path of a picture.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is judged below, by one limit
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > most_megapixels * 1e6:
            raise InputError(
                f"{what} has {width * height / 1e6:.1f} megapixels; at most {most_megapixels:g} are read: "
                "make it smaller or raise the limit (--most-megapixels)."
            )
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            notes.append(f"{frames} frames: the first one was taken")
        picture.load()
        turned = ImageOps.exif_transpose(picture)
        if turned.size != picture.size or picture.getexif().get(0x0112, 1) != 1:
            notes.append("turned as its EXIF orientation says")
        turned.info.setdefault("icc_profile", picture.info.get("icc_profile"))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{what} is no picture that can be read; give one of {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{what} is too large ({error}); at most {most_megapixels:g} megapixels are read."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{what} is damaged ({str(error).splitlines()[0]}); save it again.") from error
    if 0 in turned.size:
        raise InputError(f"{what} has no pixels; give a picture of at least 1x1.")
    return turned, notes


def _eight_bits(picture: Image.Image, notes: list[str]) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        notes.append(f"mode {picture.mode}: scaled to 8 bits a channel")
        values = np.asarray(picture, np.float64)
        most = 65535 if picture.mode.startswith("I") else max(float(values.max()), 1e-9)
        return Image.fromarray(np.rint(values.clip(0, most) / most * 255).astype(np.uint8))
    return picture


def _to_srgb(picture: Image.Image, notes: list[str]) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if profile is None or picture.mode not in ("RGB", "RGBA", "L", "CMYK"):
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return picture
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        made = ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode=mode)
    except ImageCms.PyCMSError as error:
        notes.append(f"its colour profile cannot be used ({error}): taken as sRGB")
        return picture
    notes.append("colours brought from its profile to sRGB")
    return made or picture
