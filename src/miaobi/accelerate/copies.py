"""A network's modules copied, its weights not: to change one without touching what was given."""

import copy
from itertools import chain
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def shared(network: Network) -> Network:
    """A copy whose modules are its own and whose parameters and buffers are the very tensors of `network`.

    Modules, processors and hooks may be exchanged in the copy; writing to a weight would change both.
    """
    tensors = chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(one): one for one in tensors})
