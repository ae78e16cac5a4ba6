"""The lab of real pipelines, on a tiny bundle; and the command, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miaobi.accelerate import Compile, Distill, Precision, Quantize, Recipe, Runtime, Steps, Threads, apply
from miaobi.accelerate.bundles import save
from miaobi.errors import InputError, MachineError
from miaobi.evaluate.speed import PROMPTS
from miaobi.pipeline import load
from miaobi.tune import load_plan
from miaobi.tune.command import seconds, share, tune
from miaobi.tune.pipelines import PipelineLab
from miaobi.tune.quality import FidelityQuality, Order, draw
from miaobi.tune.space import space_of


@pytest.fixture(scope="module")
def lab(tiny_bundle: Path) -> PipelineLab:
    return PipelineLab(load(tiny_bundle), str(tiny_bundle), FidelityQuality(PROMPTS[:16]))


def test_a_student_starts_with_a_runtime_and_its_numbers_as_one_graph_where_it_can(
    lab: PipelineLab, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miaobi.tune.space.lacks_bf16", lambda: False)
    single = tmp_path / "single"
    save(apply(load(tiny_bundle), (Steps(1),)), single)
    for student, quick in ((tiny_bundle, (Steps(1),)), (single, ())):  # of several steps, and of one
        starts = space_of(lab.traits, students=[str(student)]).starts()
        numbers: tuple[Recipe, ...] = (
            (Precision("bfloat16", "decoder"),),
            (Precision("bfloat16"), Compile()),
            (Quantize("int8-static"), Compile()),
        )
        graph = (Distill(str(student)), *quick, Runtime("openvino"))
        assert {(*graph, *one) for one in numbers} <= set(starts)
        assert (*graph[:-1], Quantize("int8-mixed")) in starts  # where it runs already


def test_scores_are_those_of_the_same_samples(lab: PipelineLab) -> None:
    recipe: Recipe = (Steps(1),)
    assert (lab.scores((), 0, 5) == 1).all()
    whole, tail = lab.scores(recipe, 0, 6), lab.scores(recipe, 4, 2)
    assert (whole < 1).all()
    np.testing.assert_allclose(whole[4:], tail)
    np.testing.assert_allclose(lab.scores((Threads(1),), 0, 6), 1, atol=1e-3)


def test_times_are_of_all_recipes_in_turn(lab: PipelineLab) -> None:
    times = lab.times_ms([(), (Steps(1),)], 2)
    assert times.shape == (2, 2)
    assert (times > 0).all()
    assert lab.size_bytes(()) > 1000


def test_what_a_library_raises_is_a_reason(lab: PipelineLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr("miaobi.tune.pipelines.apply", broken)
    with pytest.raises(MachineError, match="RuntimeError: no kernel"):
        lab.scores((Steps(2),), 0, 1)


def test_pictures_of_a_batch_are_those_drawn_alone(tiny_bundle: Path) -> None:
    pipe = load(tiny_bundle)
    prompts, seeds, styles = ["red apple", "cat", "red cat"], [5, 6, 7], ["fluent", "noto", "fluent"]
    together = draw(pipe, prompts, seeds, styles)
    for place, (prompt, seed, style) in enumerate(zip(prompts, seeds, styles, strict=True)):
        alone = pipe.generate(prompt, 1, seed, style, expand=None).pixels[0]
        assert np.abs(together[place].astype(int) - alone).max() <= 1


def test_screening_shares_no_prompt_with_what_follows() -> None:
    order = Order(40, seeds=3)
    first, seeds = order(0, order.samples)
    assert not {*first[: order.screening]} & {*first[order.screening :]}
    assert len(set(seeds.tolist())) == order.samples
    assert order.screening == 30
    assert order.samples == 30 + 90
    prompts, later = order(35, 5)
    assert (prompts == first[35:40]).all()
    assert (later == seeds[35:40]).all()
    with pytest.raises(InputError, match="8 or more"):
        Order(7)


def test_the_command(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "-m",
        str(tiny_bundle),
        "-o",
        str(out),
        "--budget",
        "4s",
        "--max-quality-loss",
        "40%",
        "--json",
    ]
    done = CliRunner().invoke(tune, arguments, catch_exceptions=False)
    told = json.loads(done.output.strip().splitlines()[-1])
    plan = load_plan(out / "plan.toml")
    assert told["trials"] >= 1
    assert plan.warning() is None
    assert {one.name for one in out.iterdir()} >= {"plan.toml", "pareto.png", "report.html", "model_card.md"}
    with pytest.raises(InputError, match="--resume"):
        CliRunner().invoke(tune, arguments, catch_exceptions=False)


@pytest.mark.parametrize(("text", "value"), [("2%", 0.02), ("0.02", 0.02), ("12.5%", 0.125)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "two", "0%", "100%", "1", "-1%", "nan"])
def test_bad_shares(text: str) -> None:
    with pytest.raises(InputError, match="2%"):
        share(text)


@pytest.mark.parametrize(
    ("text", "value"), [("600s", 600), ("10m", 600), ("1h", 3600), ("90", 90), ("1.5m", 90)]
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0s", "ten", "10 m", "-5s", "5d", "nan"])
def test_bad_times(text: str) -> None:
    with pytest.raises(InputError, match="10m"):
        seconds(text)
