"""A bundle's ONNX graphs, unpacked to plain fp32 and quantized by the runtimes' own tools."""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort

from miaobi.errors import MachineError
from miaobi.machine import int8_overflows
from miaobi.runtimes.onnx import AS_FLOATS
from miaobi.runtimes.openvino import core
from miaobi.traits import RuntimeName

Inputs = Mapping[str, npt.NDArray[Any]]
MATRICES, CONVOLUTIONS = ["MatMul", "Gemm"], ["Conv"]
_BITS = {"int8-weights": 8, "int4-weights": 4}


def plain(path: Path) -> onnx.ModelProto:
    """The graph at `path` in plain fp32: constants folded, integer weights turned back."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.add_session_config_entry(*AS_FLOATS)
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def quantized(
    model: onnx.ModelProto, method: str, runtime: RuntimeName, calibration: Sequence[Inputs]
) -> dict[str, bytes]:
    """Files by suffix (".onnx", or ".xml" and ".weights") of a plain graph in integers.

    Args:
        method: as `recipe.Quantize` has it; "int8-mixed" calibrates convolutions and leaves it to each
            multiplication of matrices to scale what comes.
        calibration: inputs that the graph was really given.

    Raises:
        MachineError: the runtime's tool is not installed or failed.
    """
    with quiet():
        if runtime == "openvino":
            return _by_nncf(model, method, calibration)
        if method in _BITS:
            return {".onnx": weights_in_integers(model, _BITS[method]).SerializeToString()}
        if method != "int8-static":
            model = _dynamic(model)
        if method != "int8-dynamic":
            model = _static(model, calibration, CONVOLUTIONS + (MATRICES if method == "int8-static" else []))
        return {".onnx": model.SerializeToString()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, advice and progress bars that the tools print."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _has(model: onnx.ModelProto, kinds: Iterable[str]) -> bool:
    return any(node.op_type in kinds for node in model.graph.node)


def _dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not _has(model, MATRICES):
        return model
    with TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=MATRICES,
            per_channel=True,
            reduce_range=int8_overflows(),
            weight_type=QuantType.QInt8,
        )
        return onnx.load(str(path))


def _static(model: onnx.ModelProto, calibration: Sequence[Inputs], kinds: list[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            one = next(self._left, None)
            return None if one is None else dict(one)

    if not _has(model, kinds):
        return model
    with TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=int8_overflows(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=kinds,
        )
        return onnx.load(str(path))


def weights_in_integers(
    model: onnx.ModelProto, bits: int, block_size: int = 32, accuracy_level: int = 1
) -> onnx.ModelProto:
    """The graph with its constant matrices as `MatMulNBits`, with a scale for every `block_size` weights.

    Args:
        accuracy_level: of the operator: 1 multiplies in fp32, 4 in int8.
    """
    nbits = matmul_nbits()
    config = nbits.DefaultWeightOnlyQuantConfig(
        block_size=block_size, is_symmetric=True, accuracy_level=accuracy_level, bits=bits
    )
    quantizer = nbits.MatMulNBitsQuantizer(model, bits=bits, algo_config=config)
    quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    return made


def matmul_nbits() -> Any:
    """ONNX Runtime's module that quantizes weights; what its import does to logging is undone."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    root.setLevel(level)
    root.handlers[:] = handlers
    logging.getLogger(nbits.__name__).setLevel(logging.WARNING)
    return nbits


def _by_nncf(model: onnx.ModelProto, method: str, calibration: Sequence[Inputs]) -> dict[str, bytes]:
    """OpenVINO's own tool: calibrated int8, or weights stored in integers."""
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MachineError(f"{error.name} is not installed; pip install 'miaobi[openvino]'.") from error
    with TemporaryDirectory() as folder:
        onnx.save(model, str(Path(folder) / "plain.onnx"))
        graph = core().read_model(str(Path(folder) / "plain.onnx"))
        if method != "int8-static":
            modes = nncf.CompressWeightsMode
            mode = modes.INT4_SYM if method == "int4-weights" else modes.INT8_SYM
            more = {} if mode == modes.INT8_SYM else {"ratio": 1.0, "group_size": 32, "all_layers": True}
            made = nncf.compress_weights(graph, mode=mode, **more)
        else:
            made = nncf.quantize(
                graph,
                nncf.Dataset(list(calibration)),
                subset_size=len(calibration),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if _has(model, ("Softmax", "Attention")) else None,
            )
        openvino.save_model(made, str(Path(folder) / "made.xml"), compress_to_fp16=False)
        read = {".xml": "made.xml", ".weights": "made.bin"}
        return {suffix: (Path(folder) / name).read_bytes() for suffix, name in read.items()}
