"""Commands that make, measure and speed up models; `miaobi.cli` adds them to its own."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from miaobi.errors import InputError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe", type=_PATH)
@click.option("--out", type=_PATH, help="Folder of the run.  [default: runs/<name of the recipe>]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder of the run.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch.")
def train(recipe: Path, out: Path | None, resume: bool, workers: int) -> None:
    """Train a model from RECIPE, a .toml file such as recipes/emoji/text.toml; Ctrl-C saves."""
    from miaobi.train import run

    run(recipe, out, resume, workers)


@click.command()
@click.argument("recipe", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Folder of the bundle to write.")
def export(recipe: Path, out: Path) -> None:
    """Assemble trained parts into a bundle, as RECIPE (such as recipes/emoji/bundle.toml) says."""
    from miaobi.accelerate.export import export_bundle
    from miaobi.train import read_recipe

    bundle = export_bundle(read_recipe(recipe), out)
    size = sum(one["bytes"] for one in bundle.files.values())
    click.echo(f"wrote {out} ({size / 1e6:.1f} MB); try: miaobi generate 'red apple' --model {out}")


@click.command()
@click.argument("recipe", type=_PATH)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option("-o", "--out", type=_PATH, required=True, help="Folder of the bundle to write.")
def accelerate(recipe: Path, model: str | None, out: Path) -> None:
    """Change a bundle as RECIPE says, a .toml file of [[step]] tables such as a plan, and write the result.

    \b
    miaobi accelerate tuned/plan.toml --model runs/teacher --out fast
    miaobi generate "red apple" --model fast
    """
    from miaobi.accelerate.bundles import save
    from miaobi.accelerate.recipe import describe, loads
    from miaobi.accelerate.transform import apply
    from miaobi.pipeline import load

    try:
        steps = loads(recipe.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read recipe {str(recipe)!r}: {error}; give a file of [[step]] tables."
        ) from error
    bundle = save(apply(load(model), steps), out)
    size = sum(one["bytes"] for one in bundle.files.values())
    click.echo(f"wrote {out} ({size / 1e6:.1f} MB): {describe(steps)}")


def _from(module: str, name: str, told: str) -> click.Command:
    """A command of a module that is imported when it is called."""

    @click.command(name, help=told, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        import_module(module).main(list(arguments))

    return command


COMMANDS: Sequence[click.Command] = (
    train,
    export,
    accelerate,
    _from(
        "miaobi.evaluate.report", "evaluate", "Measure quality: R-precision, FID, KID, fidelity to another …"
    ),
    _from(
        "miaobi.evaluate.bench", "bench", "Measure speed: latency, throughput, memory, share of the limit."
    ),
    _from("miaobi.tune.command", "tune", "Find the fastest way to run a model inside a bound of quality."),
)
