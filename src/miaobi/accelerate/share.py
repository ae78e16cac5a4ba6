"""Sharing layers: a run of blocks uses the weights of its first (Lan et al. 2020, arXiv:1909.11942).

Fewer bytes, and in Miaobi's backbone fewer keys and values to make of the context; a step multiplies as much
as before. What the others had learned is lost, so fine-tune (`accelerate.finetune`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor

from miaobi.errors import InputError
from miaobi.models.backbone import BackboneConfig
from miaobi.models.gan import Gan

if TYPE_CHECKING:
    from miaobi.train.generator import Generator

Model = TypeVar("Model", bound="Generator")


def shared(model: Model, group: int) -> Model:
    """A copy of a generator in which each run of `group` blocks has the weights of its first.

    Raises:
        InputError: the blocks cannot be grouped so.
    """
    config = model.backbone
    allowed = [size for size in range(2, config.depth + 1) if config.depth % size == 0]
    if config.distinct not in (0, config.depth):
        raise InputError(f"the {config.depth} blocks use the weights of {config.distinct} already.")
    if group not in allowed:
        raise InputError(
            f"group is {group}; with {config.depth} blocks choose one of {', '.join(map(str, allowed))}."
        )
    return with_blocks(
        model,
        range(0, config.depth, group),
        replace(config, distinct=config.depth // group, runs=True),
    )


def shallower(model: Model, depth: int) -> Model:
    """A copy with `depth` of the blocks, evenly chosen, the first and the last among them.

    Raises:
        InputError: there are not so many blocks with weights of their own.
    """
    blocks = model.backbone.distinct or model.backbone.depth
    if blocks != model.backbone.depth or not 1 <= depth <= blocks:
        raise InputError(f"depth is {depth}; choose 1 to {blocks}, of a model whose blocks share no weights.")
    chosen = [round(place * (blocks - 1) / max(depth - 1, 1)) for place in range(depth)]
    return with_blocks(model, chosen, replace(model.backbone, depth=depth, distinct=0))


def with_blocks(model: Model, chosen: Sequence[int], config: BackboneConfig) -> Model:
    """The generator in `config`, with the chosen blocks and everything else."""
    prefix = "generator.blocks." if isinstance(model, Gan) else "blocks."
    kept: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith(prefix):
            kept[name] = value
            continue
        number, rest = name.removeprefix(prefix).split(".", 1)
        for place, block in enumerate(chosen):
            if block == int(number):
                kept[f"{prefix}{place}.{rest}"] = value
    made = type(model)(config, cast(Any, model.config))
    made.load_state_dict(kept)
    return cast(Model, made.train(model.training).to(next(model.parameters()).device))
