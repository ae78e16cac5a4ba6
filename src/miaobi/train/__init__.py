"""Training: one command, one recipe file per part. `run` is the only way in."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from miaobi.errors import InputError

PARTS = ("text", "autoencoder", "decoder", "generator", "distill", "classifier", "upscaler")
"""What a recipe's `part` may name; each is a module with `train(recipe, out, resume)`."""


def run(recipe_path: Path, out: Path | None = None, resume: bool = False, processes: int = 1) -> Path:
    """Train what a TOML recipe describes and return the folder of its weights.

    Args:
        recipe_path: a file with `part`, `data` and the tables of that part.
        out: folder of checkpoints, previews and TensorBoard scalars; default `runs/<recipe name>`.
        resume: go on from the checkpoint in `out`.
        processes: how many workers of this machine share each batch, at least 1.

    Raises:
        InputError: the recipe cannot be read, or a value in it is not allowed.
        TrainingError: the run cannot start or go on.
    """
    recipe = read_recipe(recipe_path)
    part = recipe.get("part")
    if part not in PARTS:
        raise InputError(f"part = {part!r} in {recipe_path}; it must be one of {', '.join(PARTS)}")
    from miaobi.train import workers

    module = part if part != "classifier" else "miaobi.evaluate.classifier"
    folder = out or Path("runs") / recipe_path.stem
    if processes < 1:
        raise InputError(f"{processes} workers; choose at least 1")
    if processes > 1:
        workers.launch(processes, recipe_path, folder, resume)
        return folder
    train = import_module(module if "." in module else f"miaobi.train.{module}").train
    try:
        with workers.group():
            train(recipe, folder, resume)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{recipe_path}: {error}; correct the recipe") from error
    return folder


def read_recipe(path: Path) -> dict[str, Any]:
    """The TOML recipe at `path`; `InputError` where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {error}; see recipes/emoji/ for examples") from error
