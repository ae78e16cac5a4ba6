"""Build the emoji pictures and captions that the shipped model is trained on.

`python recipes/emoji/build.py --out data/emoji` downloads eight openly licensed picture sets (pinned in
package.json), renders every icon, brings the sets' own names to one concept each, and writes images.npy
(uint8, N x 128 x 128 x 4, RGBA, straight alpha), metadata.jsonl (line i describes picture i) and styles.json
(their order). A killed build goes on where it stopped.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from concepts import LEFT_OUT, Concepts
from render import PART, Icon, icons, render_parts
from sources import HERE, NAMES_PACKAGE, STYLES, Source, sources
from split import heldout_tags, new_split, splits
from tqdm import tqdm

from miaobi.errors import DataError, MachineError, MiaobiError
from miaobi.files import atomic_write

SIZE_PX = 128
"""Side of the pictures that decide what is left out; other sizes are the same pictures drawn again."""
BLANK = 0.002
"""A picture whose mean opacity is below this shows nothing and is left out."""


@dataclass(frozen=True)
class Picture:
    """One icon worth keeping, and where it was rendered to."""

    id: str
    style: str
    concept: str
    tones: tuple[int, ...]
    part: int
    index: int
    hidden: bool


Parts = dict[str, list[Path]]


def build(
    out: Path,
    size_px: int = SIZE_PX,
    styles: Sequence[str] = tuple(STYLES),
    renew_split: bool = False,
    workers: int | None = None,
    folder: Path = HERE,
    limit: int | None = None,
) -> Counter[str]:
    """Write images.npy, metadata.jsonl and styles.json into `out`; returns the number of pictures by split.

    A size other than 128 px, or a choice of styles or of `limit` pictures of each style and split, goes into
    `out`/<size_px> beside the full set, from the same split. `folder` holds package.json, the reviewed tables
    and the lists of what is held out. Raises DataError naming a source that is missing or damaged, an icon
    that cannot be drawn or that has no concept.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = sources(out / "sources", folder / "package.json")
    sets = {style: found[package].json("icons.json") for style, package in STYLES.items()}
    concepts = load_concepts(found, sets, folder)
    drawn = {style: icons(data) for style, data in sets.items()}
    versions = {style: found[package].version for style, package in STYLES.items()}
    parts = _render(drawn, versions, SIZE_PX, out / "parts", workers)
    pictures, digests = _pictures(drawn, parts, concepts)
    rows = [(p.id, p.concept, p.style) for p in pictures]
    if renew_split or not (folder / "heldout.txt").exists():
        _write_text(folder / "heldout.txt", (f"{id}\n" for id in sorted(new_split(rows))))
    if renew_split or not (folder / "heldout_tags.json").exists():
        tags = heldout_tags(list(concepts.by_slug.values()))
        _write_text(folder / "heldout_tags.json", [json.dumps(tags, ensure_ascii=False, indent=1), "\n"])
    split = splits(rows, (folder / "heldout.txt").read_text("utf-8").split(), digests)
    if size_px != SIZE_PX or set(styles) != set(STYLES) or limit:
        chosen = {style: items for style, items in drawn.items() if style in styles}
        pictures = [p for p in pictures if p.style in chosen]
        place = out / "parts"
        if limit:
            pictures = fewer(pictures, split, limit)
            chosen, pictures = only(pictures, chosen)
            # a new split chooses others, whose parts must not be taken for these
            chosen_ids = "\n".join(p.id for p in pictures)
            place = place / hashlib.sha256(chosen_ids.encode()).hexdigest()[:12]
        parts = _render(chosen, versions, size_px, place, workers)
        out = out / str(size_px)
        out.mkdir(exist_ok=True)
    shape = (len(pictures), size_px, size_px, 4)
    with atomic_write(out / "images.npy") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for (style, part), run in groupby(pictures, key=lambda p: (p.style, p.part)):
            file.write(np.load(parts[style][part], mmap_mode="r")[[p.index for p in run]].tobytes())
    _write_text(out / "styles.json", [json.dumps(list(STYLES)), "\n"])
    _write_text(out / "metadata.jsonl", (_line(p, concepts, split[p.id]) for p in pictures))
    return Counter(split[p.id] for p in pictures)


def fewer(pictures: Sequence[Picture], split: dict[str, str], limit: int) -> list[Picture]:
    """At most `limit` pictures of each style and split, those without a skin tone first, otherwise chosen by
    hash of their ids; none that is used nowhere. Sorted by id.
    """
    order = sorted(pictures, key=lambda p: (bool(p.tones), hashlib.sha256(p.id.encode()).digest()))
    taken: Counter[tuple[str, str]] = Counter()
    kept = []
    for picture in order:
        group = picture.style, split[picture.id]
        if split[picture.id] != "dropped" and taken[group] < limit:
            taken[group] += 1
            kept.append(picture)
    return sorted(kept, key=lambda p: p.id)


def only(
    pictures: Sequence[Picture], drawn: dict[str, list[Icon]]
) -> tuple[dict[str, list[Icon]], list[Picture]]:
    """The icons of `pictures` alone, and the pictures with their places among those."""
    wanted = {picture.id for picture in pictures}
    icons = {
        style: [icon for icon in items if f"{style}/{icon.name}" in wanted] for style, items in drawn.items()
    }
    place = {
        f"{style}/{icon.name}": divmod(number, PART)
        for style, items in icons.items()
        for number, icon in enumerate(items)
    }
    moved = [replace(p, part=place[p.id][0], index=place[p.id][1]) for p in pictures]
    return icons, moved


