"""The model inside the package, end to end."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import miaobi
from miaobi import Pipeline, cli, machine
from miaobi.bundle import SHIPPED, Bundle
from miaobi.runtimes.graph import Running

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return miaobi.load(threads=1)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def colour(pixels: np.ndarray) -> np.ndarray:
    """Mean red, green and blue of what can be seen."""
    alpha = pixels[..., 3:].astype(float)
    return np.asarray((pixels[..., :3] * alpha).sum((0, 1, 2)) / alpha.sum())


def test_whole_and_small_enough() -> None:
    bundle = Bundle.load(SHIPPED)
    assert sum(bundle.path(name).stat().st_size for name in bundle.files) <= 40_000_000
    assert bundle.card
    assert bundle.licences
    assert bundle.steps <= 4
    assert bundle.guidance == 1


@pytest.mark.parametrize(
    "style", Bundle.load(SHIPPED).styles if (SHIPPED / "bundle.json").exists() else ["fluent"]
)
def test_every_style_draws_a_thing_on_a_transparent_ground(pipe: Pipeline, style: str) -> None:
    pixels = pipe.generate(["red apple", "猫"], n=2, seed=0, style=style).pixels
    seen = (pixels[..., 3] > 128).mean(axis=(1, 2))
    assert ((seen > 0.1) & (seen < 0.95)).all()
    assert (pixels[:, :2, :2, 3] < 128).all()


def test_openvino_reads_the_same_graphs(pipe: Pipeline) -> None:
    """Two prompts at once: what is scaled for each picture must be scaled for each."""
    pytest.importorskip("openvino")
    other = Pipeline(pipe.bundle, Running("openvino", threads=1))
    ours, theirs = (one.generate(["red apple", "猫"], seed=0).pixels.astype(int) for one in (pipe, other))
    assert np.abs(ours - theirs).mean() < 2


def test_matrices_in_int8_are_widened_where_the_cpu_has_no_int8_product(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for features in ({"avx2"}, {"avx2", "avx512_vnni"}):
        monkeypatch.setattr(machine, "cpu_features", partial(frozenset, features))
        made.append(miaobi.load(threads=1).generate(["red apple", "猫"], seed=1))
    wide, narrow = made
    assert wide.receipt.dtype == f"{pipe.bundle.dtype} (multiplied as float32)"
    assert narrow.receipt.dtype == pipe.bundle.dtype
    assert 0 < np.abs(wide.pixels.astype(float) - narrow.pixels).mean() < 2


@pytest.mark.parametrize(
    "prompt", ["red apple", "红苹果", "an automobile", "小轿车", "feline", "🍎", "Яблоко"]
)
def test_prompts_of_all_kinds_are_drawn(pipe: Pipeline, prompt: str) -> None:
    made = pipe.generate(prompt, seed=1)
    assert made[0].size == (128, 128)
    assert len(made.receipt.neighbours[0]) == pipe.bundle.neighbours


@pytest.mark.parametrize(("english", "chinese"), [("red apple", "红苹果"), ("dog", "狗"), ("rocket", "火箭")])
def test_both_languages_find_the_same_thing(pipe: Pipeline, english: str, chinese: str) -> None:
    found = pipe.generate([english, chinese], seed=0).receipt.neighbours
    assert set(found[0]) & set(found[1])


@pytest.mark.parametrize(
    ("prompts", "channel"),
    [(["red apple", "红苹果"], 0), (["green apple", "绿色的猫"], 1), (["blue apple", "蓝色的猫"], 2)],
)
def test_colour_words_work(pipe: Pipeline, prompts: list[str], channel: int) -> None:
    for prompt in prompts:
        assert colour(pipe.generate(prompt, n=4, seed=0).pixels).argmax() == channel, prompt


def test_one_seed_gives_one_picture(pipe: Pipeline) -> None:
    batch = pipe.generate("red apple", n=8, seed=40).pixels
    assert difference(batch, pipe.generate("red apple", n=8, seed=40).pixels) <= 1
    for index in (0, 3, 7):
        assert difference(batch[index], pipe.generate("red apple", seed=40 + index).pixels[0]) <= 1
    for index in range(1, 8):
        assert difference(batch[0], batch[index]) > 20


def test_no_held_out_picture_is_in_the_memory(pipe: Pipeline) -> None:
    heldout = set((ROOT / "recipes/emoji/heldout.txt").read_text("utf-8").split())
    assert len(heldout) > 100
    assert not heldout & set(pipe.memory.ids)


def test_memory_and_time_of_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "miaobi.cli", "generate", "a colorful parrot", "--json", "-q"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "a.png")], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout)["peak_memory_bytes"] <= 350e6


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (readme, block)
        for readme in ("README.md", "README.zh-CN.md")
        for block in re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)
    ]


@pytest.mark.parametrize(("readme", "block"), blocks("python"))
def test_python_of_the_readme_runs(
    readme: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, readme, "exec"), {})
    assert (tmp_path / "apple.png").exists()


@pytest.mark.parametrize(
    "line",
    [
        line
        for _, block in blocks("sh")
        for line in block.splitlines()
        if re.match("miaobi (generate|info)", line)
    ],
)
def test_commands_of_the_readme_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0
