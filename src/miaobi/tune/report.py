"""What a search leaves behind: plan.toml, model_card.md, pareto.png and report.html."""

import base64
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from miaobi.accelerate.recipe import describe, dumps
from miaobi.evaluate.intervals import Figure
from miaobi.files import atomic_write
from miaobi.tune import pareto
from miaobi.tune.bound import ERROR, SHARES
from miaobi.tune.hardware import Hardware
from miaobi.tune.outcome import Outcome
from miaobi.tune.plan import Plan
from miaobi.tune.trial import Trial


def make_plan(
    outcome: Outcome, *, model: str, digest: str, scale: str, hardware: Hardware, date: str | None = None
) -> Plan:
    """The plan of a search's outcome; `date` is today's where it is not given."""
    finalist = outcome.finalist
    measured = {
        "picture_ms": outcome.picture_ms,
        "baseline_ms": outcome.baseline_ms,
        "speedup": outcome.speedup,
        "loss": finalist.loss if finalist else None,
        "score": outcome.score,
        "baseline_score": outcome.baseline_score,
    }
    return Plan(
        model=model,
        digest=digest,
        recipe=outcome.recipe,
        hardware=hardware,
        objective=outcome.goal.objective,
        max_loss=outcome.goal.max_loss,
        confidence=finalist.confidence if finalist else 0.95,
        scale=scale,
        reason=outcome.reason,
        figures={name: one for name, one in measured.items() if one},
        seed=outcome.goal.seed,
        budget_s=outcome.goal.budget_s,
        date=date or datetime.now(UTC).date().isoformat(),
    )


def write(folder: Path, outcome: Outcome, plan: Plan, command: str) -> list[Path]:
    """Write all files into `folder`, the plan last; gives their paths.

    Raises:
        MachineError: matplotlib is not installed, or a file cannot be written.
    """
    picture = folder / "pareto.png"
    pareto.draw(outcome, picture)
    texts = {
        "model_card.md": card(outcome, plan, command),
        "report.html": html(outcome, plan, command, picture.read_bytes()),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    plan.save(folder / "plan.toml")
    return [picture, *(folder / name for name in texts), folder / "plan.toml"]


def facts(outcome: Outcome, plan: Plan) -> dict[str, str]:
    """What the card and the page tell, by name."""
    figures = plan.figures
    told = {
        "model": f"{plan.model} ({plan.digest[:12]})",
        "recipe": describe(plan.recipe),
        "why": plan.reason,
        "bound": f"loss of at most {plan.max_loss:g} of {plan.scale}",
    }
    if "loss" in figures:
        told["loss"] = f"{figures['loss']}, {plan.confidence:.2%} interval"
    names = {
        "picture_ms": "ms a picture",
        "baseline_ms": "ms a picture, as it is",
        "speedup": "times as fast",
        "score": "score",
        "baseline_score": "score, as it is",
    }
    told |= {name: _brief(figures[key]) for key, name in names.items() if key in figures}
    failed = sum(one.failure is not None for one in outcome.trials)
    return told | {
        "objective": plan.objective,
        "search": f"{len(outcome.trials)} recipes, {failed} of them failed; "
        f"{len(outcome.finalists)} of at most {len(SHARES)} finalists tested; "
        f"{outcome.elapsed_s:.0f} s of {plan.budget_s:.0f} s; seed {plan.seed}",
        "machine": str(plan.hardware),
        "instruction sets": " ".join(plan.hardware.flags) or "none of those that matter",
        "versions": ", ".join(f"{name} {one}" for name, one in plan.hardware.versions.items()),
        "date": plan.date,
    }


METHOD = f"""Loss is the mean of (score as it is - score of the recipe) over the same prompts and seeds. Its
interval covers other prompts of the same kind and other seeds. Recipes were chosen on samples set aside for
that; finalists were tested on others, with an error of {ERROR:.1%} in all that a plan breaks the bound.
Times are medians of rounds in which the pipelines took turns, with 95 % bootstrap intervals."""


def card(outcome: Outcome, plan: Plan, command: str) -> str:
    """The model card, as Markdown."""
    rows = "\n".join(f"| {name} | {_cell(text)} |" for name, text in facts(outcome, plan).items())
    finalists = "\n".join(
        f"| {_cell(describe(one.recipe))} | {one.loss or 'none'} | {one.confidence:.2%} | {one.verdict} |"
        for one in outcome.finalists
    )
    tested = f"\n## Finalists\n\n| recipe | loss | interval | verdict |\n|---|---|---|---|\n{finalists}\n"
    return f"""# {plan.model}, tuned

| | |
|---|---|
{rows}

{METHOD}
{tested if finalists else ""}
## Pareto front

```
{pareto.table(outcome)}
```

## Recipe

```toml
{dumps(plan.recipe) or "# as it is"}
```

## Commands

```
{command}
miaobi generate --plan plan.toml "a colorful parrot"
```
"""


def html(outcome: Outcome, plan: Plan, command: str, png: bytes) -> str:
    """The report as one page that refers to nothing outside."""
    rows = "".join(f"<tr><th>{escape(a)}<td>{escape(b)}" for a, b in facts(outcome, plan).items())
    name, _ = pareto.unit(plan.objective)
    on_front = set(map(id, pareto.front(outcome.trials)))
    done = sorted((one for one in outcome.trials if one.cost is not None), key=lambda one: one.cost or 0)
    trials = "".join(_row(outcome, one, id(one) in on_front) for one in done)
    failed = "".join(
        f"<tr><td>{escape(describe(one.recipe))}<td>{escape(one.failure)}"
        for one in outcome.trials
        if one.failure
    )
    failures = f"<h2>Failed</h2><table><tr><th>recipe<th>reason{failed}</table>" if failed else ""
    speedup = plan.figures.get("speedup")
    head = f"{speedup.value:.2f}× as fast" if plan.recipe and speedup else "As it is"
    image = base64.b64encode(png).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(plan.model)}, tuned</title>
