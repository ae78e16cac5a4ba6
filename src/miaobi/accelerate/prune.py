"""Pruning: weights or whole channels and heads that add the least go; what is left is a model of its own.

Unstructured: zeros in place of the smallest weights of each layer (Han et al. 2015, arXiv:1506.02626). The
matrices stay dense, and a dense product takes as long with zeros as without.

Structured: in every block the same number of inner channels (of the MLPs of a transformer, of the residual
blocks of a decoder) and of attention heads goes, so that the smaller shapes are a configuration like any
other and the model is saved, loaded and exported as usual. Channels are ranked by the magnitude (L2) of what
comes in and goes out with them, coupled as torch-pruning finds them (Fang et al. 2023, arXiv:2301.12900).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from miaobi.errors import InputError, MachineError
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig, Residual
from miaobi.models.backbone import Backbone, BackboneBlock, BackboneConfig
from miaobi.models.gan import Gan
from miaobi.models.layers import MLP, Attention

if TYPE_CHECKING:
    from miaobi.train.generator import Generator

Model = TypeVar("Model", bound=nn.Module)
LANES = 16
"""Inner widths are kept at multiples of this where they are wider: what a vector register holds in fp32."""


def pruned(
    model: Model, amount: float, method: Literal["unstructured", "structured"] = "structured"
) -> Model:
    """A copy of a generator or autoencoder without a share `amount` in [0, 1) of its weights or units.

    Of an autoencoder the decoder is pruned; the encoder, and with it the meaning of latents, stays.

    Raises:
        InputError: the amount is out of range, or the model has no units that can go.
        MachineError: torch-pruning is not installed.
    """
    if not 0 <= amount < 1:
        raise InputError(f"amount is {amount}; choose 0 (nothing goes) or more, and below 1.")
    if method == "unstructured":
        return unstructured(model, amount)
    if isinstance(model, Autoencoder):
        config = model.config
        inner = config.decoder_inner or config.decoder_channels or config.channels
        smaller = replace(config, decoder_inner=tuple(left(one, amount) for one in inner))
        return cast(Model, narrowed_decoder(model, smaller))
    if isinstance(model, Backbone | Gan):
        backbone = model.backbone
        return cast(Model, narrowed_backbone(cast("Generator", model), smaller_backbone(backbone, amount)))
    raise InputError(
        f"a {type(model).__name__} has no units that structured pruning knows; choose method unstructured."
    )


def left(units: int, amount: float) -> int:
    """How many of `units` stay: at least one, in multiples of `LANES` where there are more than that."""
    step = LANES if units > LANES else 1
    return min(units, max(1, round(units * (1 - amount) / step)) * step)


def smaller_backbone(config: BackboneConfig, amount: float) -> BackboneConfig:
    """The configuration with a share `amount` fewer heads and narrower MLPs; heads keep their width."""
    return replace(
        config,
        heads=max(1, round(config.heads * (1 - amount))),
        head_width=config.head_width or config.width // config.heads,
        mlp_width=left(config.mlp_width or 4 * config.width, amount),
    )


def unstructured(model: Model, amount: float) -> Model:
    """A copy with the smallest share `amount` of every layer's weights set to zero."""
    made = copy.deepcopy(model)
    part = made.decoder if isinstance(made, Autoencoder) else made
    for layer in part.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and amount:
            torch_prune.l1_unstructured(layer, "weight", amount)  # type: ignore[no-untyped-call]
            torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    return made


