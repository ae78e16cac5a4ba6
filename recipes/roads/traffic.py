"""Vehicles and signs."""

import math

import numpy as np
from canvas import RGB, SCENERY, VEHICLE, Canvas, Point
from light import Air, mixed
from scene import LENGTH_M, SIGN_BESIDE_M, SIGN_UP_M, WIDTH_M, Scene, Sign, Vehicle

COLOURS: dict[str, RGB] = {
    "red": (198, 32, 34),
    "blue": (34, 78, 172),
    "white": (236, 236, 234),
    "black": (34, 34, 38),
    "silver": (158, 162, 168),
    "yellow": (240, 196, 30),
    "green": (42, 128, 66),
    "orange": (232, 120, 28),
}
_GLASS: RGB = (46, 56, 68)
_DARK: RGB = (26, 26, 28)
_SEGMENTS = {"0": "abcdef", "3": "abgcd", "5": "afgcd", "6": "afgcde", "8": "abcdefg"}
"""Of a seven-segment display, the strokes of each digit that a speed limit has."""
_STROKES = {
    "a": (0, 0, 1, 0),
    "b": (1, 0, 1, 1),
    "c": (1, 1, 1, 2),
    "d": (0, 2, 1, 2),
    "e": (0, 1, 0, 2),
    "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}


class Painter:
    """Paints things that stand on the road or beside it."""

    def __init__(self, canvas: Canvas, scene: Scene, air: Air) -> None:
        self.canvas, self.scene, self.view, self.air = canvas, scene, scene.view, air

    def vehicle(self, vehicle: Vehicle) -> None:
        """The vehicle with its shadow and lights."""
        body = Body(self, vehicle)
        getattr(body, vehicle.kind)()

    def sign(self, sign: Sign) -> None:
        """The sign on its post."""
        beside = self.scene.half_m + self.scene.shoulder_m + SIGN_BESIDE_M
        across = beside if sign.side == "right" else -beside
        middle = self.view.point(across, SIGN_UP_M, sign.ahead_m)
        foot = self.view.point(across, 0, sign.ahead_m)
        metre = self.view.focal_px / sign.ahead_m
        self._flat(
            [
                (middle[0] - 0.06 * metre, middle[1]),
                (middle[0] + 0.06 * metre, middle[1]),
                (foot[0] + 0.06 * metre, foot[1]),
                (foot[0] - 0.06 * metre, foot[1]),
            ],
            (120, 122, 124),
            sign,
        )
        paint = {
            "speed limit": self._limit,
            "stop": self._stop,
            "warning": self._warning,
            "direction": self._direction,
        }
        paint[sign.kind](sign, middle, metre)

    def _flat(self, points: list[Point], colour: RGB, sign: Sign) -> None:
        # signs throw headlights back
        self.canvas.polygon(points, self.air.shade(colour, sign.ahead_m, 1.6), SCENERY)

    def _limit(self, sign: Sign, middle: Point, metre: float) -> None:
        self._flat(_regular(middle, 0.78 * metre, 24), (206, 30, 36), sign)
        self._flat(_regular(middle, 0.58 * metre, 24), (244, 244, 242), sign)
        for place, digit in enumerate(str(sign.number)):
            left = middle[0] + (-0.36 + 0.42 * place) * metre
            for name in _SEGMENTS[digit]:
                begin_x, begin_y, end_x, end_y = _STROKES[name]
                wide, tall, thick = 0.28 * metre, 0.3 * metre, 0.055 * metre
                stroke = _rectangle(
                    left + begin_x * wide - thick,
                    middle[1] + (begin_y - 1) * tall - thick,
                    (end_x - begin_x) * wide + 2 * thick,
                    (end_y - begin_y) * tall + 2 * thick,
                )
                self._flat(stroke, (20, 20, 22), sign)

    def _stop(self, sign: Sign, middle: Point, metre: float) -> None:
        self._flat(_regular(middle, 0.82 * metre, 8, 22.5), (240, 240, 238), sign)
        self._flat(_regular(middle, 0.74 * metre, 8, 22.5), (196, 24, 32), sign)
        x, y = middle
        for left in (-0.48, -0.22, 0.04, 0.3):  # four letters are four strokes at this size
            self._flat(
                _rectangle(x + left * metre, y - 0.18 * metre, 0.17 * metre, 0.36 * metre),
                (240, 240, 238),
                sign,
            )

    def _warning(self, sign: Sign, middle: Point, metre: float) -> None:
        self._flat(_regular(middle, 0.95 * metre, 3, -90), (204, 28, 34), sign)
        self._flat(_regular(middle, 0.66 * metre, 3, -90), (248, 214, 60), sign)
        x, y = middle
        self._flat(
            _rectangle(x - 0.06 * metre, y - 0.34 * metre, 0.12 * metre, 0.36 * metre), (20, 20, 22), sign
        )
        self._flat(
            _rectangle(x - 0.06 * metre, y + 0.1 * metre, 0.12 * metre, 0.12 * metre), (20, 20, 22), sign
        )

    def _direction(self, sign: Sign, middle: Point, metre: float) -> None:
        x, y = middle
        self._flat(
            _rectangle(x - 1.05 * metre, y - 0.62 * metre, 2.1 * metre, 1.24 * metre), (236, 238, 240), sign
        )
        self._flat(
            _rectangle(x - 0.97 * metre, y - 0.54 * metre, 1.94 * metre, 1.08 * metre), (22, 84, 164), sign
        )
        turn = 1 if sign.number in (30, 60) else -1
        for points in (
            [(-0.6, -0.08), (0.2, -0.08), (0.2, 0.08), (-0.6, 0.08)],
            [(0.15, -0.32), (0.65, 0.0), (0.15, 0.32)],
        ):
            self._flat([(x + turn * a * metre, y + b * metre) for a, b in points], (240, 242, 244), sign)


class Body:
    """One vehicle's boxes, faces and lights; metres from the middle of its near end."""

    def __init__(self, painter: Painter, vehicle: Vehicle) -> None:
        self.canvas, self.air, self.view = painter.canvas, painter.air, painter.view
        self.vehicle, self.colour = vehicle, COLOURS[vehicle.colour]
        self.across = painter.scene.lane_middle(vehicle.lane)
        self.metre = self.view.focal_px / vehicle.ahead_m
        half, length = WIDTH_M[vehicle.kind] / 2, LENGTH_M[vehicle.kind]
        corners = [
            (-half - 0.15, 0, length),
            (half + 0.15, 0, length),
            (half + 0.25, 0, -0.3),
            (-half - 0.25, 0, -0.3),
        ]
        dark = 0.25 if self.air.scene.time == "night" else 0.5
        self.canvas.polygon([self.point(*one) for one in corners], "#000", VEHICLE, dark)

    def point(self, x: float, y: float, z: float) -> Point:
        """Pixels of a point x to the right, y up and z further away."""
        return self.view.point(self.across + x, y, self.vehicle.ahead_m + z)

    def face(self, points: list[tuple[float, float, float]], colour: RGB, beam: float = 0.8) -> None:
        """A flat part."""
        fill = self.air.shade(colour, self.vehicle.ahead_m, beam)
        self.canvas.polygon([self.point(*one) for one in points], fill, VEHICLE)

    def plate(self, x0: float, x1: float, y0: float, y1: float, colour: RGB, z: float = 0) -> None:
        """An upright rectangle."""
        self.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def box(
        self,
        half: float,
        y0: float,
        y1: float,
        z0: float,
        z1: float,
        colour: RGB,
        top_half: float | None = None,
        lean: float = 0,
    ) -> None:
        """A box, narrower at the top by `top_half` and leaning inwards by `lean` at both ends: the faces that
        can be seen."""
        top = half if top_half is None else top_half
        side, roof = mixed(colour, (0, 0, 0), 0.28), mixed(colour, (255, 255, 255), 0.14)
        for sign in (-1, 1):
            near, far = self.point(sign * half, y0, z0)[0], self.point(sign * half, y0, z1)[0]
            if (far - near) * sign > 0:
                self.face(
                    [
                        (sign * half, y0, z0),
                        (sign * half, y0, z1),
                        (sign * top, y1, z1 - lean),
                        (sign * top, y1, z0 + lean),
                    ],
                    side,
                )
        if self.point(0, y1, z1 - lean)[1] < self.point(0, y1, z0 + lean)[1]:
            self.face(
                [(-top, y1, z0 + lean), (top, y1, z0 + lean), (top, y1, z1 - lean), (-top, y1, z1 - lean)],
                roof,
            )
        self.face([(-half, y0, z0), (half, y0, z0), (top, y1, z0 + lean), (-top, y1, z0 + lean)], colour)

    def windows(self, half: float, y0: float, y1: float, z0: float, z1: float) -> None:
        """Glass along the side that can be seen."""
        for sign in (-1, 1):
            if (self.point(sign * half, y0, z1)[0] - self.point(sign * half, y0, z0)[0]) * sign > 0:
                at = sign * half
                self.face([(at, y0, z0), (at, y0, z1), (at, y1, z1), (at, y1, z0)], _GLASS)

    def lights(self, x: float, y: float, size: float = 0.16) -> None:
        """A pair of them: red, or white where the vehicle comes towards the camera."""
        oncoming, ahead = self.vehicle.oncoming, self.vehicle.ahead_m
        colour: RGB = (255, 246, 214) if oncoming else (236, 28, 26)
        for sign in (-1, 1) if x else (1,):
            corners = [
                self.point(sign * x + a * size * 1.3, y + b * size, 0)
                for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            if self.air.lit:
                self.canvas.polygon(corners, self.air.shine(colour, ahead), VEHICLE)
                strength = (0.85 if oncoming else 0.6) * (1 if self.air.dark else 0.5)
                radius = max(2.0, (1.1 if oncoming else 0.7) * self.metre**0.7)
                self.canvas.glow(self.point(sign * x, y, 0), radius, colour, strength)
            else:
                self.canvas.polygon(corners, self.air.shade(mixed(colour, _DARK, 0.15), ahead), VEHICLE)

    def wheels(self, half: float, wide: float, radius: float) -> None:
        """The pair at the near end, behind it."""
        for sign in (-1, 1):
            x0, x1 = sorted((sign * half, sign * (half - wide)))
            self.plate(x0, x1, 0, radius, _DARK, 0.3)

    def car(self) -> None:
        half, oncoming = WIDTH_M["car"] / 2, self.vehicle.oncoming
        z0, z1 = (1.3, 3.9) if oncoming else (0.4, 3.1)
        self.wheels(half - 0.03, 0.3, 0.5)
        self.box(half, 0.28, 0.92, 0, 4.4, self.colour, half - 0.06)
        self.box(half - 0.08, 0.92, 1.48, z0, z1, self.colour, half - 0.28, 0.45)
        self.windows(half - 0.14, 0.98, 1.36, z0 + 0.5, z1 - 0.5)
        glass = [
            (-half + 0.16, 0.96, z0 + 0.02),
            (half - 0.16, 0.96, z0 + 0.02),
            (half - 0.32, 1.42, z0 + 0.42),
            (-half + 0.32, 1.42, z0 + 0.42),
        ]
        self.face(glass, _GLASS)
        self.plate(-half + 0.05, half - 0.05, 0.28, 0.42, mixed(self.colour, _DARK, 0.6))
        self.plate(-0.26, 0.26, 0.5, 0.64, (226, 226, 220))
        self.lights(half - 0.24, 0.72, 0.11)

    def truck(self) -> None:
        half = WIDTH_M["truck"] / 2
        self.wheels(half - 0.05, 0.45, 0.95)
        self.plate(-half + 0.1, half - 0.1, 0.5, 0.85, _DARK)
        if self.vehicle.oncoming:
            self.box(half - 0.05, 0.85, 3.5, 2.2, 8.5, mixed(self.colour, (230, 230, 230), 0.6))
            self.box(half - 0.1, 0.45, 2.8, 0, 2.1, self.colour, half - 0.15)
            self.plate(-half + 0.28, half - 0.28, 1.6, 2.5, _GLASS)
            self.plate(-half + 0.5, half - 0.5, 0.75, 1.25, mixed(self.colour, _DARK, 0.6))
        else:
            self.box(half, 0.85, 3.5, 0, 8.0, self.colour)
            line = mixed(self.colour, _DARK, 0.4)
            self.plate(-0.04, 0.04, 0.9, 3.45, line)
            self.plate(-half, half, 3.36, 3.5, line)
            self.plate(-half + 0.1, half - 0.1, 0.6, 0.85, (196, 40, 36))
        self.lights(half - 0.28, 0.72, 0.14)

    def bus(self) -> None:
        half = WIDTH_M["bus"] / 2
        self.wheels(half - 0.05, 0.4, 0.8)
        self.box(half, 0.35, 3.1, 0, 11.0, self.colour, half - 0.05)
        self.windows(half - 0.02, 1.5, 2.5, 0.5, 10.5)
        low = 1.2 if self.vehicle.oncoming else 1.7
        self.plate(-half + 0.15, half - 0.15, low, 2.55, _GLASS)
        self.plate(-half + 0.5, half - 0.5, 2.68, 2.98, (40, 40, 30))
        self.plate(-half, half, 0.35, 0.55, mixed(self.colour, _DARK, 0.5))
        self.lights(half - 0.22, 0.85, 0.14)

    def motorbike(self) -> None:
        self.plate(-0.1, 0.1, 0, 0.66, _DARK)
        self.box(0.24, 0.5, 0.95, 0, 1.6, self.colour, 0.2)
        self.face(
            [(-0.2, 0.85, 0.5), (0.2, 0.85, 0.5), (0.32, 1.45, 0.6), (-0.32, 1.45, 0.6)],
            mixed(self.colour, _DARK, 0.55),
        )
        self.plate(-0.42, 0.42, 0.98, 1.06, _DARK, 0.8)
        x, y = self.point(0, 1.64, 0.6)
        radius = 0.19 * self.metre
        self.canvas.ellipse(
            (x, y), radius, radius, self.air.shade(self.colour, self.vehicle.ahead_m, 0.8), VEHICLE
        )
        self.lights(0, 0.78, 0.1)


def _regular(middle: Point, radius: float, corners: int, turned: float = 0) -> list[Point]:
    angles = np.radians(turned) + np.arange(corners) * 2 * math.pi / corners
    return [(middle[0] + radius * math.cos(one), middle[1] + radius * math.sin(one)) for one in angles]


def _rectangle(x: float, y: float, width: float, height: float) -> list[Point]:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
