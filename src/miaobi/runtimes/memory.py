"""Whether a model fits in memory, known from its files before they are loaded."""

import json
import struct
from pathlib import Path
from typing import Any

from miaobi.errors import InputError, MachineError

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
OTHERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
SPARE = 1.1
"""Times the weights: what code, activations and the biggest tensor in flight take at the least."""


def weights_bytes(folder: Path, dtype: str) -> int:
    """Bytes of all weights under a diffusers folder once they are floats of `dtype`.

    Reads the headers of the `.safetensors` files alone. Of files in several precisions (`*.fp16.safetensors`
    beside `*.safetensors`) the plain one counts, which is the one that is loaded.

    Raises:
        InputError: a file is no safetensors file.
    """
    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        plain = path.with_name(path.name.split(".")[0] + ".safetensors")
        if path != plain and plain.exists():
            continue
        for one in _header(path).values():
            count = 1
            for size in one["shape"]:
                count *= size
            kind = one["dtype"]
            total += count * (WIDTHS[dtype] if kind in FLOATS else OTHERS.get(kind, 8))
    return total


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def check_fits(name: str, weights: int, available: int | None) -> None:
    """Refuse a model of `weights` bytes where fewer than it needs are `available` (None: unknown, let it
    try).

    Raises:
        MachineError: it does not fit.
    """
    needed = int(weights * SPARE)
    if available is not None and needed > available:
        raise MachineError(
            f"{name} needs at least {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            f"available; close other programs, use a machine with more, or a smaller model."
        )


def _header(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{str(path)!r} is no safetensors file ({error}); download it again.") from error
    return {name: one for name, one in header.items() if name != "__metadata__"}
