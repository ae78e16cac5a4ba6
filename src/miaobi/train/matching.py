"""What a student's pictures should show: their concept and style, in the eyes of a trained classifier.

Copying a teacher's path leaves pictures as vague as the teacher's. A classifier of the real pictures, looking
at what the student draws, pulls it to what tells one thing from another: image–text matching, as GANs have
used it since Xu et al. 2018, "AttnGAN" (arXiv:1711.10485). The classifier must not be the judge of
R-precision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.errors import InputError
from miaobi.evaluate.classifier import augment, cross_entropies, load_judge
from miaobi.models.autoencoder import Autoencoder
from miaobi.train import devices


class Matching:
    """Losses of drawn latents against concepts and styles.

    Args:
        table: `classifier`, the folder of one that tells concepts and, where it can, styles; `concept` and
            `style`, the weights of the two losses; `count`, how many pictures of a batch are looked at.
        autoencoder: whose decoder shows the latents.
        slugs: the concepts that latents are drawn for, by number.

    Raises:
        InputError: the table has other keys.
    """

    def __init__(self, table: Mapping[str, Any], autoencoder: Autoencoder, slugs: Sequence[str]) -> None:
        if unknown := sorted(set(table) - {"classifier", "concept", "style", "count"}):
            raise InputError(
                f"[matching] has no {', '.join(unknown)}; it may have classifier, concept, style, count"
            )
        self.classifier, known = load_judge(Path(table["classifier"]))
        self.classifier.requires_grad_(False).to(devices.device())
        self.autoencoder = autoencoder.requires_grad_(False)
        number = {slug: index for index, slug in enumerate(known)}
        self.concepts, self.number = len(known), np.array([number.get(slug, -1) for slug in slugs])
        self.weights = {"cross_entropy": table.get("concept", 0.02), "style": table.get("style", 0.01)}
        self.count = table.get("count", 16)

    def __call__(
        self, latents: Tensor, concept: Tensor, style: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Weighted losses of the first `count` of standardised latents (B, C, h, w).

        Args:
            concept: int64 (B,), numbers of `slugs`; -1 where the concept is not to be looked at.
            style: int64 (B,) style ids.
        """
        rgba = (self.autoencoder.decode(latents[: self.count]).float() + 1) / 2
        rgb = rgba[:, :3] + 1 - rgba[:, 3:]
        moved = augment(
            rgb.clamp(0, 1), np.random.default_rng(int(torch.randint(1 << 30, (), generator=rng)))
        )
        number = torch.from_numpy(self.number).to(latents.device)
        asked = concept[: self.count]
        wanted = torch.where(asked >= 0, number[asked], -1)
        with torch.autocast(latents.device.type, enabled=False):  # depthwise convolutions are slow in bf16
            scores = self.classifier(moved)
        losses = cross_entropies(scores, wanted, style[: self.count], self.concepts, 0.0)
        return {name: self.weights[name] * loss for name, loss in losses.items()}
