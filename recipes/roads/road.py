"""The road itself, painted strip by strip from far to near: ground, shoulder, lanes, markings, damage."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from canvas import MARKING, OWN_LANE, RGB, ROAD, SCENERY, Canvas, Point
from light import Air, mixed
from scene import FAR_M, SIZE_PX, Line, Scene

_STRIPS = 40
_SNOW: RGB = (232, 236, 242)
_PAINT: dict[str, RGB] = {"white": (240, 240, 236), "yellow": (246, 196, 48)}
_GROUND: dict[str, list[RGB]] = {
    "city": [(158, 154, 148), (136, 134, 132)],
    "forest": [(66, 98, 50), (84, 88, 52)],
    "field": [(120, 152, 66), (196, 176, 92), (98, 138, 58)],
    "desert": [(210, 180, 132), (198, 158, 112)],
    "mountain": [(110, 124, 86), (132, 124, 108)],
    "tunnel": [(92, 92, 94)],
}


@dataclass(frozen=True)
class Mark:
    """Something on the road that is no marking."""

    near_m: float
    far_m: float
    left_m: tuple[float, float]
    """Its left edge at the near and at the far end."""
    width_m: float
    colour: RGB | None
    """None: a shadow, which falls on markings too."""
    opacity: float


class Road:
    """Paints a scene's road; what it makes up comes from `rng`."""

    def __init__(self, canvas: Canvas, scene: Scene, air: Air, rng: np.random.Generator) -> None:
        self.canvas, self.scene, self.view, self.air, self.rng = canvas, scene, scene.view, air, rng
        places = _GROUND[scene.place]
        self.ground = places[rng.integers(len(places))]
        grey = float(rng.uniform(72, 124))
        self.asphalt: RGB = (grey, grey, grey * float(rng.uniform(0.96, 1.06)))
        if scene.weather == "rain":
            self.asphalt = (grey * 0.72, grey * 0.74, grey * 0.8)
        if scene.weather == "snow":
            self.ground = mixed(self.ground, _SNOW, 0.88)
            self.asphalt = mixed(self.asphalt, _SNOW, float(rng.uniform(0.05, 0.32)))
        self.shoulder = mixed(self.ground, self.asphalt, float(rng.uniform(0.3, 0.7)))
        self.phase_m = float(rng.uniform(0, 20))
        self.marks = list(self._damage())
        self.edges = np.geomspace(FAR_M, self.view.near_m, _STRIPS + 1)

    def strips(self) -> Iterator[float]:
        """Paint strip by strip; yields the distance of each strip's far end before it is painted."""
        for far, near in zip(self.edges[:-1], self.edges[1:], strict=True):
            yield float(far)
            self._strip(float(far), float(near))

    def quad(self, left_m: float, right_m: float, far_m: float, near_m: float) -> list[Point]:
        """Corners of a piece of the road's surface."""
        point = self.view.point
        return [
            point(left_m, 0, far_m),
            point(right_m, 0, far_m),
            point(right_m, 0, near_m),
            point(left_m, 0, near_m),
        ]

    def _strip(self, far: float, near: float) -> None:
        canvas, scene, shade = self.canvas, self.scene, self.air.shade
        middle = (far * near) ** 0.5
        (_, top), (_, bottom) = self.view.point(0, 0, far), self.view.point(0, 0, near)
        uneven = float(self.rng.uniform(0, 0.025))
        if scene.place != "tunnel":
            ground = tuple(value * float(self.rng.uniform(0.97, 1.03)) for value in self.ground)
            # a little lower than the lanes, lest it shine through at their edge
            band = ((0, top + 0.7), (SIZE_PX, top + 0.7), (SIZE_PX, bottom + 2), (0, bottom + 2))
            canvas.polygon(band, shade(ground, middle, 0.6), SCENERY)  # type: ignore[arg-type]
        # strips overlap by a pixel and a half, so that no ground shows through between them
        sunk = bottom - self.view.horizon_px + self.view.focal_px * self.view.grade
        below = near * sunk / (sunk + 1.5)
        half, wide = scene.half_m, scene.half_m + scene.shoulder_m
        canvas.polygon(self.quad(-wide, wide, far, below), shade(self.shoulder, middle, 0.9), SCENERY)
        asphalt = mixed(self.asphalt, (0, 0, 0), uneven)
        canvas.polygon(self.quad(-half, half, far, below), shade(asphalt, middle), ROAD)
        own = scene.lane_middle(scene.own)
        canvas.polygon(self.quad(own - scene.lane_m / 2, own + scene.lane_m / 2, far, below), None, OWN_LANE)
        track = shade(mixed(asphalt, (0, 0, 0), 0.09), middle)
        for lane in range(scene.lanes):
            for side in (-0.8, 0.8):
                at = scene.lane_middle(lane) + side
                canvas.polygon(self.quad(at - 0.25, at + 0.25, far, below), track)
        for mark in self.marks:
            if mark.colour is not None:
                self._mark(mark, far, near)
        for line in scene.lines:
            self._line(line, far, near)
        for mark in self.marks:
            if mark.colour is None:
                self._mark(mark, far, near)

    def _line(self, line: Line, far: float, near: float) -> None:
        scene, middle = self.scene, (far * near) ** 0.5
        half = scene.line_m / 2
        across = [line.across_m - 1.4 * half, line.across_m + 1.4 * half]
        sides = across if line.pattern == "double" else [line.across_m]
        half *= 0.8 if line.pattern == "double" else 1
        label = MARKING if middle < 2.2 * self.air.visibility_m else None
        paint = self.air.shade(_PAINT[line.colour], middle, 1.25)
        for begin, end in self._dashes(near, far) if line.pattern == "dashed" else [(near, far)]:
            opacity = 1 - scene.wear * float(self.rng.uniform(0.7, 1.2))
            begin *= 0.985 if begin == near else 1
            for at in sides:
                self.canvas.polygon(
                    self.quad(at - half, at + half, end, begin), paint, label, max(opacity, 0.15)
                )

    def _dashes(self, near: float, far: float) -> Iterator[tuple[float, float]]:
        dash, gap = self.scene.dash_m
        period = dash + gap
        start = np.floor((near + self.phase_m) / period) * period - self.phase_m
        while start < far:
            if min(start + dash, far) > max(start, near):
                yield float(max(start, near)), float(min(start + dash, far))
            start += period

    def _damage(self) -> Iterator[Mark]:
        """Patches, seams and shadows that a lane detector must not take for markings."""
        rng, half, scene = self.rng, self.scene.half_m, self.scene
        wide = half + scene.shoulder_m
        shaded = scene.time != "night" and scene.weather == "clear" and scene.place in ("forest", "city")
        for kind, most in (("patch", 4), ("seam", 3), ("shadow", 4 if shaded else 0)):
            for _ in range(rng.integers(most + 1)):
                near = float(np.exp(rng.uniform(np.log(3), np.log(40))))
                far, left = near + float(rng.uniform(0.8, 3)), float(rng.uniform(-half, half - 1))
                if kind == "patch":
                    tone = float(rng.choice([0.72, 0.85, 1.18]))
                    right = min(half, left + float(rng.uniform(0.8, 3)))
                    yield Mark(
                        near, far, (left, left), right - left, mixed(self.asphalt, (0, 0, 0), 1 - tone), 1
                    )
                elif kind == "seam":
                    slant = float(rng.uniform(-1, 1))
                    yield Mark(near, near + 9, (left, left + slant), 0.1, (35, 35, 37), 0.8)
                else:
                    left = -wide if rng.random() < 0.7 else left
                    yield Mark(near, far, (left, left), wide - left, None, 0.3)

    def _mark(self, mark: Mark, far: float, near: float) -> None:
        """The part of it that lies on this strip."""
        begin, end = max(near, mark.near_m), min(far, mark.far_m)
        if begin >= end:
            return
        below, above = (
            mark.left_m[0]
            + (mark.left_m[1] - mark.left_m[0]) * (ahead - mark.near_m) / (mark.far_m - mark.near_m)
            for ahead in (begin, end)
        )
        point = self.view.point
        corners = [
            point(above, 0, end),
            point(above + mark.width_m, 0, end),
            point(below + mark.width_m, 0, begin),
            point(below, 0, begin),
        ]
        fill = "#000" if mark.colour is None else self.air.shade(mark.colour, begin)
        self.canvas.polygon(corners, fill, None, mark.opacity)
