"""The runs that benchmarks/families.py compares: how long they train, their training, their bundles."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from safetensors import safe_open

from miaobi.bundle import MANIFEST, Bundle
from miaobi.errors import InputError, MiaobiError, TrainingError
from miaobi.evaluate.intervals import Figure, bootstrap, exact
from miaobi.files import atomic_write
from miaobi.train import read_recipe, run, workers

Figures = dict[str, Figure]
TRIAL_STEPS, WARM_UP_STEPS, TRIALS = 40, 10, 2
"""Steps that tell a family's rate before it is trained, how many of them do not count, and how often all
families take them in turn.
"""
LEAST_STEPS = 40
"""Fewer would leave no rate in the run's scalars, which are written every 20 steps."""
RATE = "rate/items_per_s"
"""The scalar that every run writes, see `miaobi.train.drive`."""
TRAINED_ONLY = ("discriminator.", "posterior")
"""Parameters that do not draw, by the start of their names."""


@dataclass(frozen=True)
class Family:
    """A row of the comparison."""

    title: str
    recipe: str
    """File in the folder of recipes."""
    steps: int = 1
    """Steps it is drawn with; 0: one for each token of the picture."""
    guidance: float = 1.0
    temperature: float = 1.0
    """At which tokens are drawn; of the autoregressive family alone."""
    weights: str = ""
    """Family whose weights it draws with; empty: it is trained itself."""


FAMILIES = {
    "diffusion": Family("diffusion", "generator.toml", 16, 3.0),
    "text_only": Family("diffusion without retrieval", "text_only.toml", 16, 3.0),
    "shared": Family("diffusion with shared blocks", "shared.toml", 16, 3.0),
    "gan": Family("GAN", "gan.toml"),
    "vae": Family("VAE", "vae.toml"),
    "autoregressive": Family("autoregressive", "autoregressive.toml", 0, 3.0, 0.4),
    "parallel": Family("autoregressive, in parallel", "", 4, 3.0, 0.4, "autoregressive"),
}
TRAINED = tuple(name for name, family in FAMILIES.items() if not family.weights)


@dataclass(frozen=True)
class Setting:
    """What all families share."""

    recipes: Path
    data: Path
    text: Path
    autoencoder: Path
    codes: Path
    """Folder of an autoencoder with `levels`, for the autoregressive family."""
    judge: Path
    runs: Path
    minutes: float
    workers: int

    def coder(self, name: str) -> Path:
        """The autoencoder whose latents a family draws."""
        return self.codes if self.run(name).name == "autoregressive" else self.autoencoder

    def run(self, name: str) -> Path:
        """Folder of the run that trains a family's weights."""
        return self.runs / (FAMILIES[name].weights or name)

    def results(self, name: str) -> Path:
        """Folder of a family's bundle and of its quality."""
        return self.runs / name

    def plan(self, name: str) -> Path:
        """File of the recipe that a family is trained by, its steps decided."""
        return self.runs / f"{name}.toml"

    def recipe(self, name: str) -> dict[str, Any]:
        """A family's recipe with these paths, and how long it is to be trained; `steps` are still its own."""
        table = read_recipe(self.recipes / FAMILIES[name].recipe)
        kind = "codes" if name == "autoregressive" else "latents"
        paths = {
            "data": self.data,
            "text": self.text,
            "autoencoder": self.coder(name),
            "latents": self.runs / f"{kind}.npz",
        }
        if "heldout_tags" in table:
            paths["heldout_tags"] = self.recipes / Path(table["heldout_tags"]).name
        if "autoregressive" in table:  # as every family it spends all its time on learning to draw
            table["autoregressive"]["captioning"] = 0.0
        plan = {"minutes": self.minutes, "workers": self.workers}
        return table | {key: str(path) for key, path in paths.items()} | {"plan": plan}

    def check(self, names: Sequence[str]) -> None:
        """Raise `InputError` where something is missing that training or measuring `names` needs."""
        needed = {
            self.data / "metadata.jsonl": "build.py",
            self.text / "text.onnx": "text.toml",
            self.judge / "model.safetensors": "classifier.toml",
            self.autoencoder / "model.safetensors": "autoencoder.toml",
        }
        if "autoregressive" in names:
            needed[self.codes / "model.safetensors"] = "codes.toml"
        for path, maker in needed.items():
            if not path.exists():
                raise InputError(
                    f"there is no {path}; make it with recipes/emoji/{maker}, or name its folder"
                )


def trial(recipe: dict[str, Any]) -> float:
    """Median seconds of a step of a recipe, by its first steps; the recipe is changed."""
    from miaobi.train import generator, loop

    with workers.group():
        task, times = generator.task(recipe), [time.perf_counter()]
        schedule = loop.Schedule(**recipe["schedule"] | {"steps": TRIAL_STEPS})
        for _ in loop.fit(task, loop.start(task.model, schedule), schedule):
            times.append(time.perf_counter())
        return median(np.diff(times)[WARM_UP_STEPS:])


def _work(recipe: dict[str, Any]) -> float | MiaobiError:
    """One worker's trial; what is wrong is returned and not raised."""
    try:
        return trial(recipe)
    except MiaobiError as error:
        return error


