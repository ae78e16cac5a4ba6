"""What is left after pruning, solved for anew: the second convolution of each block is the least-squares
answer to what the whole block gave (He, Zhang & Sun 2017, arXiv:1707.06168). It takes seconds, and what is
trained after it starts from a far better place.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.models.autoencoder import Autoencoder, Residual

POSITIONS = 40_000
"""Places of the grids that the equations of a convolution are taken from, at most."""
RIDGE = 1e-3
"""How strongly weights are held where they are, as a share of the equations' mean power."""
_PART = 16


@torch.no_grad()
def refit_decoder(model: Autoencoder, whole: Autoencoder, latents: Tensor) -> None:
    """Change the decoder of `model`, which `prune.narrowed_decoder` made of `whole`, in place.

    Block after block, on the model's own errors so far; where blocks were left out, the last of their stage
    takes over what they did.

    Args:
        latents: standardised latents (N, C, h, w), such as the memory's; a hundred are plenty.
    """
    x = latents.to(whole.mean.device) * whole.std + whole.mean
    x, own = whole.decoder[0](x), model.decoder[0](x)
    for (blocks, rest), (kept, own_rest) in zip(_stages(whole), _stages(model), strict=True):
        for number, block in enumerate(kept):
            x = _run(blocks[number:] if block is kept[-1] else blocks[number : number + 1], x)
            middle = F.relu(_run([block.first], F.relu(own)))
            solve(block.second, middle, (x - own) / block.gain)
            own = _run([block], own)
        x, own = _run(rest if kept else [*blocks, *rest], x), _run(own_rest, own)


def _stages(model: Autoencoder) -> list[tuple[list[Residual], list[nn.Module]]]:
    """The residual blocks of each stage of a decoder, coarsest grid first, and the layers after them."""
    stages: list[tuple[list[Residual], list[nn.Module]]] = [([], [])]
    for layer in list(model.decoder)[1:]:
        if isinstance(layer, Residual):
            stages[-1][0].append(layer)
        else:
            stages[-1][1].append(layer)
        if isinstance(layer, nn.PixelShuffle):
            stages.append(([], []))
    return stages[:-1]


def solve(layer: nn.Conv2d, x: Tensor, y: Tensor) -> None:
    """Set a 3x3 convolution to what maps x (N, C, h, w) best to y (N, D, h, w), by ridge regression."""
    count = layer.weight[0].numel() + 1
    gram = torch.zeros(count, count, dtype=torch.float64, device=x.device)
    against = torch.zeros(count, len(layer.weight), dtype=torch.float64, device=x.device)
    rng = torch.Generator().manual_seed(0)
    for part, wanted in zip(torch.split(x, _PART), torch.split(y, _PART), strict=True):
        seen = (
            F.unfold(part, layer.kernel_size, padding=layer.kernel_size[0] // 2).transpose(1, 2).flatten(0, 1)
        )
        told = wanted.flatten(2).transpose(1, 2).flatten(0, 1)
        share = max(1, POSITIONS * len(part) // len(x))
        chosen = torch.randperm(len(seen), generator=rng)[:share].to(x.device)
        seen = F.pad(seen[chosen], (0, 1), value=1.0)
        gram += (seen.T @ seen).double()
        against += (seen.T @ told[chosen]).double()
    held = RIDGE * gram.diagonal().mean()
    before = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1).T.double()  # type: ignore[index]
    gram.diagonal().add_(held)
    found = torch.linalg.solve(gram, against + held * before).T.to(layer.weight.dtype)
    layer.weight.copy_(found[:, :-1].reshape(layer.weight.shape))
    layer.bias.copy_(found[:, -1])  # type: ignore[union-attr]


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """x through the layers, in parts that fit the cache."""
    return torch.cat([nn.Sequential(*layers)(part) for part in torch.split(x, _PART)])
