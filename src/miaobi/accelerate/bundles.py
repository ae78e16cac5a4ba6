"""Recipes on Miaobi's own bundles: steps that change graphs make a new bundle, the others run it otherwise.

New bundles are kept in a cache folder by what they were made of, so that a plan is made once.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from miaobi import machine
from miaobi.accelerate.recipe import (
    Batch,
    Compile,
    Distill,
    Guidance,
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
from miaobi.accelerate.rules import ALONE
from miaobi.bundle import MANIFEST, SHIPPED, Bundle, write_bundle
from miaobi.pipeline import Pipeline
from miaobi.runtimes.graph import Array, Graph, Running, open_graph
from miaobi.text.remembered import home

CALIBRATION = 24
"""Prompts of the memory that are drawn to see what the graphs are given."""


def changed(pipeline: Pipeline, recipe: Recipe) -> Pipeline:
    """The pipeline after a recipe that `check` let pass."""
    bundle, running = pipeline.bundle, pipeline.running
    for step in recipe:
        bundle, running = _CHANGES[type(step)](bundle, running, step)
    return Pipeline(bundle, running)


def save(pipeline: Pipeline, folder: Path) -> Bundle:
    """Write what a pipeline runs as a bundle of its own, its knobs included."""
    bundle = pipeline.bundle
    manifest = _manifest(bundle) | {"runtime": pipeline.running.runtime}
    return write_bundle(folder, manifest, {name: bundle.path(name) for name in bundle.files})


def student(step: Distill) -> Bundle:
    """The bundle that a `Distill` names."""
    return Bundle.load(SHIPPED if step.student == "emoji" else step.student)


def _distill(bundle: Bundle, running: Running, step: Distill) -> tuple[Bundle, Running]:
    found = student(step)
    return found, replace(running, runtime=found.runtime, compiled=False)


def _with_dtype(running: Running, step: Precision) -> Running:
    dtype = running.dtype if step.part == "decoder" else step.dtype
    return replace(running, dtype=dtype, decoder_dtype=step.dtype)


def _smaller(bundle: Bundle, running: Running, step: Prune | ShareLayers) -> tuple[Bundle, Running]:
    from miaobi.accelerate import weights

    return derived(bundle, str(step), lambda: weights.smaller(bundle, step)), running


def _with_decoder(bundle: Bundle, running: Running, step: TinyDecoder) -> tuple[Bundle, Running]:
    from miaobi.accelerate import weights

    file = Path(step.decoder) / "model.safetensors"
    if not file.exists():
        raise RecipeError(f"{step}: there is no {file}; train it with recipes/emoji/tiny_decoder.toml.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return derived(bundle, f"tiny-decoder {digest}", lambda: weights.with_decoder(bundle, step)), running


def _quantize(bundle: Bundle, running: Running, step: Quantize) -> tuple[Bundle, Running]:
    if running.runtime == "torch":
        return bundle, replace(running, quantized=step.method)

    def make() -> tuple[dict[str, Any], dict[str, bytes | Path]]:
        from miaobi.accelerate import graphs

        calibration = _seen(bundle) if step.method in ("int8-static", "int8-mixed") else {}
        files: dict[str, bytes | Path] = {name: bundle.path(name) for name in bundle.files}
        text = ("text",) if running.runtime == "onnxruntime" else ()
        for name in (*text, "context", bundle.sampled, "decoder"):
            made = graphs.quantized(
                graphs.plain(bundle.path(f"{name}.onnx")),
                step.method,
                running.runtime,
                calibration.get(name, []),
            )
            files |= {name + suffix: content for suffix, content in made.items()}
        if not text:  # ONNX Runtime runs the text encoder all the same
            plain = graphs.plain(bundle.path("text.onnx"))
            files["text.onnx"] = graphs.weights_in_integers(plain, 8, accuracy_level=4).SerializeToString()
        return {"quantized": step.method, "dtype": step.method}, files

    # one scale for all that come together would let pictures of a batch change each other
    alone = running.runtime == "onnxruntime" and step.method in ALONE
    narrow = " in 7 bits" if running.runtime == "onnxruntime" and machine.int8_overflows() else ""
    made = derived(bundle, f"{step} {running.runtime}{narrow}", make)
    return made, replace(running, batch=1) if alone else running


def _seen(bundle: Bundle) -> dict[str, list[Mapping[str, Array]]]:
    """What each graph is given while pictures of the memory's concepts are drawn one by one."""
    seen: dict[str, list[Mapping[str, Array]]] = {}

    def opened(bundle: Bundle, name: str, running: Running) -> Graph:
        return _Recorder(open_graph(bundle, name, running), seen.setdefault(name, []))

    pipe = Pipeline(bundle, Running(), opened)
    names = [concept[f"label_{language}"] for concept in pipe.memory.concepts for language in ("en", "zh")]
    chosen = names[:: max(1, len(names) // CALIBRATION)][:CALIBRATION]
    for number, name in enumerate(chosen):
        style = bundle.styles[number % len(bundle.styles)]
        pipe.generate(name, seed=number, style=style, expand=None)
    return seen


class _Recorder:
    """A graph that keeps what it is given."""

    def __init__(self, graph: Graph, seen: list[Mapping[str, Array]]) -> None:
        self._graph, self._seen, self.inputs = graph, seen, graph.inputs

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        self._seen.append({name: inputs[name].copy() for name in self.inputs})
        return self._graph(**inputs)


def derived(
    bundle: Bundle, what: str, make: Callable[[], tuple[Mapping[str, Any], Mapping[str, bytes | Path]]]
) -> Bundle:
    """The bundle that `make` (keys of its manifest, files) derives from another; made once and kept."""
    import onnxruntime

    from miaobi import __version__

    origin = json.dumps(
        [_manifest(bundle), bundle.files, what, __version__, onnxruntime.__version__], default=str
    )
    folder = home() / "derived" / hashlib.sha256(origin.encode()).hexdigest()[:24]
    if not (folder / MANIFEST).exists():
        shutil.rmtree(folder, ignore_errors=True)
        told, files = make()
        card = {"derived": f"from {bundle.name} {bundle.version} by {what}"}
        write_bundle(folder, {**_manifest(bundle), "card": card, **told}, files)
    found = Bundle.load(folder)
    # knobs are not part of what was made
    knobs = ("steps", "guidance", "sampler", "guided_part")
    return replace(found, **{name: getattr(bundle, name) for name in knobs})


def _manifest(bundle: Bundle) -> dict[str, Any]:
    """What `write_bundle` wants, from a bundle."""
    told: dict[str, Any] = json.loads((bundle.folder / MANIFEST).read_text("utf-8"))
    knobs = {name: getattr(bundle, name) for name in ("steps", "guidance", "sampler", "guided_part")}
    told["knobs"] = told.get("knobs", {}) | knobs
    return {name: value for name, value in told.items() if name not in ("format", "files")}


_CHANGES: Mapping[type[Step], Callable[[Bundle, Running, Any], tuple[Bundle, Running]]] = {
    Distill: _distill,
    Prune: _smaller,
    ShareLayers: _smaller,
    TinyDecoder: _with_decoder,
    Steps: lambda bundle, running, step: (replace(bundle, steps=step.count), running),
    Sampler: lambda bundle, running, step: (replace(bundle, sampler=step.method), running),
    Guidance: lambda bundle, running, step: (
        replace(bundle, guidance=step.scale, guided_part=(step.begin, step.end)),
        running,
    ),
    Runtime: lambda bundle, running, step: (bundle, replace(running, runtime=step.runtime)),
    Precision: lambda bundle, running, step: (bundle, _with_dtype(running, step)),
    Quantize: _quantize,
    Compile: lambda bundle, running, step: (bundle, replace(running, compiled=True)),
    Threads: lambda bundle, running, step: (bundle, replace(running, threads=step.count)),
    Batch: lambda bundle, running, step: (bundle, replace(running, batch=step.size)),
}
