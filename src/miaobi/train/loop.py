"""The training loop: a generator of step records. Callers log, preview, save and stop.

Everything random in a step is a function of (seed, step) alone, so that a resumed run repeats the curve of
one that was never stopped: nothing but weights, optimiser and step number needs to be saved.
"""

import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from miaobi.errors import TrainingError
from miaobi.files import atomic_write
from miaobi.models.layers import recompute_inside
from miaobi.train import workers
from miaobi.train.devices import autocast, precision

EXPLODED, EXPLODED_STEPS = 1000.0, 5
"""How far above the usual, and for how many steps, the gradient's norm is when training stops."""
Batch = Any
T = TypeVar("T")


class Task(Protocol):
    """What the loop trains."""

    @property
    def model(self) -> nn.Module:
        """The weights."""

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """One batch, by `rng` alone; called in background threads, so that it costs the step nothing."""

    def loss(self, batch: Batch, rng: torch.Generator) -> Mapping[str, Tensor]:
        """Named scalar losses; they are summed."""


@dataclass(frozen=True)
class Schedule:
    """How a task is optimised: AdamW or Muon; warm-up, constant rate, linear cooldown (Hägele et al. 2024,
    arXiv:2405.18392).
    """

    steps: int
    """Optimiser steps in all."""
    batch_size: int = 32
    """Pictures (or captions) a step, of all workers together."""
    accumulate: int = 1
    """Parts that a worker computes its share of a batch in, one after the other, to need less memory."""
    lr: float = 1e-3
    """Peak learning rate of AdamW, and of the vectors, gains and embeddings under Muon."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the update of matrices and kernels (Jordan et al. 2024)."""
    muon_lr: float = 0.01
    """Peak learning rate of the matrices under Muon."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients; a GAN wants 0."""
    warmup: int = 200
    """Steps of linear warm-up."""
    cooldown: float = 0.3
    """Last share of the steps, over which the rate falls to zero."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    loaders: int = 1
    """Threads of a worker that prepare batches ahead of their use."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the moving average of the weights; it warms up as (1 + step) / (10 + step)."""
    seed: int = 0
    """Seed of data order, augmentation and noise."""
    checkpoint_every_s: float = 120
    """Seconds between checkpoints."""
    recompute: bool = False
    """Compute the inside of transformer blocks again for the backward pass instead of keeping it
    (activation checkpointing): less memory, slower.
    """
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the device computes it faster, otherwise fp32."""

    def __post_init__(self) -> None:
        for name, low in (
            *(("steps", 1), ("batch_size", 1), ("accumulate", 1)),
            *(("loaders", 1), ("warmup", 0)),
        ):
            if getattr(self, name) < low:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} must be at least {low}; correct it in the recipe"
                )
        if not (
            0 <= self.cooldown <= 1
            and 0 <= self.ema < 1
            and 0 <= self.beta1 < 1
            and self.lr > 0
            and self.clip > 0
        ):
            raise ValueError(
                f"cooldown = {self.cooldown}, ema = {self.ema}, beta1 = {self.beta1} must lie in [0, 1] and "
                f"lr = {self.lr}, clip = {self.clip} above 0; correct them in the recipe"
            )

    def factor(self, step: int) -> float:
        """Share of the peak rate at `step` (from 0)."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        fall = min(1.0, (self.steps - step) / max(self.cooldown * self.steps, 1.0))
        return rise * fall


@dataclass(frozen=True)
class Step:
    """What one step did."""

    number: int
    """From 1."""
    losses: Mapping[str, float]
    """Each named loss, and `total`."""
    gradient_norm: float
    """Before clipping."""
    lr: float
    """Learning rate used."""
    items_per_s: float
    """Items a second, averaged over this run."""
    data_share: float
    """Share of the run's time spent waiting for data."""


