"""`apply`: a recipe and a pipeline to a new pipeline; the old one stays as it was."""

from typing import TYPE_CHECKING, TypeVar

from miaobi.accelerate.recipe import Recipe
from miaobi.accelerate.rules import check
from miaobi.pipeline import Pipeline

if TYPE_CHECKING:
    from miaobi.runtimes.diffusers import DiffusersPipeline

Any_ = TypeVar("Any_", "Pipeline", "DiffusersPipeline", "Pipeline | DiffusersPipeline")


def apply(pipeline: Any_, recipe: Recipe, *, measured: bool = True) -> Any_:
    """A new pipeline that runs as the recipe says.

    The whole recipe is checked first (`accelerate.rules`, which `measured` is for).

    Raises:
        RecipeError: a step cannot be taken; the message has the reason for each.
        MachineError: a runtime or tool failed.
    """
    check(pipeline.traits, recipe, measured=measured)
    if isinstance(pipeline, Pipeline):
        from miaobi.accelerate.bundles import changed

        return changed(pipeline, recipe)
    from miaobi.accelerate.diffusers import changed as changed_diffusers

    return changed_diffusers(pipeline, recipe)
