"""The autoencoder: RGBA pictures to a small grid of latents and back.

Deep compression (Chen et al. 2024, "Deep Compression Autoencoder for Efficient High-Resolution Diffusion
Models", arXiv:2410.10733): space-to-channel first, so that every convolution runs on a small grid with many
channels. No normalisation layers, as in TAESD: a decoder of convolutions and ReLU fuses well in every
runtime.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.models import fsq


@dataclass(frozen=True)
class AutoencoderConfig:
    channels: tuple[int, ...] = (96, 192, 320)
    """Width of each stage, finest grid first; each stage halves the grid."""
    encoder_blocks: tuple[int, ...] = (1, 2, 2)
    """Residual blocks of each encoder stage."""
    decoder_blocks: tuple[int, ...] = (2, 3, 3)
    """Residual blocks of each decoder stage, finest grid first."""
    decoder_channels: tuple[int, ...] = ()
    """Width of each decoder stage where the decoder is to be lighter than the encoder; empty: `channels`."""
    decoder_inner: tuple[int, ...] = ()
    """Channels between the two convolutions of a decoder's residual block, finest grid first; empty: as many
    as the stage is wide.
    """
    latent_channels: int = 32
    """Channels of a latent."""
    patch_px: int = 4
    """Pixels a side that space-to-channel folds into the first grid."""
    noise: float = 0.15
    """Deviation of the noise added to latents in training, as a share of the latents' own."""
    levels: tuple[int, ...] = ()
    """Values that each channel of a latent may take: latents are then codes (`models/fsq.py`); empty: any."""
    half_scale: float = 0.25
    """Weight of reconstructing the picture at half its size from latents averaged two by two."""

    def __post_init__(self) -> None:
        decoder = self.decoder_channels or self.channels
        if not len(self.channels) == len(self.encoder_blocks) == len(decoder) == len(self.decoder_blocks):
            raise ValueError(
                f"channels {self.channels}, encoder_blocks {self.encoder_blocks}, decoder {decoder}, "
                f"decoder_blocks {self.decoder_blocks} differ in length; give one entry per stage"
            )
        if self.decoder_inner and len(self.decoder_inner) != len(self.channels):
            raise ValueError(f"decoder_inner {self.decoder_inner} must have an entry for each stage, or none")
        if self.levels and len(self.levels) != self.latent_channels:
            raise ValueError(
                f"levels {self.levels} must have an entry for each of {self.latent_channels} latent_channels"
            )

    @property
    def reduction(self) -> int:
        """Pixels a side that one latent position covers."""
        return self.patch_px << (len(self.channels) - 1)


class Residual(nn.Module):
    """x + gain · conv(ReLU(conv(ReLU(x)))), a small gain per channel at the start (De & Smith 2020)."""

    def __init__(self, channels: int, inner: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, inner or channels, 3, padding=1)
        self.second = nn.Conv2d(inner or channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.full((channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.gain * self.second(F.relu(self.first(F.relu(x))))
        return out


def distance(drawn: Tensor, images: Tensor) -> dict[str, Tensor]:
    """L1, L2 and L1 of the gradients between premultiplied RGBA pictures (B, 4, H, W)."""
    error = (drawn - images) / 2
    over_white = error[:, :3] - error[:, 3:]
    dx, dy = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return {
        "l1": error.abs().mean() + over_white.abs().mean(),
        "l2": 4 * (error.square().mean() + over_white.square().mean()),
        "gradient": dx.abs().mean() + dy.abs().mean(),
    }


class Autoencoder(nn.Module):
    """Encoder and decoder; latents are standardised by the buffers `mean`, one per channel, and `std`, one
    for all.

    Channels keep their relative scale on purpose: the decoder's pixels answer about equally to one unit of
    any of them, so that a generator's squared error stays close to squared error in pixels (measured,
    docs/log.md).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        widths, patch_area = config.channels, config.patch_px**2
        encoder: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch_px),
            nn.Conv2d(4 * patch_area, widths[0], 3, padding=1),
        ]
        for stage, width in enumerate(widths):
            if stage:
                encoder += [nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[stage - 1], width, 1)]
            encoder += [Residual(width) for _ in range(config.encoder_blocks[stage])]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1))

        widths = config.decoder_channels or widths
        inner = config.decoder_inner or widths
        decoder: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)]
        for stage in reversed(range(len(widths))):
            decoder += [Residual(widths[stage], inner[stage]) for _ in range(config.decoder_blocks[stage])]
            if stage:
                decoder += [nn.Conv2d(widths[stage], 4 * widths[stage - 1], 1), nn.PixelShuffle(2)]
        decoder += [
            nn.ReLU(),
            nn.Conv2d(widths[0], 4 * patch_area, 3, padding=1),
            nn.PixelShuffle(config.patch_px),
        ]
        self.decoder = nn.Sequential(*decoder)

        self.register_buffer("mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(()))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 4, H, W) in [-1, 1], premultiplied → standardised latents (B, C, h, w).

        h and w are H and W divided by `config.reduction`.
        """
        latents: Tensor = (self.raw(images) - self.mean) / self.std
        return latents

    def raw(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) before they are standardised, quantised where the configuration has levels."""
        z: Tensor = self.encoder(images)
        return fsq.quantise(z.float(), self.config.levels) if self.config.levels else z

    def codes(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) that `encode` gave → their codes, int64 (B, h, w)."""
        return fsq.indices(latents * self.std + self.mean, self.config.levels)

    def of_codes(self, codes: Tensor) -> Tensor:
        """The reverse of `codes`: int64 (B, h, w) → standardised latents (B, C, h, w)."""
        return (fsq.values(codes, self.config.levels) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) → images (B, 4, h·r, w·r), about [-1, 1], premultiplied."""
        images: Tensor = self.decoder(latents * self.std + self.mean)
        return images

    def loss(self, images: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch of images (B, 4, H, W) in [-1, 1], premultiplied; they are summed.

        Reconstruction is L1 and L2 on the premultiplied pixels and on their composition over white, and L1 on
        the finite differences. Two things make the latents easy to generate: noise of a fixed share of their
        power, so that only what pixels need is worth storing, and a decoder that must also read shrunken
        latents as a shrunken picture, so that fine grids hold no secrets (Skorokhodov et al. 2025, "Improving
        the Diffusability of Autoencoders", arXiv:2502.14831).
        """
        noisy = self.raw(images)
        if not self.config.levels:  # rounding is noise enough
            noise = torch.randn(noisy.shape, generator=rng).to(noisy.device, noisy.dtype)
            noisy = noisy + self.config.noise * noisy.square().mean().sqrt() * noise
        losses = distance(self.decoder(noisy).float(), images)
        if self.config.half_scale:
            half = distance(self.decoder(F.avg_pool2d(noisy, 2)).float(), F.avg_pool2d(images, 2))
            losses["half"] = self.config.half_scale * sum(half.values(), torch.zeros((), device=noisy.device))
        return losses

    @torch.no_grad()
    def standardise(self, batches: list[Tensor]) -> None:
        """Set `mean` and `std` from batches of images, each (B, 4, H, W): channels of zero mean, unit
        variance on average.
        """
        z = torch.cat([self.raw(images).float() for images in batches])
        self.mean.copy_(z.mean((0, 2, 3)).reshape(-1, 1, 1))
        self.std.copy_(z.var((0, 2, 3)).mean().sqrt())
