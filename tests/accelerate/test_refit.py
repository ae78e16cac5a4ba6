import pytest
import torch
from torch import nn

from miaobi.accelerate.prune import narrowed_decoder, pruned
from miaobi.accelerate.refit import refit_decoder, solve
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig

CODER = AutoencoderConfig((16, 16), (1, 1), (2, 2), latent_channels=4, patch_px=2)


@pytest.fixture
def whole() -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(CODER).eval()
    for name, value in made.named_parameters():
        if name.endswith("gain"):
            nn.init.ones_(value)
    return made


def test_a_convolution_is_found_from_what_it_answers() -> None:
    torch.manual_seed(0)
    asked, found = (nn.Conv2d(5, 3, 3, padding=1) for _ in range(2))
    x = torch.randn(20, 5, 8, 8)
    with torch.no_grad():
        solve(found, x, asked(x))
        assert (found(x) - asked(x)).square().mean() < 1e-5 * asked(x).square().mean()


@pytest.mark.parametrize("blocks", [(2, 2), (1, 2), (1, 1)])
def test_a_refitted_decoder_is_nearer_to_the_whole_on_latents_it_has_not_seen(
    whole: Autoencoder, blocks: tuple[int, int]
) -> None:
    config = AutoencoderConfig((16, 16), (1, 1), blocks, latent_channels=4, patch_px=2, decoder_inner=(8, 8))
    small, other = narrowed_decoder(whole, config), torch.randn(16, 4, 4, 4)
    with torch.no_grad():
        wanted, before = whole.decode(other), small.decode(other)
        refit_decoder(small, whole, torch.randn(64, 4, 4, 4))
        after = small.decode(other)
    assert (after - wanted).square().mean() < 0.8 * (before - wanted).square().mean()


def test_a_whole_decoder_stays_as_it_is(whole: Autoencoder) -> None:
    same, latents = pruned(whole, 0.0), torch.randn(64, 4, 4, 4)
    with torch.no_grad():
        refit_decoder(same, whole, latents)
        torch.testing.assert_close(same.decode(latents), whole.decode(latents), rtol=1e-3, atol=1e-4)
