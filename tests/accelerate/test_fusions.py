"""Fused graphs against PyTorch, and what looks alike and is left as it is."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.accelerate.export import generator_graphs, to_onnx
from miaobi.models.diffusion import BackboneConfig, Diffusion


class Looks(nn.Module):
    """Attention whose mask has a row for each query, or one for all of them."""

    def __init__(self, one_row: bool) -> None:
        super().__init__()
        self.one_row = one_row

    def forward(self, *inputs: Tensor) -> Tensor:
        x, mask = inputs
        parts = x.unflatten(-1, (2, -1)).transpose(1, 2)
        scores = (parts * 0.5) @ parts.transpose(-1, -2) + (mask[:, :, :1] if self.one_row else mask)
        return scores.softmax(dim=-1) @ parts


class Modulates(nn.Module):
    """A normalisation with weights of its own, or without, then scaled and shifted for each picture."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0)) if own else None

    def forward(self, *inputs: Tensor) -> Tensor:
        x, mask = inputs
        shift = mask[:, 0].mean(dim=-1, keepdim=True)
        return F.layer_norm(x, (8,), self.weight) * (shift + 2) + shift


class SideBySide(nn.Module):
    """Linear layers of one input, or of two."""

    def __init__(self, two: bool, bias: bool = True) -> None:
        super().__init__()
        self.two, self.linears = two, nn.ModuleList([nn.Linear(8, width, bias) for width in (4, 6)])

    def forward(self, *inputs: Tensor) -> Tensor:
        x, mask = inputs
        first, second = self.linears
        return torch.cat([first(x), second(x * mask[:, 0, :, :1] if self.two else x)], dim=-1)


@pytest.mark.parametrize(
    ("module", "operator", "count"),
    [
        (Looks(False), "Attention", 1),
        (Looks(True), "Attention", 0),
        (Modulates(False), "Mul", 0),
        (Modulates(True), "Mul", 1),
        (SideBySide(False), "MatMul", 1),
        (SideBySide(False, bias=False), "Add", 0),
        (SideBySide(True), "MatMul", 2),
    ],
)
def test_fused_or_not_it_is_what_torch_computes(module: nn.Module, operator: str, count: int) -> None:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 5, 8), "mask": torch.randn(3, 1, 5, 5)}
    graph = to_onnx(module, inputs, ("y",), {name: {0: "batch"} for name in inputs}, "fp32")
    assert Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)[operator] == count
    run = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = run.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    np.testing.assert_allclose(found, module(*inputs.values()).detach().numpy(), atol=1e-5)


def test_a_generators_graphs_are_fused() -> None:
    config = BackboneConfig(
        styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=3, heads=2, bias=False
    )
    graphs = generator_graphs(Diffusion(config).eval(), "fp32")
    context, denoiser = (
        Counter(node.op_type for node in onnx.load_from_string(graphs[name]).graph.node)
        for name in ("context.onnx", "denoiser.onnx")
    )
    assert denoiser["Attention"] == config.depth
    assert context["Attention"] == config.context_depth
    assert not denoiser["Softmax"] + context["Softmax"]
    # text, neighbours, what they show at a place, keys and values of every block; four in each context block
    assert context["MatMul"] == 4 + 4 * config.context_depth
