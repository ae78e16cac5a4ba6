"""What a diffusers pipeline consists of and can do, read from its parts and signatures, never its name."""

import copy
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from miaobi.traits import RUNTIMES, Traits

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DEFAULT_SIZE_PX = 1024  # of pipelines that name no size of their own
SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": "unipc",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
}
"""Diffusers' scheduler classes and what samplers are called here."""
NOISE_SAMPLERS = tuple(name for name in SAMPLERS if not name.startswith(("FlowMatch", "PNDM")))
FLOW_SAMPLERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "UniPCMultistepScheduler",
)


def denoiser_name(pipe: Any) -> str | None:
    """The part that runs at every step: "unet" or "transformer"; None where there is neither."""
    return next((name for name in ("unet", "transformer") if getattr(pipe, name, None) is not None), None)


def call_parameters(pipe: Any) -> dict[str, Any]:
    """Names and defaults of what the pipeline can be called with."""
    return {name: one.default for name, one in inspect.signature(type(pipe).__call__).parameters.items()}


def guidance_name(pipe: Any) -> str | None:
    """The argument that sets classifier-free guidance by a second evaluation; None where there is none, as in
    a model that guidance was distilled into.
    """
    parameters = call_parameters(pipe)
    if "true_cfg_scale" in parameters:
        return "true_cfg_scale" if parameters["true_cfg_scale"] > 1 else None
    return "guidance_scale" if "guidance_scale" in parameters and "negative_prompt" in parameters else None


def guidance_zero(pipe: Any) -> float:
    """What the pipeline calls the scale at which guidance is off: 1 as Ho & Salimans write it, `uncond +
    scale · (cond - uncond)`; 0 where it is `cond + scale · (cond - uncond)`.
    """
    probe = copy.copy(pipe)
    probe._guidance_scale = 1.0
    return 0.0 if getattr(probe, "do_classifier_free_guidance", False) else 1.0


def is_flow(pipe: Any) -> bool:
    """Whether the model predicts a flow's velocity (and not noise or its v-prediction)."""
    config = pipe.scheduler.config
    return type(pipe.scheduler).__name__.startswith("FlowMatch") or (
        config.get("prediction_type") == "flow_prediction"
    )


def fitting_samplers(pipe: Any) -> dict[str, type]:
    """Samplers that the model can be drawn with, as diffusers' scheduler classes.

    A flow pipeline hands its own times (`sigmas`) and shift (`mu`) to the scheduler, which has to take them;
    the one whose `mu` is an argument does so only when asked.
    """
    import diffusers

    flow = is_flow(pipe)
    asked = "mu" in call_parameters(pipe)
    found: dict[str, type] = {}
    for name in FLOW_SAMPLERS if flow else NOISE_SAMPLERS:
        kind: Any = (
            _taking_lists(diffusers.UniPCMultistepScheduler)
            if name.startswith("UniPC")
            else getattr(diffusers, name)
        )
        if flow and not (asked and not pipe.scheduler.config.get("use_dynamic_shifting")):
            taken = inspect.signature(kind.set_timesteps).parameters
            if "sigmas" not in taken or "mu" not in taken:
                continue
        found[SAMPLERS[name]] = kind
    return found


