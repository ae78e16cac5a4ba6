"""Trains the autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from miaobi import images
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.train import devices, loop, workers
from miaobi.train.augment import Augment
from miaobi.train.data import Dataset, Float64, Indices, load_dataset
from miaobi.train.drive import drive


@dataclass
class AutoencoderTask:
    """Reconstruction of single pictures."""

    model: Autoencoder
    dataset: Dataset
    train: Indices
    """Positions of the training pictures."""
    shares: Float64
    """Share of each of them in a batch, summing to 1."""
    augment: Augment = field(default=Augment(), kw_only=True)

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        pictures = self.dataset.take(rng.choice(self.train, size, p=self.shares))
        return torch.from_numpy(self.augment(pictures, rng))

    def loss(self, batch: Tensor, rng: torch.Generator) -> Mapping[str, Tensor]:
        on = next(self.model.parameters()).device
        return self.model.loss(batch.to(on, memory_format=torch.channels_last), rng)

    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        chosen = np.random.default_rng(0).permutation(self.dataset.reported())[:256]
        real = self.dataset.take(chosen)
        drawn = reconstruct(self.model, real)
        error = (images.over_white(drawn) - images.over_white(real)) / 2
        psnr = -10 * np.log10(np.maximum(np.square(error).mean((1, 2, 3)), 1e-10))
        pairs = np.stack([real[:32], drawn[:32]], 1).reshape(-1, *real.shape[1:])
        return {"psnr": float(psnr.mean())}, images.contact_sheet(images.to_pil(images.to_uint8(pairs)), 16)


def reconstruct(model: Autoencoder, pictures: images.Float, batch_size: int = 64) -> images.Float:
    """Encode and decode pictures (N, 4, H, W) in [-1, 1], premultiplied; fp32."""
    on = next(model.parameters()).device
    with torch.no_grad():
        parts = [
            model.decode(model.encode(torch.from_numpy(part).to(on, memory_format=torch.channels_last)))
            .cpu()
            .numpy()
            for part in np.array_split(pictures, max(1, -(-len(pictures) // batch_size)))
        ]
    return np.concatenate(parts)


def load(folder: Path) -> Autoencoder:
    """The trained autoencoder in `folder`, in evaluation mode."""
    weights, recipe = loop.load_model(folder)
    model = Autoencoder(AutoencoderConfig(**tuples(recipe.get("model", {}))))
    model.load_state_dict(weights)
    return model.eval()


def tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a recipe with tuples for lists, as configurations have them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def training_shares(dataset: Dataset, recipe: Mapping[str, Any]) -> tuple[Indices, Float64]:
    """Positions of the training pictures and their shares, by the recipe's `tone_weight` and
    `style_weights`.
    """
    train = dataset.split("train")
    shares = dataset.weights(recipe.get("tone_weight", 0.2), recipe.get("style_weights", {}))[train]
    return train, shares / shares.sum()


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says.

    Besides the tables `model`, `schedule` and `augment` (see `Augment`; by default half of the pictures are
    mirrored and of 30 % the colours exchanged): `tone_weight`, how much a skin-tone variant counts;
    `style_weights`, a table of how much pictures of some styles count; `start_from`, a folder of weights to
    go on from; `encoder`, a folder of trained weights whose encoder is kept as it is, and with it the meaning
    of latents: only the decoder is trained.
    """
    dataset = load_dataset(Path(recipe["data"]))
    model = Autoencoder(AutoencoderConfig(**tuples(recipe.get("model", {})))).to(devices.device())
    if "start_from" in recipe and not resume:
        model.load_state_dict(loop.load_model(Path(recipe["start_from"]))[0])
    decoder_only = "encoder" in recipe
    if decoder_only:
        weights, _ = loop.load_model(Path(recipe["encoder"]))
        model.load_state_dict(
            {k: v for k, v in weights.items() if not k.startswith("decoder.")}, strict=False
        )
        model.encoder.requires_grad_(False)
    augment = Augment(**{"flip": 0.5, "colour": 0.3} | recipe.get("augment", {}))
    task = AutoencoderTask(model, dataset, *training_shares(dataset, recipe), augment=augment)
    drive(task, recipe, out, resume)
    if not decoder_only and workers.rank() == 0:
        best = load(out)
        sample = np.random.default_rng(0).choice(task.train, min(2048, len(task.train)), replace=False)
        parts = np.array_split(sample, max(1, len(sample) // 64))
        best.standardise([torch.from_numpy(dataset.take(part)) for part in parts])
        loop.save_model(out, best.state_dict(), recipe)
