"""Other people's super-resolution weights, through spandrel, which finds the architecture out by itself.

Safetensors are preferred. A .pth file is a pickle: it is read with `torch.load(weights_only=True)`, which
makes tensors and nothing else; what needs more than that is refused.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.errors import InputError, MachineError
from miaobi.images import Float
from miaobi.refine.resample import TILE_PX, by_tiles, shrink

OVERLAP_PX = 24
SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class Foreign:
    """A network for RGB pictures as spandrel describes it."""

    name: str
    descriptor: Any
    """`spandrel.ImageModelDescriptor`, in evaluation mode."""
    device: str

    def upscale(self, picture: Float, scale: int) -> Float:
        """A premultiplied picture (4, H, W) in [-1, 1] as (4, scale · H, scale · W).

        The network is given the premultiplied colours, which is the picture over black, and once more the
        alpha as a grey picture. Its result is averaged where it is larger than asked.

        Raises:
            InputError: the network does not enlarge by a multiple of `scale`.
        """
        factor, rest = divmod(self.descriptor.scale, scale)
        if rest or not factor:
            raise InputError(
                f"{self.name!r} enlarges {self.descriptor.scale} times, which gives no scale {scale}; "
                "choose another scale or another model."
            )
        import torch

        def enlarge(window: Float) -> Float:
            unit = torch.from_numpy(np.ascontiguousarray((window + 1) / 2))[None].to(self.device)
            large = self.descriptor(unit)[0].float().cpu().numpy()
            return shrink(large, factor) if factor > 1 else np.asarray(large, np.float32)

        def whole(rgb: Float) -> Float:
            tiles = self.descriptor.tiling.name == "SUPPORTED"
            side = TILE_PX if tiles else max(rgb.shape[1:])
            return by_tiles(enlarge, rgb, scale, overlap_px=OVERLAP_PX, margin_px=4, tile_px=side)

        alpha = picture[3:]
        empty = np.kron(alpha[0] < -1 + 1 / 255, np.ones((scale, scale), bool))
        opaque = bool((alpha >= 1).all())
        large_alpha = (
            np.ones_like(empty, np.float32) if opaque else whole(np.repeat(alpha, 3, 0)).mean(axis=0)
        )
        large_alpha[empty] = 0
        colour = np.minimum(whole(picture[:3]), large_alpha)
        return np.concatenate([colour, large_alpha[None]]) * np.float32(2) - np.float32(1)


@lru_cache(maxsize=2)
def load(path: str) -> Foreign:
    """The network whose weights are in `path`.

    Raises:
        InputError: there is no such file, it is of another kind, damaged, or no network that enlarges RGB
            pictures.
        MachineError: spandrel, or torchvision which it needs, is not installed.
    """
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path!r} is no {' or '.join(SUFFIXES)} file; convert the weights to safetensors.")
    if not place.is_file():
        raise InputError(f"there is no file {path!r}; give weights as .safetensors or .pth.")
    try:
        import spandrel
        import torch
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise MachineError(
            f"weights of others need spandrel with torch and torchvision ({error}); "
            "run: pip install 'miaobi[spandrel]'"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if place.suffix.lower() == ".pth":
            weights = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            weights = load_file(path)
        found = spandrel.ModelLoader(device).load_from_state_dict(spandrel.canonicalize_state_dict(weights))
    except Exception as error:  # pickles, safetensors and architectures each fail in their own ways
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{path!r} cannot be used ({type(error).__name__}: {reason}); give weights of an upscaler that "
            "spandrel knows, best as .safetensors."
        ) from error
    if not (
        isinstance(found, spandrel.ImageModelDescriptor)
        and (found.input_channels, found.output_channels) == (3, 3)
        and found.scale > 1
    ):
        raise InputError(
            f"{path!r} is a {found.architecture.name} with {found.input_channels} channels and scale "
            f"{found.scale}; give one that enlarges RGB pictures."
        )
    return Foreign(place.name, found.eval(), device)
