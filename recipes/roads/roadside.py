"""What can stand beside a road: trees, rocks, posts, rails, houses, the walls of a tunnel."""

from collections.abc import Callable, Iterator

import numpy as np
from canvas import RGB, SCENERY, Canvas, Point
from light import Air, mixed
from scene import FAR_M, Scene

WALLS: list[RGB] = [(168, 120, 98), (176, 168, 156), (142, 146, 152), (196, 176, 140), (120, 96, 88)]
SNOW: RGB = (226, 230, 238)
Thing = tuple[float, Callable[[], None]]
"""Distance in metres, and what paints it."""


class Roadside:
    """Things beside a road, each as a function that paints it; what it makes up comes from `rng`."""

    def __init__(self, canvas: Canvas, scene: Scene, air: Air, rng: np.random.Generator) -> None:
        self.canvas, self.scene, self.view, self.air, self.rng = canvas, scene, scene.view, air, rng
        self.beside = scene.half_m + scene.shoulder_m
        self.snowy = scene.weather == "snow"

    def spots(self, count: int, nearest: float, widest: float) -> Iterator[tuple[float, float]]:
        """Places (across, ahead) on both sides, more of them far away than near."""
        for _ in range(count):
            ahead = float(np.exp(self.rng.uniform(np.log(6), np.log(FAR_M * 0.9))))
            across = self.beside + nearest + widest * float(self.rng.random()) ** 1.5
            yield across * float(self.rng.choice([-1, 1])), ahead

    def polygon(
        self, points: list[tuple[float, float]], across: float, ahead: float, colour: RGB, beam: float = 0.5
    ) -> None:
        """A flat thing that faces the camera; points in metres from its foot."""
        corners = [self.view.point(across + x, y, ahead) for x, y in points]
        self.canvas.polygon(corners, self.air.shade(colour, ahead, beam), SCENERY)

    def tree(self, across: float, ahead: float, conifer: bool, tall: float) -> Callable[[], None]:
        tone = float(self.rng.uniform(0.7, 1.25))
        green: RGB = (38 * tone, 82 * tone, 46 * tone) if conifer else (70 * tone, 112 * tone, 50 * tone)
        green = mixed(green, SNOW, float(self.rng.uniform(0.3, 0.7)) if self.snowy else 0)
        blobs = self.rng.normal(0, 1, (4, 2))

        def paint() -> None:
            self.polygon(
                [
                    (-0.05 * tall * 0.4, 0),
                    (0.02 * tall, 0),
                    (0.02 * tall, 0.4 * tall),
                    (-0.02 * tall, 0.4 * tall),
                ],
                across,
                ahead,
                (84, 64, 48),
            )
            if conifer:
                for low, wide in ((0.15, 0.25), (0.4, 0.19), (0.65, 0.12)):
                    self.polygon(
                        [
                            (-wide * tall, low * tall),
                            (wide * tall, low * tall),
                            (0, min(1.0, low + 0.42) * tall),
                        ],
                        across,
                        ahead,
                        mixed(green, (0, 0, 0), 0.2 * (1 - low)),
                    )
                return
            scale = self.view.focal_px / ahead
            for (dx, dy), share in zip(blobs, (0.3, 0.26, 0.24, 0.2), strict=True):
                at = self.view.point(across + 0.1 * tall * dx, (0.68 + 0.08 * dy) * tall, ahead)
                fill = self.air.shade(mixed(green, (0, 0, 0), 0.6 * (0.3 - share)), ahead, 0.5)
                self.canvas.ellipse(at, share * tall * scale, share * tall * scale * 0.85, fill, SCENERY)

        return paint

    def rock(self, across: float, ahead: float, tall: float, colour: RGB) -> Callable[[], None]:
        colour = mixed(colour, SNOW, 0.7 if self.snowy else 0)
        rough = self.rng.uniform(0.6, 1, 5)
        outline = [
            (-1.1, 0),
            (-0.7 * rough[0], 0.7 * rough[1]),
            (0.1, rough[2]),
            (0.8 * rough[3], 0.6 * rough[4]),
            (1.1, 0),
        ]
        return lambda: self.polygon([(x * tall, y * tall) for x, y in outline], across, ahead, colour)

    def cactus(self, across: float, ahead: float, tall: float) -> Callable[[], None]:
        arms = self.rng.uniform(0.3, 0.6, 2)

        def paint() -> None:
            green: RGB = (76, 120, 72)
            self.polygon([(-0.22, 0), (0.22, 0), (0.22, tall), (-0.22, tall)], across, ahead, green)
            for side, low in zip((-1, 1), arms * tall, strict=True):
                out = side * 0.9
                self.polygon([(0, low), (out, low), (out, low + 0.32), (0, low + 0.32)], across, ahead, green)
                self.polygon(
                    [(out - 0.16, low), (out + 0.16, low), (out + 0.16, low + 1.1), (out - 0.16, low + 1.1)],
                    across,
                    ahead,
                    green,
                )

        return paint

    def posts(
        self,
        beside: float,
        apart: float,
        tall: float,
        colour: RGB,
        half: float,
        arm: float = 0,
        lamp: bool = False,
    ) -> Iterator[Thing]:
        """A row of posts on one side, with cross arms or lamps."""
        across = (self.beside + beside) * float(self.rng.choice([-1, 1]))
        for ahead in np.arange(float(self.rng.uniform(5, 5 + apart)), FAR_M * 0.8, apart).tolist():
            yield ahead, self.post(across, ahead, tall, colour, half, arm, lamp)

    def post(
        self, across: float, ahead: float, tall: float, colour: RGB, half: float, arm: float, lamp: bool
    ) -> Callable[[], None]:
        def paint() -> None:
            self.polygon([(-half, 0), (half, 0), (half, tall), (-half, tall)], across, ahead, colour)
            if arm:
                self.polygon(
                    [(-arm, tall * 0.9), (arm, tall * 0.9), (arm, tall * 0.93), (-arm, tall * 0.93)],
                    across,
                    ahead,
                    colour,
                )
            if lamp:
                out = -2.0 if across > 0 else 2.0
                self.polygon(
                    [(0, tall - half), (out, tall), (out, tall + 2 * half), (0, tall + half)],
                    across,
                    ahead,
                    colour,
                )
                if self.scene.time != "day":
                    at = self.view.point(across + out, tall - 0.1, ahead)
                    scale = self.view.focal_px / ahead
                    self.canvas.glow(at, max(2.5, 1.4 * scale), (255, 214, 140), 0.8)
                    self.canvas.ellipse(at, max(0.7, 0.2 * scale), max(0.5, 0.1 * scale), "#fff0c8")

        return paint

    def rail(self, side: float) -> Iterator[Thing]:
        """A guard rail along the road."""
        across = side * (self.beside + 0.5)
        edges = np.geomspace(FAR_M * 0.7, 3, 26)
        for far, near in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):

            def paint(far: float = far, near: float = near) -> None:
                point = self.view.point
                for low, high, colour in ((0.0, 0.5, (70, 72, 74)), (0.45, 0.85, (176, 180, 184))):
                    if low == 0.0:
                        self.polygon(
                            [(-0.06, low), (0.06, low), (0.06, high), (-0.06, high)], across, far, colour
                        )
                        continue
                    corners = [
                        point(across, low, far),
                        point(across, high, far),
                        point(across, high, near),
                        point(across, low, near),
                    ]
                    self.canvas.polygon(corners, self.air.shade(colour, near, 0.7), SCENERY)

            yield far, paint

    def house(self, side: int, beside: float, ahead: float, deep: float, tall: float) -> Callable[[], None]:
        wall = mixed(WALLS[self.rng.integers(len(WALLS))], (90, 90, 94), float(self.rng.uniform(0, 0.5)))
        floors, bays = max(2, int(tall / 3.4)), max(2, int(deep / 3.5))
        lit = self.rng.random((floors, bays)) < (0.12 if self.scene.time == "day" else 0.45)
        wide = float(self.rng.uniform(8, 16))

        def paint() -> None:
            point, across = self.view.point, side * beside
            far = ahead + deep

            def on_side(z: float, y: float) -> Point:
                return point(across, y, z)

            self.canvas.polygon(
                [on_side(ahead, 0), on_side(ahead, tall), on_side(far, tall), on_side(far, 0)],
                self.air.shade(wall, ahead + 2, 0.3),
                SCENERY,
            )
            self.polygon(
                [(0, 0), (side * wide, 0), (side * wide, tall), (0, tall)],
                across,
                ahead,
                mixed(wall, (0, 0, 0), 0.22),
                0.3,
            )
            for floor in range(floors):
                low = (floor + 0.35) * tall / floors
                high = low + 0.45 * tall / floors
                for bay in range(bays):
                    z0 = ahead + (bay + 0.25) * deep / bays
                    z1 = z0 + 0.5 * deep / bays
                    if lit[floor, bay] and self.scene.time != "day":
                        fill = self.air.shine((255, 214, 130), z0)
                    else:
                        fill = self.air.shade((70, 82, 98), z0, 0.2)
                    self.canvas.polygon(
                        [on_side(z0, low), on_side(z0, high), on_side(z1, high), on_side(z1, low)],
                        fill,
                        SCENERY,
                    )

        return paint

    def ring(
        self, wide: float, high: float, far: float, near: float, tile: RGB, number: int
    ) -> Callable[[], None]:
        """A piece of a tunnel's walls, ceiling and lamps."""

        def paint() -> None:
            point, shade = self.view.point, self.air.shade
            for side in (-1, 1):
                across = side * wide
                for low, high_, colour in (
                    (0, 1.0, mixed(tile, (0, 0, 0), 0.5)),
                    (1.0, 3.2, tile),
                    (3.2, high, mixed(tile, (0, 0, 0), 0.55)),
                ):
                    corners = [
                        point(across, low, far),
                        point(across, high_, far),
                        point(across, high_, near),
                        point(across, low, near),
                    ]
                    self.canvas.polygon(corners, shade(colour, far), SCENERY)
                inner = side * wide * 0.55
                self.canvas.polygon(
                    [
                        point(side * (self.beside - 0.1), 0, far),
                        point(across, 0, far),
                        point(across, 0, near),
                        point(side * (self.beside - 0.1), 0, near),
                    ],
                    shade((96, 96, 98), far),
                    SCENERY,
                )
                ceiling = [
                    point(0, high, far),
                    point(across, high, far),
                    point(across, high, near),
                    point(0, high, near),
                ]
                self.canvas.polygon(ceiling, shade((74, 70, 66), far), SCENERY)
                if number % 2:
                    lamp = [
                        point(inner - 0.25, high - 0.05, far),
                        point(inner + 0.25, high - 0.05, far),
                        point(inner + 0.25, high - 0.05, near),
                        point(inner - 0.25, high - 0.05, near),
                    ]
                    self.canvas.polygon(lamp, "#ffe2a6", SCENERY, 1.0)

        return paint
