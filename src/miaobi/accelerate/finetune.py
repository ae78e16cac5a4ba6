"""Fine-tuning without data: a changed model learns what the whole one answers (Hinton et al. 2015,
arXiv:1503.02531), at noise, prompts and latents of the memory's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from miaobi import sampling
from miaobi.errors import InputError
from miaobi.models.autoencoder import Autoencoder
from miaobi.models.autoregressive import Autoregressive
from miaobi.models.backbone import Condition
from miaobi.text.encoder import TextEncoder
from miaobi.text.memory import Memory
from miaobi.train import loop
from miaobi.train.generator import Generator
from miaobi.train.pairs import to_device
from miaobi.train.sources import Captions

Question = TypeVar("Question")
FEW = 4
"""Strides in which models walk from noise to a picture while they are compared."""
UNCONDITIONAL = 0.1
"""Share of the questions that say nothing, of models that are guided."""


@dataclass
class Imitation:
    """A task of `train.loop`: the model's answers are to be those of the whole one."""

    model: nn.Module
    whole: nn.Module
    ask: Callable[[np.random.Generator, int], Any]
    """A generator of random numbers and a count → so many questions."""
    answer: Callable[[Any, Any], Tensor]
    """A model and questions → its answers, rows first."""

    def batch(self, rng: np.random.Generator, size: int) -> Any:
        return self.ask(rng, size)

    def loss(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """Squared distance of the answers."""
        with torch.no_grad():
            wanted = self.answer(self.whole, batch).float()
        return {"distance": (self.answer(self.model, batch).float() - wanted).square().mean()}


def imitate(
    task: Imitation, steps: int, batch_size: int = 16, lr: float = 3e-4, seed: int = 0
) -> list[float]:
    """Train `task.model` in place for so many steps of AdamW, and leave the average of its last weights.

    The same arguments give the same weights. Returns the distance at each step.

    Raises:
        TrainingError: the distance is not finite.
    """
    schedule = loop.Schedule(
        steps,
        batch_size,
        lr=lr,
        warmup=min(50, steps // 10),
        cooldown=0.5,
        ema=0.99,
        weight_decay=0.0,
        seed=seed,
        precision="fp32",
    )
    task.whole.eval()
    was_training = task.model.training
    state = loop.start(task.model, schedule)
    distances = []
    with tqdm(total=steps, desc="fine-tuning", unit="step", mininterval=1) as bar:
        for step in loop.fit(task, state, schedule):
            distances.append(step.losses["distance"])
            bar.set_postfix(distance=f"{distances[-1]:.3g}", refresh=False)
            bar.update()
    task.model.load_state_dict(state.ema)
    task.model.train(was_training)
    return distances


def finetune_decoder(
    model: Autoencoder, whole: Autoencoder, memory: Memory, steps: int, **how: Any
) -> list[float]:
    """Train the decoder of `model` to draw the memory's latents, noisy as in training, as `whole` does.

    `how` and the result are those of `imitate`.
    """

    def ask(rng: np.random.Generator, size: int) -> Tensor:
        latents = memory.unpacked(rng.integers(len(memory.ids), size=size))
        noise = rng.standard_normal(latents.shape, np.float32)
        return torch.from_numpy(latents + np.float32(model.config.noise) * noise)

    def answer(one: Autoencoder, latents: Tensor) -> Tensor:
        return one.decode(latents.to(one.mean.device))

    model.encoder.requires_grad_(False)
    try:
        return imitate(Imitation(model, whole, ask, answer), steps, **how)
    finally:
        model.encoder.requires_grad_(True)


@dataclass(frozen=True)
class Walk:
    """Questions to a generator."""

    condition: Condition
    noise: Tensor
    times: Sequence[float]


def finetune_generator(
    model: Generator,
    whole: Generator,
    memory: Memory,
    encoder: TextEncoder,
    steps: int,
    strides: int = FEW,
    guided: bool = False,
    **how: Any,
) -> list[float]:
    """Train `model` to walk from noise to pictures as `whole` does, errors of its earlier strides included.

    They walk in the condition of a random concept of the memory, named in either language, in a random style.

    Args:
        strides: steps in which the model samples. Up to `FEW` are walked as they are; of more, `FEW` times
            taken at random.
        guided: whether it is also asked without a condition, for guidance.
        how: see `imitate`, as for the result.

    Raises:
        InputError: the family has no path to follow.
    """
    if isinstance(model, Autoregressive) or isinstance(whole, Autoregressive):
        raise InputError("an autoregressive writer has no path from noise to follow; choose finetune 0.")
    captions, backbone = Captions(encoder), model.backbone

    def ask(rng: np.random.Generator, size: int) -> Walk:
        concepts = [memory.concepts[i] for i in rng.integers(len(memory.concepts), size=size)]
        features = captions([one[rng.choice(["label_en", "label_zh"])] for one in concepts])
        style = rng.integers(backbone.styles, size=size)
        found = memory.neighbours(features.embedding, style, 0, backbone.neighbours)
        parts = (features.tokens, features.mask, features.embedding, style, found.latents, found.styles)
        condition = Condition(*(torch.from_numpy(part) for part in parts))
        if guided:
            empty = torch.from_numpy(rng.random(size) < UNCONDITIONAL)
            condition = condition.drop(empty, empty, empty, backbone.styles)
        noise = rng.standard_normal((size, *backbone.latent_shape), np.float32)
        between = sorted(rng.random(FEW - 1), reverse=True)
        times = sampling.timesteps(strides) if strides <= FEW else [1.0, *map(float, between), 0.0]
        return Walk(condition, torch.from_numpy(noise), times)

    def answer(one: Any, walk: Walk) -> Tensor:
        on = next(one.parameters()).device
        prepared, x, points = one.prepare(to_device(walk.condition, on)), walk.noise.to(on), []
        for t, following in pairwise(walk.times):
            now = torch.full((len(x),), t, device=on)
            x = x + (following - t) * one.velocity(x, now, *prepared)
            points.append(x)
        return torch.stack(points, 1)

    return imitate(Imitation(model, whole, ask, answer), steps, **how)
