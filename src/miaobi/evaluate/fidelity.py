"""How near the pictures of a changed pipeline stay to the reference's, drawn with the same prompts and seeds.

PSNR and SSIM see pixels; the third figure sees what a network that recognises things does: features of
EfficientNet-Lite0 (trained on ImageNet) at several depths, each of unit length over its channels, their
squared difference averaged over space and layers, as in LPIPS (Zhang et al. 2018, arXiv:1801.03924) but
without LPIPS's learned weights, so that its values are none of LPIPS's.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from miaobi.errors import InputError
from miaobi.evaluate import quality
from miaobi.evaluate.intervals import Figure, mean_figure
from miaobi.evaluate.quality import Float32
from miaobi.evaluate.speed import PROMPTS, Draws
from miaobi.images import UInt8

if TYPE_CHECKING:
    from miaobi.refine.losses import Features

PSNR_CAP_DB = 100.0
"""PSNR of identical pictures is infinite; it counts as this, so that a mean and its interval exist."""
_BLOCKS = (1, 4, 10, 14)  # of EfficientNet-Lite0: edges, textures, parts, things


def draw(pipe: Draws, prompts: Sequence[str], seeds: Sequence[int]) -> UInt8:
    """One picture of each prompt with its seed: straight RGBA (n, H, W, 4)."""
    return np.concatenate(
        [pipe.generate(prompt, 1, seed=seed).pixels for prompt, seed in zip(prompts, seeds, strict=True)]
    )


def compare(reference: UInt8, changed: UInt8, *, features: bool = True) -> dict[str, Figure]:
    """PSNR (dB, at most 100), SSIM, the share of identical pictures, and the distance of features.

    Args:
        reference: straight RGBA (n, H, W, 4).
        changed: the same.
        features: also the distance of features, which needs PyTorch.

    Raises:
        InputError: the pictures differ in number or size, or there are none.
        MachineError: the packages of the `train` extra are missing.
    """
    if reference.shape != changed.shape or not len(reference):
        raise InputError(
            f"pictures are {changed.shape} and the reference's {reference.shape}; "
            "compare as many pictures, of one size."
        )
    a, b = quality.over_white(reference), quality.over_white(changed)
    figures = {
        "psnr_db": mean_figure(np.minimum(quality.psnr(a, b), PSNR_CAP_DB)),
        "ssim": mean_figure(quality.ssim(a, b)),
        "identical": mean_figure((reference == changed).all(axis=(1, 2, 3)).astype(np.float64)),
    }
    return figures | ({"feature_distance": mean_figure(feature_distances(a, b))} if features else {})


def fidelity(
    reference: Draws,
    changed: Draws,
    count: int = 16,
    prompts: Sequence[str] = PROMPTS,
    *,
    features: bool = True,
    on_picture: Callable[[int], None] | None = None,
) -> dict[str, Figure]:
    """`compare` of `count` pictures drawn by both, each of another prompt and seed."""
    pairs: list[tuple[UInt8, UInt8]] = []
    for seed in range(count):
        prompt = prompts[seed % len(prompts)]
        pairs.append((draw(reference, [prompt], [seed]), draw(changed, [prompt], [seed])))
        if on_picture:
            on_picture(seed + 1)
    a, b = (np.concatenate(one) for one in zip(*pairs, strict=True))
    return compare(a, b, features=features)


def feature_distances(a: Float32, b: Float32) -> npt.NDArray[np.float64]:
    """Distances (n,) ≥ 0 of pictures (n, H, W, 3) in [0, 1]; see the module.

    Raises:
        MachineError: the packages of the `train` extra are missing.
    """
    from miaobi.refine.arrays import library

    torch, losses = library("torch", "train"), library("miaobi.refine.losses", "train")
    network = _network()
    found = []
    with torch.inference_mode():
        for pair in zip(a, b, strict=True):
            one, other = (network(torch.from_numpy(rgb).permute(2, 0, 1)[None]) for rgb in pair)
            found.append(float(losses.feature_distance(one, other)))
    return np.array(found)


@cache
def _network() -> "Features":
    from miaobi.refine import losses

    return losses.efficientnet(_BLOCKS)
