"""A lab with a made-up cost and loss for every step, noise on both, and a clock of its own."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from miaobi.accelerate import Cache, Guidance, MergeTokens, Quantize, Recipe, Runtime, Sampler, Steps
from miaobi.accelerate.recipe import Step, dumps
from miaobi.errors import MachineError
from miaobi.traits import Traits
from miaobi.tune.lab import Groups, Scores
from miaobi.tune.space import Space, space_of

TRAITS = Traits(
    model="made up 1",
    kind="diffusers",
    family="diffusion",
    backbone="unet",
    runtime="torch",
    runtimes=("torch", "onnxruntime"),
    device="cpu",
    dtype="float32",
    steps=20,
    most_steps=100,
    guidance=7.5,
    guided=True,
    sampler="ddim",
    samplers=("ddim", "dpm"),
    size_px=512,
    tokens=256,
    blocks=4,
    weights=True,
    parameters=10**9,
    convolutions=True,
)
UNIT = 0.01
"""Losses are multiples of it, so that with a bound between two of them the optimum can be proved."""


class Clock:
    """Time that passes only when something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SyntheticLab:
    """Costs multiply and losses add, with two pairs of steps that spoil each other."""

    traits = TRAITS
    scale = "a made-up score in [0, 1]"
    worst_loss = None
    screening = 1024
    samples = 1024 + 8192

    def __init__(self, clock: Clock, seed: int = 0, noise: float = 0.05, sample_noise: float = 0.06) -> None:
        self.clock, self.seed = clock, seed
        self.noise, self.sample_noise = noise, sample_noise
        self.rng = np.random.default_rng(seed)
        self.digest = f"synthetic {seed}"
        self.failing: tuple[type[Step], ...] = ()
        self.asked: list[tuple[str, Recipe]] = []

    def true_ms(self, recipe: Recipe) -> float:
        factor = 1.0
        kinds = {type(step): step for step in recipe}
        for step in recipe:
            match step:
                case Steps(count):
                    factor *= 0.03 + 0.97 * count / 20
                case Guidance(scale, begin, end):
                    factor *= 0.5 if scale == 1 else 0.5 + 0.5 * (end - begin)
                case Cache(interval=interval):
                    factor *= 1 - 0.6 * (1 - 1 / interval)
                case MergeTokens(ratio):
                    factor *= 1 - 0.3 * ratio
                case Quantize(method):
                    factor *= 0.8 if method == "int8-dynamic" and Runtime in kinds else 1.15
                case Runtime():
                    factor *= 0.85
                case _:
                    factor *= {"channels-last": 0.95, "compile": 0.8, "precision": 1.3}.get(step.name, 1.0)
                    factor *= 1.7 if str(step) == "threads(count 1)" else 1.0
        return 50 * factor

    def true_loss(self, recipe: Recipe) -> float:
        units = 0.0
        kinds = {type(step): step for step in recipe}
        for step in recipe:
            match step:
                case Steps(count):
                    better = Sampler in kinds
                    for (low, lost), (high, _) in pairwise(
                        [(1, 30), (2, 9), (4, 4), (6, 2), (12, 1), (20, 0)]
                    ):
                        if low <= count < high:
                            units += max(0, lost - 1) if better else lost
                case Guidance(scale, begin, _):
                    units += 6 if scale == 1 else 2 if begin else 1
                case Cache(interval=interval):
                    units += {2: 1, 3: 2, 5: 5}[interval]
                    units += 4 if Steps in kinds and kinds[Steps].count < 8 else 0
                case MergeTokens(ratio):
                    units += 1 if ratio < 0.5 else 2
                case Quantize(method):
                    units += {"int8-weights": 0, "int4-weights": 3}.get(method, 1)
                    units += 3 if Cache in kinds else 0
        return units * UNIT

    def times_ms(self, recipes: Sequence[Recipe], rounds: int) -> Scores:
        self._check("times", recipes)
        drift = np.exp(0.3 * self.rng.standard_normal((rounds, 1)))
        noise = np.exp(self.noise * self.rng.standard_normal((rounds, len(recipes))))
        times = np.array([[self.true_ms(one) for one in recipes]]) * drift * noise
        self.clock.now += float(times.sum()) / 1000
        return times

    def scores(self, recipe: Recipe, first: int, count: int) -> Scores:
        self._check("scores", [recipe])
        self.clock.now += 0.3 * count * self.true_ms(recipe) / 1000
        rows = np.arange(first, first + count)
        prompt = np.random.default_rng([self.seed, 1]).standard_normal(self.samples)[rows]
        own = np.random.default_rng([self.seed, 2, *dumps(recipe).encode()]).standard_normal(self.samples)[
            rows
        ]
        return 0.6 + 0.1 * prompt - self.true_loss(recipe) + (self.sample_noise * own if recipe else 0)

    def groups(self, first: int, count: int) -> Groups:
        return np.arange(first, first + count)

    def memory_bytes(self, recipe: Recipe) -> int:
        self._check("memory", [recipe])
        return 1_000_000 * (20 - len(recipe))

    def size_bytes(self, recipe: Recipe) -> int:
        self._check("size", [recipe])
        return 1_000_000 // (4 if any(isinstance(one, Quantize) for one in recipe) else 1)

    def _check(self, what: str, recipes: Sequence[Recipe]) -> None:
        self.asked += [(what, one) for one in recipes]
        for recipe in recipes:
            for step in recipe:
                if isinstance(step, self.failing):
                    raise MachineError(f"{step} does not run here.")


def space() -> Space:
    kinds = ("steps", "sampler", "guidance", "cache", "runtime", "quantize", "channels-last", "compile")
    whole = space_of(TRAITS, cores=2)
    return replace(whole, slots=tuple(slot for slot in whole.slots if slot.kind in kinds))


def all_recipes(of: Space) -> list[Recipe]:
    """Every legal recipe."""
    found: list[Recipe] = [()]
    for slot in of.slots:
        found += [(*one, step) for one in found for step in slot.options if of.legal((*one, step))]
    return found
