from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from miaobi.evaluate import flops


def write(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], opset: int = 23
) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(nodes, "g", values, [helper.make_empty_tensor_value_info("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), str(path))
    return path


def test_flops_of_known_products(tmp_path: Path) -> None:
    product = write(
        tmp_path / "a.onnx",
        [
            helper.make_node("MatMul", ["a", "b"], ["m"]),
            helper.make_node("Gemm", ["c", "m"], ["y"], transA=1),
        ],
        {"a": ["batch", 5], "b": [5, 7], "c": ["batch", 2]},
    )
    # (3 x 5)(5 x 7), then (2 x 3)(3 x 7)
    assert flops.graph_flops(product, {"a": (3, 5), "c": (3, 2)}) == 2 * 3 * 5 * 7 + 2 * 2 * 3 * 7


def test_flops_of_known_convolutions(tmp_path: Path) -> None:
    convolutions = write(
        tmp_path / "b.onnx",
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=2),
            helper.make_node("ConvTranspose", ["c", "v"], ["y"], strides=[2, 2]),
        ],
        {"x": ["batch", 4, 8, 8], "w": [6, 2, 3, 3], "v": [6, 5, 2, 2]},
    )
    expected = 2 * (6 * 4 * 4) * (2 * 3 * 3) + 2 * (6 * 4 * 4) * (5 * 2 * 2)
    assert flops.graph_flops(convolutions, {"x": (1, 4, 8, 8)}) == expected
    assert flops.graph_flops(convolutions, {"x": (3, 4, 8, 8)}) == 3 * expected


def test_flops_of_attention(tmp_path: Path) -> None:
    attention = write(
        tmp_path / "c.onnx",
        [helper.make_node("Attention", ["q", "k", "v"], ["y"])],
        {"q": ["batch", 2, 16, 8], "k": ["batch", 2, "length", 8], "v": ["batch", 2, "length", 4]},
    )
    shapes = {"q": (1, 2, 16, 8), "k": (1, 2, 5, 8), "v": (1, 2, 5, 4)}
    assert flops.graph_flops(attention, shapes) == 2 * 2 * 16 * 5 * (8 + 4)


def test_flops_refuses_to_guess(tmp_path: Path) -> None:
    unknown = write(
        tmp_path / "d.onnx", [helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": ["batch", 5], "b": [5, 7]}
    )
    with pytest.raises(ValueError, match="unknown"):
        flops.graph_flops(unknown, {})


def test_every_graph_of_a_picture_is_counted(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miaobi import load

    pipe = load(tiny_bundle)
    counted = flops.picture_flops(pipe)
    assert set(counted) == {"text.onnx", "context.onnx", "denoiser.onnx", "decoder.onnx"}
    monkeypatch.setattr(flops, "GEMM_SIZE", 128)
    assert flops.gemm_rate(1, runs=1) > 0


class InTorch:
    """A pipeline whose picture is one attention, one linear layer and one convolution."""

    def __init__(self) -> None:
        self.linear, self.convolution = torch.nn.Linear(8, 8), torch.nn.Conv2d(3, 4, 3)

    @torch.inference_mode()
    def generate(self, prompt: str, n: int, seed: int) -> None:
        query, value = torch.ones(1, 2, 16, 8), torch.ones(1, 2, 5, 8)
        torch.nn.functional.scaled_dot_product_attention(query, value, value)
        self.linear(query)
        self.convolution(torch.ones(1, 3, 10, 10))


def test_what_pytorch_runs_is_counted_attention_too() -> None:
    attention, linear, convolution = 2 * 2 * 16 * 5 * (8 + 8), 2 * 2 * 16 * 8 * 8, 2 * 4 * 8 * 8 * 3 * 9
    assert flops.picture_flops(InTorch()) == {"torch": attention + linear + convolution}
