"""The command line. One function per command; everything heavy is imported when a command needs it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from miaobi import __version__
from miaobi.errors import InputError, MachineError, MiaobiError
from miaobi.files import check_writable

_PATH = click.Path(path_type=Path)
_model = click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
_json = click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="miaobi")
def cli() -> None:
    """Miaobi draws pictures from text (English, Chinese) in a blink, on the machine you have.

    \b
    miaobi generate "a colorful parrot"
    miaobi generate "一只彩色的鹦鹉" -o parrot.png --n 4 --seed 7 --style fluent
    """


@cli.command()
@click.argument("prompt")
@click.option("-o", "--output", type=_PATH, default="out.png", show_default=True, help="PNG to write.")
@click.option("-n", "--n", "count", type=int, default=1, show_default=True, help="Pictures, 1 to 64.")
@click.option("--seed", type=int, help="Same seed, same picture.  [default: random, told in the receipt]")
@click.option("--style", help="Drawing style, one that `miaobi info` lists.  [default: the bundle's]")
@click.option("--steps", type=int, help="Sampling steps.  [default: what the bundle was made for]")
@click.option("--tone", type=int, help="Skin tone: 0 none, 1 light … 5 dark.  [default: what PROMPT says]")
@_model
@click.option("--threads", type=int, help="CPU threads.  [default: the runtime chooses]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@_json
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and the JSON line.")
def generate(
    prompt: str,
    output: Path,
    count: int,
    seed: int | None,
    style: str | None,
    steps: int | None,
    tone: int | None,
    model: str | None,
    threads: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw PROMPT and write PNG files with a transparent background.

    With --n above 1 the output is a contact sheet and the pictures go beside it as out-1.png, out-2.png, …;
    picture k is drawn with seed + k - 1. Prompt, seed and settings are embedded in each PNG as text. The
    receipt on the screen tells what really ran.

    \b
    miaobi generate "red apple"                                # out.png
    miaobi generate "熊猫" -o panda.png --n 4 --style twemoji    # panda.png (sheet), panda-1.png … -4.png
    miaobi generate "green cat" --seed 7 --quiet --json | jq .total_ms
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"the output is {str(output)!r}; only PNG is written, give a name ending in .png.")
    check_writable(output)
    # the one search in the memory is faster than starting threads for it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from miaobi import images
    from miaobi.pipeline import load

    pipe = load(model, threads=threads, device=device)
    hidden = quiet or count <= 1 or not sys.stderr.isatty()
    with click.progressbar(length=count, file=sys.stderr, hidden=hidden) as bar:
        made = pipe.generate(prompt, count, seed, style, steps, tone, on_progress=bar.update)
    receipt = made.receipt
    kept = ("bundle", "style", "steps", "sampler", "guidance")
    settings = {name: str(getattr(receipt, name)) for name in kept}
    settings |= {
        "Software": f"miaobi {__version__}",
        "prompt": receipt.prompts[0],
        "tone": str(receipt.tones[0]),
    }
    paths = [output]
    if count > 1:
        paths = [output.with_stem(f"{output.stem}-{index}") for index in range(1, count + 1)]
    for path, picture, one in zip(paths, made, receipt.seeds, strict=True):
        images.save_png(path, picture, {**settings, "seed": str(one)})
    if count > 1:
        seeds = " ".join(map(str, receipt.seeds))
        images.save_png(output, images.contact_sheet(made), {**settings, "seed": seeds})
    if not quiet:
        click.echo(receipt)
        also = f" (contact sheet), {paths[0]} … {paths[-1]}" if count > 1 else ""
        click.echo(f"{'wrote':<11}  {output}{also}")
    if as_json:
        click.echo(receipt.to_json())


@cli.command()
@_model
@_json
def info(model: str | None, as_json: bool) -> None:
    """Show a bundle: its styles, size, licences, and the model card with its measured figures."""
    from miaobi.bundle import SHIPPED, Bundle

    bundle = Bundle.load(model or SHIPPED)
    about = asdict(bundle) | {"bytes": sum(one["bytes"] for one in bundle.files.values())}
    del about["files"]
    if as_json:
        click.echo(json.dumps(about, ensure_ascii=False, default=str))
        return
    card, licences = about.pop("card"), about.pop("licences")
    for name, value in about.items():
        click.echo(f"{name:<13}  {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    for name, value in card.items():
        click.echo(f"{'card':<13}  {name}: {value}")
    for licence in licences:
        text = ", ".join(map(str, licence.values())) if isinstance(licence, dict) else licence
        click.echo(f"{'licence':<13}  {text}")


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option("--out", type=_PATH, help="Folder of the run.  [default: runs/<name of the recipe>]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder of the run.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch.")
def train(recipe: Path, out: Path | None, resume: bool, workers: int) -> None:
    """Train a model from RECIPE, a .toml file such as recipes/emoji/text.toml; Ctrl-C saves."""
    from miaobi.train import run

    run(recipe, out, resume, workers)


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Folder of the bundle to write.")
def export(recipe: Path, out: Path) -> None:
    """Assemble trained parts into a bundle, as RECIPE (such as recipes/emoji/bundle.toml) says."""
    from miaobi.accelerate.export import export_bundle
    from miaobi.train import read_recipe

    bundle = export_bundle(read_recipe(recipe), out)
    size = sum(one["bytes"] for one in bundle.files.values())
    click.echo(f"wrote {out} ({size / 1e6:.1f} MB); try: miaobi generate 'red apple' --model {out}")


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def evaluate(arguments: tuple[str, ...]) -> None:
    """Measure quality: PSNR, SSIM, FID, KID, R-precision; `miaobi evaluate --help` lists the measures."""
    from miaobi.evaluate.report import main as report

    report(list(arguments))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 for bad input or 1 for a failure of the machine."""
    try:
        cli.main(arguments or sys.argv[1:] or ["--help"], prog_name="miaobi", standalone_mode=False)
        sys.stdout.flush()
    except MiaobiError as error:
        return _fail(str(error), error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "miaobi"
        return _fail(f"{error.format_message()} ({command} --help tells more)", InputError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped.", 130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("miaobi"):
            raise
        return _fail(
            f"{error.name} is not installed; run: pip install 'miaobi[train]'", MachineError.exit_code
        )
    except BrokenPipeError:  # the reader of a pipe went away; keep Python from complaining again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MachineError.exit_code
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        return _fail(f"the machine failed: {error.strerror or error}{where}", MachineError.exit_code)
    except MemoryError:
        return _fail("out of memory; ask for fewer pictures at a time.", MachineError.exit_code)
    return 0


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"miaobi: error: {' '.join(message.split())}", err=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
