import pytest
import torch

from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig

TINY = AutoencoderConfig(channels=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=6)


def test_shapes_and_reduction() -> None:
    model = Autoencoder(TINY)
    latents = model.encode(torch.randn(2, 4, 32, 48))
    assert TINY.reduction == 8
    assert latents.shape == (2, 6, 4, 6)
    assert model.decode(latents).shape == (2, 4, 32, 48)


def test_standardise_gives_zero_mean_unit_variance_and_keeps_pictures() -> None:
    torch.manual_seed(0)
    model, pictures = Autoencoder(TINY).eval(), torch.randn(16, 4, 32, 32)
    with torch.no_grad():
        before = model.decode(model.encode(pictures))
        model.standardise([pictures[:8], pictures[8:]])
        latents = model.encode(pictures)
        torch.testing.assert_close(model.decode(latents), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.var((0, 2, 3)).mean(), torch.tensor(1.0), rtol=0, atol=1e-5)


def test_loss_is_a_function_of_the_generator() -> None:
    torch.manual_seed(0)
    model, pictures = Autoencoder(TINY), torch.randn(2, 4, 32, 32)
    one, same, other = (model.loss(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["l1"], other["l1"])


def test_l2_over_white_is_the_error_of_the_composites() -> None:
    """The loss's own formula for "over white" against composing both pictures."""
    torch.manual_seed(0)
    model = Autoencoder(TINY)
    model.config = AutoencoderConfig(**{**TINY.__dict__, "noise": 0.0})
    pictures = torch.rand(2, 4, 32, 32) * 2 - 1
    with torch.no_grad():
        losses = model.loss(pictures, torch.Generator())
        drawn = model.decoder(model.encoder(pictures))
    unit, real = (drawn + 1) / 2, (pictures + 1) / 2
    composite = [one[:, :3] + 1 - one[:, 3:] for one in (unit, real)]
    expected = 4 * ((unit - real).square().mean() + (composite[0] - composite[1]).square().mean())
    torch.testing.assert_close(losses["l2"], expected)


def test_stages_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        AutoencoderConfig(channels=(8, 8), encoder_blocks=(1,))


def test_half_of_the_loss_reads_shrunken_latents_as_a_shrunken_picture() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY)
    model.config = AutoencoderConfig(**{**TINY.__dict__, "noise": 0.0, "half_scale": 1.0})
    pictures = torch.rand(2, 4, 32, 32) * 2 - 1
    with torch.no_grad():
        half = model.loss(pictures, torch.Generator())["half"]
        small = torch.nn.functional.interpolate(pictures, scale_factor=0.5, mode="area")
        latents = torch.nn.functional.interpolate(model.encoder(pictures), scale_factor=0.5, mode="area")
        error = (model.decoder(latents) - small) / 2
    model.config = AutoencoderConfig(**{**TINY.__dict__, "noise": 0.0, "half_scale": 0.0})
    with torch.no_grad():
        assert "half" not in model.loss(pictures, torch.Generator())
    over_white = error[:, :3] - error[:, 3:]
    expected = error.abs().mean() + over_white.abs().mean()
    expected += 4 * (error.square().mean() + over_white.square().mean())
    expected += error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    torch.testing.assert_close(half, expected)


def test_noise_is_a_share_of_the_latents() -> None:
    """Latents ten times larger, read by a decoder ten times less sensitive, lose the same to noise."""
    torch.manual_seed(0)
    model, pictures = Autoencoder(TINY), torch.randn(2, 4, 32, 32)
    before = model.loss(pictures, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.encoder[-1].weight *= 10
        model.encoder[-1].bias *= 10
        model.decoder[0].weight /= 10
    after = model.loss(pictures, torch.Generator().manual_seed(1))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5)


def test_codes_of_a_quantised_autoencoder_are_its_latents() -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(**{**TINY.__dict__, "levels": (5, 4, 3, 5, 2, 7)})).eval()
    pictures = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        model.standardise([pictures])
        latents = model.encode(pictures)
        codes = model.codes(latents)
        assert codes.shape == (2, 4, 4)
        torch.testing.assert_close(model.of_codes(codes), latents)
    with pytest.raises(ValueError, match="an entry for each of 6"):
        AutoencoderConfig(**{**TINY.__dict__, "levels": (5, 5)})


def test_a_quantised_autoencoder_learns() -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(**{**TINY.__dict__, "levels": (5,) * 6}))
    pictures, rng = torch.rand(4, 4, 1, 1).expand(-1, -1, 32, 32), torch.Generator()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        total = torch.stack(list(model.loss(pictures, rng).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]
