"""Training data: pictures with captions, memory-mapped from one file, whatever they came as.

A shard folder holds images.npy (uint8, N x S x S x 4, straight RGBA), metadata.jsonl (line i describes
picture i) and, where the order matters, styles.json (a list). Any folder in Hugging Face's imagefolder form
(metadata.jsonl with file_name and text) is brought to that form once, in a cache inside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from miaobi.errors import DataError
from miaobi.images import Float, UInt8, from_uint8
from miaobi.train import imagefolder

Indices = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
SPLITS = ("train", "heldout", "dropped")


@dataclass(frozen=True)
class Record:
    """What one picture shows: concept, names and keywords in both languages, style, skin tone (0 = none)."""

    id: str
    concept: str
    style: str
    label_en: str
    label_zh: str = ""
    tags_en: tuple[str, ...] = ()
    tags_zh: tuple[str, ...] = ()
    tone: int = 0
    split: str = "train"
    category: str = ""
    tones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "concept", "style", "label_en", "label_zh", "category"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a text")
        if not self.id or not (self.label_en or self.label_zh):
            raise ValueError("it has no id or no label")
        if self.tone not in range(6):
            raise ValueError(f"tone is {self.tone!r}, not 0 to 5")
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}, not one of {', '.join(SPLITS)}")
        for name in ("tags_en", "tags_zh", "tones"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Dataset:
    """Pictures, memory-mapped uint8 (N, S, S, 4) straight RGBA, and what they show.

    A style's number is its place in `styles`. `problems` has a line for every picture that was left out or
    converted on the way in, by file name.
    """

    path: Path
    images: UInt8
    records: tuple[Record, ...]
    styles: tuple[str, ...]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def split(self, name: str) -> Indices:
        """Positions of the pictures of "train" or "heldout", in order."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is none of {', '.join(SPLITS)}")
        return np.array([i for i, record in enumerate(self.records) if record.split == name], np.int64)

    def reported(self) -> Indices:
        """Positions of the pictures that reports of a training run are on: those held out, or the training
        pictures themselves where none is.
        """
        heldout = self.split("heldout")
        return heldout if len(heldout) else self.split("train")

    def weights(self, tone_weight: float, style_weights: Mapping[str, float]) -> Float64:
        """How much each picture counts in a batch, (N,): 1, times `tone_weight` with a skin tone, times what
        `style_weights` has for its style. Raises ValueError for an unknown style or a negative weight.
        """
        unknown = sorted(set(style_weights) - set(self.styles))
        if unknown or min([tone_weight, *style_weights.values()]) < 0:
            raise ValueError(
                f"tone_weight = {tone_weight}, style_weights = {dict(style_weights)}; allowed are 0 or more, "
                f"for the styles {', '.join(self.styles)}"
            )
        return np.array(
            [(tone_weight if r.tone else 1.0) * style_weights.get(r.style, 1.0) for r in self.records],
            np.float64,
        )

    def style_ids(self) -> Indices:
        """The number of each picture's style, (N,)."""
        number = {style: i for i, style in enumerate(self.styles)}
        return np.array([number[record.style] for record in self.records], np.int64)

    def take(self, indices: Indices) -> Float:
        """Pictures at `indices` as premultiplied float32 (B, 4, S, S) in [-1, 1]."""
        return from_uint8(self.images[indices])


def load_dataset(path: Path | str, size_px: int = 128) -> Dataset:
    """A shard folder, or an imagefolder whose pictures are fitted into `size_px` squares once, and cached.

    An imagefolder's lines hold file_name, text or caption, and optionally the fields of Record. Where none
    names a split and there are 40 pictures or more, 5 % by hash of the file name are held out. Pictures that
    cannot be used are left out and named in `problems`. Raises DataError where the folder is missing, damaged
    or holds no usable picture.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"data folder {path} does not exist; build it or give another one")
    if (path / "images.npy").exists():
        return _load_shard(path)
    if not (path / "metadata.jsonl").exists():
        raise DataError(
            f"{path} holds neither images.npy nor metadata.jsonl; write a metadata.jsonl with lines like "
            '{"file_name": "cat.png", "text": "a cat"}'
        )
    return _load_shard(*imagefolder.convert(path, size_px))


def _load_shard(path: Path, problems: tuple[str, ...] = ()) -> Dataset:
    again = "build the data again"
    try:
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path / 'images.npy'} is damaged ({error}); {again}") from error
    square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 4
    if images.dtype != np.uint8 or not square:
        raise DataError(
            f"{path / 'images.npy'} is {images.dtype} {images.shape}, not uint8 (N, S, S, 4); {again}"
        )
    known = {field.name for field in fields(Record)}
    records = []
    for number, line in enumerate(imagefolder.lines(path / "metadata.jsonl"), 1):
        try:
            records.append(Record(**{key: value for key, value in json.loads(line).items() if key in known}))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path / 'metadata.jsonl'} line {number} is damaged ({error}); {again}"
            ) from error
    if len(records) != len(images):
        raise DataError(f"{path} has {len(images)} pictures but {len(records)} lines of metadata; {again}")
    if not records:
        raise DataError(f"{path} holds no pictures; {again}")
    order = _style_order(path / "styles.json")
    return Dataset(
        path, images, tuple(records), (*order, *sorted({r.style for r in records} - set(order))), problems
    )


def _style_order(path: Path) -> tuple[str, ...]:
    """What styles.json says, nothing where there is none."""
    if not path.exists():
        return ()
    try:
        order = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); build the data again") from error
    if not isinstance(order, list) or not all(isinstance(style, str) for style in order):
        raise DataError(f"{path} is not a list of styles; build the data again")
    return tuple(order)
