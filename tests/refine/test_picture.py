"""Pictures from files that nobody vouches for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from miaobi.errors import InputError
from miaobi.images import to_uint8
from miaobi.refine.picture import open_mask, open_picture


def pixels(path: Path) -> np.ndarray:
    return to_uint8(open_picture(path)[0])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgba(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (5, 3), "red").convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    picture.save(path)
    image = open_picture(path)[0]
    assert image.shape == (4, 3, 5)
    assert image.dtype == np.float32
    expected = np.asarray(picture.convert("RGBA"))
    assert np.abs(pixels(path).astype(int) - expected).max() <= 2


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    image, notes = open_picture(tmp_path / "a.png")
    np.testing.assert_allclose(image[0, 0], [-1, 0, 1], atol=0.01)
    assert "8 bits" in notes[0]


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, notes = open_picture(tmp_path / "a.gif")
    np.testing.assert_allclose(image[:, 0, 0], [1, -1, -1, 1], atol=0.02)
    assert notes == ["2 frames: the first one was taken"]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 2), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    image, notes = open_picture(tmp_path / "a.png")
    assert image.shape == (4, 6, 2)
    assert "EXIF" in notes[0]


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 2), (200, 30, 30))
    lab = ImageCms.createProfile("LAB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "srgb.png", icc_profile=profile)
    assert pixels(tmp_path / "srgb.png")[0, 0].tolist() == [200, 30, 30, 255]
    picture.save(tmp_path / "other.png", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    image, notes = open_picture(tmp_path / "other.png")
    assert image.shape == (4, 2, 2)
    assert "profile" in notes[0]


def test_a_limit_of_megapixels(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"100\.0 megapixels; at most 40 are read"):
        open_picture(tmp_path / "large.png")
    Image.new("L", (300, 300)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"at most 0\.05"):
        open_picture(tmp_path / "small.png", 0.05)
    assert open_picture(tmp_path / "small.png", 0.1)[0].shape == (4, 300, 300)


def bomb() -> bytes:
    """A PNG that says it has 40,000 x 40,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", bomb(), "too large"),
        ("a.png", b"", "no picture"),
        ("a.png", b"hello, I am text", "no picture"),
        ("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no picture"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no picture|damaged"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_picture(tmp_path / name)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        open_picture(tmp_path / "a.png")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        open_picture(tmp_path)


def test_a_mask_is_where_it_is_white_and_opaque(tmp_path: Path) -> None:
    mask = Image.new("RGBA", (3, 1), "black")
    mask.putpixel((1, 0), (255, 255, 255, 255))
    mask.putpixel((2, 0), (255, 255, 255, 0))
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.png"), [[0, 1, 0]])
