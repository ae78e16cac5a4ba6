"""Scores that were measured once are never measured again: kept in memory and, sample by sample, on disk."""

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from miaobi.accelerate.recipe import Recipe, dumps
from miaobi.errors import MachineError
from miaobi.tune.bound import Loss
from miaobi.tune.lab import Lab, Scores

SCORES = "scores.jsonl"


class Record:
    """Scores of a lab's recipes from sample 0 of a pool on, read from and added to `folder`/scores.jsonl.

    A line is one chunk of samples of one recipe, valid for one digest of the lab. A line that was torn when
    the process was killed is measured again.
    """

    def __init__(self, lab: Lab, folder: Path, clock: Callable[[], float], chunk_s: float = 1.0) -> None:
        """Read what is there.

        Args:
            chunk_s: chunks take about so long: larger ones are drawn in larger batches, but more is lost
                when the process is killed.
        """
        self.lab, self._chunk_s, self._clock, self._path = lab, chunk_s, clock, folder / SCORES
        self._kept: dict[tuple[str, int], list[float]] = {}
        self._seconds: dict[Recipe, float] = {}
        self._chunks: dict[Recipe, int] = {}
        for line in self._path.read_text("utf-8").splitlines() if self._path.exists() else []:
            try:
                one = json.loads(line)
                kept = self._kept.setdefault((one["recipe"], one["pool"]), [])
                if one["digest"] == lab.digest and one["first"] == len(kept):
                    kept += map(float, one["scores"])
            except (ValueError, KeyError, TypeError):
                continue

    def count(self, recipe: Recipe, pool: int) -> int:
        """Samples from `pool` on that are known."""
        return len(self._kept.get((_name(recipe), pool), ()))

    def seconds(self, recipe: Recipe) -> float | None:
        """What a sample of this recipe took in this process, if one was measured."""
        return self._seconds.get(recipe)

    def expect(self, recipe: Recipe, picture_ms: float) -> None:
        """Size the first chunk by what a picture takes alone."""
        self._chunks.setdefault(recipe, max(1, int(1000 * self._chunk_s / max(picture_ms, 1.0))))

    def measure(self, recipe: Recipe, pool: int, count: int, deadline: float = float("inf")) -> int:
        """Make `count` samples from `pool` on known, stopping after the first chunk that ends behind the
        deadline; gives how many are known.
        """
        kept = self._kept.setdefault((_name(recipe), pool), [])
        while len(kept) < count and self._clock() < deadline:
            chunk = min(self._chunks.get(recipe, 1), count - len(kept))
            started = self._clock()
            scores = self.lab.scores(recipe, pool + len(kept), chunk)
            took = self._clock() - started
            self._seconds[recipe] = took / chunk
            if took < self._chunk_s:
                self._chunks[recipe] = 2 * chunk
            elif took > 3 * self._chunk_s:
                self._chunks[recipe] = max(1, chunk // 2)
            self._append(recipe, pool, len(kept), scores)
            kept += map(float, scores)
        return min(len(kept), count)

    def loss(self, recipe: Recipe, pool: int, count: int) -> Loss:
        """The paired losses of `count` samples from `pool` on that both the recipe and the baseline have."""
        base, own = (self.scores(one, pool, count) for one in ((), recipe))
        return Loss(base - own, self.lab.groups(pool, count), self.lab.worst_loss)

    def scores(self, recipe: Recipe, pool: int, count: int) -> Scores:
        """The known scores of the first samples of a pool, at most `count`."""
        return np.array(self._kept.get((_name(recipe), pool), ())[:count], np.float64)

    def _append(self, recipe: Recipe, pool: int, first: int, scores: Scores) -> None:
        line = {"digest": self.lab.digest, "recipe": _name(recipe), "pool": pool, "first": first}
        text = json.dumps(line | {"scores": [round(float(one), 7) for one in scores]})
        try:
            with open(self._path, "a+b") as file:
                torn = file.tell() and _last_byte(self._path) != b"\n"
                file.write((b"\n" if torn else b"") + text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(
                f"cannot write {str(self._path)!r}: {error.strerror}; free some space."
            ) from error


@lru_cache(maxsize=100_000)
def _name(recipe: Recipe) -> str:
    return dumps(recipe)


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
