"""Graphs of OpenVINO: from a PyTorch module, in integers where asked, and run."""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.errors import MachineError
from miaobi.runtimes.openvino import settings
from miaobi.traits import DType

Inputs = tuple[Tensor, ...]
PACKAGES = ("openvino",)
AT_RUN = ("dtype", "threads")
"""Options that a graph takes when it is run and not when it is made."""
FILE = "graph.xml"
_ATTENTION = ("ScaledDotProductAttention", "Softmax")  # which stay in fp32, as NNCF knows of transformers


def export(
    flat: nn.Module, inputs: Inputs, folder: Path, quantized: str | None, recorded: Callable[[], list[Inputs]]
) -> list[str]:
    """Write the graph of `flat` for the shapes of `inputs`, and tell what is to be known of it.

    PyTorch's tracer is asked first, which OpenVINO understands best, `torch.export` where it fails.
    """
    import openvino

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, of shapes that are fixed here
            model = openvino.convert_model(flat, example_input=inputs)
    except Exception:  # whatever a model's code makes the tracer raise
        model = openvino.convert_model(torch.export.export(flat, inputs, strict=False))
    model.reshape({place: list(one.shape) for place, one in enumerate(inputs)})
    notes: list[str] = []
    if quantized:
        model = _in_integers(model, quantized, recorded, notes)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return notes


def load(folder: Path, dtype: DType, threads: int, quantized: str | None) -> Callable[[Inputs], list[Tensor]]:
    """A function that runs the graph."""
    import openvino

    compiled = openvino.Core().compile_model(folder / FILE, "CPU", settings(dtype, threads, quantized))
    request = compiled.create_infer_request()

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {place: one.detach().contiguous().numpy() for place, one in enumerate(inputs)}
        request.infer(arrays, share_inputs=True)
        return [torch.from_numpy(one.data.copy()) for one in request.output_tensors]

    return run


def _in_integers(model: Any, method: str, recorded: Callable[[], list[Inputs]], notes: list[str]) -> Any:
    """The model with integers in it, by NNCF."""
    try:
        import nncf
    except ImportError as error:
        raise MachineError("int8 for OpenVINO needs NNCF; pip install 'miaobi[openvino]'.") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # progress bars
        if method == "int8-static":
            attends = any(one.get_type_name() in _ATTENTION for one in model.get_ops())
            rows = [{place: one.numpy() for place, one in enumerate(inputs)} for inputs in recorded()]
            notes.append(f"int8 from {len(rows)} recorded calls; what the operators lack in int8 stays fp32")
            return nncf.quantize(
                model,
                nncf.Dataset(rows),
                subset_size=len(rows),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if attends else None,
            )
        if method == "int4-weights":
            notes.append("weights of matrix products in int4, others in int8; activations fp32")
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=-1)
        products = "; matrix products in int8, scaled as they come" if method == "int8-dynamic" else ""
        notes.append(f"weights in int8{products}; the rest fp32")
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
