"""The other side of `speed.in_fresh_process`: load, change, draw once, tell on standard output."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from miaobi.errors import MiaobiError
from miaobi.loading import load
from miaobi.receipt import peak_memory_bytes


def main(asked: dict[str, Any]) -> dict[str, float]:
    """What `speed.Fresh` holds, but the time from the process's start."""
    started = time.perf_counter()
    pipe: Any = load(asked["model"], threads=asked["threads"], device=asked["device"])
    loaded = time.perf_counter()
    if asked["recipe"]:
        from miaobi.accelerate.recipe import loads
        from miaobi.accelerate.transform import apply

        pipe = apply(pipe, loads(asked["recipe"]), measured=False)
    applied, resident = time.perf_counter(), _resident_bytes()
    pipe.generate(asked["prompt"], 1, seed=1)
    return {
        "load_ms": (loaded - started) * 1000,
        "apply_ms": (applied - loaded) * 1000 if asked["recipe"] else 0.0,
        "draw_ms": (time.perf_counter() - applied) * 1000,
        "peak_memory_bytes": peak_memory_bytes(),
        "resident_bytes": resident,
    }


def _resident_bytes() -> int:
    """The resident memory of this process now, in bytes; 0 where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
    except MiaobiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
