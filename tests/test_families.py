"""The comparison of families on a handful of shapes, from recipes to the page."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import families
import families_runs
from miaobi import train
from miaobi.bundle import Bundle
from miaobi.errors import InputError
from miaobi.pipeline import Pipeline
from miaobi.runtimes.graph import Running

SCHEDULE = '[schedule]\nsteps = 3\nbatch_size = 4\nwarmup = 1\nprecision = "fp32"\n'
CODER = 'part = "autoencoder"\ndata = "{data}"\n[model]\nchannels = [8, 8, 8]\nencoder_blocks = [0, 0, 0]\n'
CODER += "decoder_blocks = [0, 0, 0]\n"
PARTS = {
    "text": 'part = "text"\ndata = "{words}"\nvocabulary = 300\n[model]\nwidth = 16\nlayers = 1\nheads = 2\n',
    "autoencoder": CODER + "latent_channels = 4\n",
    "codes": CODER + "latent_channels = 2\nlevels = [3, 3]\n",
}
MODEL = "[model]\ntext_width = 16\nwidth = 16\ndepth = 1\ncontext_depth = 1\nheads = 2\nneighbours = {}\n"
WRITER = "[autoregressive]\nkv_heads = 1\ncaptioning = 0.2\n"
GENERATORS = {
    "generator": ("diffusion", MODEL.format(2)),
    "text_only": ("diffusion", MODEL.format(0)),
    "shared": ("diffusion", MODEL.format(2).replace("depth = 1", "depth = 2\ndistinct = 1", 1)),
    "gan": ("gan", MODEL.format(2) + "[gan]\nwidth = 8\nblocks = 1\n"),
    "vae": ("vae", MODEL.format(2) + "[vae]\ndepth = 1\n"),
    "autoregressive": (
        "autoregressive",
        MODEL.format(2) + WRITER,
    ),
}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def root(shapes: Path, judge_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipes of tiny generators and, trained, all that they stand on."""
    root = tmp_path_factory.mktemp("families")
    data = shutil.copytree(shapes, root / "data")
    shutil.copytree(judge_folder, root / "judge")
    (root / "words").mkdir()
    names = ("disc", "square", "bar")
    lines = [{"text": text, "concepts": {name: 1.0}} for name in names for text in (name, f"中 {name}")]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (root / "words" / "captions.jsonl").write_text(text, "utf-8")
    for name, recipe in PARTS.items():
        path = root / f"{name}.toml"
        path.write_text(recipe.format(data=data, words=root / "words") + SCHEDULE)
        train.run(path, root / name)
    (root / "recipes").mkdir()
    for name, (family, tables) in GENERATORS.items():
        head = f'part = "generator"\nfamily = "{family}"\n'
        (root / "recipes" / f"{name}.toml").write_text(head + tables + SCHEDULE)
    return root


def command(root: Path, *options: str) -> Result:
    folders = ("data", "text", "judge", "autoencoder", "codes", "recipes", "runs")
    paths = [part for name in folders for part in (f"--{name}", str(root / name))]
    small = [
        "--minutes",
        "1e-6",
        "--workers",
        "1",
        "--rounds",
        "2",
        "--fresh",
        "0",
        "-o",
        str(root / "page.md"),
    ]
    return CliRunner().invoke(families.main, [*paths, *small, *options])


def test_one_family_to_a_page_and_not_trained_twice(root: Path) -> None:
    result = command(root, "--families", "autoregressive")
    assert result.exit_code == 0, result.output
    weights = root / "runs" / "autoregressive" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    result = command(root, "--families", "autoregressive")
    assert result.exit_code == 0, result.output
    assert weights.stat().st_mtime_ns == before

    page = (root / "page.md").read_text("utf-8")
    assert "| | autoregressive | autoregressive, in parallel |\n" in page
    one_by_one, parallel = (
        f"16 tokens, {how}, temperature 0.4, guidance 3" for how in ("one by one", "in 4 steps")
    )
    assert f"| drawn with | {one_by_one} | {parallel} |\n" in page
    assert "](page.png)" in page
    assert (root / "page.png").exists()
    told = json.loads(result.stdout.splitlines()[-1])["families"]["autoregressive"]
    assert told["train_steps"] == families_runs.LEAST_STEPS
    assert told["train_pictures_per_s"] > 0
    assert {"en/top1", "zh/top5", "en/fid", "en/kid", "torch/ms_batch_16"} < set(told)
    same_in_both_runtimes(root, "autoregressive")


