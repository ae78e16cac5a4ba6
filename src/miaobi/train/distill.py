"""Few steps without guidance: a student that follows the guided teacher's path in a handful of strides.

The teacher draws many pictures with guidance and small Euler steps; the places where its path crosses the
student's few times are kept. The student starts from the teacher's weights, walks from the same noise in its
own strides and is pulled to those places, errors of its earlier strides included. This is progressive
distillation (Salimans & Ho 2022, arXiv:2202.00512) in one go, on whole paths, with guidance folded in (Meng
et al. 2023, arXiv:2210.03142). A classifier of real pictures may pull it further (`matching`), and so may a
GAN's discriminator that tells its pictures from real ones (Sauer et al. 2023, "Adversarial diffusion
distillation", arXiv:2311.17042). A student that so outgrew its teacher can teach itself to take fewer steps.
"""

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from miaobi import sampling
from miaobi.accelerate.share import shallower
from miaobi.errors import InputError
from miaobi.files import atomic_write
from miaobi.models.backbone import Condition
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Discriminator, GanConfig
from miaobi.train import devices, generator, loop, workers
from miaobi.train.drive import drive
from miaobi.train.matching import Matching
from miaobi.train.pairs import Batch as RealBatch
from miaobi.train.pairs import Pairs, noises, to_device
from miaobi.train.sources import Sources

STUDENT = ("depth", "bias", "width", "heads")
"""What a student may have less of than its teacher."""
JUDGED = 256
"""Held-out pictures that a judge looks at for a report."""
_PART = 256  # paths in one file


@dataclass(frozen=True)
class Paths:
    """N paths of the teacher."""

    points: npt.NDArray[np.float16]
    """(N, steps + 1, C, h, w): noise first, picture last."""
    texts: Sequence[str]
    styles: npt.NDArray[np.int64]
    """(N,) style ids."""
    entries: npt.NDArray[np.int64]
    """(N, K) entries of the memory that were looked at."""
    concepts: npt.NDArray[np.int64]
    """(N,) concepts of the memory that were asked for, -1 in another colour."""


