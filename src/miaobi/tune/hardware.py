"""The machine that a plan was found on, and how another one differs."""

import os
import platform
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from miaobi.machine import cpu_features, cpus

_RUNTIMES = ("torch", "onnxruntime", "openvino", "mnn", "diffusers", "torchao")


@dataclass(frozen=True)
class Hardware:
    """What the speed of a recipe depends on."""

    cpu: str
    cores: int
    """That the process may use."""
    flags: tuple[str, ...]
    """Those of the CPU's instruction sets that matter for matrix products."""
    memory_gib: int
    gpus: tuple[str, ...]
    system: str
    """Operating system and architecture, such as "Linux x86_64"."""
    versions: dict[str, str]
    """Of the runtimes that are installed."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"flags": list(self.flags), "gpus": list(self.gpus)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Hardware":
        """The reverse of `to_json`; raises KeyError or TypeError where something is missing."""
        lists = {name: tuple(values[name]) for name in ("flags", "gpus")}
        return cls(**(values | lists))

    def differences(self, other: "Hardware") -> list[str]:
        """How `other` differs, for people, such as "cores 2 → 8"."""
        told = []
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if one.name == "memory_gib" and abs(mine - theirs) <= 1:  # firmware and kernels keep some
                continue
            if isinstance(mine, dict):
                for name in sorted({*mine, *theirs}):
                    if mine.get(name) != theirs.get(name):
                        told.append(f"{name} {mine.get(name, 'none')} → {theirs.get(name, 'none')}")
            elif mine != theirs:
                told.append(f"{one.name} {_told(mine)} → {_told(theirs)}")
        return told

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib} GiB{gpus}, {self.system}"


def this_machine(*, gpus: bool = False) -> Hardware:
    """The machine that runs this; GPUs are asked for only where wanted, because that loads PyTorch."""
    return Hardware(
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        cores=cpus(),
        flags=tuple(sorted(cpu_features())),
        memory_gib=round(_memory_bytes() / 2**30),
        gpus=_gpus() if gpus else (),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: found for name in _RUNTIMES if (found := _version(name))},
    )


def _cpuinfo(key: str) -> str:
    """The first value of a key of /proc/cpuinfo; empty on other systems than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 0


def _gpus() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _told(value: object) -> str:
    return " ".join(value) or "none" if isinstance(value, tuple) else str(value)
