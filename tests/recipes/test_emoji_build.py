"""The emoji data build on eight sets of a few icons each: names, tones, split, resuming, damaged sources."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from miaobi.errors import DataError
from miaobi.train.data import load_dataset

pytest.importorskip("resvg_py")
RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"
sys.path.insert(0, str(RECIPE))

import build  # noqa: E402
import concepts  # noqa: E402
import sources  # noqa: E402
import split  # noqa: E402

EMOJI = [
    ("1F34E", "red apple", "红苹果", ["fruit", "red", "orchard", "snack"], ["水果", "果园"], 4),
    ("1F408", "cat", "猫", ["animal", "pet", "feline", "kitty"], ["动物", "猫科"], 3),
    ("1F44D", "thumbs up", "拇指向上", ["hand", "good", "yes", "like"], ["手", "赞"], 1),
    ("1F1E8-1F1F3", "flag: China", "旗: 中国", ["CN"], ["CN"], 9),
]
TONE_CHARS = {"1f44d-1f3fd": "thumbs-up-medium-skin-tone"}


def square(colour: str) -> dict[str, str]:
    return {"body": f'<path fill="{colour}" d="M2 2h4v4H2z"/>'}


ICONS: dict[str, dict[str, dict[str, object]]] = {
    "noto": {
        "red-apple": square("red"),
        "apple-old": {**square("red"), "hidden": True},
        "thumbs-up": square("gold"),
        "thumbs-up-medium-skin-tone": square("peru"),
        "nothing": {"body": ""},
    },
    "noto-v1": {"red-apple": square("#f008")},
    "twemoji": {"flag-for-flag-china": square("#e00"), "cat": square("#222")},
    "fluent-emoji": {"thumbs-up-dark": square("#420"), "cat": {**square("#333"), "width": 16}},
    "fluent-emoji-flat": {"thumbs-up-dark": square("#421")},
    "emojione": {"flag-for-china": square("#d00")},
    "fxemoji": {"catside": square("#444"), "redapple": square("#c00")},
    "streamline-emojis": {"china": square("#b00"), "cat-1": square("#555"), "cat-2": square("#666")},
}


def pack(path: Path, files: dict[str, object]) -> str:
    """Write an npm tarball; returns its integrity."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe folder whose pinned packages lie in `tmp_path`/out/sources."""
    folder, cache = tmp_path / "recipe", tmp_path / "out" / "sources"
    folder.mkdir()
    cache.mkdir(parents=True)
    pins: dict[str, dict[str, str]] = {"dependencies": {}, "integrity": {}}
    for name, icons in ICONS.items():
        data = {"icons": icons, "width": 8, "height": 8, "aliases": {"apple": {"parent": "apple-old"}}}
        chars = {code: icon for code, icon in TONE_CHARS.items() if icon in icons}
        pins["dependencies"][f"@iconify-json/{name}"] = "1.0.0"
        pins["integrity"][f"@iconify-json/{name}"] = pack(
            cache / f"iconify-json-{name}-1.0.0.tgz", {"icons.json": data, "chars.json": chars}
        )
    english = [{"hexcode": c, "label": en, "tags": t, "group": g} for c, en, _, t, _, g in EMOJI]
    chinese = [{"hexcode": c, "label": zh, "tags": t, "group": g} for c, _, zh, _, t, g in EMOJI]
    groups = [
        "smileys & emotion",
        "people & body",
        "",
        "animals & nature",
        "food & drink",
        *[""] * 4,
        "flags",
    ]
    files: dict[str, object] = {
        "en/data.json": english,
        "zh/data.json": chinese,
        "en/messages.json": {"groups": [{"order": i, "message": m} for i, m in enumerate(groups)]},
        **{f"en/shortcodes/{kind}.json": {} for kind in concepts.SHORTCODES},
        "en/shortcodes/github.json": {"1F34E": ["apple"]},
    }
    pins["dependencies"]["emojibase-data"] = "1.0.0"
    pins["integrity"]["emojibase-data"] = pack(cache / "emojibase-data-1.0.0.tgz", files)
    (folder / "package.json").write_text(json.dumps(pins))
    (folder / "aliases.tsv").write_text("fxemoji\tcatside\tcat\nnoto\tnothing\tdot\n")
    (folder / "concepts.tsv").write_text("dot\tdot\t点\tSymbols\tpoint\t圆点\n")
    (folder / "heldout.txt").write_text("fxemoji/redapple\n")
    return folder


