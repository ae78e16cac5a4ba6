"""Trains a smaller decoder for the latents of an autoencoder that is trained already.

It learns the pictures themselves and, as in TAESD, what the whole decoder makes of the same noisy latents: a
target without the details that no decoder could know. It starts from the whole decoder's largest channels
(`accelerate.prune`), solved for anew (`accelerate.refit`). The encoder, and so the meaning of latents, stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi import images
from miaobi.accelerate.prune import narrowed_decoder
from miaobi.accelerate.refit import refit_decoder
from miaobi.colours import COLOURS, recolour
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig, distance
from miaobi.train import autoencoder as whole_part
from miaobi.train import devices, loop, workers
from miaobi.train.data import load_dataset
from miaobi.train.drive import drive
from miaobi.train.latents import Latents, encode

REFITTED = 192
"""Latents by which a pruned decoder is solved for anew before it is trained."""


@dataclass
class DecoderTask(whole_part.AutoencoderTask):
    """Pictures of latents, which were encoded once; `train` and `shares` are of rows of the latents."""

    whole: Autoencoder
    latents: Latents
    whole_weight: float = 1.0
    """Weight of the distance to the whole decoder's pictures, against that to the real ones."""

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = rng.choice(self.train, size, p=self.shares)
        names = list(COLOURS)
        pictures = [
            self.dataset.images[index] if colour < 0 else recolour(self.dataset.images[index], names[colour])
            for index, colour in zip(self.latents.source[rows], self.latents.colour[rows], strict=True)
        ]
        latents = torch.from_numpy(self.latents.values[rows].astype(np.float32))
        return latents, torch.from_numpy(images.from_uint8(np.stack(pictures)))

    def loss(self, batch: tuple[Tensor, Tensor], rng: torch.Generator) -> Mapping[str, Tensor]:  # type: ignore[override]
        on = next(self.model.parameters()).device
        latents, pictures = (part.to(on) for part in batch)
        # standardised latents have a variance of one on average
        noisy = latents + self.model.config.noise * torch.randn(latents.shape, generator=rng).to(on)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        drawn = self.model.decode(noisy).float()
        losses = distance(drawn, pictures)
        if self.whole_weight:
            with torch.no_grad():
                wanted = self.whole.decode(noisy).float()
            compared = distance(drawn, wanted)
            losses["whole"] = self.whole_weight * sum(compared.values(), torch.zeros((), device=on))
        return losses


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says.

    Besides the tables `model`, in which `decoder_inner` and `decoder_blocks` say what is left of the decoder,
    and `schedule`: `autoencoder`, the folder of the whole one; `tone_weight` and `colour_weight`, how much a
    skin-tone variant and a recoloured picture count; `recoloured_copies`; `whole_weight`, see `DecoderTask`;
    `start_from`, a folder of weights to go on from instead of the whole decoder's.
    """
    dataset, folder = load_dataset(Path(recipe["data"])), Path(recipe["autoencoder"])
    whole = whole_part.load(folder).to(devices.device())
    _, made = loop.load_model(folder)
    table = {**made["model"], **recipe.get("model", {})}
    config = AutoencoderConfig(**whole_part.tuples(table))
    with workers.first_alone():
        cache = Path(recipe["data"]) / "latents.npz"
        latents = encode(whole, dataset, recipe.get("recoloured_copies", 1), cache)
    if "start_from" in recipe:
        model = Autoencoder(config)
        model.load_state_dict(loop.load_model(Path(recipe["start_from"]))[0])
    else:
        model = narrowed_decoder(whole, config)
    train = np.array([record.split == "train" for record in dataset.records])
    toned = np.array([record.tone > 0 for record in dataset.records])
    rows = np.flatnonzero(train[latents.source])
    if "start_from" not in recipe and not resume:
        rng = np.random.default_rng(0)
        some = latents.values[rng.choice(rows, min(len(rows), REFITTED), replace=False)].astype(np.float32)
        some += np.float32(config.noise) * rng.standard_normal(some.shape, np.float32)
        refit_decoder(model, whole, torch.from_numpy(some))
    model.encoder.requires_grad_(False)
    shares = np.where(toned[latents.source[rows]], recipe.get("tone_weight", 0.2), 1.0)
    shares = np.where(latents.colour[rows] >= 0, recipe.get("colour_weight", 0.2), shares)
    weight = recipe.get("whole_weight", 1.0)
    task = DecoderTask(
        model.to(devices.device()), dataset, rows, shares / shares.sum(), whole, latents, weight
    )
    drive(task, {**recipe, "model": table}, out, resume)