def plan(names: Sequence[str], setting: Setting) -> None:
    """Decide how many steps families take that have no plan yet, and keep that in their files.

    All are timed in turn. One that was planned before is timed with them, and what a step takes is told in
    its time of that day: a machine that is faster today gives the others no more than it got.
    """
    new = [name for name in names if not setting.plan(name).exists()]
    if not new:
        return
    before = [name for name in TRAINED if setting.plan(name).exists()][:1]
    seconds: dict[str, list[float]] = {name: [] for name in (*before, *new)}
    for _ in range(TRIALS):
        for name, times in seconds.items():
            click.echo(f"{name}: {TRIAL_STEPS} steps to see how fast it trains", err=True)
            asked = setting.recipe(name)
            told = workers.start(setting.workers, _work, asked)[0] if setting.workers > 1 else trial(asked)
            if isinstance(told, MiaobiError):
                raise told
            times.append(told)
    for name in new:
        wanted, step_s = setting.recipe(name), median(seconds[name])
        for one in before:
            share = median(a / b for a, b in zip(seconds[name], seconds[one], strict=True))
            step_s = share * planned(one, setting)["plan"]["step_ms"] / 1000
        wanted["schedule"]["steps"] = max(LEAST_STEPS, round(setting.minutes * 60 / step_s))
        wanted["plan"]["step_ms"] = round(step_s * 1000, 2)
        write_recipe(setting.plan(name), wanted)


def planned(name: str, setting: Setting) -> dict[str, Any]:
    """A family's recipe with as many steps as take the given minutes, as `plan` decided.

    Raises:
        InputError: it was decided for another setting.
    """
    path, wanted = setting.plan(name), setting.recipe(name)
    kept = read_recipe(path)
    told = [(key, _asked(kept, key), _asked(wanted, key)) for key in kept | wanted]
    changed = [f"{key} = {before!r}, now {now!r}" for key, before, now in told if before != now]
    if changed:
        raise InputError(f"{path} has {'; '.join(changed)}; ask for the same, or choose another --runs")
    return kept


def _asked(recipe: dict[str, Any], key: str) -> Any:
    """What a recipe says of `key`, without what was decided by the trial."""
    decided = {"schedule": "steps", "plan": "step_ms"}.get(key)
    told = recipe.get(key)
    return {name: one for name, one in told.items() if name != decided} if decided and told else told


def write_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """A recipe of values and tables of values as TOML."""
    lines = [f"{key} = {_toml(value)}" for key, value in recipe.items() if not isinstance(value, dict)]
    for key, table in recipe.items():
        if isinstance(table, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in table.items())]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def steps_done(folder: Path) -> int:
    """Steps of the checkpoint in a run's folder; 0 where there is none."""
    if not (folder / "checkpoint.safetensors").exists():
        return 0
    with safe_open(folder / "checkpoint.safetensors", "numpy") as file:
        return int(json.loads(file.metadata()["miaobi"])["step"])


def train(name: str, setting: Setting) -> None:
    """Train a family to the last of its steps, from its checkpoint where there is one.

    Raises:
        TrainingError: it was stopped.
    """
    steps, folder = planned(name, setting)["schedule"]["steps"], setting.run(name)
    done = steps_done(folder)
    if done < steps:
        click.echo(f"{name}: steps {done} to {steps}", err=True)
        run(setting.plan(name), folder, done > 0, setting.workers)
    if (done := steps_done(folder)) < steps:
        raise TrainingError(f"{name} was stopped at step {done} of {steps}; the same command goes on")


def training(folder: Path) -> Figures:
    """How the part in a run's folder was trained: pictures a second, minutes, steps and pictures a step.

    The rate is the median over stretches of 20 steps in the run's scalars: previews, checkpoints and pauses
    between sessions do not count. Empty where there are too few scalars to tell.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from miaobi.train import loop

    events = EventAccumulator(str(folder / "tensorboard"))
    if not (folder / "tensorboard").exists() or RATE not in events.Reload().Tags()["scalars"]:
        return {}
    told = events.Scalars(RATE)
    seconds, steps = np.diff([one.wall_time for one in told]), np.diff([one.step for one in told])
    if not len(steps):
        return {}
    schedule = loop.Schedule(**loop.load_model(folder)[1]["schedule"])
    rate = bootstrap(lambda x: float(np.median(x)), schedule.batch_size * steps / seconds)
    return {
        "train_pictures_per_s": rate,
        "train_minutes": exact(schedule.steps * schedule.batch_size / rate.value / 60),
        "train_steps": exact(schedule.steps),
        "train_batch": exact(schedule.batch_size),
    }


def export(name: str, setting: Setting) -> tuple[Bundle, Figures]:
    """A trained family as a bundle in fp32 with PyTorch's weights, and its parameters in millions."""
    from miaobi.accelerate.export import export_bundle
    from miaobi.train import generator
    from miaobi.train.data import load_dataset

    folder, family = setting.results(name) / "bundle", FAMILIES[name]
    model = generator.load(setting.run(name))
    knobs = {
        "steps": family.steps or model.backbone.tokens,
        "guidance": family.guidance,
        "temperature": family.temperature,
    }
    bundle = Bundle.load(folder) if (folder / MANIFEST).exists() else None
    if bundle is None or {knob: getattr(bundle, knob) for knob in knobs} != knobs:
        click.echo(f"{name}: exporting", err=True)
        about = {"name": name, "default_style": load_dataset(setting.data).styles[0], "knobs": knobs}
        parts = {"generator": setting.run(name), "autoencoder": setting.coder(name), "text": setting.text}
        bundle = export_bundle({**parts, "storage": "fp32", "weights": True, "bundle": about}, folder)
    sizes = {key: one.numel() for key, one in model.named_parameters()}
    idle = sum(size for key, size in sizes.items() if key.startswith(TRAINED_ONLY))
    return bundle, {
        "parameters_trained_m": exact(sum(sizes.values()) / 1e6),
        "parameters_drawing_m": exact((bundle.parameters - idle) / 1e6),
    }