@pytest.mark.slow
def test_all_families_on_one_page(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two held-out pictures tell little about a spread
    monkeypatch.setattr("miaobi.train.generator.COLLAPSED", 0)
    first = command(root, "--families", "gan,vae")
    assert first.exit_code == 0, first.output
    assert "Not in the table: diffusion (not trained yet)" in (root / "page.md").read_text("utf-8")

    last = command(root, "--families", ",".join(families.TRAINED))
    assert last.exit_code == 0, last.output
    page = (root / "page.md").read_text("utf-8")
    titles = [family.title for family in families.FAMILIES.values()]
    assert f"| | {' | '.join(titles)} |" in page
    assert "| drawn with | 16 Euler steps, guidance 3 |" in page
    assert "Not in the table" not in page
    told = json.loads(last.stdout.splitlines()[-1])["families"]
    assert set(told) == set(families.FAMILIES)
    for figures in told.values():
        missing = set(families.ROWS) - set(figures)
        assert missing == {"torch/peak_memory_mb", "onnxruntime/peak_memory_mb"}
    assert told["diffusion"]["torch/times_batch_16"] == 1
    assert told["gan"]["parameters_drawing_m"] < told["gan"]["parameters_trained_m"]
    for name in families.FAMILIES:
        same_in_both_runtimes(root, name)


def same_in_both_runtimes(root: Path, name: str) -> None:
    bundle = Bundle.load(root / "runs" / name / "bundle")
    a, b = (Pipeline(bundle, Running(runtime)).generate("disc", 2, 5).pixels for runtime in families.RUNTIMES)
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 2


def test_a_run_of_another_length_is_not_compared(root: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    paths = [root / name for name in ("recipes", "data", "text", "autoencoder", "codes", "judge")]
    setting = families_runs.Setting(*paths, runs, minutes=1.0, workers=1)
    runs.mkdir()
    assert setting.recipe("autoregressive")["autoregressive"]["captioning"] == 0
    recipe = setting.recipe("vae")
    recipe["schedule"]["steps"], recipe["plan"]["step_ms"] = 700, 85.7
    families_runs.write_recipe(setting.plan("vae"), recipe)
    assert families_runs.planned("vae", setting) == recipe
    with pytest.raises(InputError, match="choose another --runs"):
        families_runs.planned("vae", replace(setting, minutes=2.0))


def test_families_that_come_later_get_no_more_where_the_machine_is_faster(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [root / name for name in ("recipes", "data", "text", "autoencoder", "codes", "judge")]
    setting = families_runs.Setting(*paths, tmp_path, minutes=10.0, workers=1)
    speed = {"gan": 0.5, "vae": 1.0, "diffusion": 2.0}  # seconds of a step
    monkeypatch.setattr(families_runs, "trial", lambda recipe: speed[recipe.get("family", "diffusion")])
    families_runs.plan(["gan", "vae"], setting)
    speed = {name: seconds / 2 for name, seconds in speed.items()}
    families_runs.plan(["gan", "diffusion"], setting)
    steps = [families_runs.planned(name, setting)["schedule"]["steps"] for name in speed]
    assert steps == [1200, 600, 300]


def test_nothing_trained_is_told(root: Path, tmp_path: Path) -> None:
    result = command(root, "--families", "", "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert "no family has been trained" in result.output


def test_what_is_wrong_is_told_before_anything_is_trained(root: Path) -> None:
    assert "'gans' is none of diffusion, " in command(root, "--families", "gans").output
    result = command(root, "--families", "autoregressive", "--codes", str(root / "none"))
    assert result.exit_code == 1
    assert "make it with recipes/emoji/codes.toml" in result.output
