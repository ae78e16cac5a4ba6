"""How far the sampling of one call is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Clock:
    """How far sampling is: what stages cost, and where in the steps the denoiser is asked."""

    steps: int = 1
    done: int = 0
    size_px: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def share(self) -> float:
        """Share of the steps that are done, in [0, 1)."""
        return self.done / self.steps

    @contextmanager
    def bar(self, iterable: Any = None, total: int | None = None) -> Iterator["Clock"]:
        """What pipelines use as a progress bar around their loop over the steps."""
        self.steps, self.done = total or 1, 0
        self.began = time.perf_counter()
        yield self
        self.ended = time.perf_counter()

    def update(self, n: int = 1) -> None:
        """So many steps more are done."""
        self.done += n
