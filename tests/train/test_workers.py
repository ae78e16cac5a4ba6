"""Several workers train what one would, and outlive the death of one of them."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from miaobi.cli import main
from miaobi.errors import InputError
from miaobi.train import loop, run, workers

Make = Callable[[Path, int], Path]
ROWS = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)


class Rows:
    """Sixteen fixed rows a step, each worker taking its part of them."""

    def __init__(self) -> None:
        torch.manual_seed(workers.rank())  # different weights, until worker 0's are given to all
        self.model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        return torch.from_numpy(ROWS[workers.rank() * size :][:size])

    def loss(self, batch: Tensor, rng: torch.Generator) -> Mapping[str, Tensor]:
        return {"square": (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()}


def train_rows() -> tuple[list[float], list[float]]:
    """Losses of ten steps and the averaged weights after them, in this worker."""
    with workers.group():
        task = Rows()
        plan = loop.Schedule(steps=10, batch_size=16, lr=1e-2, warmup=1, precision="fp32")
        state = loop.start(task.model, plan)
        workers.agree([*task.model.state_dict().values(), *state.ema.values()])
        losses = [step.losses["total"] for step in loop.fit(task, state, plan)]
        return losses, torch.cat([value.flatten() for value in state.ema.values()]).tolist()


def test_two_workers_follow_the_curve_of_one() -> None:
    alone = train_rows()
    together = workers.start(2, train_rows)
    assert len(together) == 2
    for losses, weights in together.values():
        np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
        np.testing.assert_allclose(weights, alone[1], atol=1e-5)


def test_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 3)
    task, plan = Rows(), loop.Schedule(steps=1, batch_size=16)
    with pytest.raises(
        workers.TrainingError, match="batch_size = 16 cannot be shared by 3 workers in 1 parts each"
    ):
        next(loop.fit(task, loop.start(task.model, plan), plan))


def test_a_number_of_workers_that_makes_no_sense(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text('part = "autoencoder"\n')
    with pytest.raises(InputError, match="0 workers"):
        run(recipe, processes=0)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_is_replaced_and_training_goes_on(tmp_path: Path, tiny: Make) -> None:
    out, killed = tmp_path / "run", []

    def kill_one() -> None:
        checkpoint = out / "checkpoint.safetensors"
        while not checkpoint.exists():
            time.sleep(0.01)
        with safe_open(checkpoint, "pt") as file:
            killed.append(json.loads(file.metadata()["miaobi"])["step"])
        mine = [
            pid for pid in children(os.getpid()) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(mine[-1], signal.SIGKILL)

    watcher = threading.Thread(target=kill_one)
    watcher.start()
    code = main(["train", str(tiny(tmp_path, 60)), "--out", str(out), "--workers", "2"])
    watcher.join()
    assert code == 0
    assert killed[0] < 60, "the run was over before a worker could be killed"
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["miaobi"])["step"] == 60


def test_what_a_worker_refuses_is_told_once(
    tmp_path: Path, tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(tmp_path, 4)
    recipe.write_text(recipe.read_text().replace("batch_size = 4", "batch_size = 0"))
    assert main(["train", str(recipe), "--workers", "2", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("batch_size = 0 must be at least 1") == 1
