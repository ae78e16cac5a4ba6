"""How fast a bundle draws, as ratios measured in one run on one machine.

    python benchmarks/generate.py [-m BUNDLE] [--teacher runs/generator] [--install]

Warm: one picture (median, 95th percentile, by stage) and batches of 8, beside the PyTorch fp32 teacher with
50 guided steps, and the arithmetic limit: the FLOPs of the graphs that really ran, divided by the rate of
this machine's fp32 matrix product with the same threads. A scene at 512 px (plan, layers, composition,
enlarging) beside single pictures in turn, and what 10,000 remembered pictures add. Cold: `miaobi generate`
from process start to file written, and peak memory; a first run, which brings the files into the page cache,
is left out. `--install`
adds the sizes of the wheel and of a fresh virtual environment with it. Ends with one line of JSON.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import numpy as np

Figures = dict[str, float]
Shape = tuple[int, ...]
PROMPT = "a colorful parrot"
SCENE, SCENE_PX = "一只在花园里飞翔的彩色鹦鹉", 512
GEMM_SIZE = 2048


def cold(model: str | None, runs: int, prompt: str, *options: str) -> Figures:
    """Wall time and peak memory of `miaobi generate` as a process of its own, medians of `runs`.

    Measured while this process is still small: a child's peak starts at what its parent held.
    """
    walls, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-c", "import sys; from miaobi.cli import main; sys.exit(main())"]
        output = str(Path(folder) / "cold.png")
        command = [*program, "generate", prompt, *options, "--seed", "1", "--quiet", "-o", output]
        command += ["-m", model] if model else []
        for _ in range(runs + 1):
            started = time.perf_counter()
            child = os.posix_spawn(command[0], command, os.environ)
            _, status, usage = os.wait4(child, 0)
            walls.append(time.perf_counter() - started)
            peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if status:
                raise click.ClickException("`miaobi generate` failed; its message is above")
    return {
        "cold_ms": median(walls[1:]) * 1000,
        "cold_best_ms": min(walls[1:]) * 1000,
        "cold_peak_mb": median(peaks[1:]) / 1e6,
    }


def warm(pipe: Any, runs: int) -> Figures:
    """Milliseconds of one picture at a time, in all and by stage, and of a picture in batches of 8."""
    for seed in range(5):
        pipe.generate(PROMPT, seed=seed)
    times, stages = [], []
    for seed in range(runs):
        started = time.perf_counter()
        receipt = pipe.generate(PROMPT, seed=seed).receipt
        times.append((time.perf_counter() - started) * 1000)
        stages.append(receipt.stages_ms)
    pipe.generate(PROMPT, n=8, seed=0)
    batches = []
    for _ in range(max(3, runs // 8)):
        started = time.perf_counter()
        pipe.generate(PROMPT, n=8, seed=0)
        batches.append((time.perf_counter() - started) * 1000 / 8)
    return {
        "warm_median_ms": median(times),
        "warm_p95_ms": quantiles(times, n=20)[-1],
        "steps": receipt.steps,
        **{f"warm_{stage}_ms": median(one[stage] for one in stages) for stage in stages[0]},
        "batch8_ms_per_picture": median(batches),
        "batch8_pictures_per_s": 1000 / median(batches),
    }


def scene(pipe: Any, runs: int) -> Figures:
    """Milliseconds of a scene, in all and by stage, and in single pictures drawn in turn with it."""
    times: dict[str, list[float]] = {SCENE: [], PROMPT: []}
    stages = []
    for seed in range(-3, runs):
        for prompt, size in ((SCENE, SCENE_PX), (PROMPT, None)):
            started = time.perf_counter()
            receipt = pipe.generate(prompt, seed=abs(seed), size_px=size).receipt
            if seed >= 0:
                times[prompt].append((time.perf_counter() - started) * 1000)
                stages += [receipt.stages_ms] if prompt == SCENE else []
    return {
        "scene_median_ms": median(times[SCENE]),
        "scene_p95_ms": quantiles(times[SCENE], n=20)[-1],
        **{f"scene_{stage}_ms": median(one[stage] for one in stages) for stage in stages[0]},
        "scene_times_single": median(a / b for a, b in zip(times[SCENE], times[PROMPT], strict=True)),
    }


def remembering(model: str | None, threads: int | None, names: int, runs: int) -> Figures:
    """What `names` remembered pictures add to the milliseconds of a picture: medians of runs in turn."""
    from miaobi import load
    from miaobi.text.remembered import Remembered, file_of

    plain = load(model, threads=threads)
    if "encoder.onnx" not in plain.bundle.files:
        return {}
    rng, size = np.random.default_rng(0), plain.memory.keys.shape[1]
    keys = rng.standard_normal((names, size), dtype=np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    latents = rng.standard_normal((names, *plain.bundle.latent_shape), dtype=np.float32).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        before, os.environ["MIAOBI_HOME"] = os.environ.get("MIAOBI_HOME"), folder
        every = tuple(f"picture {number}" for number in range(names))
        Remembered(every, keys, latents, np.zeros(names, np.int64)).save(file_of(plain.bundle))
        full = load(model, threads=threads)
        os.environ.pop("MIAOBI_HOME")
        if before is not None:
            os.environ["MIAOBI_HOME"] = before
    times: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(-3, runs):
        for more, pipe in ((False, plain), (True, full)):
            ms = pipe.generate(PROMPT, seed=abs(seed)).receipt.total_ms
            times[more] += [ms] if seed >= 0 else []
    added = median(more - less for less, more in zip(times[False], times[True], strict=True))
    return {f"remembered_{names}_added_ms": added}


def flops(path: Path, shapes: Mapping[str, Shape]) -> int:
    """Floating-point operations of an ONNX graph whose inputs have these shapes.

    Matrix products, convolutions and attention count (2 for a multiplication and addition), nothing else. The
    graph runs once on zeros, so that every shape is a real one.
    Raises ValueError where the shape of an input is missing.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(path))
    graph = model.graph
    zeros = {}
    for value in graph.input:
        kind = value.type.tensor_type
        shape = shapes.get(value.name) or tuple(axis.dim_value for axis in kind.shape.dim)
        if not all(shape):
            raise ValueError(f"{path.name}: the shape of {value.name} is unknown")
        zeros[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shown = {value.name for value in graph.output}
    inner = [name for node in graph.node for name in node.output if name and name not in shown]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    known: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    known |= {name: array.shape for name, array in zeros.items()}
    known |= {name: np.shape(array) for name, array in zip(names, session.run(None, zeros), strict=True)}
    return sum(
        _COUNTS[node.op_type](node, [known[name] if name else () for name in (*node.input, node.output[0])])
        for node in graph.node
        if node.op_type in _COUNTS
    )


def _matmul(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[-1]) * shapes[0][-1]


def _gemm(node: Any, shapes: list[Shape]) -> int:
    transposed = any(one.name == "transA" and one.i for one in node.attribute)
    return 2 * math.prod(shapes[-1]) * shapes[0][0 if transposed else 1]


def _conv(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[-1]) * math.prod(shapes[1][1:])


def _conv_transpose(_node: Any, shapes: list[Shape]) -> int:
    return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _attention(node: Any, shapes: list[Shape]) -> int:
    """Q Kᵀ and its product with V, each (B, heads, L, width) or (B, L, heads · width)."""
    query, key, value = shapes[:3]
    heads: dict[str, int] = {one.name: one.i for one in node.attribute}
    if len(query) == 3:
        groups = heads["q_num_heads"] // heads["kv_num_heads"]
        return 2 * query[0] * query[1] * key[1] * (query[2] + value[2] * groups)
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


_COUNTS: dict[str, Callable[[Any, list[Shape]], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulNBits": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
}


@contextmanager
def recorded_calls() -> Iterator[list[tuple[str, dict[str, Shape]]]]:
    """The file name and input shapes of every graph that runs inside the block."""
    from miaobi.runtimes.onnx import OnnxModel

    calls: list[tuple[str, dict[str, Shape]]] = []
    run = OnnxModel.__call__

    def recording(self: OnnxModel, **inputs: Any) -> dict[str, Any]:
        calls.append((self._name, {name: tuple(inputs[name].shape) for name in self.inputs}))
        return run(self, **inputs)

    OnnxModel.__call__ = recording  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        OnnxModel.__call__ = run  # type: ignore[method-assign]


def picture_flops(pipe: Any) -> dict[str, int]:
    """FLOPs of one picture by graph, all steps together, at the shapes that really ran."""
    with recorded_calls() as calls:
        pipe.generate(PROMPT, seed=0)
    counted: dict[str, int] = {}
    for name, shapes in calls:
        counted[name] = counted.get(name, 0) + flops(pipe.bundle.path(name), shapes)
    return counted


def gemm_rate(threads: int, runs: int = 10) -> float:
    """FLOP/s of the fastest of `runs` fp32 products of square matrices in the same runtime."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    sides = [GEMM_SIZE, GEMM_SIZE]
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(sides, dtype=np.float32) for name in "ab"}
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - started)
    return float(2 * GEMM_SIZE**3 / min(times[1:]))


def teacher_ms(folder: Path, style: str, threads: int, runs: int = 3) -> float:
    """Median milliseconds of one picture by the PyTorch fp32 teacher with 50 guided steps."""
    import torch

    from miaobi.train.generator import load_teacher

    if threads:
        torch.set_num_threads(threads)
    draw, times = load_teacher(folder), []
    for seed in range(runs + 1):
        started = time.perf_counter()
        draw([PROMPT], [style], [seed])
        times.append((time.perf_counter() - started) * 1000)
    return median(times[1:])


def install_sizes(root: Path) -> Figures:
    """Megabytes of the wheel built from `root`, and of a fresh virtual environment with that alone.

    Installed as `make generate` does, without compiling, and after a first picture; then with every module
    compiled, as a plain `pip install` leaves it.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheels, fresh = Path(folder) / "wheels", Path(folder) / "venv"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(root)], check=True)
        wheel = next(wheels.glob("*.whl"))
        venv.create(fresh, with_pip=True)
        python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
        subprocess.run([python, *pip[1:], "install", "--no-compile", str(wheel)], check=True)

        def size_mb() -> float:
            files = [path for path in fresh.rglob("*") if path.is_file() and not path.is_symlink()]
            return sum(path.stat().st_size for path in files) / 1e6

        first = "import miaobi; miaobi.load().generate('cat', seed=0)"
        subprocess.run([python, "-c", first], check=True, cwd=folder)
        as_made = size_mb()
        subprocess.run([python, "-m", "compileall", "-q", str(fresh)], check=False)
        with_torch = any(path.name == "torch" for path in fresh.rglob("site-packages/torch"))
        return {
            "wheel_mb": wheel.stat().st_size / 1e6,
            "install_mb": as_made,
            "install_compiled_mb": size_mb(),
            "install_has_torch": float(with_torch),
        }