def draw_paths(
    teacher: Diffusion,
    pairs: Pairs,
    count: int,
    steps: int,
    substeps: int,
    guidance: float,
    folder: Path,
    batch_size: int = 64,
) -> Paths:
    """`count` guided paths of the teacher at `steps` + 1 times, each stride made of `substeps` Euler steps.

    Half of them are of training pictures, half of the same concepts in styles taken at random; held-out pairs
    are never drawn. They are kept in `folder` in parts, shared out among workers, so that a stopped run goes
    on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    on = next(teacher.parameters()).device
    times = sampling.timesteps(steps * substeps)
    files = [folder / f"{number:05d}.npz" for number in range(-(-count // _PART))]
    mine = range(workers.rank(), len(files), workers.count())
    for number in tqdm(mine, "teacher's paths", unit="part", disable=workers.rank() > 0):
        path = files[number]
        if not path.exists():
            rng = np.random.default_rng([7, number])
            texts, styles, entries, concepts = pairs.requests(rng, _PART)
            points = []
            for begin in range(0, _PART, batch_size):
                rows = slice(begin, begin + batch_size)
                condition = to_device(pairs.condition(texts[rows], styles[rows], entries[rows]), on)
                seeds = [number * _PART + begin + row for row in range(len(texts[rows]))]
                x = noises(seeds, teacher.backbone.latent_shape).to(on)
                crossed = [x]
                with devices.autocast(devices.precision("auto", on), on):
                    for stride in range(steps):
                        between = times[stride * substeps : (stride + 1) * substeps + 1]
                        x = teacher.walk(condition, x, between, guidance)
                        crossed.append(x)
                points.append(torch.stack(crossed, 1).cpu().numpy().astype(np.float16))
            buffer = io.BytesIO()
            np.savez(
                buffer,
                points=np.concatenate(points),
                texts=np.array(texts),
                styles=styles,
                entries=entries,
                concepts=concepts,
            )
            with atomic_write(path) as file:
                file.write(buffer.getbuffer())
    workers.wait()
    parts = []
    for path in files:
        with np.load(path, allow_pickle=False) as kept:
            parts.append({name: kept[name] for name in kept.files})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Paths(**joined | {"texts": joined["texts"].tolist()})


Batch = tuple[Tensor, Condition, Tensor, RealBatch | None]


class DistillTask:
    """The student walks; the loss is how far each of its points is from the teacher's, and what `matching`
    and `discriminator` make of its pictures.

    Args:
        walks: numbers of steps; a batch is shared out among them. Nothing: as many as the paths have points.
        discriminator: learns beside the student, as a part of it, to tell its pictures from as many real
            ones.

    Raises:
        InputError: a number of steps does not divide that of the paths.
    """

    def __init__(
        self,
        model: Diffusion,
        pairs: Pairs,
        paths: Paths,
        walks: Sequence[int] = (),
        matching: Matching | None = None,
        judge: Path | None = None,
        discriminator: Discriminator | None = None,
    ) -> None:
        self.model, self.pairs, self.paths, self.matching, self.judge = model, pairs, paths, matching, judge
        self.discriminator = discriminator
        if discriminator:
            model.add_module("discriminator", discriminator)
        strides = paths.points.shape[1] - 1
        self.walks = tuple(walks) or (strides,)
        if wrong := [steps for steps in self.walks if steps < 1 or strides % steps]:
            raise InputError(f"walks {wrong} do not divide steps = {strides}; choose others or other steps")

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        rows = rng.integers(len(self.paths.texts), size=size)
        condition = self.pairs.condition(
            [self.paths.texts[row] for row in rows], self.paths.styles[rows], self.paths.entries[rows]
        )
        points = torch.from_numpy(self.paths.points[rows].astype(np.float32))
        real = self.pairs.batch(rng, size) if self.discriminator else None
        return points, condition, torch.from_numpy(self.paths.concepts[rows]), real

    def loss(self, batch: Batch, rng: torch.Generator) -> Mapping[str, Tensor]:
        on = next(self.model.parameters()).device
        points, condition, concept, real = batch
        points, condition, concept = points.to(on), to_device(condition, on), concept.to(on)
        prepared = self.model.prepare(condition)
        parts = [torch.tensor_split(part, len(self.walks)) for part in (points, *prepared)]
        errors, drawn = [], []
        for steps, crossed, *known in zip(self.walks, *parts, strict=True):
            crossed = crossed[:, :: (points.shape[1] - 1) // steps]
            x = crossed[:, 0]
            for index, (t, following) in enumerate(pairwise(sampling.timesteps(steps)), 1):
                now = torch.full((len(x),), t, device=on)
                x = x + (following - t) * self.model.velocity(x, now, *known).float()
                errors.append((x - crossed[:, index]).square().sum())
            drawn.append(x)
        losses = {"path": torch.stack(errors).sum() / points[:, 0].numel()}
        if self.matching:
            losses |= self.matching(torch.cat(drawn), concept, condition.style, rng)
        if self.discriminator and real:
            shown = to_device(real.condition, on)
            losses |= self.discriminator.losses(torch.cat(drawn), condition, real.latents.to(on), shown)
        return losses

    @torch.no_grad()
    def report(self) -> tuple[Mapping[str, float], Image.Image | None]:
        """Squared distance of held-out pictures to the real ones, and a sheet of both."""
        chosen, condition = self.pairs.heldout(32)
        on = next(self.model.parameters()).device
        noise = noises(range(len(chosen)), self.model.backbone.latent_shape).to(on)
        drawn = self.draw(to_device(condition, on), noise)
        real = torch.from_numpy(self.pairs.sources.latents.values[chosen].astype(np.float32)).to(on)
        figures = {"latent_error": float((drawn - real).square().mean())}
        if self.judge:
            figures |= generator.judged(self.judge, self.pairs, JUDGED, self.draw)
        return figures, self.pairs.sheet(real, drawn)

    def draw(self, condition: Condition, noise: Tensor) -> Tensor:
        """Latents (B, C, h, w) in the fewest steps."""
        return self.model.walk(condition, noise, sampling.timesteps(min(self.walks)))


def train(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Distil as `recipe` says.

    Besides `schedule` and what a generator's recipe says of its sources: `teacher`, the generator's folder;
    `start_from`, the folder of a student to start from instead of the teacher; either may be a list of
    folders of one size, and is the mean of their weights then; `paths`, how many pictures the teacher draws;
    `steps` of the student; `substeps` of the teacher in each; `walks`, fewer steps that parts of a batch are
    walked in, see `DistillTask`; `guidance`; the tables `student`, see `student_of`, `matching`, see
    `Matching`, and `discriminator`, see `discriminator_of`; `judge`, a trained classifier's folder, for
    R-precision and FID in the reports.
    """
    teachers, table = _folders(recipe["teacher"]), recipe.get("student", {})
    teacher = mean_of([_diffusion(folder) for folder in teachers])
    _, teacher_recipe = loop.load_model(teachers[0])
    if "start_from" in recipe and not resume:
        starts = _folders(recipe["start_from"])
        name = " and ".join(map(str, starts))
        student, told = student_of(mean_of([_diffusion(folder) for folder in starts]), table, name)
    else:
        student, told = student_of(teacher, table)
    if workers.rank() == 0:
        tqdm.write(f"the student {told}")
    both = {**teacher_recipe, **recipe}
    pairs = Pairs.of(Sources.load(both), teacher.backbone.neighbours, both)
    paths = draw_paths(
        teacher,
        pairs,
        recipe["paths"],
        recipe["steps"],
        recipe["substeps"],
        recipe["guidance"],
        out / "paths",
    )
    kept = {**recipe, "model": {**teacher_recipe["model"], **table}}
    matching = None
    if "matching" in recipe:
        slugs = [concept["slug"] for concept in pairs.sources.memory.concepts]
        matching = Matching(recipe["matching"], pairs.sources.autoencoder, slugs)
    judge = Path(recipe["judge"]) if "judge" in recipe else None
    discriminator = discriminator_of(recipe["discriminator"], student) if "discriminator" in recipe else None
    task = DistillTask(student, pairs, paths, recipe.get("walks", ()), matching, judge, discriminator)
    drive(task, kept, out, resume)


