"""A bundle's own graphs in other tools, as one would first try them, beside Miaobi's plans, in one process.

    miaobi export recipes/emoji/teacher.toml --out runs/teacher
    python benchmarks/peers_bundle.py runs/teacher [--plan tuned/plan.toml ...]

Each tool is given the context, denoiser and decoder (PyTorch weights, or the ONNX graphs in plain fp32) and
runs them with its defaults; text encoder, retrieval, steps and guidance are the same for all but the plans.
PyTorch in fp32 is what diffusers would run. All draw in turn, round by round: ratios are of one round, their
median; PSNR is against PyTorch's pictures of the same prompts and seeds. Tools that know certain networks
alone (stable-diffusion.cpp, optimum-intel's pipelines) cannot run a bundle. Ends with one line of JSON.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from miaobi.accelerate import apply, graphs
from miaobi.accelerate.recipe import loads
from miaobi.bundle import Bundle
from miaobi.evaluate.fidelity import fidelity
from miaobi.evaluate.speed import take_turns
from miaobi.loading import load
from miaobi.pipeline import Pipeline
from miaobi.runtimes.graph import HERE, Graph, Running, open_graph

BASELINE = "PyTorch fp32"
Call = Callable[..., dict[str, np.ndarray]]


class Opened:
    """A graph in another tool: called by name, as every runtime's."""

    def __init__(self, inputs: list[str], call: Call) -> None:
        self.inputs, self._call = tuple(inputs), call

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self._call({name: np.ascontiguousarray(inputs[name]) for name in self.inputs})


def onnxruntime(path: Path) -> Graph:
    """ONNX Runtime with its defaults."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    return Opened(
        [one.name for one in session.get_inputs()],
        lambda inputs: dict(zip(outputs, session.run(None, inputs), strict=True)),
    )


def onnxruntime_dynamic(path: Path) -> Graph:
    """ONNX Runtime's dynamic quantization with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    made = path.with_suffix(".dynamic.onnx")
    with graphs.quiet():
        quantize_dynamic(path, made)
    return onnxruntime(made)


def openvino(path: Path, change: Callable[[Any], Any] = lambda model: model) -> Graph:
    """OpenVINO with its defaults, which compute in bf16 where the CPU multiplies it."""
    import openvino as ov

    core = ov.Core()
    with graphs.quiet():
        compiled = core.compile_model(change(core.read_model(path)), "CPU")
    outputs = [one.get_any_name() for one in compiled.outputs]

    def call(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(inputs)
        return {name: found[place].copy() for place, name in enumerate(outputs)}

    return Opened([one.get_any_name() for one in compiled.inputs], call)


def nncf_weights(path: Path) -> Graph:
    """OpenVINO, the weights compressed by NNCF with its defaults."""
    import nncf

    return openvino(path, nncf.compress_weights)


OPENERS: dict[str, Callable[[Path], Graph]] = {
    "ONNX Runtime": onnxruntime,
    "ONNX Runtime int8 dynamic": onnxruntime_dynamic,
    "OpenVINO": openvino,
    "OpenVINO int8 weights (NNCF)": nncf_weights,
}
RUNNING = {
    BASELINE: Running("torch"),
    "PyTorch bf16 autocast": Running("torch", "bfloat16", "bfloat16"),
    "PyTorch compile": Running("torch", compiled=True),
}


def with_opener(bundle: Bundle, opener: Callable[[Path], Graph], folder: Path) -> Pipeline:
    """The bundle with its graphs, in plain fp32, opened by another tool."""

    def opened(bundle: Bundle, name: str, running: Running) -> Graph:
        if name in HERE:
            return open_graph(bundle, name, running)
        path = folder / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(graphs.plain(bundle.path(path.name)).SerializeToString())
        return opener(path)

    return Pipeline(bundle, Running(), opened)


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--plan", "plans", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True)
@click.option("--pictures", type=click.IntRange(1), default=8, show_default=True, help="Compared for PSNR.")
def main(model: Path, plans: tuple[Path, ...], rounds: int, pictures: int) -> None:
    logging.disable(logging.WARNING)
    bundle, failed = Bundle.load(model), {}
    pipes = {name: Pipeline(bundle, running) for name, running in RUNNING.items()}
    with TemporaryDirectory() as temporary:
        for name, opener in OPENERS.items():
            try:
                pipe = with_opener(bundle, opener, Path(temporary))
                pipe.generate("a cat", seed=0)
                pipes[name] = pipe
            except Exception as error:  # a tool's own error is what is to be shown
                failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
        for plan in plans:
            pipes[f"miaobi {plan.stem}"] = apply(load(model), loads(plan.read_text("utf-8")))
        timings = take_turns(pipes, rounds, warm_up=4)
        rows = {}
        for name, pipe in pipes.items():
            near = fidelity(pipes[BASELINE], pipe, pictures, features=False)["psnr_db"].value
            speedup = timings.speedup(name, BASELINE)
            rows[name] = {
                "ms": round(float(np.median(timings.ms[name])), 2),
                "times": [round(one, 3) for one in (speedup.value, speedup.low, speedup.high)],
                "psnr_db": round(near, 1),
            }
    click.echo(
        f"{bundle.name} {bundle.version}, {bundle.steps} steps, guidance {bundle.guidance:g}, {rounds} rounds"
    )
    click.echo(f"{'':32}{'ms':>9}{'times':>8}{'95 %':>18}{'PSNR dB':>9}")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["times"][0]):
        times, low, high = row["times"]
        click.echo(
            f"{name:32}{row['ms']:9.1f}{times:8.2f}{f'[{low:.2f}, {high:.2f}]':>18}{row['psnr_db']:9.1f}"
        )
    for name, why in failed.items():
        click.echo(f"{name:32}failed: {why}")
    click.echo(json.dumps({"model": bundle.name, "rounds": rounds, "peers": rows, "failed": failed}))


if __name__ == "__main__":
    main()
