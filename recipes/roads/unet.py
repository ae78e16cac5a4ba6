"""A small U-Net that labels the pixels of a road picture, and how it is trained and measured.

Ronneberger et al. 2015, "U-Net" (arXiv:1505.04597), on pictures folded two by two.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from canvas import LABELS
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.train import devices

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """Pictures and what their pixels show."""

    pictures: UInt8
    """(N, H, W, 3) RGB."""
    masks: UInt8
    """(N, H, W) labels."""

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, rows: npt.NDArray[np.int64]) -> "Labelled":
        """Some of them."""
        return Labelled(self.pictures[rows], self.masks[rows])


class UNet(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → scores (B, labels, H, W); H and W are multiples of 16."""

    def __init__(self, widths: tuple[int, ...] = (20, 40, 80, 80)) -> None:
        super().__init__()
        before = (12, *widths[:-1])
        self.down = nn.ModuleList([_block(a, b) for a, b in zip(before, widths, strict=True)])
        ups = zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True)
        self.up = nn.ModuleList([_block(skip + below, skip) for skip, below in ups])
        self.head = nn.Conv2d(widths[0], 4 * len(LABELS), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x, skips = F.pixel_unshuffle(pictures, 2), []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, scale_factor=2.0)], dim=1))
        return F.pixel_shuffle(self.head(x), 2)


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        # group norm: pictures of two sources in a batch must not share statistics
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers)


def train(
    real: Labelled, added: Labelled | None, steps: int, batch_size: int, seed: int, dtype: torch.dtype
) -> UNet:
    """A network trained on real pictures; with `added` ones, each batch is half of these.

    Every picture is mirrored half of the time, and its brightness, contrast and tint vary. The rarer a label
    is in the real masks, the more its pixels weigh.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = UNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1, pct_start=0.15)
    weight = torch.from_numpy(_weights(real.masks))
    shares = [(real, batch_size)]
    if added is not None:
        shares = [(real, batch_size - batch_size // 2), (added, batch_size // 2)]
    for _ in range(steps):
        parts = [one.take(rng.integers(len(one), size=count)) for one, count in shares]
        pictures, masks = _augmented(parts, rng)
        with devices.autocast(dtype, torch.device("cpu")):
            scores = model(pictures)
        loss = F.cross_entropy(scores.float(), masks, weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return model


def iou(model: UNet, data: Labelled, batch_size: int = 50) -> npt.NDArray[np.float64]:
    """Intersection over union of each label (5,), over all pixels of all pictures."""
    count = len(LABELS)
    confusion = np.zeros((count, count), np.int64)
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            rows = slice(start, start + batch_size)
            found = model(_tensor(data.pictures[rows])).argmax(1).numpy()
            pairs = data.masks[rows].astype(np.int64) * count + found
            confusion += np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count)
    both = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.asarray(both / np.maximum(union, 1))


def _weights(masks: UInt8) -> npt.NDArray[np.float32]:
    """A pixel's weight by its label (5,): the root of how many times rarer it is than the most frequent."""
    counts = np.bincount(masks.ravel(), minlength=len(LABELS)).clip(1)
    return np.sqrt(counts.max() / counts).astype(np.float32)


def _tensor(pictures: UInt8) -> Tensor:
    """uint8 (B, H, W, 3) → (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _augmented(parts: list[Labelled], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    pictures = _tensor(np.concatenate([part.pictures for part in parts]))
    masks = torch.from_numpy(np.concatenate([part.masks for part in parts]).astype(np.int64))
    mirrored = torch.from_numpy(rng.random(len(masks)) < 0.5)
    pictures[mirrored], masks[mirrored] = pictures[mirrored].flip(-1), masks[mirrored].flip(-1)
    gain = torch.from_numpy(rng.normal(1, 0.15, (len(masks), 1, 1, 1)).astype(np.float32))
    tint = torch.from_numpy(rng.normal(0, 0.08, (len(masks), 3, 1, 1)).astype(np.float32))
    return (pictures * gain + tint).clamp(-1, 1), masks
