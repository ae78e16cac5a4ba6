"""Shards, imagefolders with every kind of bad file, batches, and recoloured pictures."""

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from miaobi.colours import COLOURS, main_colour, recolour
from miaobi.errors import DataError
from miaobi.train.data import Record, load_dataset


def shard(path: Path, count: int = 10, size_px: int = 8) -> np.ndarray:
    path.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, size_px, size_px, 4), np.uint8)
    np.save(path / "images.npy", images)
    rows = [
        {
            "id": f"{i}",
            "concept": "c",
            "style": "ba"[i % 2],
            "label_en": "x",
            "split": "heldout" if i == 3 else "train",
        }
        for i in range(count)
    ]
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return images


def folder(path: Path, entries: list[dict[str, object] | str]) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries]
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_shard_is_memory_mapped(tmp_path: Path) -> None:
    images = shard(tmp_path)
    dataset = load_dataset(tmp_path)
    assert isinstance(dataset.images, np.memmap)
    assert np.array_equal(dataset.images, images)
    assert len(dataset) == 10
    assert dataset.styles == ("a", "b")
    assert dataset.style_ids().tolist() == [1, 0] * 5
    assert dataset.split("heldout").tolist() == [3]
    assert 3 not in dataset.split("train")
    (tmp_path / "styles.json").write_text('["z", "b"]')
    assert load_dataset(tmp_path).styles == ("z", "b", "a")
    with pytest.raises(ValueError, match="'test'"):
        dataset.split("test")


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="neither"):
        load_dataset(tmp_path)
    shard(tmp_path)
    lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="10 pictures but 9 lines"):
        load_dataset(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines[:4], '{"id": 1', *lines[5:]]))
    with pytest.raises(DataError, match="line 5 is damaged"):
        load_dataset(tmp_path)
    (tmp_path / "images.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:500])
    with pytest.raises(DataError, match=r"images\.npy is damaged"):
        load_dataset(tmp_path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    shard(tmp_path)
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        load_dataset(tmp_path)


def test_an_imagefolder_uses_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "wide.png")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "deep.png")
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "wide.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    folder(
        tmp_path,
        [
            {"file_name": "wide.png", "text": "a red bar", "style": "flat", "tags_en": ["bar"]},
            {"file_name": "cmyk.jpg", "caption": "红色"},
            {"file_name": "deep.png", "text": "grey"},
            {"file_name": "palette.png", "text": "blue", "label_zh": "蓝色"},
            {"file_name": "dot.png", "text": "dot"},
            {"file_name": "broken.png", "text": "broken"},
            {"file_name": "text.png", "text": "text"},
            {"file_name": "wide.png", "text": "again"},
            {"file_name": "gone.png", "text": "gone"},
            {"file_name": "../secret.png", "text": "outside"},
            {"file_name": "mute.png"},
            {"file_name": "typed.png", "text": "x", "style": 3},
            "{not json",
            "",
        ],
    )
    Image.new("RGB", (9, 9)).save(tmp_path / "typed.png")
    dataset = load_dataset(tmp_path, 16)
    assert [record.id for record in dataset.records] == ["wide.png", "cmyk.jpg", "deep.png", "palette.png"]
    assert dataset.images.shape == (4, 16, 16, 4)
    assert dataset.records[0].style == "flat"
    assert dataset.records[0].tags_en == ("bar",)
    assert dataset.records[1].label_zh == "红色"
    assert (dataset.records[3].label_en, dataset.records[3].label_zh) == ("blue", "蓝色")
    assert dataset.images[0, 8, 8].tolist() == [255, 0, 0, 255]
    assert dataset.images[0, 1, 8, 3] == 0  # padded
    assert dataset.images[2, 8, 8].tolist() == [128, 128, 128, 255]
    assert dataset.images[3, 8, 8].tolist() == [0, 0, 255, 255]
    problems = {problem.split(":")[0]: problem for problem in dataset.problems}
    left_out = {
        "dot.png",
        "broken.png",
        "text.png",
        "wide.png",
        "gone.png",
        "../secret.png",
        "mute.png",
        "typed.png",
    }
    assert set(problems) == {*left_out, "cmyk.jpg", "deep.png", "palette.png", "metadata.jsonl line 13"}
    assert all("left out" in problems[name] for name in left_out)


