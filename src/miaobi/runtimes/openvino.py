"""Run an ONNX graph with OpenVINO."""

import os
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi.errors import BundleError, MachineError
from miaobi.traits import DType

Array = npt.NDArray[Any]
_PRECISION = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@cache
def _core() -> Any:
    try:
        return import_module("openvino").Core()
    except ImportError as error:
        raise MachineError("OpenVINO is not installed; pip install 'miaobi[openvino]'.") from error


def runtime_name() -> str:
    """Name and version of the runtime."""
    _core()
    return f"openvino {import_module('openvino').__version__.split('-')[0]}"


def settings(dtype: DType, threads: int, quantized: str | None) -> dict[str, Any]:
    """How OpenVINO compiles a graph for one picture at a time.

    Args:
        dtype: type of the arithmetic; what is quantized in the graph stays so.
        threads: threads of one operator, 0 = the runtime chooses.
        quantized: how the graph was quantized. OpenVINO can multiply matrices that are stored in integers in
            int8, every 32 values of a row scaled as they come (so that pictures of a batch do not change each
            other). "int8-dynamic" asks for it; for methods that do not say so it is switched off.
    """
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if quantized == "int8-dynamic" else 0,
    }
    return chosen | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


class OpenVinoModel:
    """One graph; call it with its inputs by name, get its outputs by name.

    It is compiled for each set of input shapes that it meets: known shapes make small graphs faster.

    Args:
        path: an `.onnx` file, or an `.xml` file of OpenVINO's.
        threads, dtype, quantized: see `settings`.
        weights: the weights of an `.xml` file.

    Raises:
        BundleError: the file is no graph that the runtime can run.
        MachineError: OpenVINO is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 0,
        dtype: DType = "float32",
        weights: str | os.PathLike[str] | None = None,
        quantized: str | None = None,
    ) -> None:
        self._name = os.path.basename(path)
        self._options = settings(dtype, threads, quantized)
        self._files = [os.fspath(path), *([os.fspath(weights)] if weights else [])]
        try:
            model = _core().read_model(*self._files)
        except RuntimeError as error:
            raise BundleError(f"{self._files[0]!r} cannot be loaded: {_last_line(error)}") from error
        self.inputs: tuple[str, ...] = tuple(one.get_any_name() for one in model.inputs)
        self.outputs: tuple[str, ...] = tuple(one.get_any_name() for one in model.outputs)
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Run the graph. Inputs that it does not know are left out, which lets one set of tensors feed many
        graphs.

        Raises:
            BundleError: an input is missing or does not fit the graph.
            MachineError: the runtime failed (such as for lack of memory).
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise BundleError(
                f"{self._name} wants {', '.join(missing)}; it does not fit the rest of its bundle."
            )
        given = [np.ascontiguousarray(inputs[name]) for name in self.inputs]
        request = self._request(tuple(array.shape for array in given))
        try:
            results = request.infer(dict(enumerate(given)), share_inputs=True)
        except RuntimeError as error:
            raise MachineError(f"{self._name} failed: {_last_line(error)}") from error
        return {name: results[index] for index, name in enumerate(self.outputs)}

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        if shapes not in self._requests:
            model = _core().read_model(*self._files)
            try:
                model.reshape(dict(enumerate(map(list, shapes))))
                compiled = _core().compile_model(model, "CPU", self._options)
            except RuntimeError as error:
                told = ", ".join(f"{name} {shape}" for name, shape in zip(self.inputs, shapes, strict=True))
                raise BundleError(f"{self._name} does not take {told}: {_last_line(error)}") from error
            self._requests[shapes] = compiled.create_infer_request()
        return self._requests[shapes]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