def run(recipe: Path, **options: object) -> dict[str, dict[str, object]]:
    out = recipe.parent / "out"
    build.build(out, workers=1, folder=recipe, **options)  # type: ignore[arg-type]
    lines = (out / "metadata.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_every_set_reaches_the_same_concepts(recipe: Path) -> None:
    rows = run(recipe)
    assert list(rows) == sorted(rows)
    assert {id: row["concept"] for id, row in rows.items()} == {
        "emojione/flag-for-china": "flag-china",
        "fluent-flat/thumbs-up-dark": "thumbs-up",
        "fluent/cat": "cat",
        "fluent/thumbs-up-dark": "thumbs-up",
        "fxemoji/catside": "cat",
        "fxemoji/redapple": "red-apple",
        "noto-v1/red-apple": "red-apple",
        "noto/red-apple": "red-apple",  # and not noto/apple-old, the same picture by a hidden name
        "noto/thumbs-up": "thumbs-up",
        "noto/thumbs-up-medium-skin-tone": "thumbs-up",
        "streamline/cat-1": "cat",
        "streamline/cat-2": "cat",
        "streamline/china": "flag-china",
        "twemoji/cat": "cat",
        "twemoji/flag-for-flag-china": "flag-china",
    }  # noto/nothing is blank
    assert rows["noto/thumbs-up-medium-skin-tone"]["tone"] == 3
    assert rows["fluent/thumbs-up-dark"]["tone"] == 5
    assert rows["noto/red-apple"] == {
        "id": "noto/red-apple",
        "concept": "red-apple",
        "style": "noto",
        "label_en": "red apple",
        "label_zh": "红苹果",
        "tags_en": ["fruit", "red", "orchard", "snack"],
        "tags_zh": ["水果", "果园"],
        "tone": 0,
        "split": "train",
        "category": "Food & Drink",
    }
    assert rows["streamline/china"]["tags_zh"] == ["cn", "中国旗", "中国旗帜"]
    assert [id for id, row in rows.items() if row["split"] == "heldout"] == ["fxemoji/redapple"]


def test_pictures_are_straight_rgba_and_load(recipe: Path) -> None:
    rows = run(recipe)
    dataset = load_dataset(recipe.parent / "out")
    assert dataset.styles == tuple(sources.STYLES)
    assert [record.id for record in dataset.records] == list(rows)
    half = dataset.images[list(rows).index("noto-v1/red-apple")]
    assert half.shape == (128, 128, 4)
    assert half[64, 64].tolist() == [255, 0, 0, 136]  # half transparent red keeps its full red
    assert half[4, 4, 3] == 0
    wide = dataset.images[list(rows).index("fluent/cat")]  # 16 x 8 units, centred in a square
    assert wide[48, 32, 3] == 255
    assert wide[8, 32, 3] == 0


def test_a_second_run_keeps_the_parts_and_mends_damaged_ones(recipe: Path) -> None:
    run(recipe)
    out = recipe.parent / "out"
    before = (out / "images.npy").read_bytes()
    kept, lost, cut = (
        out / "parts" / f"{style}-1.0.0-128" / "0000.npy" for style in ("noto", "fxemoji", "twemoji")
    )
    time = kept.stat().st_mtime_ns
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    run(recipe)
    assert kept.stat().st_mtime_ns == time
    assert (out / "images.npy").read_bytes() == before


def test_other_sizes_and_styles_go_beside(recipe: Path) -> None:
    run(recipe)
    out = recipe.parent / "out"
    assert build.build(out, 32, ["fxemoji"], workers=1, folder=recipe) == {"train": 1, "heldout": 1}
    assert load_dataset(out).images.shape == (15, 128, 128, 4)
    small = load_dataset(out / "32")
    assert small.images.shape == (2, 32, 32, 4)
    assert [record.split for record in small.records] == ["train", "heldout"]


def test_a_limit_keeps_the_same_few_pictures_of_each_style_and_split(recipe: Path) -> None:
    full = run(recipe)
    out = recipe.parent / "out"
    all_of = load_dataset(out)
    assert build.build(out, 32, workers=1, folder=recipe, limit=1) == {"train": 8, "heldout": 1}
    few = load_dataset(out / "32")
    assert len({(record.style, record.split) for record in few.records}) == len(few) == 9
    for record, picture in zip(few.records, few.images, strict=True):
        assert record.tone == 0 or record.style.startswith("fluent-flat")
        assert record.split == full[record.id]["split"]
        # the same picture as the large one: its opaque middle lies in the same place
        large = all_of.images[[one.id for one in all_of.records].index(record.id)]
        np.testing.assert_allclose(picture.mean((0, 1)), large.mean((0, 1)), atol=8)
    before = (out / "32" / "images.npy").read_bytes()
    build.build(out, 32, workers=1, folder=recipe, limit=1)
    assert (out / "32" / "images.npy").read_bytes() == before


def test_new_split_is_written(recipe: Path) -> None:
    run(recipe, renew_split=True)
    tags = json.loads((recipe / "heldout_tags.json").read_text("utf-8"))
    assert set(tags["cat"]) == {"en", "zh"}
    assert tags["cat"]["zh"] == "动物"  # the other keyword holds the name
    assert "flag-china" not in tags


def test_a_damaged_source_is_named(recipe: Path) -> None:
    path = recipe.parent / "out" / "sources" / "iconify-json-twemoji-1.0.0.tgz"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"damaged source @iconify-json/twemoji@1\.0\.0"):
        run(recipe)