<style>{_STYLE}</style>
<main>
<p class="over">{escape(plan.model)} · {escape(plan.objective)}</p>
<h1>{head}</h1>
<p class="lead">{escape(describe(plan.recipe))}: {escape(plan.reason)}</p>
<img alt="Cost and loss of all recipes, with the front and the bound" src="data:image/png;base64,{image}">
<h2>The plan</h2><table class="facts">{rows}</table>
<p class="note">{escape(METHOD)}</p>
<pre>{escape(command)}
miaobi generate --plan plan.toml "a colorful parrot"</pre>
<h2>Recipes</h2>
<table class="trials"><tr><th class="n">{name}<th class="n">× faster<th class="n">loss, %
<th>screening interval, %<th class="n">samples<th><th>recipe{trials}</table>
{failures}
</main></html>
"""


def _row(outcome: Outcome, one: Trial, on_front: bool) -> str:
    _, times = pareto.unit(outcome.goal.objective)
    base = next(trial for trial in outcome.trials if not trial.recipe)
    faster = (base.picture_ms or 0) / (one.picture_ms or 1)
    told = pareto.verdict(outcome, one.recipe)
    style = "plan" if told == "the plan" else "front" if on_front else ""
    loss = one.loss or Figure(0, 0, 0, 0)
    numbers = (
        f"<td class=n>{(one.cost or 0) * times:.4g}<td class=n>{faster:.2f}<td class=n>{loss.value * 100:.2f}"
    )
    interval = f"<td>{loss.low * 100:.2f} to {loss.high * 100:.2f}<td class=n>{loss.count}"
    mark = told or ("front" if on_front else "")
    return f'<tr class="{style}">{numbers}{interval}<td class=mark>{mark}<td>{escape(describe(one.recipe))}'


def _brief(one: Figure) -> str:
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}] (n={one.count})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_STYLE = """
:root{color-scheme:light}body{margin:0;background:#f6f7f9;color:#20262d;font:15px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:40px;line-height:1.1;margin:.1em 0 .3em}h2{font-size:20px;margin:2em 0 .6em}
.over{color:#68727d;margin:0}.lead{font-size:17px;margin:0 0 1.4em}
img{width:100%;background:#fff;border:1px solid #e3e6ea;border-radius:8px}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid #e3e6ea;border-radius:8px;
overflow:hidden}
th,td{padding:6px 12px;text-align:left;vertical-align:top;border-top:1px solid #eef0f3}
tr:first-child>*{border-top:0}th{font-weight:600;color:#4a535d}.facts th{width:170px;white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.trials{font-size:13px}
.trials td:nth-child(4),.mark{white-space:nowrap}.mark{color:#68727d}
.front{background:#eef4fb}.plan{background:#fdeee9;font-weight:600}
.note{color:#68727d;font-size:13px}pre{background:#20262d;color:#e8ebee;padding:14px 16px;border-radius:8px;
overflow:auto;font-size:13px}
"""
