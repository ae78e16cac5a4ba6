"""Whether a recipe may be applied to a pipeline: each step is checked against what the steps before it left.

A step that is unknown here, cannot work, stands in the wrong place, would do nothing, or was measured to
harm (`accelerate.composition`) is refused with the reason, before anything changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from miaobi.accelerate.composition import measured_reason
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
from miaobi.traits import Traits

PACKAGES: Mapping[str, tuple[str, str]] = {
    "torch": ("torch", "train"),
    "onnxruntime": ("onnxruntime", ""),
    "openvino": ("openvino", "openvino"),
    "mnn": ("MNN", "mnn"),
}
"""Package of each runtime, and the extra that installs it."""

ALONE = ("int8-dynamic", "int8-mixed")
"""Methods whose scales are those of a whole batch in ONNX Runtime."""


def check(traits: Traits, recipe: Recipe, *, measured: bool = True) -> Traits:
    """What the pipeline will be after the recipe.

    Args:
        measured: also refuse what was measured to be worth nothing on a machine like this one
            (`accelerate.composition`); False leaves that to whoever wants to try.

    Raises:
        RecipeError: with the reason for every step that is refused.
    """
    problems: list[str] = []
    before: list[Step] = []
    for step in recipe:
        reason = _misplaced(step, before) or _refused(traits, step)
        if measured and not reason:
            reason = measured_reason(traits, before, step)
        if reason:
            problems.append(f"{step}: {reason}")
        else:
            traits = after(traits, step)
        before.append(step)
    if problems:
        raise RecipeError(f"{traits.model} cannot be changed so. " + " ".join(problems))
    return traits


def _misplaced(step: Step, before: list[Step]) -> str | None:
    if any(type(one) is type(step) for one in before):
        return "given twice; keep one."
    later = [one for one in before if one.stage > step.stage]
    if later:
        return f"comes after {later[0].name}, which works on what it leaves; put it before."
    return None


def _refused(traits: Traits, step: Step) -> str | None:
    return _RULES[type(step)](traits, step) if type(step) in _RULES else "is unknown; see accelerate.recipe."


def after(traits: Traits, step: Step) -> Traits:
    """What a pipeline is after a step, whether or not the step may be taken."""
    return _EFFECTS.get(type(step), _unchanged)(traits, step)


def _unchanged(traits: Traits, step: Step) -> Traits:
    return traits


def _first(*reasons: tuple[bool, str]) -> str | None:
    """The first reason whose condition holds."""
    return next((told for holds, told in reasons if holds), None)


def _distill(traits: Traits, step: Distill) -> str | None:
    if traits.kind != "bundle":
        return "students are bundles; of a diffusers pipeline load the student itself."
    found = _student(traits, step)
    return _first(
        (found.size_px != traits.size_px, f"the student draws {found.size_px} px, not {traits.size_px}.")
    )


def _student(traits: Traits, step: Distill) -> Traits:
    from miaobi.accelerate.bundles import student
    from miaobi.runtimes.graph import Running, traits_of

    found = student(step)
    running = Running(found.runtime, threads=traits.threads, device=traits.device, batch=traits.batch)
    return traits_of(found, running)


def _weights(traits: Traits, step: Step) -> str | None:
    return _first(
        (
            not traits.weights,
            "there are no PyTorch weights to change; export the bundle with `weights = true`.",
        ),
    )


def _prune(traits: Traits, step: Prune) -> str | None:
    return _weights(traits, step) or _first(
        (
            traits.family == "autoregressive" and (step.method == "structured" or step.finetune > 0),
            "a writer of tokens is pruned by method unstructured, with finetune 0.",
        ),
    )


def _share(traits: Traits, step: ShareLayers) -> str | None:
    return _weights(traits, step) or _first(
        (traits.backbone != "transformer", "layers of a U-Net differ in shape and cannot be shared."),
        (step.group > traits.blocks, f"there are only {traits.blocks} blocks."),
        (traits.blocks % step.group > 0, f"{traits.blocks} blocks cannot be grouped by {step.group}."),
    )


def _steps(traits: Traits, step: Steps) -> str | None:
    return _first(
        (step.count == traits.steps, "it samples in so many already."),
        (step.count > traits.most_steps, f"choose 1 to {traits.most_steps}."),
        (step.count > traits.steps, f"more than its {traits.steps} would only be slower."),
    )


def _sampler(traits: Traits, step: Sampler) -> str | None:
    return _first(
        (step.method == traits.sampler, "it samples so already."),
        (step.method not in traits.samplers, f"choose one of {', '.join(traits.samplers)}."),
    )


def _guidance(traits: Traits, step: Guidance) -> str | None:
    whole = step.begin == 0 and step.end == 1
    return _first(
        (not traits.guided, "this model runs without guidance, or with it distilled into its weights."),
        (whole and step.scale == traits.guidance, "it is guided so already."),
        (step.scale == 1 and not whole, "scale 1 is no guidance; leave out begin and end."),
        (not whole and traits.steps < 2, "a part of one step is all of it or nothing."),
    )


def _cache(traits: Traits, step: Cache) -> str | None:
    wanted = {"deep": "unet", "first-block": "transformer"}[step.method]
    return _first(
        (traits.family != "diffusion", f"a {traits.family} has no steps in a row that repeat each other."),
        (traits.kind == "bundle", "the steps of a bundle are too short to look for what can be skipped."),
        (traits.steps < 2, "one step has no earlier one to take results from."),
        (traits.backbone != wanted, f"{step.method} is for a {wanted}; this is a {traits.backbone}."),
        (traits.blocks < 3, f"with {traits.blocks} blocks there is next to nothing to skip."),
        (
            step.method == "deep" and step.interval > traits.steps,
            f"an interval above its {traits.steps} steps is no other than {traits.steps}.",
        ),
    )


def _merge(traits: Traits, step: MergeTokens) -> str | None:
    return _first(
        (traits.backbone != "unet", "it is for the self-attention of a U-Net's finest level."),
        (not traits.tokens, "there is no self-attention to merge tokens for."),
        (
            traits.tokens < 1024,
            f"self-attention looks at {traits.tokens} tokens; finding pairs costs more than it saves.",
        ),
        (
            not traits.weights,
            "it is built into PyTorch's network; start from a pipeline with PyTorch weights.",
        ),
    )


def _runtime(traits: Traits, step: Runtime) -> str | None:
    package, extra = PACKAGES[step.runtime]
    wanted = f"pip install 'miaobi[{extra}]'" if extra else f"pip install {package}"
    return _first(
        (step.runtime == traits.runtime, "it runs there already."),
        (step.runtime not in traits.runtimes, f"this pipeline runs on {', '.join(traits.runtimes)}."),
        (find_spec(package) is None, f"{package} is not installed; {wanted}."),
        (
            step.runtime != "torch" and _decides(traits),
            "its cache decides while it runs which blocks to skip, which a graph "
            "cannot; leave out one of the two.",
        ),
    )


def _decides(traits: Traits) -> bool:
    """Whether a cache looks at values to decide what runs (a transformer's first-block cache does)."""
    return traits.cached and traits.backbone == "transformer"


def _precision(traits: Traits, step: Precision) -> str | None:
    return _first(
        (_with_dtype(traits, step) == traits, "it computes so already."),
        (
            traits.runtime in ("onnxruntime", "mnn") and traits.device == "cpu" and step.dtype != "float32",
            f"{traits.runtime} computes in fp32 on a CPU and would only convert {step.dtype} to and fro.",
        ),
    )


def _with_dtype(traits: Traits, step: Precision) -> Traits:
    dtype = traits.dtype if step.part == "decoder" else step.dtype
    return replace(traits, dtype=dtype, decoder_dtype=step.dtype)


def _quantize(traits: Traits, step: Quantize) -> str | None:
    calibrated = step.method in ("int8-static", "int8-mixed")
    return _first(
        (traits.quantized is not None, f"it is quantized already ({traits.quantized})."),
        (
            traits.runtime == "torch" and calibrated,
            "calibrated int8 is done on a graph; add Runtime onnxruntime or openvino before it.",
        ),
        (
            traits.runtime == "mnn" and step.method not in ("int8-weights", "int4-weights"),
            "MNN keeps weights in integers and computes in fp32; choose int8-weights or int4-weights.",
        ),
        (
            traits.runtime == "openvino" and step.method == "int8-mixed",
            "OpenVINO calibrates all or nothing; choose int8-static, int8-dynamic or weights alone.",
        ),
        (
            traits.runtime == "openvino" and "float16" in (traits.dtype, traits.decoder_dtype) and calibrated,
            "OpenVINO runs calibrated integers beside float16 by its reference code, a hundred times slower; "
            "take bfloat16 or float32.",
        ),
        (
            traits.dtype != "float32" and traits.runtime == "onnxruntime",
            f"ONNX Runtime quantizes fp32 graphs, not {traits.dtype}.",
        ),
    )


def _quantized(traits: Traits, step: Quantize) -> Traits:
    alone = traits.runtime == "onnxruntime" and traits.kind == "bundle" and step.method in ALONE
    return replace(traits, quantized=step.method, batch=1 if alone else traits.batch)


def _channels_last(traits: Traits, step: ChannelsLast) -> str | None:
    return _first(
        (traits.runtime != "torch", f"{traits.runtime} chooses its own layout; only PyTorch is told."),
        (not traits.convolutions, "the part that runs at every step has no convolutions."),
    )


def _compile(traits: Traits, step: Compile) -> str | None:
    if traits.compiled:
        return "it is compiled already."
    if traits.runtime == "torch":
        return None
    anyway = f"{traits.runtime} compiles each graph anyway"
    return _first(
        (
            traits.runtime == "onnxruntime" or traits.kind != "bundle",
            f"{anyway}; only PyTorch is told, and OpenVINO for a bundle.",
        ),
        (traits.family == "autoregressive", f"{anyway}; how tokens are chosen between them is no graph."),
        (traits.guided, f"{anyway}; one for the whole picture is built without guidance alone."),
        (
            traits.sampler != "euler" and traits.steps > 1,
            f"{anyway}; one for the whole picture is built for Euler's method alone.",
        ),
        (
            traits.dtype != traits.decoder_dtype,
            f"{anyway}; one for the whole picture computes in one type, not in {traits.dtypes()}.",
        ),
    )


def _threads(traits: Traits, step: Threads) -> str | None:
    return _first((step.count == traits.threads, "it runs with so many already."))


def _cached(traits: Traits, step: Cache) -> Traits:
    # whether blocks are skipped is decided for all that is drawn together
    return replace(traits, cached=True, batch=1 if step.method == "first-block" else traits.batch)


def _batch(traits: Traits, step: Batch) -> str | None:
    return _first(
        (step.size == traits.batch, "it draws so many together already."),
        (
            traits.cached and traits.backbone == "transformer",
            "a first-block cache decides for all that is drawn together, and a seed's picture would depend "
            "on the others; such pictures are drawn one by one.",
        ),
        (
            traits.runtime == "onnxruntime" and traits.quantized in ALONE,
            f"{traits.quantized} takes one scale for all that is drawn together, and a seed's picture would "
            "depend on the others; such pictures are drawn one by one.",
        ),
        (
            _decides(traits),
            "its cache decides for all that is drawn together, and a seed's picture would depend on "
            "the others; such pictures are drawn one by one.",
        ),
    )


_RULES: Mapping[type[Step], Callable[[Traits, Any], str | None]] = {
    Distill: _distill,
    Prune: _prune,
    ShareLayers: _share,
    TinyDecoder: lambda traits, step: None,
    Steps: _steps,
    Sampler: _sampler,
    Guidance: _guidance,
    Cache: _cache,
    MergeTokens: _merge,
    Runtime: _runtime,
    Precision: _precision,
    Quantize: _quantize,
    ChannelsLast: _channels_last,
    Compile: _compile,
    Threads: _threads,
    Batch: _batch,
}
_EFFECTS: Mapping[type[Step], Callable[[Traits, Any], Traits]] = {
    Distill: _student,
    Steps: lambda old, step: replace(old, steps=step.count),
    Sampler: lambda old, step: replace(old, sampler=step.method),
    Guidance: lambda old, step: replace(old, guidance=step.scale, guided=step.scale != 1),
    Cache: _cached,
    MergeTokens: lambda old, step: replace(old, merged=True),
    Runtime: lambda old, step: replace(old, runtime=step.runtime),
    Precision: _with_dtype,
    Quantize: _quantized,
    Compile: lambda old, step: replace(old, compiled=True),
    Threads: lambda old, step: replace(old, threads=step.count),
    Batch: lambda old, step: replace(old, batch=step.size),
}
