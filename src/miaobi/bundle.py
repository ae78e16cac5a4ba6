"""A bundle is a pipeline on disk: a folder with `bundle.json` and the files it lists with their checksums.

Every file is checked each time it is loaded: 40 MB take about 35 ms.
Only ONNX, safetensors and JSON are read; a pickle is never opened.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaobi.errors import BundleError, InputError, MachineError
from miaobi.files import atomic_write
from miaobi.traits import BUNDLE_RUNTIMES, RuntimeName

FORMAT = 1
FAMILIES = ("diffusion", "gan", "vae", "autoregressive")
MAX_STEPS = 100
MANIFEST = "bundle.json"
FILES = (
    "context.onnx",
    "decoder.onnx",
    "memory.json",
    "memory.safetensors",
    "text.onnx",
    "tokenizer.json",
)
SHIPPED = Path(__file__).parent / "bundles" / "emoji"

_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"}
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


@dataclass(frozen=True)
class Bundle:
    """The content of `bundle.json`; `path(name)` gives a file after checking it."""

    folder: Path
    name: str
    version: str
    family: str
    size_px: int
    latent_shape: tuple[int, int, int]
    """(C, H, W)"""
    styles: tuple[str, ...]
    """The index is the style id."""
    default_style: str
    patch: int
    """Latent positions a side that make one token."""
    neighbours: int
    """Pictures of the memory that the generator looks at; 0: it draws from text and style alone."""
    max_tokens: int
    files: Mapping[str, Mapping[str, Any]]
    """{"sha256", "bytes"} by file name."""
    steps: int = 4
    guidance: float = 1.0
    sampler: str = "euler"
    guided_part: tuple[float, float] = (0.0, 1.0)
    """Shares of the path, from noise to picture, between which guidance is run."""
    runtime: RuntimeName = "onnxruntime"
    """What runs it where nothing else is asked for."""
    blocks: int = 0
    """Blocks that run at every step; 0: not told."""
    parameters: int = 0
    """Weights of the generator and the decoder; 0: not told."""
    quantized: str | None = None
    """How its graphs were quantized by a recipe, such as "int8-static"."""
    temperature: float = 1.0
    """Of the choice of image tokens, as are `top_k` and `top_p`."""
    top_k: int = 0
    top_p: float = 1.0
    caption_cache: tuple[int, ...] = ()
    """Layers, heads and values of a head in the cache of its captioner; empty: it does not caption."""
    scenes: bool = True
    """Whether a prompt may become a scene of several layers; false: pictures are whole, with their ground."""
    dtype: str = "float32"
    card: Mapping[str, Any] = field(default_factory=dict)
    """The model card: measured quality and speed, and the command behind each figure."""
    licences: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise BundleError(
                f"{self._what}: family {self.family!r} is unknown; this version draws {', '.join(FAMILIES)}."
            )
        if self.default_style not in self.styles or len(self.latent_shape) != 3:
            raise BundleError(f"{self._what}: the default style or the latent shape is wrong.")
        if self.runtime not in BUNDLE_RUNTIMES:
            allowed = ", ".join(BUNDLE_RUNTIMES)
            raise BundleError(f"{self._what}: runtime {self.runtime!r} is none of {allowed}.")
        if self.sampler not in ("euler", "consistency") or self.steps < 1 or self.neighbours < 0:
            raise BundleError(f"{self._what}: the sampler, steps or neighbours are wrong.")
        for name in self.files:
            if Path(name).suffix in _PICKLE_SUFFIXES:
                raise BundleError(_pickle_message(self.folder / name))
            if Path(name).name != name:
                raise BundleError(f"{self._what}: file {name!r} is not a plain name inside the bundle.")
        missing = [name for name in (*FILES, f"{self.sampled}.onnx") if name not in self.files]
        if self.caption_cache and "captioner.onnx" not in self.files:
            missing.append("captioner.onnx")
        if missing:
            raise BundleError(f"{self._what} lists no {', '.join(missing)}; export the bundle again.")
        if len(self.caption_cache) not in (0, 3):
            raise BundleError(f"{self._what}: the captioner's cache {self.caption_cache} is wrong.")

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return self.latent_shape[1] * self.latent_shape[2] // self.patch**2

    @property
    def most_steps(self) -> int:
        """Sampling steps that make sense: a GAN and a VAE draw in one, a picture of N tokens in N."""
        return {"diffusion": MAX_STEPS, "autoregressive": self.tokens}.get(self.family, 1)

    @property
    def sampled(self) -> str:
        """The graph that runs at every step."""
        return "writer" if self.family == "autoregressive" else "denoiser"

    @property
    def _what(self) -> str:
        return f"bundle {str(self.folder)!r}"

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Read and check `bundle.json` in `folder` (the files themselves are checked by `path`).

        Raises:
            BundleError: there is no bundle, it is of another format, damaged, or holds pickles.
            MachineError: it cannot be read.
        """
        folder = Path(folder)
        if folder.is_file():
            if _is_pickle(folder):
                raise BundleError(_pickle_message(folder))
            raise BundleError(f"{str(folder)!r} is a file; a bundle is a folder with {MANIFEST} in it.")
        pickles = sorted(one.name for one in folder.glob("*") if one.suffix in _PICKLE_SUFFIXES)
        if not (folder / MANIFEST).is_file():
            if pickles:
                raise BundleError(_pickle_message(folder / pickles[0]))
            raise BundleError(
                f"no bundle at {str(folder)!r}: {MANIFEST} is missing; give a folder that has one."
            )
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            if manifest["format"] != FORMAT:
                raise BundleError(
                    f"bundle {str(folder)!r} has format {manifest['format']!r}, this version reads {FORMAT}; "
                    "update miaobi or export the bundle again."
                )
            channels, height, width = map(int, manifest["latent"]["shape"])
            knobs = manifest.get("knobs", {})
            guided = knobs.get("guided_part", (0, 1))
            return cls(
                folder=folder,
                name=str(manifest["name"]),
                version=str(manifest.get("version", "0")),
                family=manifest["family"],
                size_px=int(manifest["size_px"]),
                latent_shape=(channels, height, width),
                styles=tuple(map(str, manifest["styles"])),
                default_style=manifest["default_style"],
                patch=int(manifest["latent"].get("patch", 1)),
                neighbours=int(manifest["neighbours"]),
                max_tokens=int(manifest["text"]["max_tokens"]),
                files={
                    name: {"sha256": str(one["sha256"]), "bytes": int(one["bytes"])}
                    for name, one in manifest["files"].items()
                },
                steps=int(knobs.get("steps", 4)),
                guidance=float(knobs.get("guidance", 1.0)),
                sampler=str(knobs.get("sampler", "euler")),
                guided_part=(float(guided[0]), float(guided[1])),
                runtime=manifest.get("runtime", "onnxruntime"),
                blocks=int(manifest.get("blocks", 0)),
                parameters=int(manifest.get("parameters", 0)),
                quantized=manifest.get("quantized"),
                temperature=float(knobs.get("temperature", 1.0)),
                top_k=int(knobs.get("top_k", 0)),
                top_p=float(knobs.get("top_p", 1.0)),
                caption_cache=tuple(map(int, manifest.get("caption_cache", ()))),
                scenes=bool(manifest.get("scenes", True)),
                dtype=str(manifest.get("dtype", "float32")),
                card=dict(manifest.get("card", {})),
                licences=tuple(manifest.get("licences", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise BundleError(
                f"{str(folder / MANIFEST)!r} is damaged ({reason}); get the bundle again."
            ) from error
        except OSError as error:
            raise MachineError(f"{str(folder / MANIFEST)!r} cannot be read: {error.strerror}.") from error

    def style_id(self, style: str | None) -> int:
        """The number of a style, of the default one for None; raises `InputError` for an unknown one."""
        style = self.default_style if style is None else style
        if style not in self.styles:
            from difflib import get_close_matches

            near = get_close_matches(style.lower(), self.styles, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"unknown style {style!r}; the styles are {', '.join(self.styles)}.{hint}")
        return self.styles.index(style)

    def path(self, name: str) -> Path:
        """The path of a file of the bundle, after checking its size, its checksum and that it is no pickle.

        Raises:
            BundleError: the file is missing, truncated, altered or a pickle.
            MachineError: it cannot be read.
        """
        path, expected = self.folder / name, self.files[name]
        again = "get the bundle again (for the shipped one: pip install --force-reinstall miaobi)."
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if file.read(4).startswith(_PICKLE_STARTS):
                    raise BundleError(_pickle_message(path))
                if size != expected["bytes"]:
                    raise BundleError(
                        f"{str(path)!r} has {size} bytes instead of {expected['bytes']}; {again}"
                    )
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise BundleError(f"{str(path)!r} is missing; {again}") from error
        except OSError as error:
            raise MachineError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
        if digest != expected["sha256"]:
            raise BundleError(f"{str(path)!r} was altered (its checksum differs from {MANIFEST}); {again}")
        return path


def write_bundle(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
) -> Bundle:
    """Write a bundle: each file (bytes, or a path to copy from) and last `bundle.json` with their checksums.

    `manifest` holds every key of `bundle.json` but "format" and "files". All writes are atomic, and while
    files are replaced there is no `bundle.json`, so that a half-written bundle is never taken for a whole
    one. Returns the bundle as read back; raises `BundleError` where the manifest is not one that
    `Bundle.load` reads.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    listed: dict[str, dict[str, Any]] = {}
    for name, source in sorted(files.items()):
        content = source if isinstance(source, bytes) else source.read_bytes()
        with atomic_write(folder / name) as file:
            file.write(content)
        listed[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    text = json.dumps({"format": FORMAT, **manifest, "files": listed}, ensure_ascii=False, indent=2)
    with atomic_write(folder / MANIFEST) as file:
        file.write(text.encode() + b"\n")
    return Bundle.load(folder)


def _is_pickle(path: Path) -> bool:
    if path.suffix in _PICKLE_SUFFIXES:
        return True
    with open(path, "rb") as file:
        return file.read(4).startswith(_PICKLE_STARTS)


def _pickle_message(path: Path) -> str:
    return (
        f"{str(path)!r} is a pickle (.pt, .pth, .bin, .ckpt …), which can run any code and is never loaded; "
        "use a bundle of .onnx and .safetensors files."
    )
