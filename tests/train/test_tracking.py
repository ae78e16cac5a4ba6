"""Figures of a run in TensorBoard, and in Weights & Biases where it is installed."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from miaobi.train.tracking import Tracker


class FakeRun:
    def __init__(self, **asked: Any) -> None:
        self.asked, self.logged, self.exit_code = asked, [], -1  # type: ignore[var-annotated]

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that a stand-in for wandb was asked for."""
    made: list[FakeRun] = []
    stand_in = ModuleType("wandb")
    stand_in.__dict__.update(
        init=lambda **asked: made.append(FakeRun(**asked)) or made[-1],
        Settings=SimpleNamespace,
        Image=lambda picture: picture.size,
    )
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return made


def test_tensorboard_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Tracker(tmp_path, {}, 0) as tracker:
        tracker.scalars({"loss/a": 0.5}, 20)
        tracker.picture("preview", Image.new("RGBA", (4, 4)), 20)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()  # type: ignore[no-untyped-call]
    assert [(one.step, one.value) for one in events.Scalars("loss/a")] == [(20, 0.5)]
    assert events.Images("preview")[0].width == 4


def test_weights_and_biases_runs_offline(tmp_path: Path, runs: list[FakeRun]) -> None:
    def train() -> None:
        with Tracker(tmp_path, {"part": "generator"}, 0) as tracker:
            tracker.scalars({"loss/a": 0.5}, 20)
            tracker.picture("preview", Image.new("RGBA", (4, 3)), 21)
            raise KeyError

    with pytest.raises(KeyError):
        train()
    (run,) = runs
    assert (run.asked["mode"], run.asked["config"]) == ("offline", {"part": "generator"})
    assert run.logged == [(20, {"loss/a": 0.5}), (21, {"preview": (4, 3)})]
    assert run.exit_code == 1


def test_weights_and_biases_can_be_left_out(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with Tracker(tmp_path, {}, 0) as tracker:
        tracker.scalars({"a": 1.0}, 1)
    assert not runs
