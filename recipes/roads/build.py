"""Build the road scenes: pictures, captions and lane masks.

`python recipes/roads/build.py --out data/roads --count 6000` draws scenes 0 to 5999, each a function of its
number alone, and writes

- images.npy: uint8 (2N, 128, 128, 4), N photographs, then their N masks as pictures;
- masks.npy: uint8 (N, 128, 128), labels of the photographs' pixels, see `canvas.LABELS`;
- metadata.jsonl (line i describes picture i) and styles.json.

A killed build goes on where it stopped.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt
from render import mask_picture, render
from scene import SIZE_PX, sample
from tqdm import tqdm
from words import words

from miaobi.errors import DataError, MachineError, MiaobiError
from miaobi.files import atomic_write

UInt8 = npt.NDArray[np.uint8]
STYLES = ("photo", "mask")
FIRST_FRESH = 1_000_000
"""Scenes from this number on are in no data set."""
PART = 200
"""Scenes in one part: what a killed build loses at most, per process."""
_RENDERER = ("scene", "canvas", "light", "road", "traffic", "roadside", "surroundings", "render")


def part_of(number: int) -> str:
    """A scene's part: "train"; "test", which no training sees; or "validation", of which the generator knows
    the masks alone, to draw after them in previews.
    """
    if number % 10 == 9:
        return "test"
    return "validation" if number % 50 == 8 else "train"


def split_of(number: int, style: str) -> str:
    """The split of a scene's picture, "train" or "heldout"."""
    part = part_of(number)
    return "heldout" if part == "test" or (part, style) == ("validation", "photo") else "train"


def build(out: Path, count: int, workers: int = 1) -> Counter[str]:
    """Write the data set into `out`; returns the number of scenes by part.

    Raises MachineError where a drawing process is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = [path for path, _ in _rendered(out / "parts" / _version(), count, workers)]
    for name, kind, copies in (("images.npy", "photos", 2), ("masks.npy", "masks", 1)):
        shape = (copies * count, SIZE_PX, SIZE_PX, *((4,) if kind == "photos" else ()))
        with atomic_write(out / name) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for path in parts:
                file.write(_read(path, kind).tobytes())
            for path in parts if copies == 2 else ():
                file.write(mask_picture(_read(path, "masks")).tobytes())
    _write_text(out / "styles.json", json.dumps(STYLES) + "\n")
    _write_text(out / "metadata.jsonl", "".join(_line(n, style) for style in STYLES for n in range(count)))
    return Counter(map(part_of, range(count)))


def _version() -> str:
    """A digest of what draws: parts of another renderer are not taken for this one's."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / f"{name}.py").read_bytes() for name in _RENDERER)).hexdigest()[:12]


def _rendered(folder: Path, count: int, workers: int) -> Iterator[tuple[Path, int]]:
    """Draw into `folder`/<first>-<number of scenes>.npz; yields path and number of scenes of each part.

    Parts left whole by an earlier run are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
    paths = [folder / f"{chunk.start:07d}-{len(chunk)}.npz" for chunk in chunks]
    with tqdm(total=count, desc="drawing", unit=" scenes") as bar:
        if workers == 1:
            for path, chunk in zip(paths, chunks, strict=True):
                _draw_part(path, chunk)
                bar.update(len(chunk))
                yield path, len(chunk)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            try:
                jobs = [pool.submit(_draw_part, *job) for job in zip(paths, chunks, strict=True)]
                for path, chunk, job in zip(paths, chunks, jobs, strict=True):
                    job.result()
                    bar.update(len(chunk))
                    yield path, len(chunk)
            except BrokenProcessPool as error:
                raise MachineError(
                    "a drawing process was killed, perhaps for want of memory; "
                    "build again with --workers 1, it goes on"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _draw_part(path: Path, numbers: range) -> None:
    if _is_whole(path):
        return
    drawn = [render(number) for number in numbers]
    buffer = io.BytesIO()
    np.savez(
        buffer, photos=np.stack([one.photo for one in drawn]), masks=np.stack([one.mask for one in drawn])
    )
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file, np.load(file) as kept:  # a damaged file is closed too
            return {"photos", "masks"} <= set(kept.files)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _read(path: Path, kind: str) -> UInt8:
    with np.load(path) as kept:
        return np.asarray(kept[kind])


def _line(number: int, style: str) -> str:
    scene = sample(number)
    said = words(scene)
    row = {
        "id": f"{style}/road-{number}",
        "concept": f"road-{number}",
        "style": style,
        "label_en": said.label_en,
        "label_zh": said.label_zh,
        "tags_en": said.tags_en,
        "tags_zh": said.tags_zh,
        "split": split_of(number, style),
        "category": scene.place,
        "part": part_of(number),
        "time": scene.time,
        "weather": scene.weather,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/roads"), help="folder to build in (default: %(default)s)")
    add("--count", type=int, default=6000, metavar="N", help="scenes (default: %(default)s; 150 kB each)")
    add("--workers", type=int, default=os.cpu_count(), help="processes that draw (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        if not 10 <= options.count <= FIRST_FRESH:
            raise DataError(f"--count {options.count} is not between 10 and {FIRST_FRESH}; try 6000")
        if options.workers < 1:
            raise DataError(f"--workers {options.workers} is below 1; use 1 or more")
        counts = build(options.out, options.count, options.workers)
    except MiaobiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was drawn is kept, the same command goes on", file=sys.stderr)
        return 130
    told = ", ".join(f"{number} {part}" for part, number in sorted(counts.items()))
    print(f"{options.out}: {sum(counts.values())} scenes ({told})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