def test_an_imagefolder_is_converted_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    folder(tmp_path, [{"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}])
    first = load_dataset(tmp_path, 8)
    written = (first.path / "images.npy").stat().st_mtime_ns
    again = load_dataset(tmp_path, 8)
    assert (first.path / "images.npy").stat().st_mtime_ns == written
    assert again.problems == first.problems
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "b.png")
    assert len(load_dataset(tmp_path, 8)) == 2
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "a.png")
    assert load_dataset(tmp_path, 8).images[0, 4, 4].tolist() == [0, 255, 0, 255]


def test_large_imagefolders_hold_five_percent_out(tmp_path: Path) -> None:
    entries: list[dict[str, object] | str] = []
    for i in range(60):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{i}.png")
        entries.append({"file_name": f"{i}.png", "text": "x"})
    assert 0 < len(load_dataset(folder(tmp_path, entries), 2).split("heldout")) < 10
    for entry in entries:
        entry["split"] = "train"  # type: ignore[index]
    assert len(load_dataset(folder(tmp_path, entries), 2).split("heldout")) == 0


@pytest.mark.parametrize("lines", [[], [{"file_name": "gone.png", "text": "x"}]])
def test_a_folder_without_pictures_is_an_error(tmp_path: Path, lines: list[dict[str, object] | str]) -> None:
    with pytest.raises(DataError, match="no usable picture"):
        load_dataset(folder(tmp_path, lines))


def test_records_are_checked() -> None:
    for wrong in ({"tone": 6}, {"split": "test"}, {"label_en": ""}, {"tags_en": "abc"}, {"style": 1}):
        with pytest.raises(ValueError, match=r"tone|split|label|tags_en|style"):
            Record(**{"id": "a", "concept": "c", "style": "s", "label_en": "x", **wrong})  # type: ignore[arg-type]


def ball(rgb: tuple[int, int, int], size_px: int = 64) -> np.ndarray:
    """A shaded disc with a white highlight and black eyes, on nothing."""
    y, x = np.mgrid[:size_px, :size_px] / size_px - 0.5
    shade = np.clip(1.0 - 0.8 * (y + x), 0.4, 1)[..., None]
    image = np.zeros((size_px, size_px, 4), np.uint8)
    image[..., :3] = np.array(rgb) * shade
    image[(abs(x - 0.1) < 0.04) & (abs(y) < 0.06), :3] = 0
    image[..., 3] = 255 * (x * x + y * y < 0.2)
    return image


@pytest.mark.parametrize("colour", list(COLOURS))
@pytest.mark.parametrize("rgb", [(230, 30, 30), (250, 200, 40), (40, 90, 220), (150, 150, 155), (60, 60, 60)])
def test_recoloured_pictures_have_the_colour(rgb: tuple[int, int, int], colour: str) -> None:
    image = ball(rgb)
    painted = recolour(image, colour)
    assert main_colour(painted)[0] == colour
    assert np.array_equal(painted[..., 3], image[..., 3])
    eye = painted[32, 38, :3]
    if max(rgb) > 140:
        assert eye.max() < 70  # eyes stay dark
        left, right = painted[16, 20, :3].astype(int).sum(), painted[44, 48, :3].astype(int).sum()
        assert left > right or colour == "white"  # the light still comes from the upper left


@given(
    arrays.arrays(np.uint8, st.sampled_from([(1, 1, 4), (5, 7, 4), (16, 16, 4)])),
    st.sampled_from(sorted(COLOURS)),
)
@settings(max_examples=60, deadline=None)
def test_recolour_takes_any_picture(image: np.ndarray, colour: str) -> None:
    painted = recolour(image, colour)
    assert painted.shape == image.shape
    assert painted.dtype == np.uint8
    assert np.array_equal(painted[..., 3], image[..., 3])


def test_recolour_leaves_other_hues_alone() -> None:
    image = ball((230, 30, 30))
    image[:12, :, :3] = (40, 170, 60)  # a green leaf
    image[:12, 24:40, 3] = 255
    np.testing.assert_array_equal(recolour(image, "blue")[5, 30], image[5, 30])


def test_recolour_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="mauve"):
        recolour(ball((1, 2, 3)), "mauve")
    with pytest.raises(ValueError, match="expected uint8"):
        recolour(np.zeros((4, 4, 3), np.uint8), "red")


def test_ramps_have_the_hue_of_their_name() -> None:
    for name, low, high in (("red", 345, 375), ("green", 90, 150), ("blue", 200, 250), ("yellow", 40, 60)):
        rgb = [int(COLOURS[name].ramp[1][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        hue = colorsys.rgb_to_hsv(*rgb)[0] * 360
        assert low <= hue <= high or low <= hue + 360 <= high
