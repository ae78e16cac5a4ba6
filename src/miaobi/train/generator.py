"""Trains a generator of any family on latents, with captions, styles and retrieved neighbours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from miaobi import images
from miaobi.errors import InputError, TrainingError
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.captioning import Captioner, autoregressive
from miaobi.models.diffusion import Diffusion, DiffusionConfig
from miaobi.models.gan import Gan, GanConfig
from miaobi.models.vae import Vae, VaeConfig
from miaobi.train import devices, loop
from miaobi.train.drive import drive
from miaobi.train.pairs import Batch, Captioned, Pairs, decode, noises, replace_rows, to_device
from miaobi.train.sources import Sources

COLLAPSED = 0.01
"""Spread of drawn pictures, as a share of real ones', below which a GAN is stopped."""
Generator = Diffusion | Gan | Vae | Autoregressive
FAMILIES: Mapping[str, tuple[Callable[..., Generator], type]] = {
    "diffusion": (Diffusion, DiffusionConfig),
    "gan": (Gan, GanConfig),
    "vae": (Vae, VaeConfig),
    "autoregressive": (autoregressive, AutoregressiveConfig),
}
"""Model and configuration of each family. A recipe names one as `family`; its table `model` describes the
backbone that they share, a table called like the family the rest."""


@dataclass
class GeneratorTask:
    """Any family on pairs of latents and conditions."""

    model: Generator
    pairs: Pairs
    preview: Mapping[str, Any]
    """Knobs of `sample` for the previews."""
    judge: Path | None = None
    """Folder of a trained classifier; with it reports tell R-precision and FID too."""
    judged: int = 128
    """Held-out pictures drawn for that."""

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        return self.pairs.batch(rng, size)

    def loss(self, batch: Batch, rng: torch.Generator) -> Mapping[str, Tensor]:
        on = next(self.model.parameters()).device
        # 10 % without any condition (for guidance), 10 % without neighbours, 5 % without text
        draw = torch.rand(len(batch.latents), generator=rng)
        condition = batch.condition.drop(
            (draw < 0.10) | ((draw >= 0.20) & (draw < 0.25)),
            draw < 0.20,
            draw < 0.10,
            self.model.backbone.styles,
        )
        losses = self.model.loss(batch.latents.to(on), to_device(condition, on), rng)
        return losses | self._captioning(batch.captioned, on)

    def _captioning(self, captioned: Captioned | None, on: torch.device) -> dict[str, Tensor]:
        """The loss of captions, in nats a word token, where there are any to learn."""
        if captioned is None or not isinstance(self.model, Captioner):
            return {}
        return {"caption": self.model.caption_loss(*captioned.to(on))}

    @torch.no_grad()
    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        """What the model measures of held-out latents, the error of drawn ones, and a sheet of real and
        drawn pictures.
        """
        chosen, condition = self.pairs.heldout(96)
        on = next(self.model.parameters()).device
        condition = to_device(condition, on)
        real = torch.from_numpy(self.pairs.sources.latents.values[chosen].astype(np.float32)).to(on)
        with devices.autocast(devices.precision("auto", on), on):
            losses = self.model.measure(real, condition, torch.Generator().manual_seed(0))
            if isinstance(self.model, Captioner):
                captioned = self.pairs.captioned(np.random.default_rng(0), chosen)
                losses |= self._captioning(captioned, on)
            few = replace_rows(condition, slice(0, 32))
            noise = noises(range(len(few.style)), self.model.backbone.latent_shape).to(on)
            drawn = self.model.sample(few, noise, **self.preview).float()
        figures = {name: float(value) for name, value in losses.items()}
        figures["latent_error"] = float((drawn - real[: len(drawn)]).square().mean())
        if figures.get("spread", 1) < COLLAPSED:
            raise TrainingError(
                f"the GAN collapsed: its pictures for different prompts vary by {figures['spread']:.2%} of "
                "what real ones do. Resume from a checkpoint before with a lower lr or a higher penalty."
            )
        if self.judge:
            figures |= judged(self.judge, self.pairs, self.judged, self.draw)
        return figures, self.pairs.sheet(real, drawn)

    def draw(self, condition: Condition, noise: Tensor) -> Tensor:
        """Latents (B, C, h, w) with the knobs of the previews."""
        return self.model.sample(condition, noise, **self.preview)


def judged(
    judge: Path, pairs: Pairs, count: int, draw: Callable[[Condition, Tensor], Tensor]
) -> dict[str, float]:
    """R-precision of `count` pictures that `draw` makes of held-out conditions and noise, and their FID to
    the real ones; `judge` is a trained classifier's folder.
    """
    from miaobi.evaluate import quality
    from miaobi.evaluate.classifier import classify, labels, load_judge
    from miaobi.evaluate.features import FeatureExtractor

    dataset, on = pairs.sources.dataset, devices.device()
    chosen, condition = pairs.heldout(count)
    noise = noises(range(len(chosen)), pairs.sources.memory.shape).to(on)
    pixels = decode(pairs.sources.autoencoder, draw(to_device(condition, on), noise).float())
    known, concepts = load_judge(judge)
    scores, target = classify(known, pixels), labels(dataset, concepts)[chosen]
    features = FeatureExtractor()
    fid = quality.frechet_distance(features(pixels), features(dataset.images[chosen]))
    return {"fid": fid} | {f"top{k}": float(quality.hits(scores, target, k).mean()) for k in (1, 5)}


