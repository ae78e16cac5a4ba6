"""Run an ONNX graph with ONNX Runtime; no PyTorch."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from miaobi.errors import BundleError, InputError, MachineError

Array = npt.NDArray[Any]

AS_FLOATS = ("session.disable_quant_qdq", "1")
"""The setting with which ONNX Runtime turns weights in int8 back once, when it loads a graph. Otherwise it
multiplies them in int8, activations rounded as they come (`MatMulNBits`)."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def runtime_name() -> str:
    """Name and version of the runtime."""
    return f"onnxruntime {ort.__version__}"


def pick_device(device: str) -> tuple[str, list[str]]:
    """The device that will run, and why it is another than asked (empty where it is not).

    Raises:
        InputError: the device is unknown.
    """
    if device not in _PROVIDERS:
        raise InputError(f"unknown device {device!r}; choose one of {', '.join(_PROVIDERS)}.")
    if _PROVIDERS[device] in ort.get_available_providers():
        return device, []
    return "cpu", [f"device {device}: this onnxruntime has no {_PROVIDERS[device]}, ran on cpu"]


class OnnxModel:
    """One graph; call it with its inputs by name, get its outputs by name.

    Args:
        path: an `.onnx` file.
        threads: threads of one operator, 0 = as many as there are physical cores.
        device: "cpu" or "cuda", as `pick_device` answers.
        as_floats: multiply in fp32 what is stored in int8.

    Raises:
        BundleError: the file is no graph that the runtime can run.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 0,
        device: str = "cpu",
        as_floats: bool = False,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        # idle threads of one graph must not spin while the next graph runs
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if as_floats:
            options.add_session_config_entry(*AS_FLOATS)
        self._name = os.path.basename(path)
        try:
            self._session = ort.InferenceSession(os.fspath(path), options, providers=[_PROVIDERS[device]])
        except Exception as error:  # onnxruntime's own errors share no base class
            raise BundleError(f"{os.fspath(path)!r} cannot be loaded: {_first_line(error)}") from error
        self.inputs: tuple[str, ...] = tuple(one.name for one in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(one.name for one in self._session.get_outputs())

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
        try:
            results = self._session.run(
                None, {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
            )
        except Exception as error:
            wrong = type(error).__name__ == "InvalidArgument"
            kind = BundleError if wrong else MachineError
            raise kind(f"{self._name} failed: {_first_line(error)}") from error
        return dict(zip(self.outputs, results, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
