import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from miaobi.accelerate.export import Storage, decoder_graph, generator_graphs, to_onnx
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.diffusion import Condition, Diffusion, DiffusionConfig

TINY = DiffusionConfig(
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


@pytest.mark.parametrize(("storage", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("int8", 5e-2)])
def test_decoder_in_every_storage_against_torch(storage: Storage, tolerance: float) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        channels=(16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=4
    )
    model = Autoencoder(config).eval()
    latents = torch.randn(3, 4, 4, 4)
    with torch.no_grad():
        expected = model.decode(latents).numpy()
    drawn = session(decoder_graph(model, storage, 4)["decoder.onnx"]).run(None, {"latents": latents.numpy()})[
        0
    ]
    np.testing.assert_allclose(drawn, expected, atol=tolerance * np.abs(expected).max())


def test_int8_rounds_by_output_channel_and_shrinks_the_file() -> None:
    """A matrix whose columns differ a thousandfold keeps its small column."""
    linear = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        linear.weight[:] = torch.randn(64, 64)
        linear.weight[0] *= 1e-3
    x = torch.randn(2, 64)
    inputs, axes = {"x": x}, {"x": {0: "batch"}}

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(*inputs)  # type: ignore[no-any-return]

    small, full = (to_onnx(Wrapped(), inputs, ("y",), axes, storage) for storage in ("int8", "fp32"))
    onnx.checker.check_model(onnx.load_from_string(small))
    assert len(small) < 0.4 * len(full)
    drawn, expected = (session(graph).run(None, {"x": x.numpy()})[0] for graph in (small, full))
    np.testing.assert_allclose(drawn[:, 0], expected[:, 0], atol=0.02 * np.abs(expected[:, 0]).max())