def build(recipe: Mapping[str, Any]) -> Generator:
    """The generator that a recipe describes, untrained.

    Raises:
        InputError: the family is unknown.
    """
    family = recipe.get("family", "diffusion")
    if family not in FAMILIES:
        raise InputError(f"family = {family!r}; choose one of {', '.join(FAMILIES)}")
    model, config = FAMILIES[family]
    return model(_config(BackboneConfig, recipe["model"]), _config(config, recipe.get(family, {})))


def _config(kind: type, table: Mapping[str, Any]) -> Any:
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in table.items()})


def load(folder: Path) -> Generator:
    """The trained generator in `folder`, in evaluation mode; a student without the discriminator that taught
    it.
    """
    weights, recipe = loop.load_model(folder)
    model = build(recipe)
    if isinstance(model, Diffusion):
        weights = {name: value for name, value in weights.items() if not name.startswith("discriminator.")}
    model.load_state_dict(weights)
    return model.eval()


def load_teacher(
    folder: Path, steps: int = 50, guidance: float | None = None
) -> Callable[[Sequence[str], Sequence[str], Sequence[int]], images.UInt8]:
    """The generator in `folder`: prompts, styles and seeds (B each) → straight RGBA uint8 (B, H, W, 4).

    It draws in PyTorch, fp32, with `steps` Euler steps and `guidance` (by default that of its recipe), from
    the neighbours that a bundle would find: what the distilled bundle is measured against.
    """
    model, (_, recipe) = load(folder), loop.load_model(folder)
    scale = recipe.get("guidance", 3.0) if guidance is None else guidance
    sources = Sources.load(recipe)
    style_ids = {style: number for number, style in enumerate(sources.dataset.styles)}

    def draw(prompts: Sequence[str], styles: Sequence[str], seeds: Sequence[int]) -> images.UInt8:
        features = sources.encoder(prompts)
        asked = np.array([style_ids[style] for style in styles])
        found = sources.memory.neighbours(features.embedding, asked, 0, model.backbone.neighbours)
        arrays = (features.tokens, features.mask, features.embedding, asked, found.latents, found.styles)
        condition = Condition(*(torch.from_numpy(array) for array in arrays))
        noise = noises(seeds, model.backbone.latent_shape)
        return decode(sources.autoencoder, model.sample(condition, noise, steps, scale))

    return draw


def task(recipe: dict[str, Any], resume: bool = False) -> GeneratorTask:
    """What a recipe trains, see `train`; what the data decide about the model is written into the recipe."""
    sources = Sources.load(recipe)
    shape = list(sources.latents.values.shape[1:])
    recipe["model"] = {"styles": len(sources.dataset.styles), "latent_shape": shape} | recipe.get("model", {})
    if recipe.get("family") == "autoregressive":
        autoencoder = sources.autoencoder
        mean, std = autoencoder.mean.flatten().tolist(), float(autoencoder.std)
        known = {"levels": list(autoencoder.config.levels), "mean": mean, "std": std}
        table = recipe.get("autoregressive", {})
        if table.get("captioning"):
            known["words"] = sources.encoder.tokenizer.size
        recipe["autoregressive"] = table | known
    model = build(recipe).to(devices.device())
    if "start_from" in recipe and not resume:
        weights = loop.load_model(Path(recipe["start_from"]))[0]
        if isinstance(model, Captioner):  # weights that draw may learn to caption
            weights = model.own_weights() | weights
        model.load_state_dict(weights)
    pairs = Pairs.of(sources, model.backbone.neighbours, recipe)
    if isinstance(model, Vae) and model.config.perceptual_weight:
        from miaobi.train.perceptual import Perceptual

        model.perceptual = Perceptual(sources.autoencoder)
    judge = Path(recipe["judge"]) if "judge" in recipe else None
    return GeneratorTask(model, pairs, recipe.get("preview", {}), judge)


def train(recipe: dict[str, Any], out: Path, resume: bool) -> None:
    """Train as `recipe` says.

    Besides `family` and the tables `model`, `schedule` and that of the family: `data`, folders `autoencoder`
    and `text` of trained parts, `latents`, a file that keeps the encoded pictures, `heldout_tags`,
    `recoloured_copies` of each picture, `tone_weight` and `colour_weight` of skin-tone variants and
    recoloured pictures in a batch, `style_weights`, a table of the same for pictures of some styles,
    `shuffled`, the share of samples whose neighbours of the same concept come in any order,
    `frames`, a table of what captions say around a name in `en` and `zh` (lists of texts with a {}),
    `preview`, a table of `steps` and `guidance` for the previews, `judge`, a trained classifier's folder, for
    R-precision and FID in the reports, `start_from`, a folder of weights to go on from.
    """
    drive(task(recipe, resume), recipe, out, resume)
