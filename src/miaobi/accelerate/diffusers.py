"""Recipes for diffusers pipelines: one small transform for each type of step.

The pipeline that a recipe is applied to keeps its modules; the new one has copies of those that change, which
share the weights that do not. Steps first say what is wanted (`Build`); at the end the parts are put
together, from the inside out: weights and numbers, runtime or compiler, cache, guidance.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.accelerate import diffusers_numbers as numbers
from miaobi.accelerate.cache import CachedUNet, Every, Full, Shallow
from miaobi.accelerate.diffusers_wrappers import Decoder, InType, Limited, OnlyDecode, Runs
from miaobi.accelerate.exported import Exported, Inputs, Options
from miaobi.accelerate.first_block import CachedTransformer
from miaobi.accelerate.merge import merged
from miaobi.accelerate.recipe import (
    Batch,
    Cache,
    ChannelsLast,
    Compile,
    Guidance,
    MergeTokens,
    Precision,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Sampler,
    Step,
    Steps,
    Threads,
    TinyDecoder,
    describe,
)
from miaobi.accelerate.rules import after
from miaobi.errors import InputError
from miaobi.runtimes import diffusers_parts as parts
from miaobi.runtimes.clock import Clock
from miaobi.runtimes.diffusers import DiffusersPipeline
from miaobi.traits import DType, Traits

CALIBRATION = ("a red apple on a table", "a small wooden house by the sea")
"""Prompts whose pictures are drawn to see what values activations take."""
CALIBRATION_STEPS = 4

Run = Callable[[str, nn.Module], Callable[..., Any]]
"""How a part of that name runs."""


@dataclass
class Build:
    """A pipeline in the making."""

    loaded: DiffusersPipeline
    pipe: Any
    traits: Traits
    network: nn.Module
    """The part that runs at every step."""
    cache: Cache | None = None
    guidance: Guidance | None = None
    channels_last: bool = False
    changes: list[Step] = field(default_factory=list)
    """Steps that changed the network otherwise than its weights."""
    notes: list[str] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether the parts run as they are, in PyTorch."""
        retyped = any(map(self.retyped, ("denoiser", "decoder")))
        return self.traits.runtime == "torch" and not self.traits.compiled and not retyped

    def retyped(self, part: str) -> bool:
        """Whether PyTorch computes a part in another type than it loaded."""
        return self.traits.runtime == "torch" and self.dtype_of(part) != _dtype_of(self.loaded.traits, part)

    def dtype_of(self, part: str) -> DType:
        """Type of the arithmetic of the part of that name."""
        return _dtype_of(self.traits, part)


def _dtype_of(traits: Traits, part: str) -> DType:
    return traits.decoder_dtype if part == "decoder" else traits.dtype


def changed(pipeline: DiffusersPipeline, recipe: Recipe) -> DiffusersPipeline:
    """A new pipeline that runs as the recipe says; see `accelerate.apply`, which checks the recipe first.

    A pipeline that was changed before is made anew from what was loaded, with both recipes; of two steps of
    one kind the later one counts.

    Raises:
        InputError: a step cannot be done to this pipeline.
        MachineError: a tool failed or is not installed. Graphs are exported when a picture is drawn, and what
            fails then is raised there.
    """
    loaded, before = pipeline.origin
    whole = {type(step): step for step in (*before, *recipe)}
    ordered = tuple(sorted(whole.values(), key=lambda step: step.stage))
    pipe = copy.copy(loaded.pipe)
    build = Build(loaded, pipe, loaded.traits, getattr(pipe, parts.denoiser_name(pipe) or "unet"))
    build.notes.extend(loaded.notes)
    for step in ordered:
        if type(step) not in TRANSFORMS:
            raise RecipeError(f"{step}: has no meaning for a diffusers pipeline; leave it out.")
        TRANSFORMS[type(step)](build, step)
        build.traits = after(build.traits, step)
    clock = Clock()
    if build.traits.runtime == "torch":
        run: Run = _torch(build)
    else:
        run = _exported(build, clock)
    _assemble(build, run, clock)
    made = DiffusersPipeline(pipe, build.traits, (), loaded.load_ms, (loaded, ordered), clock)
    made.notes = build.notes
    return made


def _assemble(build: Build, run: Run, clock: Clock) -> None:
    """Put the parts in their places in `build.pipe`."""
    pipe, network = build.pipe, _numbers(build, build.network)
    if build.cache and build.cache.method == "first-block":
        network = CachedTransformer(network, build.cache.threshold)
    if build.cache and build.cache.method == "deep":
        every = Every(run("full", Full(network)), run("shallow", Shallow(network)), build.cache.interval)
        network = CachedUNet(network, every)
    elif not build.plain:
        network = Runs(network, run("denoiser", network))
    if build.guidance and (build.guidance.begin, build.guidance.end) != (0, 1):
        apart = parts.guidance_name(pipe) == "true_cfg_scale"
        network = Limited(network, clock, build.guidance.begin, build.guidance.end, apart)
    setattr(pipe, parts.denoiser_name(pipe) or "unet", network)
    vae = numbers.in_type(pipe.vae, _dtype(build, "decoder")) if build.retyped("decoder") else pipe.vae
    vae = numbers.channels_last(vae) if build.channels_last else vae
    pipe.vae = vae if build.plain else Decoder(vae, run("decoder", OnlyDecode(vae)))


