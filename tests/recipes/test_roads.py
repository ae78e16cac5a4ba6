"""Road scenes: one seed, one scene; masks and captions that agree; the data set; the lane detector."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miaobi.bundle import SHIPPED
from miaobi.text.tokenizer import MAX_TOKENS, Tokenizer
from miaobi.train.data import load_dataset

pytest.importorskip("resvg_py")
RECIPE = Path(__file__).parents[2] / "recipes" / "roads"
OWN = [path.stem for path in RECIPE.glob("*.py")]
_others = {name: sys.modules.pop(name) for name in OWN if name in sys.modules}  # another recipe's
sys.path.insert(0, str(RECIPE))

import build  # noqa: E402
import canvas  # noqa: E402
import lanes  # noqa: E402
import render  # noqa: E402
import scene  # noqa: E402
import unet  # noqa: E402
import words  # noqa: E402

sys.path.remove(str(RECIPE))
for name in OWN:
    sys.modules.pop(name, None)
sys.modules.update(_others)

SEEDS = range(150)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of twenty scenes in parts of eight."""
    folder = tmp_path_factory.mktemp("roads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "PART", 8)
        assert build.build(folder, 20) == {"train": 17, "validation": 1, "test": 2}
    return folder


def test_a_scene_is_a_function_of_its_seed(data: Path) -> None:
    again, other = render.render(3), render.render(4)
    np.testing.assert_array_equal(np.load(data / "images.npy", mmap_mode="r")[3], again.photo)
    np.testing.assert_array_equal(np.load(data / "masks.npy")[3], again.mask)
    assert again.scene == scene.sample(3) != other.scene
    assert (again.photo[..., 3] == 255).all()


def test_masks_show_what_the_pictures_show(data: Path) -> None:
    photos, masks = np.load(data / "images.npy", mmap_mode="r"), np.load(data / "masks.npy")
    lane = vehicles = 0
    for number, mask in enumerate(masks):
        one = scene.sample(number)
        bright = photos[number][..., :3].mean(axis=2)
        near = mask[80:], bright[80:]
        if one.wear == 0 and one.weather == "clear" and (near[0] == canvas.MARKING).sum() > 30:
            painted, bare = (near[1][np.isin(near[0], labels)] for labels in ([3], [1, 2]))
            assert np.median(painted) > 1.2 * np.median(bare)
        column, row = one.view.point(one.lane_middle(one.own), 0, 5.0)
        lane += mask[int(row), int(column)] == canvas.OWN_LANE
        if one.vehicles:
            ahead = one.vehicles[0]
            column, row = one.view.point(one.lane_middle(ahead.lane), 0.7, ahead.ahead_m)
            vehicles += mask[int(row), int(column)] == canvas.VEHICLE
    assert lane == len(masks)
    assert vehicles == sum(bool(scene.sample(number).vehicles) for number in range(len(masks)))


def test_captions_say_what_is_there() -> None:
    for seed in SEEDS:
        one, said = scene.sample(seed), words.words(scene.sample(seed))
        for text, kind in ((said.label_en, 0), (said.label_zh, 1)):
            assert ([" left", "左弯"][kind] in text.split([",", "，"][kind])[0]) == (one.view.bend == "left")
            assert ([" rain", "雨"][kind] in text) == (one.weather == "rain")
            assert (["night", "夜"][kind] in text) == (one.time == "night")
            assert [["two", "three", "four"], "双三四"][kind][one.lanes - 2] in text
            assert (["sign", "标志"][kind] in text) == (one.sign is not None)
        if one.vehicles:
            assert f"{one.vehicles[0].colour} {one.vehicles[0].kind}" in said.label_en
        if one.sign:
            assert f"{one.sign.kind} sign on the {one.sign.side}" in said.label_en


def test_captions_are_read_whole_by_the_shipped_text_encoder() -> None:
    tokenizer = Tokenizer(SHIPPED / "tokenizer.json")
    for seed in SEEDS:
        said = words.words(scene.sample(seed))
        for text in (said.label_en, said.label_zh, *said.tags_en, *said.tags_zh):
            assert len(tokenizer.encode(text)) <= MAX_TOKENS


def test_scenes_are_in_view_and_apart() -> None:
    kinds = set()
    for one in map(scene.sample, SEEDS):
        kinds |= {one.place, one.weather, one.time, one.view.bend, one.slope, one.lanes}
        assert one.opposite <= one.own < one.lanes
        assert {vehicle.oncoming for vehicle in one.vehicles if vehicle.lane < one.opposite} <= {True}
        for vehicle in one.vehicles:
            assert 0 < one.view.point(one.lane_middle(vehicle.lane), 0, vehicle.ahead_m)[0] < scene.SIZE_PX
    assert len(kinds) == 6 + 4 + 3 + 4 + 3 + 3


def test_the_data_set_is_one_that_training_reads(data: Path) -> None:
    dataset = load_dataset(data)
    assert dataset.styles == ("photo", "mask")
    assert len(dataset) == 40
    masks = np.load(data / "masks.npy")
    np.testing.assert_array_equal(dataset.images[20:], render.mask_picture(masks))
    heldout = {dataset.records[i].id for i in dataset.split("heldout")}
    assert heldout == {"photo/road-8", "photo/road-9", "mask/road-9", "photo/road-19", "mask/road-19"}
    assert all(dataset.records[i].concept == dataset.records[i + 20].concept for i in range(20))


def test_a_killed_build_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = np.load(data / "images.npy"), np.load(data / "masks.npy")
    drawn: list[int] = []

    def noted(number: int) -> render.Rendered:
        drawn.append(number)
        return render.Rendered(scene.sample(number), images[number], masks[number])

    monkeypatch.setattr(build, "PART", 8)
    monkeypatch.setattr(build, "render", noted)
    first, second, _ = sorted(data.glob("parts/*/*.npz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:1000])
    build.build(data, 20)
    assert drawn == list(range(16))
    np.testing.assert_array_equal(np.load(data / "images.npy"), images)


def test_bad_numbers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--count", "3"]) == 2
    assert "--count 3 is not between 10 and" in capsys.readouterr().err


def test_intersection_over_union() -> None:
    masks = np.zeros((2, 32, 32), np.uint8)
    masks[0, :16] = canvas.MARKING
    data = unet.Labelled(np.zeros((2, 32, 32, 3), np.uint8), masks)

    class Nothing(unet.UNet):  # type: ignore[name-defined,misc]
        def forward(self, pictures):  # type: ignore[no-untyped-def]
            return super().forward(pictures) * 0 + unet.torch.eye(5)[0].reshape(1, 5, 1, 1)

    np.testing.assert_allclose(unet.iou(Nothing(), data), [0.75, 0, 0, 0, 0])


def test_lanes_end_to_end(
    data: Path, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RECIPE)  # for the processes that train
    for module in (lanes, unet):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    manifest |= {"styles": ["photo", "mask", "c", "d", "e"], "default_style": "photo", "scenes": False}
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest))
    out, journal = tmp_path / "roads.md", tmp_path / "journal.jsonl"
    sizes = ["--real=4", "--real=8", "--generated=4", "--steps=3", "--test=2", "--seeds=2", "--batch=4"]
    files = ["-o", str(out), "--journal", str(journal)]
    command = ["--data", str(data), "--bundle", str(bundle_copy), *sizes, *files]
    result = CliRunner().invoke(lanes.main, command, catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["real"], told["generated"], told["seeds"]) == ([4, 8], 4, 2)
    assert set(told["iou"]) == {"4", "8"}
    figures = told["iou"]["8"]
    assert set(lanes.ARMS) <= set(figures)
    assert figures["real"]["gain in lanes"] == [0, 0, 0]
    assert all(0 <= figures[arm]["lanes"][0] <= 1 for arm in lanes.ARMS)
    assert "| 8 | real + generated |" in out.read_text("utf-8")
    assert "](roads.png)" in out.read_text("utf-8")
    assert (tmp_path / "roads.png").exists()
    kept = journal.read_text()
    again = CliRunner().invoke(lanes.main, command, catch_exceptions=False)
    assert json.loads(again.stdout.splitlines()[-1]) == told
    assert journal.read_text() == kept
    refused = CliRunner().invoke(lanes.main, [*command, "--test", "3"])
    assert "ask for fewer with --real and --test" in refused.output
