"""What time of day and weather make of a colour at a distance."""

from dataclasses import dataclass

import numpy as np
from canvas import RGB, hexadecimal
from scene import Scene

_SKY: dict[tuple[str, str], tuple[RGB, RGB]] = {
    ("day", "clear"): ((84, 142, 212), (198, 222, 240)),
    ("day", "rain"): ((112, 120, 130), (168, 174, 180)),
    ("day", "snow"): ((164, 172, 184), (216, 220, 226)),
    ("day", "fog"): ((186, 190, 195), (204, 207, 209)),
    ("dusk", "clear"): ((62, 66, 124), (244, 154, 92)),
    ("dusk", "rain"): ((70, 72, 90), (134, 114, 112)),
    ("dusk", "snow"): ((100, 102, 126), (178, 158, 160)),
    ("dusk", "fog"): ((128, 120, 128), (168, 150, 146)),
    ("night", "clear"): ((7, 9, 24), (24, 29, 54)),
    ("night", "rain"): ((9, 10, 15), (25, 27, 34)),
    ("night", "snow"): ((24, 26, 36), (54, 56, 68)),
    ("night", "fog"): ((30, 31, 36), (54, 55, 60)),
}
_AMBIENT: dict[str, RGB] = {"day": (1, 1, 1), "dusk": (0.68, 0.58, 0.55), "night": (0.15, 0.165, 0.22)}
_VISIBILITY_M = {"clear": 420.0, "rain": 110.0, "snow": 85.0, "fog": 26.0}
_DIMMED = {"clear": 1.0, "rain": 0.78, "snow": 0.95, "fog": 0.88}
_TUNNEL: RGB = (0.62, 0.52, 0.4)
_BEAM: RGB = (0.86, 0.82, 0.72)


@dataclass(frozen=True)
class Air:
    """Light and haze of a scene."""

    scene: Scene

    @property
    def sky(self) -> tuple[RGB, RGB]:
        """Colour of the zenith and of the horizon, which is the colour of haze too."""
        return _SKY[self.scene.time, self.scene.weather]

    @property
    def dark(self) -> bool:
        """Whether lights are on and shine."""
        return self.scene.time == "night" or self.scene.place == "tunnel"

    @property
    def lit(self) -> bool:
        """Whether lights are on."""
        return self.dark or self.scene.time == "dusk" or self.scene.weather in ("rain", "fog", "snow")

    @property
    def visibility_m(self) -> float:
        """Distance at which 63 % of a colour is haze."""
        return _VISIBILITY_M[self.scene.weather]

    def shade(self, colour: RGB, ahead_m: float, beam: float = 1.0) -> str:
        """A colour in daylight → as it looks here; `beam` is its share of the headlights' light."""
        tunnel = self.scene.place == "tunnel"
        ambient = np.array(_TUNNEL if tunnel else _AMBIENT[self.scene.time]) * _DIMMED[self.scene.weather]
        light = ambient
        if self.dark:
            strength = (0.3 if tunnel else 1.0) * beam * np.exp(-max(ahead_m - 6, 0) / 17)
            light = ambient + np.array(_BEAM) * strength
        seen = np.array(colour) * np.minimum(light, 1.1)
        haze = 0.0 if tunnel else 1 - np.exp(-ahead_m / self.visibility_m)
        return hexadecimal(seen + (np.array(self.sky[1]) - seen) * haze)

    def shine(self, colour: RGB, ahead_m: float) -> str:
        """A light of its own as it looks through the haze."""
        haze = (1 - np.exp(-ahead_m / self.visibility_m)) * 0.7
        return hexadecimal(np.array(colour) + (np.array(self.sky[1]) - np.array(colour)) * haze)


def mixed(one: RGB, other: RGB, share: float) -> RGB:
    """`share` of the other colour in the first."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue
