"""A tiny backbone, and conditions for it."""

from collections.abc import Callable

import pytest
import torch

from miaobi.models.backbone import BackboneConfig, Condition


@pytest.fixture
def backbone() -> BackboneConfig:
    return BackboneConfig(
        styles=3,
        latent_shape=(4, 4, 4),
        text_width=8,
        neighbours=2,
        width=16,
        depth=1,
        context_depth=1,
        heads=2,
    )


@pytest.fixture
def condition() -> Callable[[int], Condition]:
    def make(count: int) -> Condition:
        rng = torch.Generator().manual_seed(1)
        return Condition(
            torch.randn(count, 3, 8, generator=rng),
            torch.ones(count, 3, dtype=torch.bool),
            torch.nn.functional.normalize(torch.randn(count, 8, generator=rng), dim=-1),
            torch.arange(count) % 3,
            torch.randn(count, 2, 4, 4, 4, generator=rng),
            torch.zeros(count, 2, dtype=torch.int64),
        )

    return make
