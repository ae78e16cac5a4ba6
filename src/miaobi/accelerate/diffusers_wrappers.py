"""Stand-ins for the parts of a diffusers pipeline: the pipeline's own loop goes on working around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.accelerate.standin import StandIn
from miaobi.runtimes.clock import Clock

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Runs(StandIn):
    """A network that `unit` runs for: compiled, in another type or as a graph.

    `unit` takes what the network takes, with `return_dict=False`.
    """

    def __init__(self, network: nn.Module, unit: Callable[..., Any]) -> None:
        super().__init__(network)
        self._unit = [unit]  # in a list: no part of the network

    @property
    def graph_bytes(self) -> int:
        """Bytes of the files that run in the network's place, 0 for none."""
        return int(getattr(self._unit[0], "graph_bytes", 0))

    def reset(self) -> None:
        """To be called before each picture."""
        reset: Any = getattr(self.network, "reset", None)
        if reset:
            reset()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network's."""
        return self._unit[0](*args, **kwargs)


class InType(nn.Module):
    """A module that computes in another floating-point type, between inputs and results in float32."""

    def __init__(self, module: Callable[..., Any], dtype: str) -> None:
        super().__init__()
        self._held = [module]
        self._dtype = _DTYPES[dtype]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's."""
        args, kwargs = _mapped((args, kwargs), lambda one: one.to(self._dtype))
        return _mapped(self._held[0](*args, **kwargs), lambda one: one.to(torch.float32))


class OnlyDecode(nn.Module):
    """The way of an autoencoder from latents to pictures, as a module's call."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.training = vae.training

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w), with a dimension of time for some, to pictures in [-1, 1]."""
        picture: Tensor = self.vae.decode(latents, return_dict=False)[0]  # type: ignore[operator]
        return picture


class Decoder(StandIn):
    """An autoencoder whose `decode` is run by `unit`."""

    def __init__(self, vae: nn.Module, unit: Callable[[Tensor], Tensor]) -> None:
        super().__init__(vae)
        self._unit = [unit]

    @property
    def graph_bytes(self) -> int:
        """Bytes of the files that run in the decoder's place, 0 for none."""
        return int(getattr(self._unit[0], "graph_bytes", 0))

    def decode(self, latents: Tensor, return_dict: bool = True, **ignored: Any) -> Any:
        """As the autoencoder's own; it draws nothing at random, so the generator that some pass is not
        needed.
        """
        picture = self._unit[0](latents)
        if not return_dict:
            return (picture,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=picture)


class Limited(StandIn):
    """Guidance in a part of the steps alone: outside of it one evaluation is run instead of two.

    The pipeline goes on asking for both, in one batch (without the prompt, then with it; where parts are
    lists, the other way round) or one after the other; outside of the part it is given the one with the
    prompt twice, for which any scale of guidance changes nothing.

    Args:
        clock: how far sampling is.
        begin, end: shares of the steps.
        apart: whether the pipeline asks one after the other, with the prompt first.
    """

    def __init__(self, network: nn.Module, clock: Clock, begin: float, end: float, apart: bool) -> None:
        super().__init__(network)
        self._clock, self._begin, self._end, self._apart = clock, begin, end, apart
        self._first: Any = None

    def reset(self) -> None:
        """To be called before each picture."""
        self._first = None
        reset: Any = getattr(self.network, "reset", None)
        if reset:
            reset()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network's."""
        if self._begin <= self._clock.share < self._end:
            return self.network(*args, **kwargs)
        if self._apart:
            if self._first is None:
                self._first = self.network(*args, **kwargs)
                return self._first
            result, self._first = self._first, None
            return result
        lead = args[0] if args else kwargs["hidden_states"]
        args, kwargs = _halved((args, kwargs), len(lead), last=isinstance(lead, Tensor))
        return _doubled(self.network(*args, **kwargs))


def _halved(value: Any, batch: int, last: bool) -> Any:
    """Containers in which what has `batch` rows, or elements, keeps the first or last half."""
    part = slice(batch // 2, None) if last else slice(batch // 2)
    if isinstance(value, Tensor):
        return value[part] if value.ndim and len(value) == batch else value
    if isinstance(value, dict):
        return {name: _halved(one, batch, last) for name, one in value.items()}
    if isinstance(value, list) and len(value) == batch and all(isinstance(one, Tensor) for one in value):
        return value[part]
    if isinstance(value, (tuple, list)):
        return type(value)(_halved(one, batch, last) for one in value)
    return value


def _doubled(value: Any) -> Any:
    """Containers in which every tensor, or list of them, is there twice along the batch."""
    if isinstance(value, Tensor):
        return torch.cat([value, value])
    if isinstance(value, list):
        return value + value
    return tuple(_doubled(one) for one in value)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Containers in which `change` was done to every floating-point tensor."""
    from torch.utils import _pytree as trees

    return trees.tree_map(
        lambda one: change(one) if isinstance(one, Tensor) and one.is_floating_point() else one, value
    )
