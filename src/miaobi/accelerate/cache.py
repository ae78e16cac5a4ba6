"""Deep features taken from an earlier step of sampling, for U-Nets (Ma et al. 2023, "DeepCache", arXiv:2312.00858).

A U-Net of diffusers is split into two pure functions that share its weights: `Full`, the whole of it, which
also gives its deep features, and `Shallow`, which takes those and runs the outermost layers alone. Each can be
exported by itself. `Every` decides which of the two runs, whether they are modules or exported graphs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from miaobi.accelerate.standin import StandIn
from miaobi.errors import InputError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

OUTER = ("DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")
"""Blocks that can be left half-way, by the names of diffusers' configurations."""


class Full(nn.Module):
    """`(sample, timestep, text) -> (noise, deep features)`: all of a U-Net.

    Shapes: sample and noise (B, C, H, W); timestep () or (B,); text (B, L, D); deep features (B, C', H, W).
    Further conditions, such as SDXL's `text_embeds` and `time_ids`, are named arguments. The noise is bit for
    bit that of the U-Net.
    """

    def __init__(self, unet: "UNet2DConditionModel", layers: int = 1) -> None:
        """Leave `layers` layers of the U-Net's outermost level to `Shallow`.

        Raises:
            InputError: the U-Net has no such layers, or its outermost blocks cannot be split.
        """
        super().__init__()
        _check(unet, layers)
        self.unet = unet
        self.layers = layers
        self.training = unet.training

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        text: Tensor,
        timestep_cond: Tensor | None = None,
        **added: Tensor,
    ) -> tuple[Tensor, Tensor]:
        unet = self.unet
        # as the U-Net does: sizes that do not halve evenly are matched on the way up
        uneven = any(size % 2**unet.num_upsamplers for size in sample.shape[-2:])
        hidden, embedding, text = _enter(unet, sample, timestep, text, timestep_cond, added)
        skips: tuple[Tensor, ...] = (hidden,)
        for block in unet.down_blocks:
            hidden, more = block(hidden, embedding, **_attended(block, text))
            skips += more
        if unet.mid_block is not None:
            hidden = unet.mid_block(hidden, embedding, **_attended(unet.mid_block, text))
        for block in unet.up_blocks[:-1]:
            count = len(block.resnets)
            taken, skips = skips[-count:], skips[:-count]
            size = skips[-1].shape[2:] if uneven else None
            hidden = block(
                hidden_states=hidden,
                res_hidden_states_tuple=taken,
                temb=embedding,
                upsample_size=size,
                **_attended(block, text),
            )
        last = unet.up_blocks[-1]
        deep = _up(last, hidden, skips, embedding, text, 0, len(last.resnets) - self.layers)
        hidden = _up(last, deep, skips, embedding, text, len(last.resnets) - self.layers, len(last.resnets))
        return _leave(unet, hidden), deep


class Shallow(nn.Module):
    """`(sample, timestep, text, deep features) -> noise`: the outermost `layers` layers of a U-Net.

    Shapes are those of `Full`. With 1 layer, the input convolution and the last layer of the way up are all
    that runs; each further layer adds one of the way down and one of the way up.
    """

    def __init__(self, unet: "UNet2DConditionModel", layers: int = 1) -> None:
        """As `Full`."""
        super().__init__()
        _check(unet, layers)
        self.unet = unet
        self.layers = layers
        self.training = unet.training

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        text: Tensor,
        deep: Tensor,
        timestep_cond: Tensor | None = None,
        **added: Tensor,
    ) -> Tensor:
        unet = self.unet
        hidden, embedding, text = _enter(unet, sample, timestep, text, timestep_cond, added)
        skips = [hidden]
        for number in range(self.layers - 1):
            skips.append(_layer(unet.down_blocks[0], number, skips[-1], embedding, text))
        last = unet.up_blocks[-1]
        start = len(last.resnets) - self.layers
        return _leave(unet, _up(last, deep, tuple(skips), embedding, text, start, len(last.resnets)))


class Every:
    """Runs `full` at the first and then each `interval`-th call, `shallow` with its deep features at the others.

    Both may be modules or exported graphs; `reset` has to be called before each picture. A call of another
    shape or type than the one before, as when guidance begins or ends, is a full one.
    """

    def __init__(self, full: Callable[..., Any], shallow: Callable[..., Any], interval: int) -> None:
        if interval < 1:
            raise InputError(f"interval is {interval}; choose 1 or more.")
        self.full, self.shallow, self.interval = full, shallow, interval
        self.calls = self.full_calls = 0
        """Evaluations since the last reset, all and full ones."""
        self.reset()

    def reset(self) -> None:
        """Forget the picture before."""
        self.calls = self.full_calls = self._since = 0
        self._deep: Any = None
        self._kind: Any = None

    def __call__(self, sample: Any, timestep: Any, text: Any, **added: Any) -> Any:
        """The noise in `sample`; inputs and result as `Full` has them."""
        kind = (sample.shape, sample.dtype)
        self._since = self._since % self.interval if kind == self._kind else 0
        if self._since == 0:
            noise, self._deep = self.full(sample, timestep, text, **added)
            self._kind = kind
            self.full_calls += 1
        else:
            noise = self.shallow(sample, timestep, text, self._deep, **added)
        self.calls += 1
        self._since += 1
        return noise


