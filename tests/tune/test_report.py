"""The Pareto front, and the files that a search leaves behind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from miaobi.accelerate import Compile, Recipe, Steps
from miaobi.evaluate.intervals import Figure
from miaobi.tune import load_plan, report
from miaobi.tune.hardware import this_machine
from miaobi.tune.outcome import Finalist, Goal, Outcome
from miaobi.tune.pareto import draw, front, table
from miaobi.tune.trial import Trial


def trial(recipe: Recipe, cost: float, loss: float) -> Trial:
    return Trial(recipe, "suggested", cost, cost, Figure(loss, loss - 0.01, loss + 0.01, 64))


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(-0.1, 1)), max_size=30))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    trials = [trial((), cost, loss) for cost, loss in points]
    found = [(one.cost or 0, one.loss.value) for one in front(trials) if one.loss]
    beaten = {(a, b) for a, b in points for c, d in points if (c <= a and d < b) or (c < a and d <= b)}
    assert set(found) == set(points) - beaten
    assert len(found) == len(set(found))
    assert found == sorted(found)
    assert [loss for _, loss in found] == sorted((loss for _, loss in found), reverse=True)


def outcome(count: int = 60) -> Outcome:
    rng = np.random.default_rng(0)
    trials = [trial((), 350.0, 0.0), Trial((Compile(),), "start", failure="no <compiler> here.")]
    for _ in range(count):
        steps = int(rng.integers(1, 50))
        cost = 7 * steps * float(rng.uniform(0.8, 1.2))
        trials.append(trial((Steps(steps),), cost, float(0.3 / steps + 0.004 * rng.standard_normal())))
    chosen = next(one for one in front(trials) if one.loss and one.loss.value < 0.02 and one.recipe)
    loss = Figure(0.008, -0.002, 0.018, 1024)
    ms = Figure(float(chosen.cost or 0), 80.0, 90.0, 15)
    finalists = [Finalist((Steps(3),), 1024, "dropped", loss), Finalist(chosen.recipe, 1024, "cleared", loss)]
    goal = Goal("latency", 0.02, 600, 0)
    return Outcome(chosen.recipe, "it is proved.", goal, trials, finalists, ms, ms, ms, loss, loss, 123.0)


def test_files(tmp_path: Path) -> None:
    found = outcome()
    plan = report.make_plan(found, model="made up 1", digest="ab", scale="a score", hardware=this_machine())
    paths = report.write(tmp_path, found, plan, "miaobi tune --model 'a b'")
    assert all(path.stat().st_size > 500 for path in paths)
    assert load_plan(tmp_path / "plan.toml") == plan
    page = (tmp_path / "report.html").read_text()
    assert "no &lt;compiler&gt; here." in page
    assert "http" not in page.replace("http-equiv", "")
    assert 'src="data:image/png;base64,' in page
    card = (tmp_path / "model_card.md").read_text()
    for part in ("1024", "seed 0", "miaobi tune", "times as fast", "dropped", "kind = "):
        assert part in card
    assert "the plan" in table(found)


def test_the_star_stands_where_the_plan_was_proved(tmp_path: Path) -> None:
    found = outcome()
    unlucky = [
        replace(one, loss=Figure(0.06, 0.0, 0.1, 18)) if one.recipe == found.recipe else one
        for one in found.trials
    ]
    draw(replace(found, trials=unlucky), tmp_path / "pareto.png")
    with Image.open(tmp_path / "pareto.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, : picture.width * 3 // 4]  # without the legend
    assert pixels.shape[1] > 600
    star, bound = (
        int(np.bincount(np.argwhere((pixels == colour).all(-1))[:, 0]).argmax())
        for colour in ((0xE4, 0x57, 0x2E), (0x2A, 0x9D, 0x5C))
    )
    assert star > bound  # below it: 0.8 % where 2 % are allowed
