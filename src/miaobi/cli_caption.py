"""The command that tells what pictures show; `miaobi.cli` adds it to its own."""

from pathlib import Path

import click


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option("--language", default="en", show_default=True, help="en or zh.")
def caption(pictures: tuple[Path, ...], model: str | None, language: str) -> None:
    """Print what each of PICTURES shows, one line a file.

    It takes a bundle of the autoregressive family that was trained with captioning.

    \b
    miaobi caption fox.png --model my-bundle
    miaobi caption fox.png cat.png --model my-bundle --language zh
    """
    from miaobi.pipeline import load
    from miaobi.refine.picture import open_picture
    from miaobi.refine.repair import to_square

    pipe = load(model)
    for path in pictures:
        square, _ = to_square(open_picture(path)[0], pipe.bundle.size_px)
        click.echo(f"{path}: {pipe.caption(square, language)}")
