"""One way to open any model, with a plan or without."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from miaobi.accelerate import Steps, Threads
from miaobi.bundle import Bundle
from miaobi.cli import main
from miaobi.errors import BundleError, InputError
from miaobi.loading import load
from miaobi.pipeline import Pipeline
from miaobi.tune.hardware import this_machine
from miaobi.tune.plan import Plan, PlanError, model_digest


@pytest.fixture
def plan(tiny_bundle: Path, tmp_path: Path) -> Plan:
    made = Plan(
        model="tiny 0.0.1",
        digest=model_digest(tiny_bundle),
        recipe=(Steps(2), Threads(1)),
        hardware=this_machine(gpus=False),
        objective="latency",
        max_loss=0.02,
        confidence=0.95,
        scale="R-precision",
        reason="it is the fastest.",
        figures={},
        seed=0,
        budget_s=60.0,
        date="2026-01-02",
    )
    made.save(tmp_path / "plan.toml")
    return made


def test_a_plan_is_applied(tiny_bundle: Path, tmp_path: Path, plan: Plan) -> None:
    pipe, plain = load(tiny_bundle, plan=tmp_path / "plan.toml"), load(tiny_bundle)
    assert isinstance(pipe, Pipeline)
    assert (pipe.traits.steps, pipe.traits.threads, plain.traits.steps) == (2, 1, 4)
    made = pipe.generate("cat", seed=1)
    assert made.receipt.fallbacks == []
    np.testing.assert_array_equal(made.pixels, plain.generate("cat", seed=1, steps=2).pixels)


def test_a_plan_of_another_machine_is_told_in_the_receipt(
    tiny_bundle: Path, tmp_path: Path, plan: Plan
) -> None:
    replace(plan, hardware=replace(plan.hardware, cores=64)).save(tmp_path / "plan.toml")
    receipt = load(tiny_bundle, plan=tmp_path / "plan.toml").generate("cat", seed=1).receipt
    assert "cores 64 → " in receipt.fallbacks[0]
    assert "miaobi tune" in receipt.fallbacks[0]


def test_a_plan_of_another_model_is_refused(tiny_bundle: Path, tmp_path: Path, plan: Plan) -> None:
    replace(plan, digest="0" * 64).save(tmp_path / "plan.toml")
    with pytest.raises(PlanError, match="give that model"):
        load(tiny_bundle, plan=tmp_path / "plan.toml")


def test_what_is_no_model(tmp_path: Path) -> None:
    assert Bundle.load(load(None).bundle.folder).name == "emoji"  # type: ignore[union-attr]
    with pytest.raises(BundleError):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError):
        load(tmp_path, threads=0)


def test_commands(tiny_bundle: Path, tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("plan.toml", "out.png", "fast")]
    assert main(["generate", "cat", "-m", str(tiny_bundle), "--plan", paths[0], "-o", paths[1]]) == 0
    assert "steps 2" in capsys.readouterr().out
    assert main(["accelerate", paths[0], "-m", str(tiny_bundle), "-o", paths[2]]) == 0
    assert Bundle.load(paths[2]).steps == 2
    assert main(["accelerate", str(tmp_path / "none.toml"), "-o", paths[2]]) == 2
    assert "cannot read recipe" in capsys.readouterr().err
    for command in ("bench", "tune", "evaluate"):
        assert main([command, "--help"]) == 0
        assert "Usage: miaobi " + command in capsys.readouterr().out