@cache
def _taking_lists(kind: Any) -> type:
    """The scheduler, which takes times as a list too, as some pipelines have them."""

    def set_timesteps(
        self: Any, num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        times = None if sigmas is None else np.asarray(sigmas, np.float32)
        kind.set_timesteps(self, num_inference_steps, device=device, sigmas=times, mu=mu)

    return type(kind.__name__, (kind,), {"set_timesteps": set_timesteps})


def sampler_name(pipe: Any) -> str:
    """Name of the sampler that the pipeline has."""
    kind = type(pipe.scheduler).__name__
    return SAMPLERS.get(kind, kind.removesuffix("Scheduler").lower())


def size_multiple_px(pipe: Any) -> int:
    """Sides of pictures are multiples of it: latents' pixels, times the transformer's patches."""
    scale = int(pipe.vae_scale_factor)
    network = getattr(pipe, denoiser_name(pipe) or "unet")
    patch = network.config.get("patch_size", 1) or 1
    processor = int(pipe.image_processor.config.get("vae_scale_factor", scale))
    return max(processor, scale * (patch if isinstance(patch, int) else 1))


def default_size_px(pipe: Any) -> int:
    """The side that the pipeline draws when it is not told."""
    sample = getattr(pipe, "default_sample_size", None)
    if sample is None:
        sample = getattr(pipe, denoiser_name(pipe) or "unet").config.get("sample_size")
    if sample is None:
        return DEFAULT_SIZE_PX
    return int(sample if isinstance(sample, int) else sample[0]) * int(pipe.vae_scale_factor)


def modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of every part with weights."""
    from torch import nn

    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            yield name, part


def bytes_of(pipe: Any) -> int:
    """Bytes of all weights as they run: of a graph, once it is there, its files; else of the parameters."""
    total = 0
    for _, part in modules(pipe):
        whole = getattr(getattr(part, "every", None), "full", part)  # of a cache, the evaluation of all
        graph = getattr(whole, "graph_bytes", 0)
        total += graph or sum(one.numel() * one.element_size() for one in part.parameters())
    return total


def traits_of(pipe: Any, model: str, device: str, threads: int) -> Traits:
    """Capabilities of a freshly loaded pipeline."""
    from torch import nn

    name = denoiser_name(pipe)
    network = getattr(pipe, name or "unet")
    parameters = call_parameters(pipe)
    guidance = guidance_name(pipe)
    scale = parameters[guidance] if guidance else parameters.get("guidance_scale")
    scale = float(scale or 1) + (1 - guidance_zero(pipe) if guidance else 0)
    size_px = default_size_px(pipe)
    dtype: Any = str(next(network.parameters()).dtype).removeprefix("torch.")
    return Traits(
        model=model,
        kind="diffusers",
        family="diffusion",
        backbone="unet" if name == "unet" else "transformer",
        runtime="torch",
        runtimes=RUNTIMES if device == "cpu" else ("torch",),
        device=device,
        dtype=dtype,
        decoder_dtype=dtype,
        steps=int(parameters["num_inference_steps"]),
        most_steps=int(pipe.scheduler.config.get("num_train_timesteps", 1000)),
        guidance=scale,
        guided=guidance is not None and scale > 1,
        sampler=sampler_name(pipe),
        samplers=tuple(sorted({sampler_name(pipe), *fitting_samplers(pipe)})),
        size_px=size_px,
        tokens=_tokens(pipe, size_px),
        blocks=_blocks(network),
        weights=True,
        parameters=sum(one.numel() for one in network.parameters()),
        convolutions=sum(isinstance(one, nn.Conv2d) for one in network.modules()) > 2,  # not patches alone
        threads=threads,
    )


def _tokens(pipe: Any, size_px: int) -> int:
    """Positions of the widest self-attention, for square pictures."""
    network = getattr(pipe, denoiser_name(pipe) or "unet")
    if not hasattr(network, "down_blocks"):
        return int(size_px // size_multiple_px(pipe)) ** 2
    side = size_px // int(pipe.vae_scale_factor)
    for level, block in enumerate(network.down_blocks):
        if getattr(block, "attentions", None):
            return int(side >> level) ** 2
    return 0


def _blocks(network: Any) -> int:
    """Levels of a U-Net, or blocks with attention of a transformer."""
    from torch import nn

    if hasattr(network, "down_blocks"):
        return len(network.down_blocks)
    runs = [list(one) for one in network.children() if isinstance(one, nn.ModuleList)]
    return sum(len(run) for run in runs if run and any("att" in name for name, _ in run[0].named_children()))
