"""The tuner: the fastest recipe for a pipeline on this machine that is proved to stay inside a quality bound.

from miaobi.tune import Goal, Search, load_plan, space_of
plan = load_plan("tuned/plan.toml")
"""

from typing import TYPE_CHECKING

from miaobi.tune.plan import Plan, PlanError, load_plan

if TYPE_CHECKING:
    from miaobi.tune.outcome import Goal
    from miaobi.tune.search import Search
    from miaobi.tune.space import space_of

__all__ = ["Goal", "Plan", "PlanError", "Search", "load_plan", "space_of"]


def __getattr__(name: str) -> object:
    """Load what searches need on first use (PEP 562); plans need none of it."""
    from importlib import import_module

    modules = {"Goal": "outcome", "Search": "search", "space_of": "space"}
    if name not in modules:
        raise AttributeError(f"module 'miaobi.tune' has no attribute {name!r}")
    return getattr(import_module(f"miaobi.tune.{modules[name]}"), name)
