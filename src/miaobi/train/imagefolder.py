"""Any image and caption folder in Hugging Face's imagefolder form, brought to the form that training reads.

https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from miaobi.errors import DataError
from miaobi.files import atomic_write
from miaobi.images import UInt8, from_pil

Entry = dict[str, Any]
_CAPTIONS = ("text", "caption", "label_en", "label_zh")
_OPTIONAL = ("style", "split", "category", "concept", "label_en", "label_zh")
_HAN = re.compile(r"[\u3400-\u9fff]")
_HELD_OUT_FROM = 40
"""Pictures from which on 5 % are held out where the folder names no split."""


def convert(path: Path, size_px: int) -> tuple[Path, tuple[str, ...]]:
    """The shard folder of the imagefolder `path`, made where it is missing or old, and what was wrong.

    Each picture is fitted into a size_px square (Lanczos), on a transparent ground. Raises DataError where
    not one picture can be used.
    """
    entries, problems = _entries(path)
    cache = path / f".miaobi-{size_px}"
    fingerprint = _fingerprint(path, entries)
    try:
        done = json.loads((cache / "source.json").read_text("utf-8"))
        if done["fingerprint"] == fingerprint:
            return cache, tuple(done["problems"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not converted yet, or not to the end
    cache.mkdir(exist_ok=True)
    problems += _write_shard(path, entries, cache, size_px)
    with atomic_write(cache / "source.json") as file:
        done = {"fingerprint": fingerprint, "problems": problems}
        file.write(json.dumps(done, ensure_ascii=False).encode())
    return cache, tuple(problems)


def lines(path: Path) -> list[str]:
    """The lines of a JSON Lines file; DataError where it cannot be read."""
    try:
        return [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _entries(path: Path) -> tuple[list[Entry], list[str]]:
    """The usable lines of an imagefolder's metadata, and what is wrong with the others."""
    entries: dict[str, Entry] = {}
    problems = []
    for number, line in enumerate(lines(path / "metadata.jsonl"), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(name, str) or not name or "\0" in name:
            problems.append(f"metadata.jsonl line {number}: no JSON object with a file_name; left out")
        elif name in entries:
            problems.append(f"{name}: listed more than once; line {number} left out")
        elif not any(isinstance(entry.get(key), str) and entry[key].strip() for key in _CAPTIONS):
            problems.append(f"{name}: no text or caption; left out")
        elif not (path / name).resolve().is_relative_to(path.resolve()):
            problems.append(f"{name}: outside the folder; left out")
        elif not (path / name).is_file():
            problems.append(f"{name}: missing; left out")
        else:
            entries[name] = entry
    if not entries:
        reason = "; ".join(problems[:3]) or "metadata.jsonl is empty"
        raise DataError(f"{path} holds no usable picture ({reason})")
    return list(entries.values()), problems


def _fingerprint(path: Path, entries: list[Entry]) -> str:
    digest = hashlib.sha256((path / "metadata.jsonl").read_bytes())
    for entry in entries:
        status = (path / entry["file_name"]).stat()
        digest.update(f"{entry['file_name']}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write_shard(path: Path, entries: list[Entry], cache: Path, size_px: int) -> list[str]:
    """Write images.npy and metadata.jsonl into `cache`; returns what was left out or converted."""
    problems, texts = [], []
    hold_out = len(entries) >= _HELD_OUT_FROM and not any("split" in entry for entry in entries)
    with atomic_write(cache / "pixels.raw") as file:
        for entry in entries:
            name = entry["file_name"]
            try:
                record = _record(entry, hold_out)
                pixels, note = _fit(path / name, size_px)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
                problems.append(f"{name}: {error}; left out")
                continue
            if note:
                problems.append(f"{name}: {note}")
            file.write(pixels.tobytes())
            texts.append(json.dumps(record, ensure_ascii=False) + "\n")
    if not texts:
        (cache / "pixels.raw").unlink()
        raise DataError(f"{path} holds no usable picture ({'; '.join(problems[:3])})")
    pictures = np.memmap(cache / "pixels.raw", np.uint8, "r", shape=(len(texts), size_px, size_px, 4))
    with atomic_write(cache / "images.npy") as file:
        np.lib.format.write_array(file, pictures)
    (cache / "pixels.raw").unlink()
    with atomic_write(cache / "metadata.jsonl") as file:
        file.write("".join(texts).encode())
    return problems


def _record(entry: Entry, hold_out: bool) -> Entry:
    """The fields of a `data.Record`; ValueError where one has the wrong type."""
    name = entry["file_name"]
    captions = (entry.get(key) for key in _CAPTIONS)
    caption = next(text.strip() for text in captions if isinstance(text, str) and text.strip())
    held = hold_out and int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 20 == 0
    record: Entry = {
        "id": name,
        "concept": caption.lower(),
        "style": "default",
        "label_en": "",
        "label_zh": "",
        "split": "heldout" if held else "train",
        "category": "",
    }
    record["label_zh" if _HAN.search(caption) else "label_en"] = caption
    for key in _OPTIONAL:
        value = entry.get(key, "")
        if not isinstance(value, str):
            raise ValueError(f"{key} is {value!r}, not a text")
        record[key] = value or record[key]
    if record["split"] not in ("train", "heldout"):
        raise ValueError(f"split is {record['split']!r}, not train or heldout")
    for key in ("tags_en", "tags_zh"):
        tags = entry.get(key, [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise ValueError(f"{key} is {tags!r}, not a list of texts")
        record[key] = tags
    return record


def _fit(path: Path, size_px: int) -> tuple[UInt8, str]:
    """A picture file as uint8 (size_px, size_px, 4) straight RGBA, and a note where it was converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    mode, note = picture.mode, ""
    if min(picture.size) < 2:
        raise ValueError(f"{picture.width} x {picture.height} pixels is too small")
    if mode.startswith("I") or mode == "F":  # 16 and 32 bits a channel: PIL would clip instead of scaling
        values = np.asarray(picture, np.float64)
        top = 65535 if mode.startswith("I") and values.max() <= 65535 else max(values.max(), 1)
        picture = Image.fromarray(np.rint(values.clip(0, top) * (255 / top)).astype(np.uint8))
        note = "more than 8 bits a channel, scaled to 8"
    elif mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        picture, note = picture.convert("RGB"), f"{mode}, converted to RGB"
    elif mode == "P":
        note = "palette, converted to RGB"
    picture = ImageOps.contain(picture.convert("RGBA"), (size_px, size_px), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size_px, size_px))
    square.paste(picture, ((size_px - picture.width) // 2, (size_px - picture.height) // 2))
    return from_pil(square), note
