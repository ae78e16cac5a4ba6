from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from miaobi.errors import BundleError, InputError, MachineError
from miaobi.runtimes.onnx import OnnxModel, pick_device


def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"latents": rng.standard_normal((2, 32, 8, 8), np.float32)}


def test_same_as_the_reference_evaluator(tiny_bundle: Path) -> None:
    path = tiny_bundle / "decoder.onnx"
    model = OnnxModel(path, threads=1)
    assert (model.inputs, model.outputs) == (("latents",), ("image",))
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, feed())
    np.testing.assert_allclose(model(**feed())["image"], expected, atol=1e-5)


def test_inputs_that_a_graph_does_not_know_are_left_out(tiny_bundle: Path) -> None:
    model = OnnxModel(tiny_bundle / "decoder.onnx", threads=1)
    assert model(**feed(), other=np.zeros(1))["image"].shape == (2, 4, 128, 128)


def test_other_order_of_bytes_is_made_contiguous(tiny_bundle: Path) -> None:
    model = OnnxModel(tiny_bundle / "decoder.onnx", threads=1)
    turned = feed()["latents"].transpose(0, 1, 3, 2)
    np.testing.assert_allclose(model(latents=turned)["image"], model(latents=turned.copy())["image"])


def test_errors_of_the_runtime_are_mapped(tiny_bundle: Path, tmp_path: Path) -> None:
    model = OnnxModel(tiny_bundle / "decoder.onnx", threads=1)
    with pytest.raises(BundleError, match="wants latents"):
        model(x=np.zeros(1))
    with pytest.raises(BundleError, match=r"decoder.onnx failed"):
        model(latents=np.zeros((1, 5), np.float32))
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x01 nothing")
    with pytest.raises(BundleError, match="cannot be loaded"):
        OnnxModel(tmp_path / "bad.onnx")


def test_a_runtime_failure_is_of_the_machine(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnnxModel(tiny_bundle / "decoder.onnx", threads=1)

    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("bad_alloc: out of memory\nstack")

    monkeypatch.setattr(model, "_session", Broken())
    with pytest.raises(MachineError, match=r"decoder.onnx failed: bad_alloc: out of memory$"):
        model(**feed())


def test_devices() -> None:
    assert pick_device("cpu") == ("cpu", [])
    with pytest.raises(InputError, match="unknown device 'npu'; choose one of cpu, cuda"):
        pick_device("npu")
