"""Trains the upscaler on crops of large pictures and what small pictures of them look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from miaobi import images
from miaobi.errors import DataError
from miaobi.files import atomic_write
from miaobi.models.upscaler import MARGIN_PX, SCALE, Upscaler, UpscalerConfig
from miaobi.refine.resample import by_tiles, resample, shrink
from miaobi.train import autoencoder, devices, loop
from miaobi.train.data import Dataset, Indices, load_dataset
from miaobi.train.drive import drive

KINDS = ("area", "rendered", "reconstructed", "degraded")
"""How a small picture came about: averaged from the large one, drawn that small, the autoencoder's
reconstruction of it, or averaged and then blurred, made noisy or compressed."""
REPORTED = 40


@dataclass
class UpscalerTask:
    """Crops, mirrored and turned, some with colours as in a negative, some over a coloured ground: edges
    between colours that are as bright as each other are rare in emoji.
    """

    model: Upscaler
    dataset: Dataset
    """The large pictures."""
    small: Mapping[str, images.UInt8]
    """By kind but "degraded": straight RGBA uint8 (N, S / 4, S / 4, 4), in the order of `dataset`."""
    shares: Mapping[str, float]
    """Share of each kind in a batch, summing to 1."""
    crop_px: int = 40
    """Side of a crop of the small picture, with the margin that the loss leaves out."""

    def __post_init__(self) -> None:
        side = self.dataset.images.shape[1] // SCALE
        if not 2 * MARGIN_PX < self.crop_px <= side:
            raise ValueError(f"crop_px = {self.crop_px} must be above {2 * MARGIN_PX} and at most {side}")
        known = {*self.small, "degraded"}
        if not set(self.shares) <= known or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares = {dict(self.shares)} must sum to 1, of {', '.join(sorted(known))}")
        self.train = self.dataset.split("train")

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        pairs = [self._crop(rng) for _ in range(size)]
        return torch.from_numpy(np.stack([one for one, _ in pairs])), torch.from_numpy(
            np.stack([other for _, other in pairs])
        )

    def loss(self, batch: tuple[Tensor, Tensor], rng: torch.Generator) -> Mapping[str, Tensor]:
        on = next(self.model.parameters()).device
        return self.model.loss(*(one.to(on, memory_format=torch.channels_last) for one in batch))

    def _crop(self, rng: np.random.Generator) -> tuple[images.Float, images.Float]:
        kind = str(rng.choice(list(self.shares), p=list(self.shares.values())))
        source = self.small.get(kind, self.small["area"])
        tried = []
        for _ in range(2):  # most of an emoji is flat: of two crops, the one with more edges
            index = rng.choice(self.train)
            top, left = rng.integers(0, source.shape[1] - self.crop_px + 1, 2)
            crop = source[index, top : top + self.crop_px, left : left + self.crop_px]
            edges = float(np.abs(np.diff(crop.astype(np.int16), axis=0)).sum())
            tried.append((edges, int(index), int(top), int(left), crop))
        _, index, top, left, crop = max(tried, key=lambda one: one[0])
        high, wide = (slice(SCALE * start, SCALE * (start + self.crop_px)) for start in (top, left))
        small, large = images.from_uint8(crop), images.from_uint8(self.dataset.images[index, high, wide])
        if kind == "degraded":
            small = degrade(small, rng)
        turned = np.flatnonzero(rng.random(3) < 0.2)
        small, large = (negative(one, turned) for one in (small, large))
        if rng.random() < 0.4:
            ground = rng.random(4).astype(np.float32)
            ground[3] = 1 if rng.random() < 0.7 else ground[3]
            small, large = (over(one, ground) for one in (small, large))
        turns, mirrored, colours = int(rng.integers(4)), rng.random() < 0.5, [*rng.permutation(3), 3]
        small, large = (np.rot90(one[colours], turns, (1, 2)) for one in (small, large))
        if mirrored:
            small, large = small[..., ::-1], large[..., ::-1]
        return np.ascontiguousarray(small), np.ascontiguousarray(large)

    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        chosen = tuning(self.dataset)
        chosen = chosen[:: max(1, len(chosen) // REPORTED)]
        large = [self.dataset.take(np.array([i]))[0] for i in chosen]
        figures: dict[str, float] = {}
        for kind, source in self.small.items():
            small = [images.from_uint8(source[i]) for i in chosen]
            ours = [upscale(self.model, one) for one in small]
            base = [resample(one, SCALE) for one in small]
            figures[f"{kind}_psnr"] = _psnr(ours, large)
            figures[f"{kind}_gain"] = figures[f"{kind}_psnr"] - _psnr(base, large)
            if kind == "area":
                rows = list(zip(small, base, ours, large, strict=True))[:6]
        sheet = [one for row in rows for one in (resample(row[0], SCALE, Image.Resampling.NEAREST), *row[1:])]
        return figures, images.contact_sheet(images.to_pil(images.to_uint8(np.stack(sheet))), 4)


def tuning(dataset: Dataset) -> Indices:
    """Every other held-out picture: what training runs are compared by."""
    return dataset.split("heldout")[::2]


def testing(dataset: Dataset) -> Indices:
    """The other held-out pictures: what is reported, and nothing is chosen by."""
    return dataset.split("heldout")[1::2]


def upscale(model: Upscaler, picture: images.Float) -> images.Float:
    """A picture (4, H, W) in [-1, 1] as (4, 4·H, 4·W), by the network in PyTorch."""
    on = next(model.parameters()).device

    def enlarge(window: images.Float) -> images.Float:
        with torch.no_grad():
            return np.asarray(model.upscale(torch.from_numpy(window)[None].to(on))[0].cpu().numpy())

    return by_tiles(enlarge, picture, SCALE, overlap_px=model.config.reach_px, margin_px=MARGIN_PX)


def _psnr(ours: list[images.Float], real: list[images.Float]) -> float:
    errors = [
        np.square((images.over_white(a) - images.over_white(b)) / 2).mean()
        for a, b in zip(ours, real, strict=True)
    ]
    return float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))


def negative(picture: images.Float, channels: Indices) -> images.Float:
    """A premultiplied picture (4, H, W) in [-1, 1] with some `channels` of 0 to 2 turned: c becomes a - c.
    Linear, as `over` is.
    """
    made = picture.copy()
    made[channels] = picture[3] - picture[channels] - 1
    return made


def over(picture: images.Float, ground: images.Float) -> images.Float:
    """A premultiplied picture (4, H, W) in [-1, 1] over one straight RGBA colour (4,) in [0, 1]. Linear: a
    large picture and a small one over the same colour belong together as before.
    """
    colour = np.append(ground[:3] * ground[3], ground[3]).astype(np.float32)[:, None, None]
    # Porter & Duff's "over": c + (1 - a) · c', in [0, 1]
    return np.asarray(picture + (1 - picture[3:]) * colour, np.float32)


def degrade(picture: images.Float, rng: np.random.Generator) -> images.Float:
    """A picture (4, H, W) in [-1, 1], blurred, made noisy and compressed as JPEG, each with chance 0.6 or
    half of that; where it is empty it stays so.
    """
    made = picture
    if rng.random() < 0.6:
        distance = np.arange(-2, 3, dtype=np.float32)
        window = np.exp(-(distance**2) / (2 * rng.uniform(0.3, 0.9) ** 2))
        window /= window.sum()
        for axis in (1, 2):
            pad = [(2, 2) if one == axis else (0, 0) for one in range(3)]
            padded = np.pad(made, pad, mode="edge")
            shifted = np.lib.stride_tricks.sliding_window_view(padded, 5, axis)
            made = np.asarray(shifted @ window, np.float32)
    if rng.random() < 0.6:
        noise = rng.normal(0, rng.uniform(0.005, 0.05), made.shape).astype(np.float32)
        made = made + noise * (made[3:] > -1)
    if rng.random() < 0.3:
        made = _compressed(made, int(rng.integers(40, 95)))
    made = np.clip(made, -1, 1)
    made[:3] = np.minimum(made[:3], made[3])
    return np.asarray(made, np.float32)


def _compressed(picture: images.Float, quality: int) -> images.Float:
    unit = np.rint(np.clip((picture[:3] + 1) * 127.5, 0, 255)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(np.moveaxis(unit, 0, -1))).save(buffer, "JPEG", quality=quality)
    colour = np.moveaxis(np.asarray(Image.open(buffer), np.float32), -1, 0) / np.float32(127.5) - 1
    return np.concatenate([colour, picture[3:]])


def small_pictures(dataset: Dataset, rendered: Dataset, coder: Path, cache: Path) -> dict[str, images.UInt8]:
    """What `UpscalerTask.small` wants; what costs minutes is kept in the folder `cache`.

    Args:
        dataset: the large pictures.
        rendered: the same pictures, and perhaps more, drawn at a quarter of that size.
        coder: folder of a trained autoencoder.
        cache: where area.npy and reconstructed.npy are kept.

    Raises:
        DataError: `rendered` lacks a picture or has the wrong size.
    """
    side = dataset.images.shape[1] // SCALE
    place = {record.id: index for index, record in enumerate(rendered.records)}
    missing = [record.id for record in dataset.records if record.id not in place]
    if missing or rendered.images.shape[1] != side:
        raise DataError(
            f"{rendered.path} has pictures of {rendered.images.shape[1]} px, {side} px are needed, and lacks "
            f"{len(missing)} of {len(dataset)} pictures; build both from the same sources"
        )
    found = {"rendered": rendered.images[[place[record.id] for record in dataset.records]]}
    shape = (len(dataset), side, side, 4)
    cache.mkdir(parents=True, exist_ok=True)
    for kind in ("area", "reconstructed"):
        path = cache / f"{kind}.npy"
        if not path.exists():
            made = np.empty(shape, np.uint8)
            model = autoencoder.load(coder).to(devices.device()) if kind == "reconstructed" else None
            for start in range(0, len(dataset), 32):
                part = slice(start, min(start + 32, len(dataset)))
                if model is None:
                    numbers = range(part.start, part.stop)
                    averages = [shrink(dataset.take(np.array([i]))[0], SCALE) for i in numbers]
                    made[part] = images.to_uint8(np.stack(averages))
                else:
                    pictures = images.from_uint8(found["area"][part])
                    made[part] = images.to_uint8(autoencoder.reconstruct(model, pictures))
            with atomic_write(path) as file:
                np.save(file, made)
        found[kind] = np.load(path)
        if found[kind].shape != shape:
            raise DataError(f"{path} belongs to other pictures; delete {cache} and train again")
    return {kind: found[kind] for kind in KINDS if kind in found}


def load(folder: Path) -> Upscaler:
    """The trained upscaler in `folder`, in evaluation mode."""
    weights, recipe = loop.load_model(folder)
    model = Upscaler(UpscalerConfig(**recipe.get("model", {})))
    model.load_state_dict(weights)
    return model.eval()


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says.

    Besides the tables `model`, `schedule` and `shares` (of each kind of small pictures): `data`, the large
    pictures; `rendered`, the same pictures at a quarter of the size; `autoencoder`, a folder of weights whose
    reconstructions are small pictures too; `crop_px`; `start_from`, a folder of weights to go on from.
    """
    dataset, rendered = load_dataset(Path(recipe["data"])), load_dataset(Path(recipe["rendered"]))
    cache = Path(recipe["data"]) / "small"
    small = small_pictures(dataset, rendered, Path(recipe["autoencoder"]), cache)
    model = Upscaler(UpscalerConfig(**recipe.get("model", {}))).to(devices.device())
    if "start_from" in recipe and not resume:
        model.load_state_dict(loop.load_model(Path(recipe["start_from"]))[0])
    task = UpscalerTask(model, dataset, small, recipe["shares"], recipe.get("crop_px", 40))
    drive(task, recipe, out, resume)
