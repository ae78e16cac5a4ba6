"""Backdrops for scenes: sky, ground and what stands about, by the kinds of place that prompts name."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from miaobi.compose import Box
from miaobi.images import Float

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scenery:
    """A place."""

    sky: tuple[Colour, Colour]
    """From the top down to the horizon, sRGB in 0..255."""
    ground: tuple[Colour, Colour]
    """From the horizon down."""
    horizon: float = 0.62
    """Share of the height above the ground; 1: no ground."""
    about: tuple[tuple[str, Box], ...] = ()
    """What the generator draws behind the scene's things, and where."""


_DAY, _NIGHT = ((120, 190, 245), (222, 241, 255)), ((14, 18, 52), (46, 52, 104))
_DUSK, _GREY = ((92, 74, 150), (255, 170, 120)), ((122, 138, 158), (186, 198, 210))
_GRASS, _SAND = ((150, 208, 98), (96, 168, 70)), ((246, 222, 160), (228, 190, 118))
_SNOW, _STONE = ((250, 252, 255), (214, 228, 244)), ((196, 198, 206), (140, 144, 156))
_WATER, _DARK = ((96, 178, 224), (34, 98, 178)), ((38, 44, 70), (18, 24, 40))

_LOW_LEFT, _LOW_RIGHT = (0.02, 0.36, 0.3, 0.64), (0.72, 0.42, 0.96, 0.66)
_HIGH_LEFT, _HIGH_RIGHT = (0.05, 0.05, 0.27, 0.27), (0.74, 0.04, 0.96, 0.26)

SCENERIES = {
    "garden": Scenery(_DAY, _GRASS, about=(("tulip", _LOW_LEFT), ("sunflower", _LOW_RIGHT))),
    "grass": Scenery(_DAY, _GRASS, 0.55, (("deciduous tree", _LOW_LEFT), ("blossom", _LOW_RIGHT))),
    "forest": Scenery(
        ((150, 205, 160), (214, 236, 200)),
        ((96, 150, 78), (58, 106, 54)),
        0.6,
        (("evergreen tree", _LOW_LEFT), ("evergreen tree", _LOW_RIGHT)),
    ),
    "mountain": Scenery(_DAY, _GRASS, 0.66, (("snow-capped mountain", _LOW_LEFT), ("mountain", _LOW_RIGHT))),
    "beach": Scenery(_DAY, _SAND, 0.6, (("palm tree", _LOW_LEFT), ("spiral shell", _LOW_RIGHT))),
    "desert": Scenery(((140, 196, 240), (250, 232, 196)), _SAND, 0.58, (("cactus", _LOW_LEFT),)),
    "sea": Scenery(_DAY, _WATER, 0.45),
    "lake": Scenery(_DAY, _WATER, 0.5, (("lotus", _LOW_LEFT),)),
    "river": Scenery(_DAY, _WATER, 0.55, (("deciduous tree", _LOW_LEFT),)),
    "snow": Scenery(
        ((176, 208, 236), (236, 244, 252)),
        _SNOW,
        0.6,
        (("evergreen tree", _LOW_LEFT), ("snowflake", _HIGH_RIGHT)),
    ),
    "sky": Scenery(((90, 168, 240), (214, 238, 255)), _GRASS, 1.0, (("cloud", _HIGH_RIGHT),)),
    "rain": Scenery(_GREY, ((150, 158, 150), (104, 116, 110)), 0.74, (("cloud with rain", _HIGH_RIGHT),)),
    "sunset": Scenery(_DUSK, ((120, 84, 110), (70, 50, 84)), 0.72, (("sun", _HIGH_RIGHT),)),
    "sunrise": Scenery(((140, 190, 235), (255, 214, 150)), _GRASS, 0.72, (("sun", _HIGH_RIGHT),)),
    "night": Scenery(_NIGHT, _DARK, 0.8, (("crescent moon", _HIGH_LEFT), ("star", _HIGH_RIGHT))),
    "space": Scenery(((6, 8, 28), (32, 22, 66)), _DARK, 1.0, (("comet", _HIGH_RIGHT),)),
    "city": Scenery(_DAY, _STONE, 0.66, (("office building", _LOW_LEFT), ("house", _LOW_RIGHT))),
    "room": Scenery(
        ((250, 236, 214), (244, 222, 192)),
        ((206, 160, 112), (176, 128, 84)),
        0.72,
        (("framed picture", _HIGH_RIGHT),),
    ),
}
"""By the kinds of `text.lexicon.BACKGROUNDS`."""
PLAIN = Scenery(((236, 240, 246), (250, 250, 252)), ((226, 230, 238), (208, 214, 226)), 0.7)
"""For places nobody described."""


@lru_cache(8)
def backdrop(of: Scenery, size_px: int) -> Float:
    """Sky and ground, (4, size_px, size_px) float32 in [-1, 1], opaque; kept, and not to be written to."""
    at = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    x, y = np.meshgrid(at, at)
    edge = of.horizon + (0.025 * np.cos(2.6 * np.pi * x + 0.6) if of.horizon < 1 else 0 * x)
    below = np.clip((y - edge) * size_px + 0.5, 0, 1)  # anti-aliased over a pixel
    sky = _gradient(of.sky, np.asarray(y / of.horizon))
    ground = _gradient(of.ground, np.asarray((y - edge) / max(1 - of.horizon, 1e-3)))
    opaque = np.full((1, size_px, size_px), 255, np.float32)
    colour = np.concatenate([sky + below * (ground - sky), opaque])
    picture = np.asarray(colour / 127.5 - 1, np.float32)
    picture.setflags(write=False)
    return picture


def _gradient(colours: tuple[Colour, Colour], share: npt.NDArray[np.floating]) -> Float:
    """(3, H, W) in 0..255, from the first colour at share (H, W) 0 to the second at 1."""
    first, second = (np.array(one, np.float32)[:, None, None] for one in colours)
    return np.asarray(first + np.clip(share, 0, 1) * (second - first), np.float32)
