"""One way to open any model: a bundle, a diffusers folder or a hub id."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.bundle import MANIFEST, SHIPPED
from miaobi.pipeline import Pipeline
from miaobi.pipeline import load as load_bundle

if TYPE_CHECKING:
    from miaobi.runtimes.diffusers import DiffusersPipeline


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    plan: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> "Pipeline | DiffusersPipeline":
    """Load a bundle's folder (by default the bundle inside the package), a diffusers folder, or a hub id.

    Args:
        model: a folder with `bundle.json` or `model_index.json`, or an id such as "owner/name".
        plan: a file that `miaobi tune` wrote for this model; one for another machine is told in the receipts.
        threads: threads of one operator; by default the runtime chooses.
        device: "cpu" or "cuda"; where it is missing the CPU runs and the receipt says so.

    Raises:
        BundleError: the bundle is missing, damaged or altered.
        InputError: a value is outside what is allowed, or the plan is damaged or for another model.
        MachineError: the model does not fit in memory, or diffusers is not installed.
    """
    if plan is not None:
        return _as_planned(model, plan, threads, device)
    if model is None or (Path(model) / MANIFEST).exists():
        return load_bundle(model, threads=threads, device=device)
    if (Path(model) / "model_index.json").exists() or _is_hub_id(os.fspath(model)):
        from miaobi.runtimes.diffusers import load as load_diffusers

        return load_diffusers(model, threads=threads, device=device)
    return load_bundle(model, threads=threads, device=device)  # which says what is missing


def _as_planned(
    model: str | os.PathLike[str] | None, path: str | os.PathLike[str], threads: int | None, device: str
) -> "Pipeline | DiffusersPipeline":
    from miaobi.accelerate.transform import apply
    from miaobi.tune.plan import load_plan, model_digest

    plan = load_plan(path)
    folder = SHIPPED if model is None else model
    plan.check_model(model_digest(folder), os.fspath(folder))
    pipe = apply(load(model, threads=threads, device=device), plan.recipe, measured=False)
    warning = plan.warning()
    pipe.notes += [warning] if warning else []
    return pipe


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()
