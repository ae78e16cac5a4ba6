"""Diffusion: a rectified flow from noise to latents.

Rectified flow: Liu et al. 2022 (arXiv:2209.03003); logit-normal times: Esser et al. 2024 (arXiv:2403.03206).
The network predicts the clean latents and the velocity follows from them (Li & He 2025, arXiv:2511.13720): a
token holds up to half as many values as the transformer is wide, too many to carry noise through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from miaobi import sampling
from miaobi.models.backbone import Backbone, BackboneConfig, Condition

SMALLEST_TIME = 0.05
"""Times below count as this one where the velocity is worked out from clean latents."""


@dataclass(frozen=True)
class DiffusionConfig:
    repeats: int = 1
    """Noise levels at which a training step sees each picture; they share the work on its condition."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats} must be at least 1")


class Diffusion(Backbone):
    """velocity(x_t, t, *prepare(condition))."""

    def __init__(self, backbone: BackboneConfig, config: DiffusionConfig = DiffusionConfig()) -> None:
        super().__init__(backbone)
        self.config = config

    def velocity(self, x: Tensor, t: Tensor, *prepared: Tensor) -> Tensor:
        """x_t (B, C, h, w) at times t (B,) in (0, 1], and what `prepare` gave → velocity (B, C, h, w)."""
        # x_t = (1 - t) x_0 + t noise and velocity = noise - x_0, so velocity = (x_t - x_0) / t
        return (x - self.clean(x, t, *prepared)) / t.clamp(min=SMALLEST_TIME)[:, None, None, None]

    def loss(self, latents: Tensor, condition: Condition, rng: torch.Generator) -> dict[str, Tensor]:
        """Flow-matching loss of standardised latents (B, C, h, w): |velocity(x_t, t) - (noise - x_0)|², t
        logit-normal.

        Each picture is seen at `repeats` times t, each with its own noise; what `prepare` made of its
        condition serves them all.
        """
        repeats = self.config.repeats
        prepared = [part.repeat_interleave(repeats, dim=0) for part in self.prepare(condition)]
        latents = latents.repeat_interleave(repeats, dim=0)
        noise = torch.randn(latents.shape, generator=rng).to(latents.device)
        t = (
            torch.sigmoid(0.3 + torch.randn(len(latents), generator=rng))
            .clamp(min=SMALLEST_TIME)
            .to(latents.device)
        )
        weight = t[:, None, None, None]
        x_t = (1 - weight) * latents + weight * noise
        error = self.velocity(x_t, t, *prepared).float() - (noise - latents)
        return {"flow": error.square().mean()}

    measure = loss
    """What previews report of held-out latents."""

    @torch.no_grad()
    def sample(self, condition: Condition, noise: Tensor, steps: int = 12, guidance: float = 3.0) -> Tensor:
        """`steps` even Euler steps from `noise` (B, C, h, w) to latents (B, C, h, w)."""
        return self.walk(condition, noise, sampling.timesteps(steps), guidance)

    @torch.no_grad()
    def walk(self, condition: Condition, x: Tensor, times: Sequence[float], guidance: float = 1.0) -> Tensor:
        """Euler steps along `times`, falling from 1 at the latest to 0 at the earliest, from x (B, C, h, w).

        Guidance other than 1 runs the condition and its absence in one batch (Ho & Salimans 2022).
        """
        guided = guidance != 1.0
        both = [condition, condition.nothing(self.backbone.styles)] if guided else [condition]
        prepared = [torch.cat(part) for part in zip(*(self.prepare(one) for one in both), strict=True)]
        for t, following in pairwise(times):
            now = torch.full((len(x) * len(both),), t, device=x.device)
            v = self.velocity(x.repeat(len(both), 1, 1, 1), now, *prepared).float()
            if guided:
                conditional, unconditional = v.chunk(2)
                v = sampling.guide(conditional, unconditional, guidance)
            x = x + (following - t) * v
        return x
