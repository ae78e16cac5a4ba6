"""Pictures that a user has the model remember: each with a name, drawn after when a prompt says it.

They are kept beside the bundle's memory and not in it: one file for each bundle whose encoders read them, in
`$MIAOBI_HOME` or the user's data folder. Written whole or not at all.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from miaobi.bundle import Bundle
from miaobi.errors import BundleError, InputError
from miaobi.files import atomic_write
from miaobi.text.memory import Memory, pack
from miaobi.text.prompt import clean_prompt

MOST = 10_000
"""Names that can be remembered; with so many a generation takes at most 5 ms more."""


def home() -> Path:
    """The folder of what Miaobi keeps for a user."""
    if "MIAOBI_HOME" in os.environ:
        return Path(os.environ["MIAOBI_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "miaobi"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "miaobi"


def file_of(bundle: Bundle) -> Path:
    """Where the pictures remembered for a bundle are: they are its encoders' and mean nothing to others."""
    parts = [bundle.files[name]["sha256"] for name in ("encoder.onnx", "text.onnx") if name in bundle.files]
    return home() / f"remembered-{bundle.name}-{'-'.join(part[:8] for part in parts)}.safetensors"


@dataclass(frozen=True, eq=False)
class Remembered:
    """N names and the pictures that they stand for, in order of remembering."""

    names: tuple[str, ...]
    keys: npt.NDArray[np.float32]
    """(N, D), unit norm, the names' text embeddings."""
    latents: npt.NDArray[np.float16]
    """(N, C, h, w), standardised."""
    styles: npt.NDArray[np.int64]
    """(N,) style ids."""

    @classmethod
    def load(cls, path: Path) -> "Remembered | None":
        """Read a file that `save` wrote; None where there is none.

        Raises:
            BundleError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:  # type: ignore[no-untyped-call, unused-ignore]
                names = tuple(json.loads(file.metadata()["names"]))
                keys, latents, styles = (file.get_tensor(name) for name in ("keys", "latents", "styles"))
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise BundleError(
                f"the remembered pictures in {str(path)!r} cannot be read ({error}); move the file away."
            ) from error
        return cls(names, keys.astype(np.float32), latents, styles)

    def save(self, path: Path) -> None:
        """Write to `path`, making its folder; raises what `files.atomic_write` raises."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, npt.NDArray[Any]] = {
            "keys": self.keys.astype(np.float16),
            "latents": self.latents,
            "styles": self.styles,
        }
        with atomic_write(path) as file:
            file.write(save(tensors, {"names": json.dumps(self.names, ensure_ascii=False)}))

    def without(self, name: str) -> "Remembered":
        """All but one; raises `InputError` where the name is not among them."""
        if name not in self.names:
            from difflib import get_close_matches

            near = get_close_matches(name, self.names, n=3) or self.names[:3]
            raise InputError(f"nothing is remembered as {name!r}; there is {', '.join(near) or 'nothing'}.")
        kept = np.array([one != name for one in self.names])
        names = tuple(one for one in self.names if one != name)
        return Remembered(names, self.keys[kept], self.latents[kept], self.styles[kept])

    def with_picture(
        self, name: str, key: npt.NDArray[np.float32], latents: npt.NDArray[np.floating], style: int
    ) -> "Remembered":
        """One more; a name that is there already stands for the new picture. Key (D,), latents (C, h, w).

        Raises:
            InputError: the name is empty or too long, or there are too many.
        """
        name = clean_prompt(name)[0]
        base = self.without(name) if name in self.names else self
        if len(base.names) >= MOST:
            raise InputError(f"{MOST} pictures are remembered; forget one first (miaobi forget NAME).")
        return Remembered(
            (*base.names, name),
            np.concatenate([base.keys, key[None].astype(np.float32)]),
            np.concatenate([base.latents, latents[None].astype(np.float16)]),
            np.concatenate([base.styles, [style]]),
        )

    def joined(self, memory: Memory, copies: int) -> Memory:
        """The memory with these pictures as concepts of their own, `copies` entries of each: as many as the
        generator looks at, so that no neighbour of another concept fills up.
        """
        count, concepts = len(self.names), len(memory.concepts)
        if not count:
            return memory
        new = concepts + np.arange(count)
        latents = pack(self.latents.astype(np.float32), memory.scale)

        def entries(own: npt.NDArray[Any], more: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([own, np.repeat(more, copies, axis=0)])

        return replace(
            memory,
            keys=np.concatenate([memory.keys, self.keys]),
            key_concept=np.concatenate([memory.key_concept, new]),
            entry_concept=entries(memory.entry_concept, new),
            entry_style=entries(memory.entry_style, self.styles),
            entry_tone=entries(memory.entry_tone, np.zeros(count, np.int64)),
            latents=entries(memory.latents, latents),
            concepts=[
                *memory.concepts,
                *({"slug": name, "label_en": name, "label_zh": name} for name in self.names),
            ],
            ids=[*memory.ids, *(f"yours/{name}" for name in self.names for _ in range(copies))],
        )


def nothing(dimension: int, shape: Sequence[int]) -> Remembered:
    """No picture yet, for text embeddings of `dimension` values and latents of `shape` (C, h, w)."""
    return Remembered(
        (), np.zeros((0, dimension), np.float32), np.zeros((0, *shape), np.float16), np.zeros(0, np.int64)
    )
