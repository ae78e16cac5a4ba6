"""Where a run's figures and previews go: TensorBoard always, Weights & Biases where it is installed."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from miaobi.receipt import peak_memory_bytes


class Tracker:
    """Scalars and pictures by step, written below the folder of a run; a context manager.

    Weights & Biases runs offline unless `WANDB_MODE` says otherwise ("disabled": not at all); `wandb sync`
    sends what it kept.
    """

    def __init__(self, out: Path, recipe: Mapping[str, Any], step: int) -> None:
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)
        self._run: Any = None
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode == "disabled":
            return
        try:
            import wandb
        except ImportError:
            return
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project="miaobi", name=out.name, dir=str(out), config=dict(recipe), mode=mode, settings=settings
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Named values of a step."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run:
            self._run.log(dict(values), step=step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture of a step."""
        rgb = picture.convert("RGB")
        self._board.add_image(name, np.asarray(rgb), step, dataformats="HWC")
        if self._run:
            import wandb

            self._run.log({name: wandb.Image(rgb)}, step=step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()
        if self._run:
            self._run.finish(exit_code=int(error is not None))


def memory_mb(on: torch.device) -> dict[str, float]:
    """The highest memory so far, in MB: of the process, and of its GPU where it has one."""
    found = {"memory/process_mb": peak_memory_bytes() / 1e6}
    if on.type == "cuda":
        found["memory/gpu_mb"] = torch.cuda.max_memory_allocated(on) / 1e6
    return found
