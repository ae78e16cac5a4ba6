"""Differentiable terms for pictures that are optimised: SSIM, total variation, blur, a network's features.

Pictures are premultiplied RGBA tensors (1, 4, H, W) in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.errors import MachineError
from miaobi.refine.arrays import library

_SMOOTH = 1e-6
"""Rounds total variation at 0, where it has no slope."""
_WINDOW_PX = 1.5
_NETWORK_LEAST_PX = 32
_C1, _C2 = 0.01**2, 0.03**2

Features = Callable[[Tensor], list[Tensor]]
"""RGB (1, 3, H, W) in [0, 1] to maps (1, C, h, w), from fine to coarse."""


def over_white(rgba: Tensor) -> Tensor:
    """RGB (1, 3, H, W) on white."""
    return rgba[:, :3] + 1 - rgba[:, 3:]


def gaussian_blur(pictures: Tensor, sigma_px: float) -> Tensor:
    """Each channel blurred by a Gaussian cut at 4σ, edges repeated; unchanged where `sigma_px` is 0."""
    if sigma_px == 0:
        return pictures
    radius, channels = max(1, round(4 * sigma_px)), pictures.shape[1]
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma_px) ** 2).to(pictures)
    line = (line / line.sum()).expand(channels, 1, 1, -1)
    wide = F.pad(pictures, [radius] * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, line, groups=channels), line.mT, groups=channels)


def clipped_mean(pictures: Tensor, sigma: float) -> Tensor:
    """What is seen on average of values with Gaussian noise of `sigma`, clipped to [0, 1] (Foi 2009, "Clipped
    noisy images").
    """

    if sigma == 0:
        return pictures

    def above(u: Tensor) -> Tensor:  # E[max(u + z, 0)] of a standard normal z
        near = u.clamp(-8, 8)  # beyond, the tail is 0 to float32, and slow to tell
        tail = torch.exp(-0.5 * near.square()) / math.sqrt(2 * math.pi)
        return u * 0.5 * (1 + torch.erf(near / math.sqrt(2))) + tail

    return sigma * (above(pictures / sigma) - above((pictures - 1) / sigma))


def total_variation(pictures: Tensor) -> Tensor:
    """The mean length of the gradient, all channels together (Rudin, Osher & Fatemi 1992; colour: Blomgren &
    Chan 1998).
    """
    right = F.pad(pictures.diff(dim=3), (0, 1))
    down = F.pad(pictures.diff(dim=2), (0, 0, 0, 1))
    return ((right.square() + down.square()).sum(1) + _SMOOTH).sqrt().mean()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (Wang et al. 2004) with a Gaussian window, σ = 1.5 px."""
    joined = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    mean_a, mean_b, aa, bb, ab = gaussian_blur(joined, _WINDOW_PX).chunk(5, dim=1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    return (top / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean()


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Distance of maps of unit length over their channels, as LPIPS (Zhang et al. 2018) without learned
    weights.
    """
    pairs = zip(a, b, strict=True)
    return torch.stack(
        [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean() for x, y in pairs]
    ).mean()


def efficientnet(blocks: Sequence[int]) -> Features:
    """Outputs of these blocks (0 to 15, rising) of EfficientNet-Lite0 trained on ImageNet.

    Raises:
        MachineError: the packages of the `train` extra are missing.
    """
    backbone = library("miaobi.evaluate.features", "train").Backbone().eval().requires_grad_(False)
    network = backbone.network

    def features(rgb: Tensor) -> list[Tensor]:
        small = _NETWORK_LEAST_PX / min(rgb.shape[2:])
        if small > 1:
            rgb = F.interpolate(rgb, scale_factor=small, mode="bilinear")
        x = network._swish(network._conv_stem(backbone.normed(rgb)))
        found = []
        for index, block in enumerate(network._blocks[: blocks[-1] + 1]):
            x = block(x, drop_connect_rate=0.0)
            if index in blocks:
                found.append(x)
        return found

    return features


_VGG_LAYERS = (3, 8, 15)  # relu1_2, relu2_2, relu3_3


def vgg16() -> Features:
    """relu1_2, relu2_2 and relu3_3 of VGG-16 (Simonyan & Zisserman 2015) trained on ImageNet.

    Raises:
        MachineError: torchvision is missing, or its weights are not on this machine; nothing is downloaded.
    """
    models = library("torchvision.models", "train")
    weights = models.VGG16_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not file.exists():
        raise MachineError(
            f"VGG-16's weights are not at {file}; put them there or choose network=efficientnet."
        )
    network = models.vgg16()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    layers = network.features[: _VGG_LAYERS[-1] + 1].eval().requires_grad_(False)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(rgb: Tensor) -> list[Tensor]:
        x, found = (rgb - mean) / std, []
        for index, layer in enumerate(layers):
            x = layer(x)
            if index in _VGG_LAYERS:
                found.append(x)
        return found

    return features
