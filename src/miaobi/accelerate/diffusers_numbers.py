"""The numbers of a PyTorch network: floating-point type, layout in memory, integers."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from miaobi.accelerate.copies import shared
from miaobi.errors import MachineError

Network = TypeVar("Network", bound=nn.Module)
GROUP = 32
"""Weights that share a scale in int4."""


def with_tensors(network: Network, change: Callable[[Tensor], Tensor]) -> Network:
    """A copy whose parameters and buffers are those of `network` with `change` done to each; one that
    `change` gives back as it is, is shared.
    """
    memo: dict[int, object] = {}
    for one in chain(network.parameters(), network.buffers()):
        new = change(one.detach())
        if new.data_ptr() == one.data_ptr() and new.stride() == one.stride() and new.dtype == one.dtype:
            memo[id(one)] = one
        else:
            memo[id(one)] = nn.Parameter(new, requires_grad=False) if isinstance(one, nn.Parameter) else new
    return copy.deepcopy(network, memo)


def in_type(network: Network, dtype: torch.dtype) -> Network:
    """A copy whose floating-point weights are of `dtype`."""
    return with_tensors(network, lambda one: one.to(dtype) if one.is_floating_point() else one)


def channels_last(network: Network) -> Network:
    """A copy whose convolutions have their weights with the channels last."""
    return with_tensors(
        network, lambda one: one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one
    )


def in_integers(network: Network, method: str) -> Network:
    """A copy whose linear layers are quantized by torchao; the other layers stay as they are.

    Raises:
        MachineError: torchao is missing or cannot do it on this machine.
    """
    try:
        from torchao import quantization as tools
    except ImportError as error:
        raise MachineError("integers on PyTorch need torchao; pip install 'miaobi[accelerate]'.") from error
    copied = shared(network)
    try:
        if method == "int8-dynamic":
            tools.quantize_(copied, tools.Int8DynamicActivationInt8WeightConfig())
        elif method == "int8-weights":
            tools.quantize_(copied, tools.Int8WeightOnlyConfig())
        else:
            tools.quantize_(
                copied,
                tools.IntxWeightOnlyConfig(
                    weight_dtype=torch.int4,  # type: ignore[attr-defined]
                    granularity=tools.PerGroup(GROUP),
                ),
                lambda module, _: isinstance(module, nn.Linear) and module.in_features % GROUP == 0,
            )
    except (RuntimeError, ValueError, NotImplementedError, AssertionError, ImportError) as error:
        raise MachineError(f"torchao cannot do {method} here: {error}; choose another method.") from error
    return copied
