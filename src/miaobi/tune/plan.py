"""`plan.toml`: a recipe, what it was measured to be worth, and the model and machine that this holds for."""

import hashlib
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.accelerate.recipe import Recipe, RecipeError, describe, dumps, from_tables
from miaobi.errors import InputError
from miaobi.evaluate.intervals import Figure
from miaobi.files import atomic_write
from miaobi.tune.hardware import Hardware, this_machine

FORMAT = 1


class PlanError(InputError):
    """A plan cannot be read, or is for another model."""


@dataclass(frozen=True)
class Plan:
    """What `miaobi tune` chose."""

    model: str
    """Name and version."""
    digest: str
    """Of the model's files, see `model_digest`."""
    recipe: Recipe
    hardware: Hardware
    objective: str
    max_loss: float
    """The bound, in the unit of `scale`."""
    confidence: float
    """Two-sided, of the loss's interval."""
    scale: str
    """What quality was measured by."""
    reason: str
    """Why this recipe, or why none."""
    figures: dict[str, Figure]
    """"picture_ms", "baseline_ms", "speedup", "loss", "score" and "baseline_score", those that were
    measured.
    """
    seed: int
    budget_s: float
    date: str

    def dumps(self) -> str:
        """As TOML."""
        rows: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model,
            "digest": self.digest,
            "objective": self.objective,
            "max_loss": self.max_loss,
            "confidence": self.confidence,
            "scale": self.scale,
            "reason": self.reason,
            "seed": self.seed,
            "budget_s": self.budget_s,
            "date": self.date,
        }
        hardware = self.hardware.to_json()
        versions = hardware.pop("versions")
        parts = [f"# {describe(self.recipe)}\n" + _table(rows), "[hardware]\n" + _table(hardware)]
        parts.append("[hardware.versions]\n" + _table(versions))
        for name, one in self.figures.items():
            parts.append(f"[figures.{name}]\n" + _table(one.__dict__))
        return "\n".join([*parts, dumps(self.recipe)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all; raises `InputError` or `MachineError` where that fails."""
        with atomic_write(path) as file:
            file.write(self.dumps().encode())

    def check_model(self, digest: str, model: str) -> None:
        """Raise `PlanError` where the plan is for another model than the one with this digest."""
        if digest != self.digest:
            raise PlanError(
                f"the plan is for {self.model} ({self.digest[:12]}), not for this {model} ({digest[:12]}); "
                "give that model, or find a plan for this one with `miaobi tune`."
            )

    def warning(self, machine: Hardware | None = None) -> str | None:
        """What to tell the user where the plan was found on another machine than this one, or None."""
        machine = machine or this_machine(gpus=bool(self.hardware.gpus))
        differs = self.hardware.differences(machine)
        if not differs:
            return None
        return (
            f"this plan was measured on another machine ({'; '.join(differs)}): its speed does not hold "
            "here; run `miaobi tune` again."
        )


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan; whether it fits is asked by `Plan.check_model` and `Plan.warning`.

    Raises:
        PlanError: it is missing, damaged, or of another format.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise PlanError(f"there is no plan {str(path)!r}; make one with `miaobi tune --out DIR`.") from error
    except OSError as error:
        raise PlanError(f"the plan {str(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise PlanError(f"the plan {str(path)!r} is damaged ({error}); run `miaobi tune` again.") from error
    if values.get("format") != FORMAT:
        raise PlanError(
            f"the plan {str(path)!r} has format {values.get('format')!r}, this version reads {FORMAT}; "
            "run `miaobi tune` again, or update miaobi."
        )
    try:
        return Plan(
            **{
                name: _text(values, name)
                for name in ("model", "digest", "objective", "scale", "reason", "date")
            },
            recipe=from_tables(values.get("step", [])),
            hardware=Hardware.from_json(values["hardware"]),
            max_loss=float(values["max_loss"]),
            confidence=float(values["confidence"]),
            figures={name: Figure(**one) for name, one in values.get("figures", {}).items()},
            seed=int(values["seed"]),
            budget_s=float(values["budget_s"]),
        )
    except RecipeError as error:
        raise PlanError(f"the plan {str(path)!r} has a recipe that cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise PlanError(f"the plan {str(path)!r} is damaged ({told}); run `miaobi tune` again.") from error


def model_digest(model: str | os.PathLike[str]) -> str:
    """sha256 of a model's folder: of `bundle.json`, which holds the checksums of all files; else of the
    names and sizes of its files, and of what its small ones (configurations) hold. Of a hub id: of the id.
    """
    folder, digest = Path(model), hashlib.sha256()
    if (folder / "bundle.json").is_file():
        digest.update((folder / "bundle.json").read_bytes())
    elif folder.is_dir():
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size}\n".encode())
            digest.update(path.read_bytes() if size < 1_000_000 else b"")
    else:
        digest.update(os.fspath(model).encode())
    return digest.hexdigest()


def _text(values: dict[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise TypeError(f"{name} is {values[name]!r}, not a text")
    return str(values[name])


def _table(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    # Strings of JSON, and lists of them, are TOML's; floats are repr's, which TOML reads (also nan, inf).
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
