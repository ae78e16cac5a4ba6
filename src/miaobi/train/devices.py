"""Where training runs and in which precision."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch


def device() -> torch.device:
    """The accelerator if there is one, otherwise the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(choice: str, on: torch.device) -> torch.dtype:
    """The dtype of matrix products for `choice` ("auto", "fp32", "bf16", "fp16") on a device."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if choice in named:
        return named[choice]
    native = torch.cuda.is_bf16_supported() if on.type == "cuda" else on.type == "cpu" and _cpu_bf16_pays()
    return torch.bfloat16 if native else torch.float32


@cache
def _cpu_bf16_pays() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32: measured, as what it claims says little. With AMX
    bf16 was five times faster, with AVX-512 BF16 alone half as fast.
    """

    def best_s(dtype: torch.dtype) -> float:
        a, b = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - begin)
        return min(times)

    return best_s(torch.bfloat16) < 0.8 * best_s(torch.float32)


def autocast(dtype: torch.dtype, on: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision, or nothing for fp32."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(on.type, dtype)
