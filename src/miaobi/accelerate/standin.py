"""A network in the place of another, in a pipeline of diffusers."""

from typing import Any

from torch import nn


class StandIn(nn.Module):
    """Has the configuration, type and place of the network that it was made for, and a call of its own.

    Pipelines of diffusers read attributes of their networks (`config`, `dtype`, `device`, SDXL also
    `add_embedding`); those that a stand-in lacks are the network's.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def reset(self) -> None:
        """Forget the picture before; to be called before each."""

    def _reset_stateful_cache(self) -> None:
        # pipelines of diffusers call it at the end of each drawing
        self.reset()
