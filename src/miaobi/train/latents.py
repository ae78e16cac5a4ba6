"""Latents of a data set, encoded once: the pictures themselves and recoloured copies ("blue apple")."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from miaobi.colours import COLOURS, main_colour, recolour
from miaobi.files import atomic_write
from miaobi.images import from_uint8
from miaobi.models.autoencoder import Autoencoder
from miaobi.train import devices
from miaobi.train.data import Dataset

_CLEAR = 0.4  # share of a picture that must take a colour for "blue …" to be true of it


@dataclass(frozen=True)
class Latents:
    """M standardised latents; the first rows are the data set's pictures in order, the rest recoloured
    copies.
    """

    values: npt.NDArray[np.float16]
    """(M, C, h, w)."""
    source: npt.NDArray[np.int64]
    """(M,) the picture in the data set."""
    colour: npt.NDArray[np.int64]
    """(M,) index into COLOURS, -1 where the picture has its own colours."""


def encode(
    autoencoder: Autoencoder, dataset: Dataset, copies: int, cache: Path, batch_size: int = 64
) -> Latents:
    """Encode every picture, and `copies` recoloured ones of each training picture that one colour rules.

    The result is kept in `cache` (.npz) and read back while autoencoder, data and copies are the same.
    """
    key = _fingerprint(autoencoder, dataset, copies)
    if cache.exists():
        with np.load(cache, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return Latents(kept["values"], kept["source"], kept["colour"])
    jobs = [(index, -1) for index in range(len(dataset))]
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    for index in dataset.split("train") if copies else ():
        record = dataset.records[index]
        if record.tone or _names_colour(record.label_en):
            continue
        own, share = main_colour(dataset.images[index])
        if share >= _CLEAR:
            others = [number for number, name in enumerate(names) if name != own]
            jobs += [(int(index), int(number)) for number in rng.choice(others, copies, replace=False)]

    on = next(autoencoder.parameters()).device
    parts = []
    for start in tqdm(range(0, len(jobs), batch_size), "encoding", unit="batch"):
        pictures = [
            dataset.images[index] if colour < 0 else recolour(dataset.images[index], names[colour])
            for index, colour in jobs[start : start + batch_size]
        ]
        x = torch.from_numpy(from_uint8(np.stack(pictures))).to(on, memory_format=torch.channels_last)
        with torch.no_grad(), devices.autocast(devices.precision("auto", on), on):
            parts.append(autoencoder.encode(x).float().cpu().numpy().astype(np.float16))
    source, colour = np.array(jobs, np.int64).T
    result = Latents(np.concatenate(parts), source, colour)
    buffer = io.BytesIO()
    np.savez(buffer, key=key, values=result.values, source=result.source, colour=result.colour)
    with atomic_write(cache) as file:
        file.write(buffer.getbuffer())
    return result


def _names_colour(label: str) -> bool:
    words = set(label.lower().replace("-", " ").split())
    return any(words & set(colour.en) for colour in COLOURS.values())


def _fingerprint(autoencoder: Autoencoder, dataset: Dataset, copies: int) -> str:
    digest = hashlib.sha256(str((len(dataset), copies)).encode())
    for name in ("encoder", "mean", "std"):
        part = getattr(autoencoder, name)
        for value in [part] if isinstance(part, torch.Tensor) else part.state_dict().values():
            digest.update(value.detach().float().cpu().numpy().tobytes())
    for record in dataset.records:
        digest.update(f"{record.id}|{record.split}".encode())
    return digest.hexdigest()
