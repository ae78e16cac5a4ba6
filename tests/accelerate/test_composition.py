import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi import machine
from miaobi.accelerate import composition
from miaobi.accelerate.composition import Group, Row, groups, verdict
from miaobi.accelerate.recipe import (
    ChannelsLast,
    Precision,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Step,
    Steps,
    Threads,
)
from miaobi.accelerate.rules import check
from miaobi.evaluate.speed import Timings
from miaobi.traits import Traits

TRAITS = Traits(
    model="tiny 0.1",
    kind="diffusers",
    family="diffusion",
    backbone="unet",
    runtime="torch",
    runtimes=("torch", "openvino"),
    device="cpu",
    dtype="float32",
    steps=4,
    most_steps=100,
    guidance=1.0,
    guided=False,
    sampler="euler",
    samplers=("euler",),
    size_px=64,
    tokens=64,
    blocks=4,
    weights=True,
    parameters=1_000_000,
    convolutions=True,
)
INT8, VINO = Quantize("int8-weights"), Runtime("openvino")
FEATURES = frozenset({"avx2", "avx512_vnni"})


def row(first: Step | None, second: Step, low: float, high: float, runtime: str = "torch") -> Row:
    return Row(first, second, runtime, verdict(low, high), (low + high) / 2, low, high, 16)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Row]]:
    """Rows that hold here, for pipelines like `TRAITS`; a test adds to them."""
    rows: list[Row] = []

    def found() -> tuple[Group, ...]:
        return (Group("diffusers", "diffusion", "unet", "cpu", 64, 1_000_000, FEATURES, 2, tuple(rows)),)

    monkeypatch.setattr(composition, "groups", found)
    monkeypatch.setattr(machine, "cpu_features", lambda: FEATURES)
    monkeypatch.setattr(machine, "cpus", lambda: 2)
    return rows


@given(st.floats(0.1, 3), st.floats(0, 2))
def test_a_verdict_follows_the_interval(low: float, width: float) -> None:
    found, high = verdict(low, low + width), low + width
    assert (found == "helps") <= (high < 1)
    assert (found == "hurts") <= (low > 1)
    assert (found == "unclear") == (low <= 1 <= high and not (low >= 0.97 and high <= 1.03))


def test_what_hurts_is_refused_with_its_figure_and_may_be_tried(known: list[Row]) -> None:
    known.append(row(None, INT8, 1.25, 1.37))
    with pytest.raises(RecipeError, match=r"measured 1\.31 x slower \(1\.25-1\.37, n=16\) alone"):
        check(TRAITS, (INT8,))
    assert check(TRAITS, (INT8,), measured=False).quantized == "int8-weights"


def test_the_figures_are_those_of_the_model_nearest_in_size(
    known: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def group(parameters: int, low: float, high: float) -> Group:
        rows = (row(None, INT8, low, high),)
        return Group("diffusers", "diffusion", "unet", "cpu", 64, parameters, FEATURES, 2, rows)

    monkeypatch.setattr(composition, "groups", lambda: (group(800_000, 3, 4), group(1_100_000, 1.2, 1.4)))
    with pytest.raises(RecipeError, match=r"measured 1\.30 x slower"):
        check(TRAITS, (INT8,))


def test_a_row_of_the_pair_outweighs_the_step_alone(known: list[Row]) -> None:
    known += [row(None, INT8, 1.2, 1.4), row(Steps(2), INT8, 0.5, 0.6)]
    check(TRAITS, (Steps(2), INT8))
    with pytest.raises(RecipeError):
        check(TRAITS, (Steps(3), INT8))  # other values of a step are other steps
    known.append(row(Steps(3), INT8, 1.5, 1.6))
    with pytest.raises(RecipeError, match=r"after steps\(count 3\)"):
        check(TRAITS, (Steps(3), INT8))


def test_a_row_holds_for_its_runtime(known: list[Row]) -> None:
    known.append(row(VINO, INT8, 1.2, 1.4, runtime="openvino"))
    check(TRAITS, (INT8,))
    with pytest.raises(RecipeError, match="after runtime"):
        check(TRAITS, (VINO, INT8))


def test_no_effect_is_refused_of_steps_for_speed_alone(known: list[Row]) -> None:
    known += [row(None, ChannelsLast(), 0.99, 1.01), row(None, INT8, 0.99, 1.01)]
    check(TRAITS, (INT8,))  # which makes the model smaller
    with pytest.raises(RecipeError, match="nothing"):
        check(TRAITS, (ChannelsLast(),))


def test_what_is_unclear_is_no_objection(known: list[Row]) -> None:
    known.append(row(None, Threads(1), 0.8, 1.3))
    check(TRAITS, (Threads(1),))


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "bundle"},
        {"backbone": "transformer"},
        {"size_px": 512},
        {"parameters": 860_000_000},
        {"parameters": 0},
        {"device": "cuda"},
    ],
)
def test_other_models_are_not_judged(known: list[Row], other: dict[str, Any]) -> None:
    known.append(row(None, INT8, 1.2, 1.4))
    assert composition.measured_reason(TRAITS, (), INT8)
    assert composition.measured_reason(replace(TRAITS, **other), (), INT8) is None


