"""What of this machine decides which steps are worth it: the CPU's wider instructions, and how many CPUs."""

import os
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_DECIDING = {
    *(
        "avx2",
        "fma",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
    ),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
}
"""Vectors, int8 dot products, bf16, fp16 and tile products of x86 and Arm, as Linux names them."""


@cache
def cpu_features(path: Path = CPUINFO) -> frozenset[str]:
    """Those of the deciding instructions that the CPU has; empty where the system does not tell."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(told.partition(":")[2].split()) & _DECIDING


def lacks_int8() -> bool:
    """Whether the CPU is known to have no int8 dot product."""
    features = cpu_features()
    return bool(features) and not features & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def int8_overflows() -> bool:
    """Whether the CPU adds two int8 products in 16 bits, which overflows where weights use all 8 bits (x86
    without an int8 dot product); 7-bit weights, ONNX Runtime's `reduce_range`, do not.
    """
    return "avx2" in cpu_features() and lacks_int8()


def lacks_bf16() -> bool:
    """Whether the CPU is known to have no bf16 products: they are emulated, or run in fp32."""
    features = cpu_features()
    return bool(features) and not features & {"avx512_bf16", "amx_bf16", "bf16"}


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
