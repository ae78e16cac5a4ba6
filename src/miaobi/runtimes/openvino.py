"""Run an ONNX graph with OpenVINO."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi.errors import BundleError, MachineError
from miaobi.traits import DType

Array = npt.NDArray[Any]
_PRECISION = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@cache
def core() -> Any:
    """OpenVINO's `Core`, which reads and compiles graphs; raises MachineError where it is not installed."""
    try:
        made = import_module("openvino").Core()
        frontend = import_module("openvino.frontend.onnx")
    except ImportError as error:
        raise MachineError("OpenVINO is not installed; pip install 'miaobi[openvino]'.") from error
    made.add_extension(frontend.ConversionExtension("LayerNormalization", _layer_norm))
    return made


def _layer_norm(node: Any) -> list[Any]:
    """ONNX's operator, whose scale and bias may differ between the pictures of a batch: OpenVINO's own reader
    takes them for one."""
    ops = import_module("openvino.opset13")
    epsilon = node.get_attribute("epsilon", 1e-5)
    normal = ops.mvn(node.get_input(0), np.array([-1]), True, epsilon, "INSIDE_SQRT")
    out = ops.multiply(normal, node.get_input(1))
    if node.get_input_size() > 2:
        out = ops.add(out, node.get_input(2))
    return [out.output(0)]


def runtime_name() -> str:
    """Name and version of the runtime."""
    core()
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
        self._files = [os.fspath(path), *([os.fspath(weights)] if weights else [])]
        self._open(os.path.basename(path), settings(dtype, threads, quantized))

    def _open(self, name: str, options: dict[str, Any]) -> None:
        self._name, self._options = name, options
        model = self._read()
        self.inputs: tuple[str, ...] = tuple(one.get_any_name() for one in model.inputs)
        self.outputs: tuple[str, ...] = tuple(one.get_any_name() for one in model.outputs)
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def _read(self) -> Any:
        """The graph, anew: shaping it changes it."""
        try:
            return core().read_model(*self._files)
        except RuntimeError as error:
            raise BundleError(f"{self._files[0]!r} cannot be loaded: {_last_line(error)}") from error

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
            model = self._read()
            try:
                model.reshape(dict(enumerate(map(list, shapes))))
                compiled = core().compile_model(model, "CPU", self._options)
            except RuntimeError as error:
                told = ", ".join(f"{name} {shape}" for name, shape in zip(self.inputs, shapes, strict=True))
                raise BundleError(f"{self._name} does not take {told}: {_last_line(error)}") from error
            self._requests[shapes] = compiled.create_infer_request()
        return self._requests[shapes]


class WholePicture(OpenVinoModel):
    """Context, all steps of Euler's method and decoder as one graph: "image" (B, 4, H, W) from what the
    context wants and noise "x" (B, C, h, w). Nothing is copied or waited for between its parts.

    Args:
        context, denoiser, decoder: the graphs.
        times: those of the steps, see `sampling.timesteps`.
        options: see `settings`.
    """

    def __init__(
        self,
        context: OpenVinoModel,
        denoiser: OpenVinoModel,
        decoder: OpenVinoModel,
        times: Sequence[float],
        options: dict[str, Any],
    ) -> None:
        self._context, self._denoiser, self._decoder = context, denoiser, decoder
        self._times = times
        self._open("the whole picture", options)

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """See `OpenVinoModel`."""
        count = len(inputs["x"])
        times = {f"t{number}": np.full(count, t, np.float32) for number, t in enumerate(self._times[:-1])}
        return super().__call__(**inputs, **times)

    def _read(self) -> Any:
        openvino, ops = import_module("openvino"), import_module("openvino.opset13")
        context, decoder = self._context._read(), self._decoder._read()
        given = {name: one.get_node().input_value(0) for one in context.outputs for name in one.get_names()}
        inputs = context.get_parameters()
        for number, (t, following) in enumerate(pairwise(self._times)):
            step = self._denoiser._read()
            own = _join(step, given)  # the time; in the first step the noise too
            own["t"].output(0).set_names({f"t{number}"})
            x = given["x"] if number else own["x"].output(0)
            length = ops.constant(np.float32(following - t))
            given["x"] = ops.add(x, ops.multiply(_result(step), length)).output(0)
            inputs.extend(own.values())
        _join(decoder, {"latents": given["x"]})
        image = _result(decoder)
        image.set_names({"image"})
        return openvino.Model([ops.result(image)], inputs, "picture")


def _join(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Let a model take inputs from elsewhere, by name; those that are not given, its parameters by name."""
    own = {}
    for one in model.get_parameters():
        (name,) = one.output(0).get_names()
        if name not in given:
            own[name] = one
            continue
        for target in one.output(0).get_target_inputs():
            target.replace_source_output(given[name])
    return own


def _result(model: Any) -> Any:
    return model.get_results()[0].input_value(0)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