@pytest.mark.parametrize(("features", "cpus"), [({"avx2"}, 2), (set(), 2), (FEATURES, 16)])
def test_other_machines_are_not_judged(
    known: list[Row], monkeypatch: pytest.MonkeyPatch, features: set[str], cpus: int
) -> None:
    known.append(row(None, INT8, 1.2, 1.4))
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(machine, "cpus", lambda: cpus)
    assert composition.measured_reason(TRAITS, (), INT8) is None


def test_the_data_of_the_package_can_be_read() -> None:
    for group in groups():
        assert group.features
        for one in group.rows:
            assert one.low <= one.ratio <= one.high
            assert one.verdict == verdict(one.low, one.high)


def test_deciding_instructions_are_read(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f whatever\nflags : amx_int8\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures\t: fp asimd asimddp\n")
    assert machine.cpu_features(tmp_path / "x86") == {"avx2", "avx512f"}
    assert machine.cpu_features(tmp_path / "arm") == {"asimd", "asimddp"}
    assert machine.cpu_features(tmp_path / "none") == frozenset()
    assert machine.cpus() >= 1


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "benchmarks" / "composition.py"
    spec = importlib.util.spec_from_file_location("benchmark_composition", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.modules[spec.name] = list(sys.path), module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    del sys.modules[spec.name], sys.modules["composition_page"]


class Fake:
    """Draws grey; its recipe decides the time: half as long in OpenVINO, twice as long in int8."""

    def __init__(self, recipe: Recipe = ()) -> None:
        self.recipe, self.traits = recipe, check(TRAITS, recipe, measured=False)
        self.ms = 4 * (0.5 if VINO in recipe else 1) * (2 if INT8 in recipe else 1)

    def generate(self, prompt: str, n: int = 1, seed: int | None = None) -> SimpleNamespace:
        grey = 128 + (3 if INT8 in self.recipe else 0)
        return SimpleNamespace(pixels=np.full((n, 16, 16, 4), [grey, grey, grey, 255], np.uint8))


@pytest.fixture
def fake(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def apply(pipe: Fake, recipe: Recipe, measured: bool) -> Fake:
        if Precision("float16") in recipe:
            raise RuntimeError("no kernel\nand a trace")
        return Fake(recipe)

    def take_turns(pipelines: dict[str, Fake], rounds: int, **_: Any) -> Timings:
        noise = np.random.default_rng(0).normal(1, 0.01, rounds)
        return Timings({name: pipe.ms * noise for name, pipe in pipelines.items()}, {})

    monkeypatch.setattr(benchmark, "apply", apply)
    monkeypatch.setattr(benchmark, "take_turns", take_turns)
    return benchmark


def test_pairs_are_measured_refused_or_failed(fake: ModuleType) -> None:
    bench = fake.Bench(Fake(), rounds=6, pictures=2)
    faster, slower = bench.measure(None, VINO), bench.measure(VINO, INT8)
    assert (faster["verdict"], faster["runtime"], faster["psnr_db"]) == ("helps", "torch", 100)
    assert (slower["verdict"], slower["runtime"], slower["count"]) == ("hurts", "openvino", 6)
    assert slower["psnr_db"] == pytest.approx(38.6, abs=0.1)
    refused = bench.measure(VINO, ChannelsLast())
    assert refused["verdict"] == "refused"
    assert "chooses its own layout" in refused["reason"]
    failed = bench.measure(None, Precision("float16"))
    assert (failed["verdict"], failed["reason"]) == ("failed", "RuntimeError: no kernel")


def test_a_pair_stands_in_the_order_of_recipes(benchmark: ModuleType) -> None:
    steps = benchmark.candidates(TRAITS)
    assert all(isinstance(step, Step) for step in steps)
    found = list(benchmark.pairs(steps))
    assert found[: len(steps)] == [(None, step) for step in steps]
    assert (Steps(2), VINO) in found
    assert (VINO, Steps(2)) not in found
    assert (Precision("float16"), ChannelsLast()) in found
    assert (ChannelsLast(), Precision("float16")) in found  # of one stage: both orders


def test_a_killed_run_goes_on_and_the_page_holds_all(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import miaobi.loading

    monkeypatch.setattr(miaobi.loading, "load", lambda model: Fake())
    monkeypatch.setattr(fake, "candidates", lambda traits: [VINO, INT8, ChannelsLast(), Precision("float16")])
    fake.run("tiny", tmp_path, 6, 1)
    path = tmp_path / "tiny.jsonl"
    whole = fake.read_journal(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]) + lines[-3][:20])  # killed while it wrote
    fake.run("tiny", tmp_path, 6, 1)
    again = fake.read_journal(path)
    pairs = [[(one["first"], one["second"]) for one in every[1:]] for every in (whole, again)]
    assert pairs[0] == pairs[1]
    data = tmp_path / "composition.json"
    data.write_text(fake.table(fake.measured([again], [])))
    (group,) = groups(data)
    assert {one.verdict for one in group.rows if one.second == INT8} == {"hurts"}
    assert len(json.loads(data.read_text())["measured"][0]["rows"]) == len(group.rows)
    (known,) = json.loads(data.read_text())["measured"]
    elsewhere = known | {"machine": {"features": ["sve"], "cpus": 8}}
    kept = fake.measured([again], [known, elsewhere])
    assert kept == [known, elsewhere]
    page = fake.page([again], kept[1:])
    for told in (
        "Narrower numbers, but slower",
        "**✗ 2.00**",
        "✓ 0.50",
        "chooses its own layout",
        "no kernel",
        "8 CPUs (sve)",
    ):
        assert told in page
