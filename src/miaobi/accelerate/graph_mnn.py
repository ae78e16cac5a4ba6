"""Graphs of MNN: from a PyTorch module by way of ONNX, and run.

MNN computes 3x3 convolutions by minimal filtering (Lavin & Gray 2015, "Fast Algorithms for Convolutional
Neural Networks", arXiv:1509.09308): a fourth to a fifth of the multiplications, for larger weights in memory
and results that are off by about a thousandth.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.accelerate import graph_onnx
from miaobi.errors import MachineError
from miaobi.runtimes.memory import available_bytes, check_fits
from miaobi.traits import DType

Inputs = tuple[Tensor, ...]
PACKAGES = ("mnn", *graph_onnx.PACKAGES)
AT_RUN = ("dtype", "threads")
"""Options that a graph takes when it is run and not when it is made."""
FILE = "graph.mnn"
_WEIGHTS = f"{FILE}.weight"
_FACTS = "facts.json"
_BITS = {"int8-weights": "8", "int4-weights": "4"}
# The command `mnnconvert` installs a package that reports conversions to its makers; this is what it calls.
_WRONG = {"ReduceL2", "ScatterElements"}
"""Operators that MNN 3.6.1 converts and computes wrongly, or crashes in."""
_CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"


def export(
    flat: nn.Module, inputs: Inputs, folder: Path, quantized: str | None, recorded: Callable[[], list[Inputs]]
) -> list[str]:
    """Write the graph of `flat` for the shapes of `inputs`, and tell what is to be known of it."""
    import onnx

    graph_onnx.export(flat, inputs, folder, None, recorded)
    source = folder / graph_onnx.FILE
    graph = onnx.load(str(source), load_external_data=False).graph
    wrong = sorted({one.op_type for one in graph.node} & _WRONG)
    if wrong:
        raise MachineError(f"MNN computes {', '.join(wrong)} wrongly; choose another runtime.")
    facts = {
        "inputs": [one.name for one in graph.input],
        "outputs": [one.name for one in graph.output],
        "memory_bytes": _memory_bytes(graph),
    }
    (folder / _FACTS).write_text(json.dumps(facts), "utf-8")
    command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--modelFile", str(source)]
    command += ["--MNNModel", str(folder / FILE), "--bizCode", "miaobi", "--saveExternalData", "1"]
    command += ["--weightQuantBits", _BITS[quantized]] if quantized else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (folder / FILE).exists():
        raise MachineError(f"MNN cannot convert the graph: {(done.stdout + done.stderr).strip()[-300:]}")
    for path in folder.glob(f"{graph_onnx.FILE}*"):
        path.unlink()
    return [f"weights kept in int{_BITS[quantized]}; computed in fp32"] if quantized else []


def load(folder: Path, dtype: DType, threads: int, quantized: str | None) -> Callable[[Inputs], list[Tensor]]:
    """A function that runs the graph."""
    facts = json.loads((folder / _FACTS).read_text("utf-8"))
    check_fits("what MNN makes of the network", facts["memory_bytes"], available_bytes())
    with _silent():
        import MNN.nn
        from MNN import expr

        config = {"backend": "CPU", "precision": "high", "numThread": threads or torch.get_num_threads()}
        manager = MNN.nn.create_runtime_manager((config,))
        manager.set_external(str(folder / _WEIGHTS))
        module = MNN.nn.load_module_from_file(
            str(folder / FILE), facts["inputs"], facts["outputs"], runtime_manager=manager
        )

    def run(inputs: Inputs) -> list[Tensor]:
        given = []
        for one in inputs:
            whole = not one.is_floating_point()
            array = one.detach().to(torch.int32 if whole else torch.float32).contiguous().numpy()
            kind = expr.int if whole else expr.float
            given.append(expr.const(array, list(array.shape), expr.NCHW, kind))
        made = module.forward(given)
        if len(made) != len(facts["outputs"]):
            raise RuntimeError("MNN ran out of memory or cannot run the network; it does not say which.")
        return [torch.from_numpy(expr.convert(one, expr.NCHW).read().copy()) for one in made]

    return run


def _memory_bytes(graph: Any) -> int:
    """Bytes of a graph's weights, those of 3x3 convolutions transformed for tiles of 6x6, the least."""
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    filtered = {one.input[1] for one in graph.node if one.op_type == "Conv"}
    return sum(
        4 * math.prod(shape) * (4 if name in filtered and shape[2:] == (3, 3) else 1)
        for name, shape in shapes.items()
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what MNN prints to standard output, from where Python does not see it."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