@click.command(help=__doc__)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the runtime chooses]")
@click.option("--runs", type=click.IntRange(2), default=50, show_default=True, help="Warm pictures to time.")
@click.option("--cold-runs", type=click.IntRange(1), default=5, show_default=True, help="Processes to time.")
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), help="Run folder of the generator.")
@click.option("--install", is_flag=True, help="Also measure a fresh installation.")
def main(
    model: str | None, threads: int | None, runs: int, cold_runs: int, teacher: Path | None, install: bool
) -> None:
    figures: Figures = cold(model, cold_runs, PROMPT)
    of_scene = cold(model, cold_runs, SCENE, "--size", str(SCENE_PX))
    figures |= {f"scene_{name}": value for name, value in of_scene.items()}

    from miaobi import load

    pipe = load(model, threads=threads)
    rate_before = gemm_rate(pipe.running.threads)
    figures |= warm(pipe, runs)
    figures |= scene(pipe, max(3, runs // 2))
    figures |= remembering(model, threads, 10_000, runs)
    rate = max(rate_before, gemm_rate(pipe.running.threads))
    counted = picture_flops(pipe)
    figures |= {f"mflops_{name.removesuffix('.onnx')}": count / 1e6 for name, count in counted.items()}
    figures |= {"mflops": sum(counted.values()) / 1e6, "gemm_gflops_per_s": rate / 1e9}
    figures["limit_ms"] = sum(counted.values()) / rate * 1000
    figures["times_the_limit"] = figures["warm_median_ms"] / figures["limit_ms"]
    if teacher is not None:
        figures["teacher_ms"] = teacher_ms(teacher, pipe.bundle.default_style, pipe.running.threads)
        figures["times_faster_than_teacher"] = figures["teacher_ms"] / figures["warm_median_ms"]
    if install:
        figures |= install_sizes(Path(__file__).resolve().parents[1])
    for name, value in figures.items():
        click.echo(f"{name:<27} {value:12,.2f}")
    about = {
        "bundle": f"{pipe.bundle.name} {pipe.bundle.version}",
        "threads": pipe.running.threads,
        "cpus": os.cpu_count(),
    }
    click.echo(json.dumps(about | {name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
