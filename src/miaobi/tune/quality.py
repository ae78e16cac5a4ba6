"""What the tuner takes for quality: scores of pictures, the same prompts and seeds for every pipeline."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from miaobi import images
from miaobi.errors import InputError
from miaobi.images import UInt8
from miaobi.pipeline import Pipeline
from miaobi.text.prompt import clean_prompt
from miaobi.tune.lab import Groups, Scores

SEEDS = 16
"""Seeds of each prompt that follows screening's."""


class Quality(Protocol):
    """Scores a pipeline's pictures of numbered samples."""

    scale: str
    digest: str

    @property
    def worst_loss(self) -> float | None: ...

    screening: int
    samples: int

    def scores(self, pipe: Any, baseline: Any, first: int, count: int) -> Scores:
        """Of the samples from `first` on (count,), the more the better."""

    def groups(self, first: int, count: int) -> Groups:
        """Number of each sample's prompt."""


class Order:
    """Which prompt and seed a sample has: a quarter of the prompts is for screening, over and over with new
    seeds until there are as many as of the others; the others follow, `SEEDS` times, all prompts in turn.
    """

    def __init__(self, prompts: int, seeds: int = SEEDS) -> None:
        if prompts < 8:
            raise InputError(f"{prompts} prompts given; quality needs 8 or more to tell anything.")
        shuffled = np.random.default_rng(0).permutation(prompts)
        self._first, self._rest = np.split(shuffled, [max(2, prompts // 4)])
        self.screening = len(self._rest)
        self.samples = self.screening + seeds * len(self._rest)

    def __call__(self, first: int, count: int) -> tuple[Groups, Groups]:
        """Prompts and seeds (count,) of the samples from `first` on."""
        number = np.arange(first, first + count)
        screened, later = number < self.screening, number - self.screening
        prompts = np.where(
            screened, self._first[number % len(self._first)], self._rest[later % len(self._rest)]
        )
        turn = np.where(screened, number // len(self._first), later // len(self._rest))
        # seeds of all samples differ, so that no noise is common to two prompts
        return prompts, prompts * 1000 + turn


class JudgedQuality:
    """Top-1 R-precision: whether a judge names the concept of a held-out (concept, style) pair first."""

    worst_loss: float | None = 1.0

    def __init__(self, data: Path, judge: Path) -> None:
        """Load the data set and the judge; raises `DataError` or `TrainingError`, and `MachineError` where
        PyTorch is missing.
        """
        from miaobi.refine.arrays import library

        library("torch", "train")
        from miaobi.evaluate.classifier import FastJudge, heldout_pairs, labels, load_judge
        from miaobi.train.data import load_dataset

        dataset = load_dataset(data)
        known, concepts = load_judge(judge)
        self._judge = FastJudge.of(known)
        target = labels(dataset, concepts)
        pairs = [int(one) for one in heldout_pairs(dataset) if target[one] >= 0]
        self._names = [dataset.records[one].label_en for one in pairs]
        self._styles = [dataset.records[one].style for one in pairs]
        self._target = target[pairs]
        self._order = Order(len(pairs))
        self.screening, self.samples = self._order.screening, self._order.samples
        self.scale = (
            f"top-1 R-precision of {len(pairs)} held-out (concept, style) pairs, judged by {judge.name}"
        )
        weights = hashlib.sha256((judge / "model.safetensors").read_bytes()).hexdigest()
        self.digest = _digest(["judged", weights, *self._names, *self._styles, SEEDS])

    def scores(self, pipe: Any, baseline: Any, first: int, count: int) -> Scores:
        """1 where the judge is right, else 0."""
        from miaobi.evaluate.classifier import classify
        from miaobi.evaluate.quality import hits

        pairs, seeds = self._order(first, count)
        names, styles = ([every[one] for one in pairs] for every in (self._names, self._styles))
        pixels = draw(pipe, names, seeds.tolist(), styles)
        return hits(classify(self._judge, pixels), self._target[pairs], 1).astype(np.float64)

    def groups(self, first: int, count: int) -> Groups:
        """The pair of each."""
        return self._order(first, count)[0]


class FidelityQuality:
    """1 - the root-mean-square difference to the baseline's picture of the same prompt and seed, over white,
    of values in [0, 1]: a loss of 1 % is a PSNR of 40 dB, 3.2 % are 30 dB.

    It asks for the same pictures, not for equally good ones: where a judge can be had, ask it.
    """

    worst_loss: float | None = None
    scale = "1 - root-mean-square difference to the unchanged model's pictures (1 % is 40 dB PSNR)"

    def __init__(self, prompts: Sequence[str], kept: int = 512) -> None:
        """Keep the baseline's pictures of the last `kept` samples in memory."""
        self._prompts, self._kept = list(prompts), kept
        self._order = Order(len(self._prompts))
        self.screening, self.samples = self._order.screening, self._order.samples
        self.digest = _digest(["fidelity", *self._prompts, SEEDS])
        self._drawn: dict[int, UInt8] = {}

    def scores(self, pipe: Any, baseline: Any, first: int, count: int) -> Scores:
        """In [0, 1]; 1 of the baseline itself."""
        if pipe is baseline:
            return np.ones(count)
        missing = [one for one in range(first, first + count) if one not in self._drawn]
        for begin in range(0, len(missing), 16):
            part = missing[begin : begin + 16]
            for number, pixels in zip(part, self._draw(baseline, part), strict=True):
                self._drawn[number] = pixels
        numbers = list(range(first, first + count))
        reference, own = np.stack([self._drawn[one] for one in numbers]), self._draw(pipe, numbers)
        for number in list(self._drawn)[: -self._kept]:
            del self._drawn[number]
        if reference.shape != own.shape:
            raise InputError(f"pictures are {own.shape[1:]}, the unchanged model's {reference.shape[1:]}.")
        a, b = (images.over_white(images.from_uint8(one)) / 2 for one in (reference, own))
        difference = a.astype(np.float64) - b
        return np.asarray(1 - np.sqrt(np.square(difference).mean(axis=(1, 2, 3))))

    def _draw(self, pipe: Any, numbers: Sequence[int]) -> UInt8:
        prompts, seeds = (
            np.concatenate(one) for one in zip(*(self._order(n, 1) for n in numbers), strict=True)
        )
        return draw(pipe, [self._prompts[one] for one in prompts], seeds.tolist())

    def groups(self, first: int, count: int) -> Groups:
        """The prompt of each."""
        return self._order(first, count)[0]


def draw(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], styles: Sequence[str] | None = None
) -> UInt8:
    """One picture of each prompt and seed, straight RGBA (n, H, W, 4), without planning.

    Bundles draw those of one style together, which gives the pictures that they draw alone.
    """
    if not isinstance(pipe, Pipeline):
        made = [pipe.generate(one, 1, seed=seed).pixels for one, seed in zip(prompts, seeds, strict=True)]
        return np.concatenate(made)
    styles = styles or [pipe.bundle.default_style] * len(prompts)
    found: dict[int, UInt8] = {}
    for style in sorted(set(styles)):
        places = [place for place, one in enumerate(styles) if one == style]
        drawn = pipe.draw(
            [clean_prompt(prompts[place])[0] for place in places],
            [(number, seeds[place]) for number, place in enumerate(places)],
            pipe.bundle.style_id(style),
            [0] * len(places),
            pipe.bundle.steps,
        )
        found |= dict(zip(places, images.to_uint8(drawn.images), strict=True))
    return np.stack([found[place] for place in range(len(prompts))])


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