def load_concepts(found: dict[str, Source], sets: dict[str, dict[str, Any]], folder: Path = HERE) -> Concepts:
    """Every concept, knowing what the sets know about their own names."""
    concepts = Concepts(found[NAMES_PACKAGE], folder)
    for style, package in STYLES.items():
        # the three-dimensional Fluent set has the flat one's names, but not its code points
        chars = found[STYLES["fluent-flat"] if style == "fluent" else package].json("chars.json")
        concepts.learn(style, chars, sets[style].get("aliases", {}))
    return concepts


def _render(
    drawn: dict[str, list[Icon]], versions: dict[str, str], size_px: int, folder: Path, workers: int | None
) -> Parts:
    parts: Parts = {style: [] for style in drawn}
    total = sum(map(len, drawn.values()))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            with tqdm(total=total, desc=f"rendering at {size_px} px", unit=" pictures") as bar:
                for style, items in drawn.items():
                    place = folder / f"{style}-{versions[style]}-{size_px}"
                    for path, count in render_parts(style, items, size_px, place, pool):
                        parts[style].append(path)
                        bar.update(count)
        except BrokenProcessPool as error:
            raise MachineError(
                "a rendering process was killed, perhaps for want of memory; "
                "build again with --workers 1, it goes on"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return parts


def _pictures(
    drawn: dict[str, list[Icon]], parts: Parts, concepts: Concepts
) -> tuple[list[Picture], dict[str, str]]:
    """Every picture worth keeping, sorted by id, and the digest of its pixels by id."""
    pictures, digests, unknown = [], {}, []
    for style, items in drawn.items():
        kept: dict[tuple[str, tuple[int, ...], str], Picture] = {}
        names = iter(items)
        for part, path in enumerate(parts[style]):
            for index, pixels in enumerate(np.load(path, mmap_mode="r")):
                icon = next(names)
                match = concepts.match(style, icon.name)
                if match is None:
                    unknown.append(f"{style}/{icon.name}")
                elif match.concept != LEFT_OUT and pixels[..., 3].mean() / 255 > BLANK:
                    id, tones = f"{style}/{icon.name}", match.tones
                    digest = hashlib.sha1(pixels.tobytes()).hexdigest()
                    same = kept.get((match.concept, tones, digest))  # an old name of the same picture
                    if same is None or same.hidden:
                        picture = Picture(id, style, match.concept, tones, part, index, icon.hidden)
                        kept[match.concept, tones, digest] = picture
        for (_, _, digest), picture in kept.items():
            digests[picture.id] = digest
            pictures.append(picture)
    if unknown:
        raise DataError(
            f"{len(unknown)} icons have no concept: {', '.join(unknown[:10])}; add them to aliases.tsv"
        )
    return sorted(pictures, key=lambda p: p.id), digests


def _line(picture: Picture, concepts: Concepts, split: str) -> str:
    concept = concepts.by_slug[picture.concept]
    row: dict[str, Any] = {
        "id": picture.id,
        "concept": concept.slug,
        "style": picture.style,
        "label_en": concept.label_en,
        "label_zh": concept.label_zh,
        "tags_en": concept.tags_en,
        "tags_zh": concept.tags_zh,
        "tone": picture.tones[0] if picture.tones else 0,
        "split": split,
        "category": concept.category,
    }
    if len(set(picture.tones)) > 1:
        row["tones"] = picture.tones  # two people of different skin tones
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write_text(path: Path, texts: Iterable[str]) -> None:
    with atomic_write(path) as file:
        file.write("".join(texts).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/emoji"), help="folder to build in (default: %(default)s)")
    add(
        "--size",
        type=int,
        default=SIZE_PX,
        metavar="PX",
        help="side of the pictures (default: %(default)s); another goes into OUT/PX, 1 MB a picture at 512",
    )
    add(
        "--styles",
        nargs="+",
        choices=STYLES,
        default=list(STYLES),
        metavar="STYLE",
        help=f"some sets only, into OUT/PX (all: {', '.join(STYLES)})",
    )
    add("--limit", type=int, metavar="N", help="at most N pictures of each style and split, into OUT/PX")
    add("--workers", type=int, default=os.cpu_count(), help="processes that render (default: %(default)s)")
    add(
        "--new-split",
        action="store_true",
        help="choose anew what is held out; else the committed lists decide",
    )
    options = parser.parse_args(arguments)
    try:
        if not 16 <= options.size <= 2048:
            raise DataError(f"--size {options.size} is not between 16 and 2048; use 128 or 512")
        if options.workers < 1:
            raise DataError(f"--workers {options.workers} is below 1; use 1 or more")
        if options.limit is not None and options.limit < 1:
            raise DataError(f"--limit {options.limit} is below 1; use 1 or more")
        counts = build(
            options.out,
            options.size,
            options.styles,
            options.new_split,
            options.workers,
            limit=options.limit,
        )
    except MiaobiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was rendered is kept, the same command goes on", file=sys.stderr)
        return 130
    split = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    print(f"{options.out}: {sum(counts.values())} pictures ({split})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
