"""One training run: what `miaobi train` shows and keeps while the loop goes round."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from PIL import Image
from tqdm import tqdm

from miaobi.errors import TrainingError
from miaobi.images import save_png
from miaobi.train import loop, workers
from miaobi.train.tracking import Tracker, memory_mb

REPORT_EVERY_S = 300
SAME_SIGNAL_S = 1.0


class Reporting(loop.Task, Protocol):
    """A task that can also say how good it is."""

    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        """Figures on held-out data and a preview sheet, of the averaged weights."""


def drive(task: Reporting, recipe: Mapping[str, Any], out: Path, resume: bool) -> Mapping[str, float]:
    """Train `task` as `recipe["schedule"]` says, with a progress bar, figures and preview grids (see
    `tracking`) and checkpoints in `out`.

    Ctrl-C and SIGTERM save and stop. Of several workers only the first reports and saves. Returns the last
    report's figures.

    Raises:
        TrainingError: nothing to resume from, or the loss is not finite.
    """
    schedule = loop.Schedule(**recipe["schedule"])
    state = loop.start(task.model, schedule)
    state.recipe = recipe
    if resume:
        loop.restore(state, out)
    workers.agree([*task.model.state_dict().values(), *state.ema.values()])
    on = next(task.model.parameters()).device
    figures: Mapping[str, float] = {}
    if workers.rank() > 0:
        with stop_signals() as stopping:
            for _ in loop.fit(task, state, schedule):
                if workers.any_of(bool(stopping), on):
                    break
        return figures
    out.mkdir(parents=True, exist_ok=True)
    kept = [state.step] if resume else []  # steps whose checkpoints were written
    with (
        _naming_the_checkpoint(kept, out),
        Tracker(out, recipe, state.step) as tracker,
        tqdm(total=schedule.steps, initial=state.step, unit="step", dynamic_ncols=True, mininterval=1) as bar,
        stop_signals() as stopping,
    ):

        def report() -> Mapping[str, float]:
            with averaged(state):
                figures, sheet = task.report()
            tracker.scalars({f"heldout/{name}": value for name, value in figures.items()}, state.step)
            if sheet is not None:
                save_png(out / "preview.png", sheet)
                tracker.picture("preview", sheet, state.step)
            bar.write(
                f"step {state.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            )
            return figures

        saved = reported = time.monotonic()
        for step in loop.fit(task, state, schedule):
            bar.update()
            if step.number % 20 == 0:
                rates = {
                    "rate/items_per_s": step.items_per_s,
                    "rate/loader_share": step.data_share,
                    "rate/lr": step.lr,
                    "rate/gradient_norm": step.gradient_norm,
                }
                losses = {f"loss/{name}": value for name, value in step.losses.items()}
                tracker.scalars(losses | rates | memory_mb(on), step.number)
                bar.set_postfix(
                    loss=f"{step.losses['total']:.4f}",
                    per_s=f"{step.items_per_s:.0f}",
                    data=f"{step.data_share:.0%}",
                    refresh=False,
                )
            stop = workers.any_of(bool(stopping), on)
            if stop or time.monotonic() - saved > schedule.checkpoint_every_s:
                loop.save(state, out)
                saved = time.monotonic()
                kept.append(state.step)
            if stop:
                bar.write(f"stopped at step {step.number} and saved in {out}; go on with --resume")
                return figures
            if time.monotonic() - reported > REPORT_EVERY_S:
                figures = report()
                reported = time.monotonic()
        loop.save(state, out)
        return report()


@contextmanager
def _naming_the_checkpoint(kept: list[int], out: Path) -> Iterator[None]:
    """Say in a failure of training which checkpoint there is."""
    try:
        yield
    except TrainingError as error:
        last = (
            f"The last checkpoint is of step {kept[-1]}, in {out}." if kept else "There is no checkpoint yet."
        )
        raise TrainingError(f"{error} {last}") from error


@contextmanager
def averaged(state: loop.State) -> Iterator[None]:
    """The model with its averaged weights, in evaluation mode; the trained ones are put back afterwards."""
    trained = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.model.load_state_dict(state.ema)
    state.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        state.model.load_state_dict(trained)
        state.model.train()


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """A list that is empty until Ctrl-C or SIGTERM arrives; a second one, later, interrupts at once."""
    arrived: list[float] = []

    def note(_number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        # a terminal and a parent process may both pass on the same Ctrl-C
        if arrived and now - arrived[-1] > SAME_SIGNAL_S:
            raise KeyboardInterrupt
        arrived.append(now)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
