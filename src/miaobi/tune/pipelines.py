"""The lab of real pipelines: bundles and diffusers pipelines, with recipes applied to them."""

import gc
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from miaobi.accelerate.recipe import Recipe, dumps
from miaobi.accelerate.transform import apply
from miaobi.errors import MachineError, MiaobiError
from miaobi.evaluate.speed import PROMPTS, in_fresh_process, weights_bytes
from miaobi.traits import Traits
from miaobi.tune.lab import Groups, Scores
from miaobi.tune.plan import model_digest
from miaobi.tune.quality import Quality
from miaobi.tune.space import Objective

TOGETHER = 32
"""Pictures of one call where throughput is asked for."""
_SPELL_MS = 60.0
"""A quick pipeline draws for so long in each of its turns."""


class PipelineLab:
    """Measures recipes on an open pipeline; those used last are kept open."""

    def __init__(
        self, pipe: Any, model: str, quality: Quality, objective: Objective = "latency", kept: int = 3
    ) -> None:
        """Measure `pipe`, loaded from `model`, which new processes can load too.

        Args:
            kept: changed pipelines that stay open, beside the baseline.
        """
        self._pipe, self._model, self._quality = pipe, model, quality
        self._together = TOGETHER if objective == "throughput" else 1
        self._kept = kept
        self._open: OrderedDict[Recipe, Any] = OrderedDict()
        self._turn = 0
        digest = hashlib.sha256(f"{model_digest(model)} {quality.digest}".encode())
        self.digest = digest.hexdigest()
        self.scale, self.worst_loss = quality.scale, quality.worst_loss
        self.screening, self.samples = quality.screening, quality.samples

    @property
    def traits(self) -> Traits:
        """Of the baseline."""
        traits: Traits = self._pipe.traits
        return traits

    def times_ms(self, recipes: Sequence[Recipe], rounds: int) -> Scores:
        """See `Lab`; the order changes from round to round, prompts and seeds with every call."""
        kept, self._kept = self._kept, max(self._kept, len(recipes))
        try:
            pipes = [self._opened(one) for one in recipes]
        finally:
            self._kept = kept
        times = np.empty((rounds, len(recipes)))
        for number in range(rounds):
            for place in np.roll(np.arange(len(recipes)), number):
                times[number, place] = self._spell(pipes[place])
        return times

    def scores(self, recipe: Recipe, first: int, count: int) -> Scores:
        """See `Lab`."""
        pipe = self._opened(recipe)
        with _told():
            return self._quality.scores(pipe, self._pipe, first, count)

    def groups(self, first: int, count: int) -> Groups:
        """See `Lab`."""
        return self._quality.groups(first, count)

    def memory_bytes(self, recipe: Recipe) -> int:
        """See `Lab`; measured in a process of its own."""
        return in_fresh_process(self._model, dumps(recipe)).peak_memory_bytes

    def size_bytes(self, recipe: Recipe) -> int:
        """See `Lab`."""
        size = weights_bytes(self._opened(recipe))
        if size is None:
            raise MachineError("this pipeline does not tell how large its weights are.")
        return size

    def _opened(self, recipe: Recipe) -> Any:
        if not recipe:
            return self._pipe
        if recipe not in self._open:
            while len(self._open) >= self._kept:
                self._open.popitem(last=False)
                gc.collect()
            with _told():
                pipe = apply(self._pipe, recipe)
                self._draw(pipe)  # compiles, and fills caches
            self._open[recipe] = pipe
        self._open.move_to_end(recipe)
        return self._open[recipe]

    def _spell(self, pipe: Any) -> float:
        """Median milliseconds of a picture over calls that take about `_SPELL_MS`."""
        times: list[float] = []
        while sum(times) < _SPELL_MS:
            started = time.perf_counter()
            self._draw(pipe)
            times.append((time.perf_counter() - started) * 1000)
        return float(np.median(times)) / self._together

    def _draw(self, pipe: Any) -> None:
        self._turn += 1
        prompt = PROMPTS[self._turn % len(PROMPTS)]
        pipe.generate(prompt, self._together, seed=self._turn * self._together)


@contextmanager
def _told() -> Iterator[None]:
    """What a library raises while a recipe runs becomes `MachineError`, so that the search goes on."""
    try:
        yield
    except MiaobiError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise MachineError(f"{type(error).__name__}: {line}") from error
