import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from miaobi.errors import TrainingError
from miaobi.train import loop, muon
from miaobi.train.drive import drive


class Line:
    """y = 2x + 1 from noisy points, with noise from both random sources."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 1))
        self.broken_at = -1
        self.calls = 0

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal((size, 1), dtype=np.float32))

    def loss(self, batch: Tensor, rng: torch.Generator) -> Mapping[str, Tensor]:
        self.calls += 1
        target = 2 * batch + 1 + 0.01 * torch.randn(batch.shape, generator=rng)
        scale = float("nan") if self.calls == self.broken_at else 1.0
        return {"square": scale * (self.model(batch) - target).square().mean()}


def schedule(**changes: object) -> loop.Schedule:
    return loop.Schedule(
        **{"steps": 30, "batch_size": 16, "lr": 1e-2, "warmup": 5, "precision": "fp32"} | changes
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_repeats_the_curve_of_one_never_stopped(tmp_path: Path, optimizer: str) -> None:
    plan = schedule(optimizer=optimizer)
    whole = Line()
    straight = [step.losses["total"] for step in loop.fit(whole, loop.start(whole.model, plan), plan)]

    first = Line()
    state = loop.start(first.model, plan)
    stopped = [step.losses["total"] for step in islice(loop.fit(first, state, plan), 13)]
    loop.save(state, tmp_path)
    second = Line()
    state = loop.start(second.model, plan)
    loop.restore(state, tmp_path)
    rest = [step.losses["total"] for step in loop.fit(second, state, plan)]

    assert stopped + rest == straight
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)
    assert straight[-1] < straight[0]


def test_muon_in_fp32_updates_as_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, moved = schedule(steps=1, warmup=0, optimizer="muon", muon_lr=1.0), []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(muon, "precision", lambda choice, on, dtype=dtype: dtype)
        model = nn.Linear(96, 64)
        before = nn.init.zeros_(model.weight).clone()
        optimiser = loop.make_optimizer(model, plan)
        torch.manual_seed(0)
        model.weight.grad = torch.randn(64, 96)
        optimiser.step()
        moved.append((model.weight - before).detach())
    in_fp32, in_bf16 = moved
    assert not torch.equal(in_fp32, in_bf16)
    assert (in_fp32 - in_bf16).norm() < 0.02 * in_fp32.norm()


def test_the_average_is_an_exponential_moving_average() -> None:
    plan, line = schedule(steps=4, ema=0.5), Line()
    state = loop.start(line.model, plan)
    expected = line.model[0].weight.detach().clone()
    for step in loop.fit(line, state, plan):
        decay = min(0.5, step.number / (9 + step.number))
        expected = decay * expected + (1 - decay) * line.model[0].weight.detach()
    torch.testing.assert_close(state.ema["0.weight"], expected)


def test_rate_warms_up_stays_and_cools_down() -> None:
    plan = schedule(steps=100, warmup=10, cooldown=0.2)
    factors = [plan.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([1 - 0.05 * n for n in range(20)])


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    line = Line()
    line.broken_at = 3
    with pytest.raises(TrainingError, match=r"step 3: losses .*nan.*lower lr"):
        list(loop.fit(line, loop.start(line.model, schedule()), schedule()))


class Exploding(Line):
    """From step 31 on the loss is ten thousand times as steep."""

    def loss(self, batch: Tensor, rng: torch.Generator) -> Mapping[str, Tensor]:
        value = super().loss(batch, rng)["square"]
        return {"square": value * (1e4 if self.calls > 30 else 1)}

    def report(self) -> tuple[Mapping[str, float], None]:
        return {}, None


def test_a_gradient_that_explodes_stops_the_run_and_names_the_checkpoint(tmp_path: Path) -> None:
    table = {"steps": 60, "batch_size": 8, "lr": 1e-6, "checkpoint_every_s": 0, "precision": "fp32"}
    with pytest.raises(TrainingError, match=r"step 35: the gradient exploded.* is of step 34, in .*run"):
        drive(Exploding(), {"schedule": table}, tmp_path / "run", False)


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    line = Line()
    loop.save(loop.start(line.model, schedule()), tmp_path)
    other = loop.start(nn.Linear(2, 2), schedule())
    with pytest.raises(TrainingError, match="does not fit"):
        loop.restore(other, tmp_path)
    with pytest.raises(TrainingError, match="no checkpoint"):
        loop.restore(other, tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(TrainingError, match="cannot read weights"):
        loop.load_model(tmp_path)


@pytest.mark.parametrize("loaders", [1, 3])
def test_prefetch_keeps_order_and_raises_errors(loaders: int) -> None:
    def slowest_first(number: int) -> int:
        time.sleep(0.02 / (1 + number))
        return number

    assert list(loop.prefetch(slowest_first, range(20), loaders)) == list(range(20))

    def failing(number: int) -> int:
        if number == 1:
            raise OSError("gone")
        return number

    items = loop.prefetch(failing, range(9), loaders)
    assert next(items) == 0
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_bad_schedule() -> None:
    with pytest.raises(ValueError, match="batch_size = 0"):
        schedule(batch_size=0)
    with pytest.raises(ValueError, match="ema = 1"):
        schedule(ema=1.0)


class Means(Line):
    """The same sixteen points in every step, part by part."""

    points = torch.linspace(-1, 1, 16)[:, None]

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        self.calls += 1
        begin = (self.calls - 1) * size % 16
        return self.points[begin : begin + size]

    def loss(self, batch: Tensor, rng: torch.Generator) -> Mapping[str, Tensor]:
        return {"square": (self.model(batch) - 2 * batch).square().mean()}


def test_a_batch_in_parts_is_the_same_batch() -> None:
    whole, parts = Means(), Means()
    curves = [
        [step.losses["total"] for step in loop.fit(task, loop.start(task.model, plan), plan)]
        for task, plan in ((whole, schedule()), (parts, schedule(accumulate=4)))
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
