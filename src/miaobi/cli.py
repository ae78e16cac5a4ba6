"""The command line. One function per command; everything heavy is imported when a command needs it."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miaobi import __version__
from miaobi.cli_caption import caption
from miaobi.cli_making import COMMANDS
from miaobi.errors import InputError, MachineError, MiaobiError
from miaobi.files import check_writable

if TYPE_CHECKING:
    from miaobi.compose import Layer

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
@click.option("--size", type=int, help="128, 256 or 512 px.  [default: 128, and 512 for scenes]")
@click.option(
    "--expand",
    default="builtin",
    show_default=True,
    help="Who turns PROMPT into a scene: builtin, openai:MODEL@URL, gguf:FILE, or none.",
)
@click.option("--expand-timeout", default=30.0, show_default=True, help="Seconds that a model may plan.")
@click.option("--layers", is_flag=True, help="Write each layer and an OpenRaster file (.ora) too.")
@click.option("--refine", "stages", default="", help="Stages of `miaobi refine` for the result: enhance,…")
@click.option(
    "-m", "--model", help="Bundle, diffusers folder or hub id.  [default: the bundle inside the package]"
)
@click.option("--plan", type=_PATH, help="Run the model as this plan of `miaobi tune` says.")
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
    size: int | None,
    expand: str,
    expand_timeout: float,
    layers: bool,
    stages: str,
    model: str | None,
    plan: Path | None,
    threads: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw PROMPT and write PNG files with a transparent background.

    With --n above 1 the output is a contact sheet and the pictures go beside it as out-1.png, out-2.png, …;
    picture k is drawn with seed + k - 1. Prompt, seed and settings are embedded in each PNG as text. The
    receipt on the screen tells what really ran. A prompt that names several things or a place is drawn as a
    scene: each thing a transparent layer, put together before a background.

    \b
    miaobi generate "red apple"                                # out.png
    miaobi generate "熊猫" -o panda.png --n 4 --style twemoji    # panda.png (sheet), panda-1.png … -4.png
    miaobi generate "green cat" --seed 7 --quiet --json | jq .total_ms
    miaobi generate "一只在花园里飞翔的彩色鹦鹉" --size 512 --layers
    """
    _check_png(output)
    # the one search in the memory is faster than starting threads for it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from miaobi import images
    from miaobi.loading import load

    pipe = load(model, plan=plan, threads=threads, device=device)
    hidden = quiet or count <= 1 or not sys.stderr.isatty()
    with click.progressbar(length=count, file=sys.stderr, hidden=hidden) as bar:
        made = pipe.generate(
            prompt,
            count,
            seed,
            steps=steps,
            size_px=size,
            style=style,
            tone=tone,
            expand=None if expand == "none" else expand,
            expand_timeout_s=expand_timeout,
            refine=stages,
            on_progress=bar.update,
        )
    receipt = made.receipt
    kept = ("bundle", "style", "steps", "sampler", "guidance")
    settings = {name: str(getattr(receipt, name)) for name in kept}
    settings |= {
        "Software": f"miaobi {__version__}",
        "prompt": receipt.prompts[0],
        "tone": str(receipt.tones[0] if receipt.tones else 0),
    }
    scene, expanded = next(iter(receipt.scenes), None), next(iter(receipt.expanded), None)
    settings |= {"scene": scene} if scene else {}
    settings |= {"expanded": expanded} if expanded else {}
    paths = [output]
    if count > 1:
        paths = [output.with_stem(f"{output.stem}-{index}") for index in range(1, count + 1)]
    drawn = made.layers or [()] * len(made)
    for path, picture, one, parts in zip(paths, made, receipt.seeds, drawn, strict=True):
        images.save_png(path, picture, {**settings, "seed": str(one)})
        if layers:
            _save_layers(path, parts, receipt.size_px)
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
@click.argument("source", type=_PATH)
@click.argument("output", type=_PATH)
@click.option("-s", "--stages", default="enhance", show_default=True, help="Stages in order, see above.")
@click.option("--mask", type=_PATH, help="Picture of the same size, white where SOURCE may change.")
@click.option("--prompt", help="What the picture shows or is to show, for stages that draw.")
@click.option(
    "--reference", type=_PATH, help="What it should look like: PSNR and SSIM are told of every stage."
)
@_model
@click.option("--most-megapixels", default=40.0, show_default=True, help="Larger pictures are refused.")
@_json
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and the JSON line.")
def refine(
    source: Path,
    output: Path,
    stages: str,
    mask: Path | None,
    prompt: str | None,
    reference: Path | None,
    model: str | None,
    most_megapixels: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Refine the picture SOURCE stage by stage and write OUTPUT, a PNG.

    \b
    enhance                        measures noise and blur and removes what it finds
    denoise, deblur, sharpen       one of these alone: denoise:method=wavelet:strength=0.1
    contrast, balance              local contrast (CLAHE), white balance
    upscale                        2 or 4 times larger: upscale:scale=2; other networks: upscale:model=x4.pth
    inpaint                        draws what --mask covers, by --prompt; inpaint:method=telea without one
    outpaint                       draws margins around: outpaint:margin=0.25
    redraw                         image to image by --prompt: redraw:strength=0.5:style=fluent
    restyle                        the same thing in another style of the model: restyle:style=twemoji
    style                          any picture's style (Gatys): style:picture=starry.jpg
    restore                        iterative optimisation against noise and blur

    \b
    miaobi refine photo.png clean.png
    miaobi refine fox.png fox-512.png --stages denoise,upscale:scale=4
    miaobi refine fox.png fox2.png --stages inpaint --mask tail.png --prompt "a fox"
    """
    _check_png(output)
    from miaobi.compose import to_picture
    from miaobi.images import save_png
    from miaobi.pipeline import load
    from miaobi.refine.picture import open_mask, open_picture
    from miaobi.refine.stage import Subject, parse, report
    from miaobi.refine.stage import refine as run

    chain = parse(stages)
    image, notes = open_picture(source, most_megapixels)
    subject = Subject(
        image, open_mask(mask, most_megapixels) if mask else None, prompt, load(model) if model else None
    )
    expected = open_picture(reference, most_megapixels)[0] if reference else None
    made, steps = run(subject, chain, expected)
    text = {"Software": f"miaobi {__version__}", "stages": stages} | ({"prompt": prompt} if prompt else {})
    save_png(output, to_picture(made), text)
    if not quiet:
        for row in (*(f"{'note':<11}  {note}" for note in notes), *report(steps)):
            click.echo(row)
        click.echo(f"{'wrote':<11}  {output}")
    if as_json:
        steps_done = [asdict(step) for step in steps]
        click.echo(json.dumps({"stages": steps_done, "notes": notes}, ensure_ascii=False))


@cli.command()
@click.argument("output", type=_PATH)
@click.argument("pictures", type=_PATH, nargs=-1, required=True)
@click.option("--method", default="median", show_default=True, help="mean, median, laplacian or best.")
@click.option("--judge", type=_PATH, help="For best: folder of a trained classifier of concepts.")
@click.option("--concept", help="For best: the judge's concept that the pictures are to show, such as fox.")
def blend(
    output: Path, pictures: tuple[Path, ...], method: str, judge: Path | None, concept: str | None
) -> None:
    """Blend PICTURES of one size into OUTPUT, a PNG, or choose the best of them.

    \b
    miaobi generate "fox" --n 4 --seed 1 -o fox.png
    miaobi blend mixed.png fox-1.png fox-2.png fox-3.png fox-4.png
    miaobi blend best.png fox-?.png --method best --judge runs/classifier --concept fox
    """
    _check_png(output)
    from miaobi.compose import to_picture
    from miaobi.images import save_png
    from miaobi.refine.blend import Recognised, best_of, stacked
    from miaobi.refine.blend import blend as mixed
    from miaobi.refine.picture import open_picture

    images = stacked([open_picture(path)[0] for path in pictures])
    if method != "best":
        save_png(output, to_picture(mixed(images, method)))
        click.echo(f"wrote {output}")
        return
    if judge is None or concept is None:
        raise InputError("method best needs --judge and --concept; train a judge as recipes/emoji does.")
    made, index = best_of(images, Recognised(judge, concept))
    save_png(output, to_picture(made))
    click.echo(f"wrote {output}, which is {pictures[index]}")


@cli.command()
@click.argument("picture", type=_PATH)
@click.argument("name")
@click.option("--style", help="Style that PICTURE has.  [default: that of the most similar picture]")
@_model
def remember(picture: Path, name: str, style: str | None, model: str | None) -> None:
    """Remember PICTURE as NAME; prompts with that name draw after it from then on, in every style.

    \b
    miaobi remember mascot.png "Bo the fox"
    miaobi generate "Bo the fox" --style twemoji
    """
    from miaobi.pipeline import load
    from miaobi.refine.picture import open_picture
    from miaobi.refine.repair import to_square

    pipe = load(model)
    pipe.remember(name, to_square(open_picture(picture)[0], pipe.bundle.size_px)[0], style)
    click.echo(f"remembered {str(picture)!r} as {name!r}; try: miaobi generate {name!r}")


@cli.command()
@click.argument("name", required=False)
@_model
def forget(name: str | None, model: str | None) -> None:
    """Forget the picture remembered as NAME; without NAME list what is remembered."""
    from miaobi.bundle import SHIPPED, Bundle
    from miaobi.text.remembered import Remembered, file_of

    path = file_of(Bundle.load(model or SHIPPED))
    kept = Remembered.load(path)
    if name is not None:
        if kept is None:
            raise InputError(f"nothing is remembered as {name!r}; nothing is remembered at all.")
        kept.without(name).save(path)
        click.echo(f"forgot {name!r}")
        return
    for one in kept.names if kept else ():
        click.echo(one)


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


for command in (caption, *COMMANDS):
    cli.add_command(command)


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


def _save_layers(path: Path, layers: "Sequence[Layer]", size_px: int) -> None:
    from miaobi.compose import save_ora, to_picture
    from miaobi.images import save_png

    for number, layer in enumerate(layers):
        save_png(
            path.with_stem(f"{path.stem}-layer-{number}"), to_picture(layer.image), {"prompt": layer.name}
        )
    save_ora(path.with_suffix(".ora"), layers, size_px)


def _check_png(output: Path) -> None:
    if output.suffix.lower() != ".png":
        raise InputError(f"the output is {str(output)!r}; only PNG is written, give a name ending in .png.")
    check_writable(output)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"miaobi: error: {' '.join(message.split())}", err=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
