"""The Pareto front: the recipes that no other one beats in cost without losing more quality."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from miaobi.accelerate.recipe import Recipe, describe
from miaobi.errors import MachineError
from miaobi.files import atomic_write
from miaobi.tune.outcome import Outcome
from miaobi.tune.trial import Trial

_UNITS = {"latency": ("ms a picture", 1.0), "throughput": ("ms a picture", 1.0)}
_BYTES = ("MB", 1e-6)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that did not fail and that no other beats: the cheapest first, their losses falling."""
    best: list[Trial] = []
    points = [
        (one.cost, one.loss.value, i, one)
        for i, one in enumerate(trials)
        if one.cost is not None and one.loss
    ]
    for _, loss, _, one in sorted(points, key=lambda point: point[:3]):
        if not best or (best[-1].loss and loss < best[-1].loss.value):
            best.append(one)
    return best


def unit(objective: str) -> tuple[str, float]:
    """What costs are told in, and what they are multiplied by for it."""
    return _UNITS.get(objective, _BYTES)


def verdict(outcome: Outcome, recipe: Recipe) -> str:
    """What became of a recipe, in a word or two."""
    if recipe == outcome.recipe:
        return "the plan"
    tested = {one.recipe: one.verdict for one in outcome.finalists}
    if recipe in tested:
        return {"cleared": "cleared", "dropped": "not proved", "open": "out of time"}[tested[recipe]]
    return "" if recipe else "as it is"


def table(outcome: Outcome) -> str:
    """The front as text: cost, times as fast, loss with its screening interval, verdict, recipe."""
    name, times = unit(outcome.goal.objective)
    base = next((one for one in outcome.trials if not one.recipe), None)
    rows = [(name, "× faster", "loss (screening)", "", "recipe")]
    for one in front(outcome.trials):
        faster = base.picture_ms / one.picture_ms if base and base.picture_ms and one.picture_ms else 1.0
        cost = f"{(one.cost or 0) * times:.4g}"
        rows.append(
            (cost, f"{faster:.2f}", str(one.loss), verdict(outcome, one.recipe), describe(one.recipe))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([f"{row[0]:>{widths[0]}}", f"{row[1]:>{widths[1]}}", f"{row[2]:<{widths[2]}}"])
        + f"  {row[3]:<{widths[3]}}  {row[4]}"
        for row in rows
    )


def draw(outcome: Outcome, path: Path) -> None:
    """A PNG of all trials and their front as screening saw them, the bound, and the plan where it was proved.

    Raises:
        MachineError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError(
            "the picture of the front needs matplotlib; pip install 'miaobi[tune]'."
        ) from error
    name, times = unit(outcome.goal.objective)
    figure = Figure(figsize=(9, 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    done = [one for one in outcome.trials if one.cost and one.loss]

    def points(some: Sequence[Trial]) -> tuple[list[float], list[float]]:
        pairs = [((one.cost or 0) * times, one.loss.value * 100) for one in some if one.loss]
        return [x for x, _ in pairs], [y for _, y in pairs]

    bound = outcome.goal.max_loss * 100
    tested = outcome.finalist.loss if outcome.finalist else None
    top = max(3 * bound, 1.0, *(points(front(done))[1] or [0.0]))
    top = min(top, 12 * bound) if bound else top
    low = min([0.0, *points(done)[1], *([tested.low * 100] if tested else [])])
    axes.axhspan(low - top, bound, color="#2a9d5c", alpha=0.08, lw=0)
    axes.axhline(bound, color="#2a9d5c", lw=1.2, ls="--", zorder=1)
    axes.annotate(
        f"bound {bound:g} %",
        (0.995, bound),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="#1f7a47",
        fontsize=9,
    )
    x, y = points(done)
    clipped = [min(value, top * 1.04) for value in y]
    axes.scatter(x, clipped, s=22, color="#9aa3ad", alpha=0.75, lw=0, label="recipes", zorder=2)
    x, y = points([one for one in front(done) if one.loss and one.loss.value * 100 <= top * 1.04])
    axes.step(x, y, where="post", color="#2f6fb3", lw=1.6, zorder=3)
    axes.scatter(x, y, s=34, color="#2f6fb3", lw=0, label="Pareto front", zorder=4)
    x, y = points([one for one in done if not one.recipe])
    axes.scatter(x, y, s=60, marker="s", color="#444b54", ec="white", lw=1, label="as it is", zorder=5)
    plan = next((one for one in done if one.recipe == outcome.recipe), None)
    if plan and tested:
        x, y = points([replace(plan, loss=tested)])
        reach = [[(tested.value - tested.low) * 100], [(tested.high - tested.value) * 100]]
        axes.errorbar(x, y, yerr=reach, fmt="none", color="#e4572e", lw=1.2, capsize=3, zorder=5)
        axes.scatter(x, y, s=260, marker="*", color="#e4572e", ec="white", lw=1, label="plan", zorder=6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.set_ylim(low - 0.06 * (top - low), top * 1.08)
    axes.set_xlabel(name if name == "MB" else f"{name} (log)")
    axes.set_ylabel("loss of quality, % of the scale (screening; of the plan: tested)")
    axes.set_title(f"{len(done)} recipes measured", loc="left", fontsize=11)
    axes.grid(True, which="major", color="#e3e6ea", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
