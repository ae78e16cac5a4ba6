import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from miaobi.accelerate.export import Storage, captioner_graph, decoder_graph, generator_graphs, to_onnx
from miaobi.accelerate.exported import Exported, Options
from miaobi.errors import MachineError
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.autoregressive import AutoregressiveConfig
from miaobi.models.captioning import Captioner
from miaobi.models.diffusion import BackboneConfig, Condition, Diffusion
from miaobi.runtimes.onnx import AS_FLOATS, OnnxModel

TINY = BackboneConfig(
    styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=2, heads=2
)


def session(graph: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"])


def test_generator_in_onnx_runtime_against_torch() -> None:
    torch.manual_seed(0)
    model = Diffusion(TINY).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    graphs = generator_graphs(model, "fp32")
    assert not any(b"export.py" in graph or b"site-packages" in graph for graph in graphs.values())
    inputs = {
        "tokens": torch.randn(3, 7, 8),
        "mask": torch.arange(7)[None] < torch.tensor([[7], [2], [0]]),
        "embedding": torch.randn(3, 8),
        "style": torch.tensor([0, 2, 3]),
        "neighbours": torch.randn(3, 2, 4, 4, 4),
        "neighbour_style": torch.tensor([[0, 1], [2, 3], [3, 3]]),
    }
    with torch.no_grad():
        expected = model.prepare(Condition(*inputs.values()))
        x, t = torch.randn(3, 4, 4, 4), torch.rand(3)
        velocity = model.velocity(x, t, *expected)
    context = session(graphs["context.onnx"])
    names = [output.name for output in context.get_outputs()]
    found = dict(zip(names, context.run(None, {k: v.numpy() for k, v in inputs.items()}), strict=True))
    for name, tensor in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-3, atol=1e-4)
    drawn = session(graphs["denoiser.onnx"]).run(None, {"x": x.numpy(), "t": t.numpy(), **found})[0]
    np.testing.assert_allclose(drawn, velocity.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("storage", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("int8", 1e-2)])
def test_decoder_in_every_storage_against_torch(storage: Storage, tolerance: float) -> None:
    """Its last kernels, which are small, stay in fp16 where the large ones are int8."""
    torch.manual_seed(0)
    config = AutoencoderConfig(
        channels=(16, 80), encoder_blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=4
    )
    model = Autoencoder(config).eval()
    latents = torch.randn(3, 4, 4, 4)
    with torch.no_grad():
        expected = model.decode(latents).numpy()
    graph = decoder_graph(model, storage, 4)["decoder.onnx"]
    drawn = session(graph).run(None, {"latents": latents.numpy()})[0]
    np.testing.assert_allclose(drawn, expected, atol=tolerance * np.abs(expected).max())
    sizes = {math.prod(t.dims): t.data_type for t in onnx.load_from_string(graph).graph.initializer}
    if storage == "int8":
        assert sizes[80 * 80 * 9] == onnx.TensorProto.INT8
        assert sizes[16 * 16 * 9] == onnx.TensorProto.FLOAT16


def test_a_captioner_in_int8_against_torch() -> None:
    """The picture read into an empty cache, then two words."""
    torch.manual_seed(0)
    config = AutoregressiveConfig((3, 3, 2, 2), (0.0,) * 4, kv_heads=1, captioning=0.5, words=70)
    model = Captioner(replace(TINY, width=64, distinct=1), config).eval()
    nn.init.normal_(model.words.weight, std=0.3)
    latents = model.to_latents(torch.randint(36, (3, 4, 4)))
    run = session(captioner_graph(model, "int8")["captioner.onnx"])
    keys = values = torch.zeros(3, 2, 1, 0, 32)
    cache = {"context_keys": keys.numpy(), "context_values": values.numpy()}
    for places in ([0, 1, 2, 3, 4], [5], [6]):
        ids, index = torch.randint(72, (3, len(places))), torch.tensor(places)
        asked = {"latents": latents.numpy(), "ids": ids.numpy(), "places": index.numpy()}
        drawn, *kept = run.run(None, {**asked, **cache})
        with torch.no_grad():
            expected, keys, values = model.say(latents, ids, index, keys, values)
        cache = dict(zip(cache, kept, strict=True))
        np.testing.assert_allclose(drawn, expected, atol=0.05 * np.abs(expected.numpy()).max())


class Linear(nn.Module):
    """A matrix whose columns differ a thousandfold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 64, bias=False)
        with torch.no_grad():
            self.linear.weight[0] *= 1e-3

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(*inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("as_floats", "product"), [(False, "MatMulNBits"), (True, "MatMul")])
def test_int8_matrices_are_multiplied_as_asked_and_keep_small_columns(
    as_floats: bool, product: str, tmp_path: Path
) -> None:
    x = torch.randn(2, 3, 64)
    small, full = (to_onnx(Linear(), {"x": x}, ("y",), {"x": {0: "batch"}}, s) for s in ("int8", "fp32"))
    assert len(small) < 0.4 * len(full)
    (tmp_path / "small.onnx").write_bytes(small)
    drawn = OnnxModel(tmp_path / "small.onnx", as_floats=as_floats)(x=x.numpy())["y"]
    expected = session(full).run(None, {"x": x.numpy()})[0]
    for column in (0, 1):
        scale = np.abs(expected[..., column]).max()
        np.testing.assert_allclose(drawn[..., column], expected[..., column], atol=0.04 * scale)

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    if as_floats:
        options.add_session_config_entry(*AS_FLOATS)
    ort.InferenceSession(small, options)
    assert [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node] == [product]


def test_a_generator_in_int8_stays_near_itself_in_fp32() -> None:
    torch.manual_seed(0)
    config = BackboneConfig(
        styles=3, latent_shape=(4, 4, 4), text_width=64, neighbours=2, width=64, depth=2, heads=2
    )
    model = Diffusion(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    inputs = {
        "tokens": torch.randn(2, 7, 64),
        "mask": torch.ones(2, 7, dtype=torch.bool),
        "embedding": torch.randn(2, 64),
        "style": torch.tensor([0, 2]),
        "neighbours": torch.randn(2, 2, 4, 4, 4),
        "neighbour_style": torch.tensor([[0, 1], [2, 3]]),
    }
    step = {
        "x": np.random.default_rng(0).standard_normal((2, 4, 4, 4), np.float32),
        "t": np.full(2, 0.5, "f4"),
    }
    drawn = []
    for storage in ("fp32", "int8"):
        graphs = generator_graphs(model, storage)
        context = session(graphs["context.onnx"])
        names = [output.name for output in context.get_outputs()]
        found = dict(zip(names, context.run(None, {k: v.numpy() for k, v in inputs.items()}), strict=True))
        drawn.append(session(graphs["denoiser.onnx"]).run(None, {**step, **found})[0])
    error = np.square(drawn[1] - drawn[0]).mean() / np.square(drawn[0]).mean()
    assert 0 < error < 1e-3


def test_a_module_that_cannot_be_exported_says_what_of_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.view_as_complex(x)[torch.tensor([1, 0])])

    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    options = Options("onnxruntime", "float32", None, 1, "")
    exported = Exported("denoiser", Chosen(), options, lambda _: [], print)
    with pytest.raises(MachineError, match=r"aten\.index.*complex-valued.*choose another runtime") as caught:
        exported(torch.randn(2, 3, 2))
    assert "\x1b" not in str(caught.value)