def sparsity(model: nn.Module) -> float:
    """Share of zeros among the weights of matrices and kernels."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


def narrowed_decoder(model: Autoencoder, config: AutoencoderConfig) -> Autoencoder:
    """The autoencoder in a configuration that differs in `decoder_inner`, smaller, and `decoder_blocks`,
    fewer; of each stage the first blocks stay, with their largest channels.

    Raises:
        InputError: it differs in more.
    """
    inner = config.decoder_inner or config.decoder_channels or config.channels
    free: dict[str, Any] = {
        "decoder_inner": (),
        "decoder_blocks": model.config.decoder_blocks,
        "noise": 0.0,
        "half_scale": 0.0,
    }
    if replace(config, **free) != replace(model.config, **free):
        raise InputError(
            f"a decoder is narrowed in decoder_inner and decoder_blocks alone; {config} differs from "
            f"{model.config} in more."
        )
    source = copy.deepcopy(model).requires_grad_()
    kept: list[nn.Module] = []
    stage, seen = len(inner) - 1, 0
    for layer in source.decoder:
        if isinstance(layer, Residual):
            seen += 1
            if seen > config.decoder_blocks[stage]:
                continue
            _thin(layer.first, layer.second, inner[stage])
        elif isinstance(layer, nn.PixelShuffle):
            stage, seen = stage - 1, 0
        kept.append(layer)
    source.decoder = nn.Sequential(*kept)
    return _as(Autoencoder(config), source)


def narrowed_backbone(model: "Generator", config: BackboneConfig) -> "Generator":
    """The generator in a configuration with fewer `heads` and a smaller `mlp_width`."""
    source = copy.deepcopy(model).requires_grad_()
    for module in source.modules():
        if isinstance(module, MLP):
            _thin(module.up, module.down, config.mlp_width or 4 * config.width)
        if isinstance(module, BackboneBlock):
            _fewer_heads(module.attention, config.heads, module.context)
        elif isinstance(module, Attention) and module.heads > config.heads:
            _fewer_heads(module, config.heads)
    return _as(type(model)(config, cast(Any, model.config)), source)


def _as(made: Model, source: nn.Module) -> Model:
    """`made` with the weights of `source`, whose shapes are the same."""
    made.load_state_dict(source.state_dict())
    return made.train(source.training).to(next(source.parameters()).device)


def _thin(first: nn.Module, second: nn.Module, keep: int) -> None:
    """Leave `keep` of the channels between two layers in place."""
    tools = _tools()
    weight = cast(Tensor, first.weight)
    if keep >= len(weight):
        return
    example = torch.zeros(1, weight.shape[1], *[1] * (weight.ndim - 2), device=weight.device)
    with torch.enable_grad():
        graph = tools.DependencyGraph().build_dependency(nn.Sequential(first, second), example_inputs=example)
    kind = tools.prune_conv_out_channels if weight.ndim == 4 else tools.prune_linear_out_channels
    everything = graph.get_pruning_group(first, kind, idxs=list(range(len(weight))))
    scores: Tensor = tools.importance.GroupMagnitudeImportance(p=2)(everything)
    least = scores.argsort()[: len(weight) - keep].tolist()
    graph.get_pruning_group(first, kind, idxs=least).prune()


def _fewer_heads(attention: Attention, keep: int, context: nn.Linear | None = None) -> None:
    """Leave the `keep` heads whose values and outputs are largest.

    The size of queries and keys says nothing, since both are normalised. `context` makes a block's keys and
    values of what it looks at, in the same heads.
    """
    heads = attention.heads
    if keep >= heads:
        return
    tools, size = _tools(), attention.query_norm.gain.numel()
    values = [attention.qkv.weight.chunk(3)[2]]
    if context is not None:
        values.append(context.weight.chunk(2)[1])
    outputs = attention.out.weight.T.reshape(heads, -1)
    strength = sum((one.reshape(heads, -1).square().sum(1) for one in values), torch.zeros(()))
    ranked = (strength * outputs.square().sum(1)).argsort()[: heads - keep].tolist()

    def rows(parts: int) -> Sequence[int]:
        return [
            (part * heads + head) * size + i for part in range(parts) for head in ranked for i in range(size)
        ]

    tools.prune_linear_out_channels(attention.qkv, rows(3))
    tools.prune_linear_in_channels(attention.out, rows(1))
    if context is not None:
        tools.prune_linear_out_channels(context, rows(2))
    attention.heads = keep


def _tools() -> Any:
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise MachineError("torch-pruning is not installed; run: pip install 'miaobi[accelerate]'") from error
    return torch_pruning