@dataclass
class State:
    """Weights, their moving average, the optimiser and the number of steps done."""

    model: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Kept with the checkpoint."""


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW, or Muon on matrices and kernels with AdamW on the rest."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if schedule.optimizer == "adamw":
        made: torch.optim.Optimizer = torch.optim.AdamW(
            parameters,
            lr=schedule.lr,
            betas=(schedule.beta1, 0.99),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
    else:
        from miaobi.train.muon import Muon

        names = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrix = [p for p in parameters if p.ndim >= 2 and p.numel() >= 4096 and id(p) not in names]
        chosen = {id(p) for p in matrix}
        other = [p for p in parameters if id(p) not in chosen]
        made = Muon(
            [
                {"params": matrix, "use_muon": True, "lr": schedule.muon_lr},
                {"params": other, "use_muon": False, "lr": schedule.lr, "betas": (schedule.beta1, 0.99)},
            ],
            weight_decay=schedule.weight_decay,
        )
    for group in made.param_groups:
        group["peak_lr"] = group["lr"]
    return made


def start(model: nn.Module, schedule: Schedule) -> State:
    """A new run."""
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return State(model, ema, make_optimizer(model, schedule))


def fit(task: Task, state: State, schedule: Schedule) -> Iterator[Step]:
    """Train `state` in place from `state.step` to `schedule.steps`, yielding a record after every step.

    Several workers draw different parts of a batch and average their gradients; losses are means over them.

    Raises:
        TrainingError: a loss or gradient is not finite, the gradient exploded, or the batch cannot be shared
            out.
    """
    parts = workers.count() * schedule.accumulate
    if schedule.batch_size % parts:
        raise TrainingError(
            f"batch_size = {schedule.batch_size} cannot be shared by {workers.count()} workers in "
            f"{schedule.accumulate} parts each; choose a multiple of {parts}"
        )
    if schedule.recompute and not recompute_inside(task.model):
        raise TrainingError("recompute = true, but this model has no transformer blocks; leave it out")
    seed = schedule.seed + (workers.rank() << 24)
    on = next(task.model.parameters()).device
    dtype = precision(schedule.precision, on)
    scaler = torch.amp.GradScaler(on.type, enabled=dtype is torch.float16)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    average = [
        (state.ema[name], value)
        for name, value in task.model.state_dict().items()
        if value.is_floating_point()
    ]
    first, started, waited = state.step, time.perf_counter(), 0.0
    usual, large = math.inf, 0  # norm of the gradient, and steps for which it was far above that

    def batch(part: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=[seed, part]))
        return task.batch(rng, schedule.batch_size // parts)

    task.model.train()
    numbers = range(first * schedule.accumulate, schedule.steps * schedule.accumulate)
    source = prefetch(batch, numbers, schedule.loaders)
    for step in range(first, schedule.steps):
        factor = schedule.factor(step)
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        state.optimizer.zero_grad(set_to_none=True)
        summed: dict[str, Tensor] = {}
        for part in range(step * schedule.accumulate, (step + 1) * schedule.accumulate):
            before = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - before
            rng = torch.Generator().manual_seed((seed << 32) + part)
            with autocast(dtype, on):
                losses = task.loss(batch, rng)
            shares = {name: value.float() / schedule.accumulate for name, value in losses.items()}
            scaler.scale(torch.stack(list(shares.values())).sum()).backward()  # type: ignore[no-untyped-call]
            summed = {name: summed.get(name, 0) + value.detach() for name, value in shares.items()}
        told = list(summed.values())
        workers.average([p.grad for p in parameters if p.grad is not None] + told)
        scaler.unscale_(state.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, schedule.clip))
        values = dict(zip(summed, map(float, told), strict=True))
        lower = f"Resume from the last checkpoint with a lower lr (now {schedule.lr})."
        if not math.isfinite(sum(values.values())) or (not math.isfinite(norm) and not scaler.is_enabled()):
            raise TrainingError(
                f"step {step + 1}: losses {values}, gradient norm {norm}; not finite. {lower}"
            )
        large = large + 1 if norm > EXPLODED * usual else 0
        if large == EXPLODED_STEPS:
            raise TrainingError(
                f"step {step + 1}: the gradient exploded, its norm was over {EXPLODED:g} times the usual "
                f"{usual:.3g} for {large} steps (now {norm:.3g}). {lower}"
            )
        if not large and math.isfinite(norm):
            usual = norm if usual == math.inf else 0.98 * usual + 0.02 * norm
        scaler.step(state.optimizer)
        scaler.update()
        decay = min(schedule.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_([old for old, _ in average], [new.detach() for _, new in average], 1 - decay)

        state.step = step + 1
        elapsed = time.perf_counter() - started
        yield Step(
            state.step,
            values | {"total": sum(values.values())},
            norm,
            schedule.lr * factor,
            (state.step - first) * schedule.batch_size / elapsed,
            waited / elapsed,
        )


def prefetch(make: Callable[[int], T], numbers: Iterable[int], loaders: int = 1) -> Iterator[T]:
    """`make` of each number in order, made ahead of its use by `loaders` threads; its errors are raised
    here.
    """
    left, ahead = iter(numbers), loaders + 1
    with ThreadPoolExecutor(loaders, "loader") as pool:
        made = deque(pool.submit(make, number) for number in itertools.islice(left, ahead))
        try:
            while made:
                item = made.popleft().result()
                made.extend(pool.submit(make, number) for number in itertools.islice(left, 1))
                yield item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def save(state: State, folder: Path) -> None:
    """Write a checkpoint atomically: `checkpoint.safetensors` (everything) and `model.safetensors` (the
    average alone).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in state.ema.items()}
    numbers: dict[str, Any] = {}
    for index, slots in state.optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                numbers[f"{index}/{name}"] = value
    groups = [
        {k: v for k, v in g.items() if isinstance(v, int | float)} for g in state.optimizer.param_groups
    ]
    about = {"step": state.step, "recipe": state.recipe, "groups": groups, "numbers": numbers}
    _write(folder / "checkpoint.safetensors", tensors, about)
    save_model(folder, state.ema, state.recipe)


