"""A small network that enlarges RGBA vector art four times.

All convolutions run on a grid of the input's size; sub-pixel convolution (Shi et al. 2016, "Real-Time Single
Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network") makes the large
picture at the very end, as a residual on bilinear interpolation. Residual blocks without normalisation are
those of EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution"); that
plain 3x3 convolutions with ReLU are what runtimes compute fastest is the finding of ECBSR (Zhang et al. 2021,
"Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices"). Folding pixels into
channels first, as RT4KSR does (Zamfir et al. 2023), was twice as fast and much worse on vector art.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 4
MARGIN_PX = 4
"""Input pixels at each border that the loss leaves out: results are good this far from an edge, and pictures
are padded by as much before they are enlarged."""


@dataclass(frozen=True)
class UpscalerConfig:
    """Size of the network."""

    channels: int = 48
    """Width of every hidden layer."""
    blocks: int = 4
    """Residual blocks of two convolutions."""

    def __post_init__(self) -> None:
        for name in ("channels", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be at least 1")

    @property
    def reach_px(self) -> int:
        """How far away an input pixel can change a result, in input pixels."""
        return 2 * self.blocks + 3


class Block(nn.Module):
    """relu(x + conv(relu(conv(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) → the same."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class Upscaler(nn.Module):
    """Premultiplied RGBA (B, 4, H, W) in [-1, 1] to (B, 4, 4·H, 4·W)."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.head = nn.Conv2d(4, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(config.blocks)))
        self.tail = nn.Conv2d(channels, 4 * SCALE**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        if self.tail.bias is not None:
            nn.init.zeros_(self.tail.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says; not clipped."""
        # convolutions pad with 0, which here means nothing at all
        hidden = F.relu(self.head((x + 1) / 2))
        detail = F.pixel_shuffle(self.tail(self.blocks(hidden)), SCALE)
        return F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False) + detail

    def upscale(self, x: Tensor) -> Tensor:
        """`forward`, brought to what a premultiplied picture can be.

        Values lie in [-1, 1], no colour is above its alpha, and pixels whose alpha rounds to 0 of 255 become
        blocks of -1.
        """
        large = self(x).clamp(-1, 1)
        empty = F.interpolate((x[:, 3:] < -1 + 1 / 255).to(x.dtype), scale_factor=SCALE, mode="nearest")
        alpha = large[:, 3:] * (1 - empty) - empty
        return torch.cat([torch.minimum(large[:, :3], alpha), alpha], dim=1)

    def loss(self, small: Tensor, large: Tensor) -> Mapping[str, Tensor]:
        """L1 distance of premultiplied channels, of the picture over white, and of its gradients.

        Args:
            small: (B, 4, H, W) in [-1, 1].
            large: what it should become, (B, 4, 4·H, 4·W).

        Pixels nearer to the border than `MARGIN_PX` of the input are left out.
        """
        cut = SCALE * MARGIN_PX
        drawn, real = (one[..., cut:-cut, cut:-cut] for one in (self(small), large))
        white, real_white = (one[:, :3] - one[:, 3:] for one in (drawn, real))
        error = torch.cat([drawn - real, white - real_white], dim=1)
        across, down = error.diff(dim=-1), error.diff(dim=-2)
        return {
            "premultiplied": error[:, :4].abs().mean(),
            "over_white": error[:, 4:].abs().mean(),
            "gradient": 0.5 * (across.abs().mean() + down.abs().mean()),
        }
