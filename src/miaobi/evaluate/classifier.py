"""Classifiers of pictures: which of all concepts does one show, and in which style?

EfficientNet-Lite fine-tuned on the real training pictures in every style, with a cosine classifier
(Gidaris & Komodakis 2018) on features of several depths: what two drawings of one thing share is partly
shape and colour, which the last layer has given up. One of them is the judge of R-precision: it is trained
apart from every generator and has no part in their training. Another, of a larger network that was trained
apart from the judge's, teaches the students of `train/distill.py`.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.colours import COLOURS, recolour
from miaobi.errors import TrainingError
from miaobi.evaluate.features import Backbone
from miaobi.evaluate.quality import hits, over_white
from miaobi.files import atomic_write
from miaobi.runtimes.openvino import settings
from miaobi.train import devices, loop, workers
from miaobi.train.augment import affine
from miaobi.train.data import Dataset, Indices, load_dataset
from miaobi.train.drive import drive

_WIDTHS = (40, 80, 112, 192)
"""Channels of the blocks whose output, pooled to 2 x 2, is part of the features: the last one of each."""
_FEATURES = 4 * sum(_WIDTHS) + 1280
_BATCH = 64


class Judge(nn.Module):
    """RGB over white (B, 3, 128, 128) in [0, 1] to scores (B, classes): cosines times `scale`.

    Args:
        classes: concepts, and after them styles where the classifier tells these too.
        frozen_blocks: first blocks of the network that keep ImageNet's weights.
        size: of the EfficientNet-Lite, see `features.Backbone`.
    """

    def __init__(self, classes: int, frozen_blocks: int = 3, scale: float = 20.0, size: int = 0) -> None:
        super().__init__()
        self.backbone, self.frozen_blocks, self.scale = Backbone(size), frozen_blocks, scale
        network = self.backbone.network
        widths = [block._block_args.output_filters for block in network._blocks]
        self.taps = [len(widths) - 1 - widths[::-1].index(width) for width in _WIDTHS]
        if not 0 <= frozen_blocks <= self.taps[0]:
            raise ValueError(f"frozen_blocks = {frozen_blocks} must lie in 0 to {self.taps[0]}")
        network._conv_stem.requires_grad_(False)
        for block in network._blocks[:frozen_blocks]:
            block.requires_grad_(False)
        for block in network._blocks:  # their gradient costs as much as all others together on a CPU
            block._depthwise_conv.requires_grad_(False)
        self.head = nn.Parameter(F.normalize(torch.randn(classes, _FEATURES), dim=1))

    def features(self, rgb: Tensor) -> Tensor:
        """Unit features (B, 2976): five depths with equal weight."""
        network = self.backbone.network
        fast = devices.precision("auto" if self.training else "fp32", rgb.device)
        with torch.set_grad_enabled(rgb.requires_grad), devices.autocast(fast, rgb.device):
            x = network._swish(network._conv_stem(self.backbone.normed(rgb)))
            for block in network._blocks[: self.frozen_blocks]:
                x = block(x)
        parts: list[Tensor] = []
        x = x.float()
        for index, block in enumerate(network._blocks[self.frozen_blocks :], self.frozen_blocks):
            x = block(x)
            if index in self.taps:
                parts.append(F.adaptive_avg_pool2d(x.float(), 2).flatten(1))
        parts.append(network._swish(network._conv_head(x)).float().mean(dim=(2, 3)))
        joined = torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)
        return joined / math.sqrt(len(parts))

    def forward(self, rgb: Tensor) -> Tensor:
        scores: Tensor = self.scale * self.features(rgb).float() @ F.normalize(self.head, dim=1).T
        return scores


def augment(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (B, 3, H, W) over white in [0, 1], moved, scaled, turned, blurred and recoloured a little."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(rgb), *shape)).astype(np.float32))

    moved = 1 - affine(1 - rgb, rng, 0.2, 0.18, 0.12, mirror=0.1)  # what comes in from outside is white
    soft = F.interpolate(F.avg_pool2d(moved, 2), scale_factor=2, mode="bilinear")
    moved = torch.lerp(moved, soft, (uniform(-1, 1, 1, 1, 1)).clamp(min=0))
    grey = moved.mean(dim=1, keepdim=True)
    coloured = (
        torch.lerp(grey, moved, uniform(0.6, 1.3, 1, 1, 1))
        * uniform(0.85, 1.15, 3, 1, 1)
        * uniform(0.8, 1.1, 1, 1, 1)
    )
    ground = (moved > 0.999).all(dim=1, keepdim=True)
    return torch.where(ground, moved, coloured).clamp(0, 1)


@dataclass
class JudgeTask:
    """Classification of single pictures by concept, and by style where the model has classes for it."""

    model: Judge
    dataset: Dataset
    concepts: list[str]
    smoothing: float
    toned: float
    """Share of a skin-tone variant in a batch, a plain picture counting 1."""
    coloured: float = 0.0
    """Share of the pictures in a batch that are recoloured, as a generator may be asked to."""

    def __post_init__(self) -> None:
        self.labels = labels(self.dataset, self.concepts)
        self.train = self.dataset.split("train")
        shares = np.array([self.toned if self.dataset.records[i].tone else 1.0 for i in self.train])
        self.shares = shares / shares.sum()

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        chosen = rng.choice(self.train, size, p=self.shares)
        pixels, names = np.array(self.dataset.images[chosen]), list(COLOURS)
        for row in np.flatnonzero(rng.random(size) < self.coloured):
            pixels[row] = recolour(pixels[row], names[rng.integers(len(names))])
        wanted = np.stack([self.labels[chosen], self.dataset.style_ids()[chosen]])
        return augment(_rgb(pixels), rng), torch.from_numpy(wanted)

    def loss(self, batch: tuple[Tensor, Tensor], rng: torch.Generator) -> Mapping[str, Tensor]:
        on = self.model.head.device
        scores, (concept, style) = self.model(batch[0].to(on)), batch[1].to(on)
        return cross_entropies(scores, concept, style, len(self.concepts), self.smoothing)

    def report(self) -> tuple[Mapping[str, float], None]:
        plain = np.array([i for i in self.train if not self.dataset.records[i].tone])
        sample = np.random.default_rng(0).choice(plain, min(len(plain), 1000), replace=False)
        figures: dict[str, float] = {}
        for name, chosen in (("", heldout_pairs(self.dataset)), ("train_", sample)):
            scores = classify(self.model, self.dataset.images, chosen)
            concept, style = np.split(scores, [len(self.concepts)], axis=1)
            figures |= {f"{name}top{k}": float(hits(concept, self.labels[chosen], k).mean()) for k in (1, 5)}
            if style.size:
                figures[f"{name}style"] = float(hits(style, self.dataset.style_ids()[chosen], 1).mean())
        return figures, None


def cross_entropies(
    scores: Tensor, concept: Tensor, style: Tensor, concepts: int, smoothing: float
) -> dict[str, Tensor]:
    """Losses of scores (B, classes) against concepts and styles (B,) each, means over B; -1 adds nothing."""
    parts = {"cross_entropy": (scores[:, :concepts], concept), "style": (scores[:, concepts:], style)}
    return {
        name: F.cross_entropy(
            part, label, ignore_index=-1, label_smoothing=smoothing, reduction="none"
        ).mean()
        for name, (part, label) in parts.items()
        if part.shape[1]
    }


def heldout_pairs(dataset: Dataset) -> Indices:
    """One picture of each held-out (concept, style): the one with no skin tone and the first id."""
    first: dict[tuple[str, str], int] = {}
    for i in sorted(dataset.split("heldout"), key=lambda i: (dataset.records[i].tone, dataset.records[i].id)):
        first.setdefault((dataset.records[i].concept, dataset.records[i].style), int(i))
    return np.array(sorted(first.values()), np.int64)


def labels(dataset: Dataset, concepts: list[str]) -> Indices:
    """The class of each picture (N,); -1 where its concept is none of `concepts`."""
    number = {concept: i for i, concept in enumerate(concepts)}
    return np.array([number.get(record.concept, -1) for record in dataset.records], np.int64)


@dataclass(frozen=True)
class FastJudge:
    """A judge's graph in OpenVINO: the same scores within 1e-3 in a third of PyTorch's time on a CPU."""

    head: Tensor
    graph: Any

    @classmethod
    def of(cls, judge: Judge) -> "Judge | FastJudge":
        """`judge` so, or as it is where OpenVINO is not installed or the judge is on an accelerator."""
        if judge.head.device.type != "cpu" or find_spec("openvino") is None:
            return judge
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer
            graph = openvino.convert_model(judge, example_input=torch.zeros(2, 3, 128, 128))
        return cls(judge.head, openvino.Core().compile_model(graph, "CPU", settings("float32", 0, None)))

    def __call__(self, rgb: Tensor) -> Tensor:
        return torch.from_numpy(self.graph(rgb.numpy())[0])


def classify(
    judge: Judge | FastJudge, pixels: npt.NDArray[np.uint8], chosen: Indices | None = None
) -> npt.NDArray[np.float32]:
    """Scores float32 (n, classes) of straight RGBA uint8 pictures (n, 128, 128, 4), or of those at
    `chosen`.
    """
    order = np.arange(len(pixels)) if chosen is None else chosen
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    with torch.inference_mode():
        return np.concatenate(
            [judge(_rgb(pixels[part]).to(judge.head.device)).float().cpu().numpy() for part in parts]
        )


def _rgb(pixels: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(over_white(pixels)).permute(0, 3, 1, 2)


def load_judge(folder: Path) -> tuple[Judge, list[str]]:
    """The judge that `train` left in `folder`, in evaluation mode, and its concepts in the order of its
    scores.

    Raises:
        TrainingError: missing or damaged.
    """
    weights, recipe = loop.load_model(folder)
    try:
        concepts = list(json.loads((folder / "concepts.json").read_text("utf-8")))
        judge = Judge(len(weights["head"]), **recipe.get("model", {}))
        judge.load_state_dict(weights)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"the classifier in {folder} is damaged ({error}); train it again") from error
    return judge.eval(), concepts


@torch.no_grad()
def _start_from_class_means(task: JudgeTask) -> None:
    """Set each class's weights to the mean features of its pictures, which is far better than chance (Qi et
    al. 2018).
    """
    chosen = np.array([i for i in task.train if not task.dataset.records[i].tone], np.int64)
    totals = torch.zeros_like(task.model.head)
    style = task.dataset.style_ids() + len(task.concepts)
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        features = task.model.features(_rgb(task.dataset.images[part]).to(totals.device))
        totals.index_add_(0, torch.from_numpy(task.labels[part]).to(totals.device), features)
        if len(totals) > len(task.concepts):
            totals.index_add_(0, torch.from_numpy(style[part]).to(totals.device), features)
    task.model.head.copy_(F.normalize(totals, dim=1))


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says; besides `model` and `schedule`: `smoothing` of the labels, `tone_weight` of
    skin-tone variants, the share `coloured` of recoloured pictures, `styles`, whether it tells styles too.

    Writes `concepts.json`, the class names in order, beside the weights.
    """
    dataset = load_dataset(Path(recipe["data"]))
    concepts = sorted({dataset.records[i].concept for i in dataset.split("train")})
    classes = len(concepts) + (len(dataset.styles) if recipe.get("styles") else 0)
    judge = Judge(classes, **recipe.get("model", {})).to(devices.device())
    task = JudgeTask(
        judge,
        dataset,
        concepts,
        recipe.get("smoothing", 0.1),
        recipe.get("tone_weight", 0.1),
        recipe.get("coloured", 0.0),
    )
    if not resume:
        _start_from_class_means(task)
    out.mkdir(parents=True, exist_ok=True)
    if workers.rank() == 0:
        with atomic_write(out / "concepts.json") as file:
            file.write(json.dumps(concepts, ensure_ascii=False).encode())
    drive(task, recipe, out, resume)
