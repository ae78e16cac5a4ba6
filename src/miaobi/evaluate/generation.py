"""Figures of a generator: R-precision, FID, KID, paraphrases, diversity and copying.

A generator is any function of prompts, styles and seeds (`Draw`): a bundle, a teacher in PyTorch, or
something foreign. All figures of one report come from the same held-out (concept, style) pairs and the same
seeds.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from miaobi.evaluate import quality
from miaobi.evaluate.classifier import Judge, classify, heldout_pairs, labels
from miaobi.evaluate.features import FeatureExtractor, dataset_features
from miaobi.evaluate.quality import Figure
from miaobi.images import UInt8
from miaobi.train.data import Dataset, Indices

Draw = Callable[[Sequence[str], Sequence[str], Sequence[int]], UInt8]
"""Prompts, styles and seeds, each of length B, to straight RGBA pictures (B, H, W, 4)."""
Reconstruct = Callable[[UInt8], UInt8]
"""Straight RGBA pictures (B, H, W, 4) through an autoencoder."""
Figures = dict[str, Figure]


@dataclass
class Bench:
    """What a generator is measured against: real pictures, a judge over their concepts, and features."""

    dataset: Dataset
    judge: Judge
    concepts: list[str]
    extractor: FeatureExtractor
    limit: int | None = None
    """Use only so many held-out pairs, prompts and pictures: for a quick look."""

    @cached_property
    def pairs(self) -> Indices:
        """Held-out pictures, one of each (concept, style)."""
        return heldout_pairs(self.dataset)[: self.limit]

    @cached_property
    def plain(self) -> Indices:
        """All pictures without a skin tone, in a fixed random order."""
        usable = [i for i, r in enumerate(self.dataset.records) if r.tone == 0 and r.split != "dropped"]
        return np.random.default_rng(0).permutation(np.array(usable, np.int64))

    @cached_property
    def labels(self) -> Indices:
        return labels(self.dataset, self.concepts)

    @cached_property
    def style_scores(self) -> Callable[[quality.Floating], quality.Floating]:
        """Features (n, 1280) to scores (n, styles) of what they look like, learned from training pictures."""
        train = np.array([i for i in self.plain if self.dataset.records[i].split == "train"])
        features = dataset_features(self.dataset, self.extractor)[train]
        return quality.ridge_classifier(features, self.dataset.style_ids()[train])

    @cached_property
    def real(self) -> "Measured":
        """The real held-out pictures."""
        return self.measure(self.dataset.images[self.pairs], self.pairs)

    def measure(self, pixels: UInt8, like: Indices) -> "Measured":
        """Features and judgement of pictures that should show what the data set shows at `like`."""
        scores, target, features = classify(self.judge, pixels), self.labels[like], self.extractor(pixels)
        return Measured(
            pixels,
            features,
            quality.hits(scores, target, 1),
            quality.hits(scores, target, 5),
            quality.hits(self.style_scores(features), self.dataset.style_ids()[like], 1),
        )

    def draw(self, draw: Draw, like: Indices, prompts: Sequence[str]) -> UInt8:
        """Pictures of `prompts`, with style and seed from the data set's pictures at `like`."""
        made = []
        for start in tqdm(range(0, len(like), 8), unit="batch", desc="drawing", leave=False):
            part = like[start : start + 8]
            styles = [self.dataset.records[i].style for i in part]
            made.append(draw(prompts[start : start + 8], styles, [int(i) for i in part]))
        return np.concatenate(made)

    def names(self, like: Indices, language: str = "en") -> list[str]:
        """The labels of the data set's pictures at `like`."""
        return [getattr(self.dataset.records[i], f"label_{language}") for i in like]


@dataclass(frozen=True)
class Measured:
    """Pictures (n, H, W, 4), their features (n, 1280), and the judge's hits (n,)."""

    pixels: UInt8
    features: npt.NDArray[np.float32]
    top1: quality.Bool
    top5: quality.Bool
    style: quality.Bool
    """Whether it looks like its style."""


def evaluate_autoencoder(reconstruct: Reconstruct, dataset: Dataset) -> Figures:
    """PSNR (dB) and SSIM over white of the held-out pictures' reconstructions, one of each pair."""
    real = dataset.images[heldout_pairs(dataset)]
    a, b = quality.over_white(real), quality.over_white(reconstruct(real))
    return {
        "psnr_db": quality.mean_figure(np.minimum(quality.psnr(a, b), 100)),
        "ssim": quality.mean_figure(quality.ssim(a, b)),
    }


def evaluate_names(
    draw: Draw, bench: Bench, reconstruct: Reconstruct | None = None, teacher: Draw | None = None
) -> tuple[Figures, UInt8]:
    """R-precision, FID and KID of pictures drawn by name in both languages, and the English ones' pictures.

    Beside them stand the real pictures, the autoencoder's reconstructions and a teacher.
    """
    real, pairs = bench.real, bench.pairs
    hits = {"top1": real.top1, "top5": real.top5, "style": real.style}
    figures: Figures = {f"real/{name}": quality.mean_figure(hit) for name, hit in hits.items()}
    found: dict[str, Measured] = {}
    for language in ("en", "zh"):
        made = found[language] = bench.measure(bench.draw(draw, pairs, bench.names(pairs, language)), pairs)
        figures |= _against(made, real, language)
    en, zh = found["en"], found["zh"]
    figures |= {
        "zh/top1_share_of_en": quality.ratio_figure(zh.top1, en.top1),
        "zh/top5_share_of_en": quality.ratio_figure(zh.top5, en.top5),
    }
    if reconstruct is not None:
        rebuilt = bench.measure(reconstruct(real.pixels), pairs)
        figures |= _against(rebuilt, real, "reconstructions")
        figures["en/fid_ratio_to_reconstructions"] = _fid_ratio(en, rebuilt, real)
    if teacher is not None:
        taught = bench.measure(bench.draw(teacher, pairs, bench.names(pairs)), pairs)
        figures |= _against(taught, real, "teacher")
        figures["en/fid_ratio_to_teacher"] = _fid_ratio(en, taught, real)
        for name in ("top1", "top5"):
            figures[f"en/{name}_minus_teacher"] = quality.bootstrap(
                lambda a, b: float(a.mean() - b.mean()), getattr(en, name), getattr(taught, name)
            )
    return figures, en.pixels