class CachedUNet(StandIn):
    """Stands in for a U-Net in a pipeline of diffusers and asks `every` instead."""

    def __init__(self, unet: "UNet2DConditionModel", every: Every) -> None:
        super().__init__(unet)
        self.every = every

    def reset(self) -> None:
        """Forget the picture before; to be called before each."""
        self.every.reset()

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As the U-Net's own, without ControlNets and adapters.

        Raises:
            InputError: `cross_attention_kwargs` are given, which the two functions do not take.
        """
        if cross_attention_kwargs:
            raise InputError(
                f"a cached U-Net takes no cross_attention_kwargs, got {', '.join(cross_attention_kwargs)}; "
                "leave them out, or the cache."
            )
        added = dict(added_cond_kwargs or {})
        if timestep_cond is not None:
            added["timestep_cond"] = timestep_cond
        noise = self.every(sample, timestep, encoder_hidden_states, **added)
        if not return_dict:
            return (noise,)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=noise)


def deep_cached(unet: "UNet2DConditionModel", interval: int, layers: int = 1) -> CachedUNet:
    """A U-Net to use in place of `unet`, which stays as it was: every `interval`-th evaluation is a whole one.

    Raises:
        InputError: see `Full`.
    """
    return CachedUNet(unet, Every(Full(unet, layers), Shallow(unet, layers), interval))


def _check(unet: "UNet2DConditionModel", layers: int) -> None:
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    for block in (first, last):
        if type(block).__name__ not in OUTER:
            raise InputError(
                f"this U-Net cannot be split: its outermost block is a {type(block).__name__}; "
                f"deep caching is for {', '.join(OUTER)}."
            )
        if getattr(block, "s1", None):
            raise InputError("this U-Net cannot be split while FreeU is on; call disable_freeu() first.")
    if unet.class_embedding is not None:
        raise InputError("this U-Net cannot be split: it takes class labels, not text alone.")
    if unet.config.addition_embed_type == "image_hint":
        raise InputError("this U-Net cannot be split: it takes a picture as a hint (addition_embed_type).")
    if not 1 <= layers <= len(last.resnets):
        raise InputError(f"layers is {layers}; choose 1 to {len(last.resnets)}.")


def _enter(
    unet: "UNet2DConditionModel",
    sample: Tensor,
    timestep: Tensor | float,
    text: Tensor,
    timestep_cond: Tensor | None,
    added: dict[str, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """First features, embedding of time and conditions, and text as the blocks take it."""
    if unet.config.center_input_sample:
        sample = 2 * sample - 1
    embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), timestep_cond)
    more = unet.get_aug_embed(emb=embedding, encoder_hidden_states=text, added_cond_kwargs=added)
    if more is not None:
        embedding = embedding + more
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    text = unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=added)
    return unet.conv_in(sample), embedding, text


def _attended(block: nn.Module, text: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def _layer(block: nn.Module, number: int, hidden: Tensor, embedding: Tensor, text: Tensor) -> Tensor:
    """One residual layer of a block, and its attention where there is one."""
    hidden = block.resnets[number](hidden, embedding)  # type: ignore[index,operator]
    if getattr(block, "has_cross_attention", False):
        attention: Any = block.attentions[number]  # type: ignore[index]
        hidden = attention(hidden, encoder_hidden_states=text, return_dict=False)[0]
    return hidden


def _up(
    block: nn.Module,
    hidden: Tensor,
    skips: tuple[Tensor, ...],
    embedding: Tensor,
    text: Tensor,
    start: int,
    end: int,
) -> Tensor:
    """Layers `start` to `end` of the last block; its last layer takes the first of `skips`."""
    for number in range(start, end):
        skip = skips[len(block.resnets) - 1 - number]  # type: ignore[arg-type]
        hidden = _layer(block, number, torch.cat([hidden, skip], 1), embedding, text)
    return hidden


def _leave(unet: "UNet2DConditionModel", hidden: Tensor) -> Tensor:
    if unet.conv_norm_out is not None:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return unet.conv_out(hidden)  # type: ignore[no-any-return]