def restore(state: State, folder: Path) -> None:
    """Read back what `save` wrote into a state of the same shape.

    Raises:
        TrainingError: there is no checkpoint, or it belongs to another model.
    """
    path = folder / "checkpoint.safetensors"
    try:
        tensors, about = _read(path)
        state.model.load_state_dict(under(tensors, "model/"))
        for name, value in under(tensors, "ema/").items():
            state.ema[name].copy_(value)
    except FileNotFoundError as error:
        raise TrainingError(f"no checkpoint at {path}; start without --resume") from error
    except Exception as error:
        raise TrainingError(
            f"{path} does not fit this recipe ({error}); use another --out or start anew"
        ) from error
    packed = state.optimizer.state_dict()
    slots: dict[int, dict[str, Any]] = {}
    for name, value in itertools.chain(under(tensors, "optimizer/").items(), about["numbers"].items()):
        index, slot = name.split("/", 1)
        slots.setdefault(int(index), {})[slot] = value
    for group, saved in zip(packed["param_groups"], about["groups"], strict=True):
        group.update(saved)
    state.optimizer.load_state_dict({"state": slots, "param_groups": packed["param_groups"]})
    state.step = about["step"]


def load_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The averaged weights in `folder` (or a file of them), and the recipe that they were trained with.

    Raises:
        TrainingError: missing or damaged.
    """
    path = folder if folder.suffix == ".safetensors" else folder / "model.safetensors"
    try:
        tensors, about = _read(path)
        return tensors, about["recipe"]
    except Exception as error:
        raise TrainingError(f"cannot read weights from {path} ({error}); train that part first") from error


def save_model(folder: Path, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, what `load_model` reads."""
    _write(folder / "model.safetensors", tensors, {"recipe": recipe})


def about(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file of weights that `load_model` reads."""
    return {"miaobi": json.dumps({"recipe": recipe})}


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    compact = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as file:
        file.write(save_tensors(compact, {"miaobi": json.dumps(about)}))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load_tensors(data), json.loads(header["__metadata__"]["miaobi"])


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