def mean_of(models: Sequence[Diffusion]) -> Diffusion:
    """The first of some models, with the mean of all their weights (Wortsman et al. 2022, "Model soups",
    arXiv:2203.05482).

    Raises:
        InputError: they differ in size.
    """
    first = models[0]
    if unlike := [model.backbone for model in models if model.backbone != first.backbone]:
        raise InputError(
            f"generators differ in size: {first.backbone} and {unlike[0]}; name some of one size"
        )
    weights = [model.state_dict() for model in models]
    first.load_state_dict({name: sum(one[name] for one in weights) / len(models) for name in weights[0]})
    return first


def student_of(
    start: Diffusion, table: Mapping[str, Any], name: str = "the teacher"
) -> tuple[Diffusion, str]:
    """The student that `table` describes, and what it starts from, in words.

    Args:
        start: the teacher, or an earlier student.
        table: `depth`, `bias`, `width` and `heads` where they differ from those of `start`. With its width
            and heads the student starts from its blocks, evenly chosen where they are fewer, and without
            their biases where it has none; otherwise no weight fits and it starts from none.
        name: of `start`.

    Raises:
        InputError: the table has other keys, or the blocks of `start` cannot be chosen from.
    """
    unknown = sorted(set(table) - set(STUDENT))
    if unknown:
        raise InputError(f"[student] has no {', '.join(unknown)}; it may have {', '.join(STUDENT)}.")
    config = start.backbone
    smaller = replace(config, **table)
    if smaller == config:
        return copy.deepcopy(start), f"starts from the weights of {name}"
    made = type(start)(smaller, start.config).to(next(start.parameters()).device)
    if smaller == replace(config, depth=smaller.depth, bias=smaller.bias) and smaller.bias <= config.bias:
        blocks = start if smaller.depth == config.depth else shallower(start, smaller.depth)
        weights = blocks.state_dict()
        made.load_state_dict({weight: weights[weight] for weight in made.state_dict()})
        without = "" if smaller.bias == config.bias else ", without their biases"
        return made, f"starts from {smaller.depth} of the {config.depth} blocks of {name}{without}"
    return made, f"starts from no weights: none of {smaller.width} wide with {smaller.heads} heads are there"


def discriminator_of(table: Mapping[str, Any], student: Diffusion) -> Discriminator:
    """The discriminator that `table` describes: a GAN's configuration, and as `start_from` the folder of a
    GAN, or of a student taught so, whose discriminator goes on learning.

    Raises:
        InputError: the discriminator there is of another shape, or there is none.
    """
    told = dict(table)
    start = told.pop("start_from", None)
    made = Discriminator(student.backbone, GanConfig(**told))
    if start:
        weights = loop.under(loop.load_model(Path(start))[0], "discriminator.")
        shapes = [{name: value.shape for name, value in one.items()} for one in (weights, made.state_dict())]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"[discriminator] start_from = {start!r} has no discriminator of this width and depth; "
                "name the folder of a GAN, and its width and blocks"
            )
        made.load_state_dict(weights)
    return made.to(next(student.parameters()).device)


def _folders(named: str | Sequence[str]) -> list[Path]:
    return [Path(folder) for folder in ([named] if isinstance(named, str) else named)]


def _diffusion(folder: Path) -> Diffusion:
    model = generator.load(folder)
    if not isinstance(model, Diffusion):
        raise InputError(
            f"the teacher in {folder} is a {type(model).__name__}; only diffusion takes many steps"
        )
    return model.to(devices.device())
