"""Plans: written and read back, and every way in which one can be wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.accelerate import Quantize, Runtime, Steps
from miaobi.evaluate.intervals import Figure
from miaobi.tune import Plan, PlanError, load_plan
from miaobi.tune.hardware import Hardware, this_machine
from miaobi.tune.plan import model_digest

MACHINE = Hardware(
    "A CPU", 2, ("avx2", "avx512_vnni"), 24, (), "Linux x86_64", {"torch": "2.13.0", "openvino": "2026.4"}
)
PLAN = Plan(
    model="emoji 0.1.0",
    digest="ab" * 32,
    recipe=(Steps(2), Runtime("openvino"), Quantize("int8-static")),
    hardware=MACHINE,
    objective="latency",
    max_loss=0.02,
    confidence=0.95,
    scale='top-1 "R-precision" of 500 pairs\nby a judge',
    reason="it is the fastest.",
    figures={"loss": Figure(0.001, -0.01, 0.012, 1000), "speedup": Figure(51.5, 50.0, 52.0, 15)},
    seed=3,
    budget_s=600.0,
    date="2026-01-02",
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    PLAN.save(path)
    assert load_plan(path) == PLAN
    replace(PLAN, recipe=(), figures={}).save(path)
    assert load_plan(path).recipe == ()


@settings(max_examples=8)
@given(text=st.text(max_size=30), value=st.floats(-1e6, 1e6))
def test_any_text_and_number_survives(
    text: str, value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    plan = replace(PLAN, model=text, reason=text, figures={"loss": Figure(value, -1.0, 1e-9, 7)})
    plan.save(path)
    assert load_plan(path) == plan


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "", "format None"),
        (lambda text: text.replace("format = 1", "format = 9"), "format 9"),
        (lambda text: text[: len(text) // 2] + "[", "damaged"),
        (lambda text: text.replace('kind = "steps"', 'kind = "magic"'), "magic"),
        (lambda text: text.replace("count = 2", "count = 0"), "choose 1 or more"),
        (lambda text: text.replace("seed = 3", ""), "seed"),
        (lambda text: text.replace('cpu = "A CPU"', ""), "cpu"),
        (lambda text: text.replace('model = "emoji 0.1.0"', "model = 3"), "model"),
        (lambda text: text.replace("max_loss = 0.02", 'max_loss = "x"'), "damaged"),
        (lambda text: text.replace("low = -0.01", "lower = 1"), "damaged"),
    ],
)
def test_a_bad_plan_is_told(change: "object", told: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(change(PLAN.dumps()))  # type: ignore[operator]
    with pytest.raises(PlanError, match=told):
        load_plan(path)


def test_bytes_that_are_no_text_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="damaged"):
        load_plan(tmp_path / "plan.toml")
    with pytest.raises(PlanError, match="miaobi tune"):
        load_plan(tmp_path / "none.toml")
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path)


def test_another_model() -> None:
    PLAN.check_model(PLAN.digest, "emoji 0.1.0")
    with pytest.raises(PlanError, match=r"not for this other 1.*miaobi tune"):
        PLAN.check_model("cd" * 32, "other 1")


def test_another_machine() -> None:
    assert PLAN.warning(MACHINE) is None
    assert PLAN.warning(replace(MACHINE, memory_gib=25)) is None
    other = replace(MACHINE, cores=8, flags=("avx2",), versions={"torch": "3.0"})
    told = PLAN.warning(other) or ""
    for part in ("cores 2 → 8", "avx512_vnni", "torch 2.13.0 → 3.0", "openvino 2026.4 → none", "miaobi tune"):
        assert part in told


def test_this_machine_is_like_itself() -> None:
    assert this_machine().differences(this_machine()) == []
    assert this_machine().cores >= 1
    assert Hardware.from_json(this_machine().to_json()) == this_machine()


def test_the_digest_tells_models_apart(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    first = model_digest(tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"1")
    assert model_digest(tmp_path) != first
    assert model_digest("owner/name") != model_digest("owner/other")
