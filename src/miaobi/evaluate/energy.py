"""Energy from Linux' RAPL counters (Running Average Power Limit), where they may be read.

A counter sees a whole processor package and all that runs on it, this process or another.
"""

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """The counters of all packages; `Energy.find()` looks for them."""

    packages: tuple[Path, ...]
    why_not: str = ""
    """Why there is nothing to read; empty where there is."""

    @classmethod
    def find(cls, root: Path = POWERCAP) -> "Energy":
        """The counters that this machine lets this user read."""
        packages = sorted(one for one in root.glob("intel-rapl*:*") if one.name.count(":") == 1)
        if not packages:
            return cls((), "unavailable: this machine has no RAPL counters")
        try:
            for one in packages:
                _read(one, "energy_uj")
        except (OSError, ValueError):
            return cls((), f"unavailable: {root} may not be read by this user")
        return cls(tuple(packages))

    def read(self) -> list[int]:
        """Microjoules so far of each package."""
        return [_read(one, "energy_uj") for one in self.packages]

    def joules_since(self, before: list[int]) -> float:
        """Joules of all packages since `read` gave `before`; a counter that began again at 0 is mended."""
        total = 0
        for package, start, now in zip(self.packages, before, self.read(), strict=True):
            total += now - start if now >= start else now - start + _read(package, "max_energy_range_uj")
        return total / 1e6


def _read(package: Path, name: str) -> int:
    return int((package / name).read_text())
