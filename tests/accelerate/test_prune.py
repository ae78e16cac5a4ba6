from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from miaobi.accelerate.export import decoder_graph, generator_graphs
from miaobi.accelerate.prune import left, narrowed_decoder, pruned, sparsity
from miaobi.errors import InputError
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan
from miaobi.models.vae import Vae
from miaobi.train import autoencoder, generator, loop

TINY = BackboneConfig(
    styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=2, heads=4
)
CODER = AutoencoderConfig((32, 48), (1, 1), (2, 2), latent_channels=4, patch_px=2)


def filled(model: nn.Module) -> nn.Module:
    """With no parameter that is zero, so that every part matters."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def coder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CODER).eval()


@pytest.fixture
def question() -> Condition:
    rng = torch.Generator().manual_seed(1)
    return Condition(
        torch.randn(2, 3, 8, generator=rng),
        torch.ones(2, 3, dtype=torch.bool),
        torch.randn(2, 8, generator=rng),
        torch.tensor([0, 3]),
        torch.randn(2, 2, 4, 4, 4, generator=rng),
        torch.tensor([[0, 1], [2, 3]]),
    )


def drawn(model: Diffusion | Gan | Vae, question: Condition) -> Tensor:
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.velocity(x, torch.tensor([1.0, 0.4]), *model.prepare(question))


@given(st.integers(1, 2000), st.floats(0, 0.999))
def test_some_units_are_always_left_and_none_added(units: int, amount: float) -> None:
    kept = left(units, amount)
    assert 1 <= kept <= units
    assert left(units, 0) == units or units % 16
    assert abs(kept - units * (1 - amount)) <= (16 if units > 16 else 1)


@pytest.mark.parametrize("method", ["structured", "unstructured"])
@pytest.mark.parametrize("family", [Diffusion, Gan, Vae])
def test_nothing_pruned_is_the_model_itself(family: type, method: str, question: Condition) -> None:
    torch.manual_seed(0)
    model = filled(family(TINY))
    same = pruned(model, 0.0, method)  # type: ignore[type-var, arg-type]
    torch.testing.assert_close(drawn(same, question), drawn(model, question), rtol=0, atol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [Diffusion, Gan, Vae])
def test_half_a_generator_has_the_shapes_of_its_configuration(family: type, question: Condition) -> None:
    torch.manual_seed(0)
    model = filled(family(TINY))
    half = pruned(model, 0.5)
    assert (half.backbone.heads, half.backbone.head_width, half.backbone.mlp_width) == (2, 4, 32)
    assert drawn(half, question).shape == (2, 4, 4, 4)
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in model.parameters())
    assert model.backbone == TINY


def test_units_that_do_nothing_go_first(question: Condition, coder: Autoencoder) -> None:
    torch.manual_seed(0)
    model = filled(Diffusion(TINY))
    latents = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        for block in [*model.blocks, *model.context_blocks]:
            block.mlp.up.weight[5:37] = block.mlp.up.bias[5:37] = block.mlp.down.weight[:, 5:37] = 0
            block.attention.out.weight[:, [0, 1, 2, 3, 12, 13, 14, 15]] = 0
        for layer in coder.decoder:
            if hasattr(layer, "gain"):
                layer.first.weight[::2] = layer.first.bias[::2] = layer.second.weight[:, ::2] = 0
        expected = coder.decode(latents)
        torch.testing.assert_close(pruned(coder, 0.5).decode(latents)[:, :, 2:-2], expected[:, :, 2:-2])
    torch.testing.assert_close(
        drawn(pruned(model, 0.5), question), drawn(model, question), rtol=1e-4, atol=1e-5
    )


def test_a_pruned_decoder_keeps_the_encoder_and_loads_again(coder: Autoencoder, tmp_path: Path) -> None:
    half = pruned(coder, 0.5)
    assert half.config.decoder_inner == (16, 32)
    for name, value in coder.encoder.state_dict().items():
        torch.testing.assert_close(half.encoder.state_dict()[name], value, rtol=0, atol=0)
    loop.save_model(tmp_path, half.state_dict(), {"model": asdict(half.config)})
    again, latents = autoencoder.load(tmp_path), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        expected = half.decode(latents)
        torch.testing.assert_close(again.decode(latents), expected, rtol=0, atol=0)
    session = ort.InferenceSession(
        decoder_graph(half, "fp32", 4)["decoder.onnx"], providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"latents": latents.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_pruned_generator_is_saved_loaded_and_exported(question: Condition, tmp_path: Path) -> None:
    torch.manual_seed(0)
    half = pruned(filled(Diffusion(TINY)), 0.5)
    loop.save_model(tmp_path, half.state_dict(), {"model": asdict(half.backbone)})
    again = generator.load(tmp_path)
    assert isinstance(again, Diffusion)
    torch.testing.assert_close(drawn(again, question), drawn(half, question), rtol=0, atol=0)
    graphs = {
        name: ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for name, graph in generator_graphs(half, "fp32").items()
    }
    context = graphs["context.onnx"]
    asked = dict(zip((i.name for i in context.get_inputs()), vars(question).values(), strict=True))
    names = [output.name for output in context.get_outputs()]
    told = dict(zip(names, context.run(None, {k: v.numpy() for k, v in asked.items()}), strict=True))
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    step = {"x": x.numpy(), "t": np.array([1.0, 0.4], np.float32), **told}
    found = graphs["denoiser.onnx"].run(None, step)[0]
    np.testing.assert_allclose(found, drawn(half, question).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("amount", [0.1, 0.9])
def test_zeros_are_the_smallest_of_each_layer(amount: float) -> None:
    torch.manual_seed(0)
    model = filled(Diffusion(TINY))
    made = pruned(model, amount, "unstructured")
    assert sparsity(made) == pytest.approx(amount, abs=0.01)
    assert sparsity(model) == 0
    for name, value in made.state_dict().items():
        before = model.state_dict()[name]
        torch.testing.assert_close(value[value != 0], before[value != 0], rtol=0, atol=0)
        if (value == 0).any():
            assert before[value == 0].abs().max() <= before[value != 0].abs().min()


def test_fewer_blocks_are_the_first_of_each_stage(coder: Autoencoder) -> None:
    config = AutoencoderConfig((32, 48), (1, 1), (1, 0), latent_channels=4, patch_px=2)
    made = narrowed_decoder(coder, config)
    torch.testing.assert_close(made.decoder[3].first.weight, coder.decoder[5].first.weight, rtol=0, atol=0)
    with pytest.raises(InputError, match="decoder_inner and decoder_blocks alone"):
        narrowed_decoder(coder, AutoencoderConfig((32, 64), (1, 1), (1, 0), latent_channels=4, patch_px=2))


def test_bad_amounts_and_models_without_units_are_refused(coder: Autoencoder) -> None:
    with pytest.raises(InputError, match="amount is 1"):
        pruned(coder, 1)
    writer = Autoregressive(TINY, AutoregressiveConfig(levels=(2, 2, 2, 2), mean=(0.0,) * 4))
    with pytest.raises(InputError, match="choose method unstructured"):
        pruned(writer, 0.5)
    assert sparsity(pruned(writer, 0.5, "unstructured")) >= 0.5