def _numbers(build: Build, network: nn.Module) -> nn.Module:
    """The network in the type, layout and integers that PyTorch is to have; as it is where a graph runs."""
    if build.traits.runtime != "torch":
        return network
    if build.retyped("denoiser"):
        network = numbers.in_type(network, _dtype(build, "denoiser"))
    if build.channels_last:
        network = numbers.channels_last(network)
    if build.traits.quantized:
        network = numbers.in_integers(network, build.traits.quantized)
        build.notes.append(
            f"{build.traits.quantized}: linear layers of the denoiser; convolutions and decoder stay"
        )
    return network


def _dtype(build: Build, part: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, build.dtype_of(part))
    return found


def _torch(build: Build) -> Run:
    """Parts as PyTorch runs them."""

    def run(name: str, module: nn.Module) -> Callable[..., Any]:
        unit: Callable[..., Any] = torch.compile(module) if build.traits.compiled else module
        return InType(unit, build.dtype_of(name)) if build.retyped(name) else unit

    return run


def _exported(build: Build, clock: Clock) -> Run:
    """Parts as graphs. The decoder is not quantized with the denoiser: it is run once, and what it errs
    nothing after it repairs.
    """
    options = Options(
        runtime=build.traits.runtime,
        dtype=build.traits.dtype,
        quantized=build.traits.quantized,
        threads=build.traits.threads,
        changes=describe(tuple(build.changes)),
    )
    recorded: dict[int, dict[str, list[Inputs]]] = {}

    def record(name: str) -> list[Inputs]:
        if clock.size_px not in recorded:
            recorded[clock.size_px] = _recorded(build, clock.size_px)
        return recorded[clock.size_px][name]

    def told(line: str) -> None:
        if line not in build.notes:
            build.notes.append(line)

    def run(name: str, module: nn.Module) -> Callable[..., Any]:
        quantized = None if name == "decoder" else options.quantized
        own = replace(options, dtype=build.dtype_of(name), quantized=quantized)
        return Exported(name, module, own, record, told)

    return run


def _recorded(build: Build, size_px: int) -> dict[str, list[Inputs]]:
    """Inputs of each part while PyTorch draws the calibration's prompts."""
    calls: dict[str, list[Inputs]] = {"full": [], "shallow": [], "denoiser": [], "decoder": []}

    def run(name: str, module: nn.Module) -> Callable[..., Any]:
        def recording(*args: Any, **kwargs: Any) -> Any:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs))
            calls[name].append(tuple(one.detach().clone() for one in leaves if isinstance(one, Tensor)))
            return module(*args, **kwargs)

        return recording

    clock = Clock()
    loaded = build.loaded.traits
    traits = replace(build.traits, quantized=None, dtype=loaded.dtype, decoder_dtype=loaded.decoder_dtype)
    watched = replace(build, pipe=copy.copy(build.loaded.pipe), traits=traits)
    watched.pipe.scheduler = build.pipe.scheduler
    _assemble(watched, run, clock)
    drawer = DiffusersPipeline(watched.pipe, traits, (), 0.0, None, clock)
    steps = min(CALIBRATION_STEPS, traits.steps)
    with torch.inference_mode(False), torch.no_grad():
        for seed, prompt in enumerate(CALIBRATION):
            drawer.generate(prompt, n=traits.batch, seed=seed, steps=steps, size_px=size_px)
    return calls


def _sampler(build: Build, step: Sampler) -> None:
    kind: Any = parts.fitting_samplers(build.pipe)[step.method]
    config = dict(build.pipe.scheduler.config)
    if parts.is_flow(build.pipe) and not kind.__name__.startswith("FlowMatch"):
        config |= {
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": config.get("shift", 1.0),
        }
    build.pipe.scheduler = kind.from_config(config)


def _cache(build: Build, step: Cache) -> None:
    build.cache = step


def _merge(build: Build, step: MergeTokens) -> None:
    build.network = merged(build.network, step.ratio)
    build.changes.append(step)


def _guidance(build: Build, step: Guidance) -> None:
    build.guidance = step


def _channels_last(build: Build, step: ChannelsLast) -> None:
    build.channels_last = True


def _tiny_decoder(build: Build, step: TinyDecoder) -> None:
    from diffusers import AutoencoderTiny

    folder = Path(step.decoder)
    try:
        small = AutoencoderTiny.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{step.decoder!r} is no folder of an AutoencoderTiny that diffusers saved; give one."
        ) from error
    wanted = build.pipe.vae.config.get("latent_channels")
    has = small.config.latent_channels
    scale = 2 ** (len(small.config.decoder_block_out_channels) - 1)
    if has != wanted or scale != build.pipe.vae_scale_factor:
        raise InputError(
            f"{step.decoder!r} decodes {has} channels and enlarges {scale} times; this pipeline's latents "
            f"have {wanted} and are enlarged {build.pipe.vae_scale_factor} times; give a decoder for them."
        )
    build.pipe.vae = small.to(build.traits.device).eval()


def _nothing(build: Build, step: Step) -> None:
    """The traits tell it all."""


TRANSFORMS: Mapping[type[Step], Callable[[Build, Any], None]] = {
    TinyDecoder: _tiny_decoder,
    Steps: _nothing,
    Sampler: _sampler,
    Guidance: _guidance,
    Cache: _cache,
    MergeTokens: _merge,
    Runtime: _nothing,
    Precision: _nothing,
    Quantize: _nothing,
    ChannelsLast: _channels_last,
    Compile: _nothing,
    Threads: _nothing,
    Batch: _nothing,
}
