"""Graphs of ONNX Runtime: from a PyTorch module, in integers where asked, and run."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.accelerate.graphs import quiet
from miaobi.errors import MachineError
from miaobi.machine import int8_overflows
from miaobi.traits import DType

Inputs = tuple[Tensor, ...]
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
AT_RUN = ("dtype", "threads")
"""Options that a graph takes when it is run and not when it is made."""
FILE = "graph.onnx"
_WHOLE = "whole.onnx"
MATRICES, CONVOLUTIONS = ["MatMul", "Gemm"], ["Conv"]
BLOCK = 32
"""Weights that share a scale where weights alone are integers."""


def export(
    flat: nn.Module, inputs: Inputs, folder: Path, quantized: str | None, recorded: Callable[[], list[Inputs]]
) -> list[str]:
    """Write the graph of `flat` for the shapes of `inputs`, and tell what is to be known of it.

    Weights are files beside it: a graph of more than 2 GB could not hold them.
    """
    with quiet(), redirect_stderr(io.StringIO()):  # of the exporter, of shapes that are fixed here
        program = torch.onnx.export(flat, inputs, dynamo=True, verbose=False, external_data=True)
        assert program is not None
        program.save(str(folder / (_WHOLE if quantized else FILE)), external_data=True)
        del program
        if quantized:
            note = _in_integers(folder, quantized, recorded)
            for path in folder.glob(_WHOLE + "*"):
                path.unlink()
            return [note]
    return []


def load(folder: Path, dtype: DType, threads: int, quantized: str | None) -> Callable[[Inputs], list[Tensor]]:
    """A function that runs the graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = ort.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {name: one.detach().contiguous().numpy() for name, one in zip(names, inputs, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, arrays)]

    return run


def _in_integers(folder: Path, method: str, recorded: Callable[[], list[Inputs]]) -> str:
    """The whole graph of the folder in integers, by ONNX Runtime's own tools; tells what they are."""
    try:
        from onnxruntime import quantization as tools

        from miaobi.accelerate.graphs import matmul_nbits
    except ImportError as error:
        raise MachineError("int8 for ONNX Runtime needs onnx; pip install 'miaobi[train]'.") from error
    import onnx

    whole, out = str(folder / _WHOLE), str(folder / FILE)
    if method in ("int8-weights", "int4-weights"):
        bits = 8 if method == "int8-weights" else 4
        nbits = matmul_nbits()
        config = nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
        quantizer = nbits.MatMulNBitsQuantizer(onnx.load(whole), bits=bits, algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(out, use_external_data_format=True)
        return f"weights of matrix products in int{bits}; convolutions and activations fp32"
    if method != "int8-static":
        dynamic = out if method == "int8-dynamic" else str(folder / f"{_WHOLE}.dynamic")
        tools.quantize_dynamic(
            whole,
            dynamic,
            op_types_to_quantize=MATRICES,
            per_channel=True,
            reduce_range=int8_overflows(),
            use_external_data_format=True,
        )
        whole = dynamic
    if method == "int8-dynamic":
        return "matrix products in int8, scaled as they come; convolutions fp32"
    rows = recorded()
    names = [one.name for one in onnx.load(whole, load_external_data=False).graph.input]
    tools.quantize_static(
        whole,
        out,
        _Rows(names, rows),
        quant_format=tools.QuantFormat.QDQ,
        op_types_to_quantize=CONVOLUTIONS + (MATRICES if method == "int8-static" else []),
        per_channel=True,
        reduce_range=int8_overflows(),
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        use_external_data_format=True,
    )
    scaled = "" if method == "int8-static" else ", products scaled as they come"
    return f"convolutions and matrix products in int8 from {len(rows)} recorded calls{scaled}; the rest fp32"


class _Rows:
    """Calibration inputs as ONNX Runtime reads them."""

    def __init__(self, names: list[str], rows: list[Inputs]) -> None:
        self._rows = iter([dict(zip(names, (one.numpy() for one in row), strict=True)) for row in rows])

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs, or None after the last."""
        return next(self._rows, None)
