"""`miaobi tune`: the fastest recipe for a model on this machine whose loss of quality is proved small."""

import json
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from miaobi.errors import InputError, MachineError

if TYPE_CHECKING:
    from miaobi.tune.outcome import Progress
    from miaobi.tune.quality import Quality

PATIENT_S = 1800.0
"""Budget from which torch.compile is tried."""
_folder = click.Path(path_type=Path, file_okay=False)
_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "-m", "--model", help="Bundle, diffusers folder or hub id.  [default: the bundle inside the package]"
)
@click.option(
    "-o", "--out", type=_folder, default="tuned", show_default=True, help="Folder for what is found."
)
@click.option(
    "--max-quality-loss",
    "max_loss",
    default="2%",
    show_default=True,
    help="Most that may be lost of the mean score: 2% or 0.02 are two points of R-precision, see below.",
)
@click.option("--budget", default="10m", show_default=True, help="Time for all: 600s, 10m, 1h.")
@click.option(
    "--objective",
    type=click.Choice(["latency", "throughput", "memory", "size"]),
    default="latency",
    show_default=True,
    help="What to make small (of throughput: the time of a picture in a large batch).",
)
@click.option("--student", "students", multiple=True, help="Bundle to try in the model's place, or emoji.")
@click.option("--decoder", "decoders", multiple=True, help="Folder of a smaller decoder to try.")
@click.option("--prompts", type=_file, help="Text file, a prompt a line.  [default: 160 simple ones]")
@click.option("--data", type=_folder, help="Data set with held-out pictures, for --judge.")
@click.option("--judge", type=_folder, help="Run folder of the classifier that judges pictures.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search.")
@click.option(
    "--resume", is_flag=True, help="Go on with the search in --out; --budget counts earlier runs in."
)
@click.option("--threads", type=int, help="CPU threads as it is.  [default: the runtime chooses]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def tune(
    model: str | None,
    out: Path,
    max_loss: str,
    budget: str,
    objective: Any,
    students: tuple[str, ...],
    decoders: tuple[str, ...],
    prompts: Path | None,
    data: Path | None,
    judge: Path | None,
    seed: int,
    resume: bool,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the fastest way to run a model here whose loss of quality is proved to be below a bound.

    With --data and --judge the loss is in R-precision: the share of held-out (concept, style) pairs whose
    picture the judge names first. Without, it is the root-mean-square difference to the unchanged model's
    pictures: 1% is a PSNR of 40 dB, 3.2% are 30 dB. Where nothing is proved, the plan is the model as it is.

    Writes plan.toml, pareto.png, report.html and model_card.md. Stopped with Ctrl-C or killed, it goes on
    with --resume.

    \b
    miaobi tune --model teacher --student emoji --data data/emoji --judge runs/classifier
    miaobi generate --plan tuned/plan.toml "a colorful parrot"
    """
    from miaobi.accelerate.recipe import describe
    from miaobi.bundle import SHIPPED
    from miaobi.loading import load
    from miaobi.tune import report
    from miaobi.tune.hardware import this_machine
    from miaobi.tune.outcome import Goal
    from miaobi.tune.pareto import table
    from miaobi.tune.pipelines import PipelineLab
    from miaobi.tune.plan import model_digest
    from miaobi.tune.search import Search
    from miaobi.tune.space import space_of

    goal = Goal(objective, share(max_loss), seconds(budget), seed)
    if seed < 0:
        raise InputError(f"seed is {seed}; choose 0 or more.")
    quality = _quality(prompts, data, judge)
    folder = model or str(SHIPPED)
    pipe = load(model, threads=threads, device=device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be made: {error.strerror}; choose another.") from error
    lab = PipelineLab(pipe, folder, quality, objective)
    space = space_of(pipe.traits, objective, students, decoders, patient=goal.budget_s >= PATIENT_S)
    with _Bar() as bar:
        search = Search(lab, space, goal, out, resume=resume, on_progress=bar.show)
        try:
            outcome = search.run()
        except KeyboardInterrupt:
            bar.close()
            click.echo(f"\nstopped; go on with: {_command()} --resume", err=True)
            raise
    plan = report.make_plan(
        outcome,
        model=pipe.traits.model,
        digest=model_digest(folder),
        scale=quality.scale,
        hardware=this_machine(gpus=device != "cpu"),
    )
    paths = report.write(out, outcome, plan, _command())
    click.echo(table(outcome))
    click.echo()
    for name, text in report.facts(outcome, plan).items():
        click.echo(f"{name:<21}  {text}")
    click.echo(f"{'wrote':<21}  {', '.join(map(str, paths))}")
    if as_json:
        figures = {name: asdict(one) for name, one in plan.figures.items()}
        told = {"recipe": describe(plan.recipe), "reason": plan.reason, "figures": figures}
        click.echo(
            json.dumps(told | {"trials": len(outcome.trials), "plan": str(paths[-1])}, ensure_ascii=False)
        )


def share(text: str) -> float:
    """0.02 of "2%" or "0.02"; raises `InputError` for what lies not in 0 to 1."""
    with suppress(ValueError):
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 < value < 1:
            return value
    raise InputError(f"--max-quality-loss is {text!r}; give a share such as 2% or 0.02, above 0 and below 1.")


def seconds(text: str) -> float:
    """600.0 of "10m", "600s" or "600"; raises `InputError` for what is no time of a second or more."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if value < 1:
        raise InputError(f"--budget is {text!r}; give a time such as 600s, 10m or 1h, of 1 s or more.")
    return value


def _quality(prompts: Path | None, data: Path | None, judge: Path | None) -> "Quality":
    try:
        from miaobi.tune.quality import FidelityQuality, JudgedQuality
    except ImportError as error:
        raise MachineError(f"tuning needs {error.name}; pip install 'miaobi[tune]'.") from error
    from miaobi.evaluate.speed import PROMPTS

    if (data is None) != (judge is None):
        raise InputError("--data and --judge go together: held-out pictures, and who judges them.")
    if data is not None and judge is not None:
        if prompts is not None:
            raise InputError(
                "--prompts is for fidelity; with --judge the prompts are the data's. Leave one out."
            )
        return JudgedQuality(data, judge)
    if prompts is None:
        return FidelityQuality(PROMPTS)
    try:
        lines = [one.strip() for one in prompts.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts {str(prompts)!r} cannot be read: {error}.") from error
    return FidelityQuality([one for one in dict.fromkeys(lines) if one])


def _command() -> str:
    arguments = sys.argv[sys.argv.index("tune") + 1 :] if "tune" in sys.argv else []
    return shlex.join(["miaobi", "tune", *(one for one in arguments if one != "--resume")])


class _Bar:
    """The progress of a search on standard error: trials, failures, the best so far, time left."""

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        self._bar = tqdm(
            unit=" recipes", file=sys.stderr, bar_format="{n_fmt}{unit}, {desc}", dynamic_ncols=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, progress: "Progress") -> None:
        """Show the state."""
        from miaobi.accelerate.recipe import describe

        best = "none yet"
        if progress.best and progress.best.picture_ms:
            best = f"{progress.best.picture_ms:.4g} ms, {describe(progress.best.recipe)}"
        self._bar.n = progress.trials
        failed = f"{progress.failed} failed, " if progress.failed else ""
        left = f"{int(progress.left_s) // 60}:{int(progress.left_s) % 60:02}"
        self._bar.set_description_str(f"{failed}{left} left, {progress.doing}; best {best}")

    def close(self) -> None:
        """Leave the last line as it is."""
        self._bar.close()


def main(arguments: list[str]) -> None:
    """`miaobi tune` with these arguments; raises what click and `miaobi.errors` raise."""
    try:
        tune.main(arguments, prog_name="miaobi tune", standalone_mode=False)
    except ModuleNotFoundError as error:
        raise MachineError(f"tuning needs {error.name}; pip install 'miaobi[tune]'.") from error