def test_a_missing_source_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe.parent / "out" / "sources" / "emojibase-data-1.0.0.tgz").unlink()
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"missing source emojibase-data@1\.0\.0"):
        run(recipe)


def test_an_icon_without_a_concept_is_named(recipe: Path) -> None:
    (recipe / "aliases.tsv").write_text("noto\tnothing\tdot\n")
    with pytest.raises(DataError, match="fxemoji/catside"):
        run(recipe)


@pytest.mark.parametrize(("option", "value"), [("--size", "4"), ("--workers", "0")])
def test_bad_options_end_in_one_line(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([option, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option} {value}")


def test_new_split_holds_out_by_hash_and_never_a_whole_concept() -> None:
    rows = [(f"{s}/{c}", f"c{c}", s) for c in range(2000) for s in ("noto", "fluent", "fxemoji")]
    held = split.new_split(rows)
    assert 0.04 < len(held) / len(rows) < 0.06
    for id, concept, style in rows:
        if id in held:
            assert int(hashlib.sha256(f"{concept}|{style}".encode()).hexdigest()[:8], 16) % 20 == 0
            assert any(f"{s}/{concept[1:]}" not in held for s in ("noto", "fluent", "fxemoji"))
    assert split.new_split([row for row in rows if row[2] == "noto"]) == set()  # nowhere else to learn it


def test_what_would_give_a_held_out_picture_away_is_dropped() -> None:
    rows = [
        ("noto/a", "a", "noto"),
        ("noto/a-2", "a", "noto"),
        ("noto/b", "b", "noto"),
        ("fluent/a", "a", "fluent"),
    ]
    digests = {"noto/a": "1", "noto/a-2": "2", "noto/b": "1", "fluent/a": "3"}
    assert split.splits(rows, ["noto/a"], digests) == {
        "noto/a": "heldout",
        "noto/a-2": "dropped",  # the same concept and style
        "noto/b": "dropped",  # the same pixels by another name
        "fluent/a": "train",
    }
    with pytest.raises(DataError, match="noto/gone"):
        split.splits(rows, ["noto/gone"], digests)
    with pytest.raises(DataError, match="noto/b"):
        split.splits(rows, ["noto/b"], digests)


def test_the_reviewed_tables_are_in_order() -> None:
    for name, columns in (("aliases.tsv", 3), ("concepts.tsv", 6)):
        rows = concepts._table(RECIPE / name, columns)
        assert len({tuple(row[:-1]) if columns == 3 else row[0] for row in rows}) == len(rows)
    assert all(row[1] and row[2] and row[3] for row in concepts._table(RECIPE / "concepts.tsv", 6))
    held = (RECIPE / "heldout.txt").read_text("utf-8").split()
    assert held == sorted(set(held))
    tags = json.loads((RECIPE / "heldout_tags.json").read_text("utf-8"))
    assert len(tags) == split.TAG_CONCEPTS
    assert all(set(pair) == {"en", "zh"} and all(pair.values()) for pair in tags.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("keycap: #", "keycap-hash"), ("flag: Côte d’Ivoire", "flag-cote-divoire"), ("A & B", "a-and-b")],
)
def test_slug(text: str, expected: str) -> None:
    assert concepts.slug(text) == expected


def test_pictures_of_two_tones_name_both() -> None:
    assert concepts._code("1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF") == (
        "1F9D1-200D-1F91D-200D-1F9D1",
        (1, 5),
    )
    assert np.array_equal(concepts._code("270C-FE0F")[1], ())
