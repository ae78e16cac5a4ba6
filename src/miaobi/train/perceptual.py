"""How different two pictures look, to a network that recognises things."""

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.evaluate.features import Backbone
from miaobi.models.autoencoder import Autoencoder

_BLOCKS = (1, 4, 10)  # of EfficientNet-Lite0: edges, textures, parts


class Perceptual:
    """Distance of decoded latents in EfficientNet-Lite0's features, each of unit length over its channels, as
    in LPIPS (Zhang et al. 2018, arXiv:1801.03924) without learned weights.

    FID and KID are measured with the same network: a generator trained with this loss is flattered by them.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        on = next(autoencoder.parameters()).device
        self.autoencoder = autoencoder.requires_grad_(False)
        self.backbone = Backbone().eval().requires_grad_(False).to(on)

    def __call__(self, drawn: Tensor, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) of both → a scalar ≥ 0, differentiable in `drawn`."""
        with torch.no_grad():
            wanted = self._features(latents)
        pairs = zip(self._features(drawn), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()

    def _features(self, latents: Tensor) -> list[Tensor]:
        rgba = (self.autoencoder.decode(latents) + 1) / 2
        network, found = self.backbone.network, []
        x = network._swish(network._conv_stem(self.backbone.normed(rgba[:, :3] + 1 - rgba[:, 3:])))
        for index, block in enumerate(network._blocks[: _BLOCKS[-1] + 1]):
            x = block(x, drop_connect_rate=0.0)
            if index in _BLOCKS:
                found.append(F.normalize(x.float(), dim=1))
        return found
