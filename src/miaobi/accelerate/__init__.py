"""Making pipelines faster: recipes, what they do to a pipeline, and what may be combined.

from miaobi.accelerate import Quantize, Runtime, Steps, apply
fast = apply(pipe, (Steps(2), Runtime("openvino"), Quantize("int8-static")))
"""

from typing import TYPE_CHECKING

from miaobi.accelerate.recipe import (
    Batch,
    Cache,
    ChannelsLast,
    Compile,
    Distill,
    Guidance,
    MergeTokens,
    Precision,
    Prune,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Sampler,
    ShareLayers,
    Step,
    Steps,
    Threads,
    TinyDecoder,
)

if TYPE_CHECKING:
    from miaobi.accelerate.rules import check
    from miaobi.accelerate.transform import apply

__all__ = [
    "Batch",
    "Cache",
    "ChannelsLast",
    "Compile",
    "Distill",
    "Guidance",
    "MergeTokens",
    "Precision",
    "Prune",
    "Quantize",
    "Recipe",
    "RecipeError",
    "Runtime",
    "Sampler",
    "ShareLayers",
    "Step",
    "Steps",
    "Threads",
    "TinyDecoder",
    "apply",
    "check",
]
_HOMES = {"apply": "transform", "check": "rules"}


def __getattr__(name: str) -> object:
    """Load `apply` and `check` on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'miaobi.accelerate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"miaobi.accelerate.{_HOMES[name]}"), name)