def _against(made: Measured, real: Measured, name: str) -> Figures:
    return {
        f"{name}/top1": quality.mean_figure(made.top1),
        f"{name}/top5": quality.mean_figure(made.top5),
        f"{name}/top1_share_of_real": quality.ratio_figure(made.top1, real.top1),
        f"{name}/top5_share_of_real": quality.ratio_figure(made.top5, real.top5),
        f"{name}/style": quality.mean_figure(made.style),
        f"{name}/fid": quality.bootstrap_normal(quality.frechet_distance, made.features, real.features),
        f"{name}/kid": quality.kernel_distance(made.features, real.features),
    }


def _fid_ratio(top: Measured, bottom: Measured, real: Measured) -> Figure:
    def ratio(a: quality.Float32, b: quality.Float32, c: quality.Float32) -> float:
        below = quality.frechet_distance(b, c)
        return quality.frechet_distance(a, c) / below if below else float("nan")

    return quality.bootstrap_normal(ratio, top.features, bottom.features, real.features)


def evaluate_paraphrases(draw: Draw, bench: Bench, tags: Mapping[str, Mapping[str, str]]) -> Figures:
    """R-precision with a tag that no training text held in place of the name, beside that with the name.

    Both draw the same concepts in the same styles (a held-out one where there is one) with the same seeds.
    `tags` is {concept: {"en": tag, "zh": tag}}.
    """
    records, known = bench.dataset.records, set(bench.concepts)
    order = sorted(bench.plain, key=lambda i: records[i].split == "heldout")
    chosen = {records[i].concept: int(i) for i in order}
    figures: Figures = {}
    for language in ("en", "zh"):
        concepts = [c for c in sorted(tags) if tags[c].get(language) and c in chosen and c in known]
        concepts = concepts[: bench.limit]
        like = np.array([chosen[concept] for concept in concepts], np.int64)
        if not len(like):
            continue
        by_name = bench.measure(bench.draw(draw, like, bench.names(like, language)), like)
        by_tag = bench.measure(bench.draw(draw, like, [tags[c][language] for c in concepts]), like)
        for k in ("top1", "top5"):
            tagged, named = getattr(by_tag, k), getattr(by_name, k)
            figures |= {
                f"paraphrase_{language}/{k}": quality.mean_figure(tagged),
                f"paraphrase_{language}/{k}_by_name": quality.mean_figure(named),
                f"paraphrase_{language}/{k}_share": quality.ratio_figure(tagged, named),
            }
    return figures


def evaluate_diversity(draw: Draw, bench: Bench, prompts: int = 30, seeds: int = 8) -> Figures:
    """Mean pairwise feature distance of one prompt's pictures, and of a concept's real ones in all styles."""
    records = bench.dataset.records
    several = Counter(records[i].concept for i in bench.plain)
    pairs = [i for i in np.random.default_rng(0).permutation(bench.pairs) if several[records[i].concept] > 1]
    drawn, real = [], []
    for i in tqdm(pairs[: min(prompts, bench.limit or prompts)], desc="diversity", leave=False):
        record = records[i]
        pixels = draw([record.label_en] * seeds, [record.style] * seeds, list(range(seeds)))
        drawn.append(bench.extractor(pixels))
        same = [j for j in bench.plain if records[j].concept == record.concept]
        real.append(bench.extractor(bench.dataset.images[same]))
    return {
        "diversity/seeds_of_a_prompt": quality.diversity(drawn),
        "diversity/real_styles_of_a_concept": quality.diversity(real),
    }


def evaluate_copying(draw: Draw, bench: Bench, count: int = 500, shown: int = 10) -> tuple[Figures, UInt8]:
    """The share of generated pictures nearer to a memory picture than that one's own nearest real neighbour.

    Prompts are the names of pairs drawn at random from the whole data set. Also returns the worst pairs
    (2·shown, H, W, 4): first the generated ones, then the memory pictures they are near to.
    """
    records, memory = bench.dataset.records, bench.dataset.split("train")
    groups = {(record.concept, record.style): i for i, record in enumerate(records)}
    like = bench.plain[: min(count, bench.limit or count)]
    pixels = bench.draw(draw, like, bench.names(like))
    features = dataset_features(bench.dataset, bench.extractor)[memory]
    group = np.array([groups[records[i].concept, records[i].style] for i in memory])
    found = quality.copying(bench.extractor(pixels), features, group)
    worst = found.worst(shown)
    sheet = np.concatenate([pixels[worst], bench.dataset.images[memory[found.nearest[worst]]]])
    return {
        "copying/share": found.share,
        "copying/median_ratio": quality.bootstrap(lambda ratio: float(np.median(ratio)), found.ratio),
    }, sheet
