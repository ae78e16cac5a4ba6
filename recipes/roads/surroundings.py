"""What is beside and behind the road: sky, ridges, trees, houses, posts, the walls of a tunnel."""

from collections.abc import Callable, Iterator

import numpy as np
from canvas import RGB, SCENERY, Canvas, Point
from light import Air, mixed
from scene import FAR_M, SIZE_PX, Scene

_RIDGE: dict[str, RGB] = {
    "city": (120, 124, 132),
    "forest": (58, 88, 62),
    "field": (104, 130, 96),
    "desert": (186, 142, 110),
    "mountain": (112, 120, 136),
}
_WALLS: list[RGB] = [(168, 120, 98), (176, 168, 156), (142, 146, 152), (196, 176, 140), (120, 96, 88)]
_SNOW: RGB = (226, 230, 238)
Thing = tuple[float, Callable[[], None]]
"""Distance in metres, and what paints it."""


class Surroundings:
    """Paints what a place looks like; what it makes up comes from `rng`."""

    def __init__(self, canvas: Canvas, scene: Scene, air: Air, rng: np.random.Generator) -> None:
        self.canvas, self.scene, self.view, self.air, self.rng = canvas, scene, scene.view, air, rng
        self.beside = scene.half_m + scene.shoulder_m
        self.snowy = scene.weather == "snow"

    def background(self) -> None:
        """Sky and the ridges on the horizon."""
        scene = self.scene
        if scene.place == "tunnel":
            self.canvas.polygon([(0, 0), (SIZE_PX, 0), (SIZE_PX, SIZE_PX), (0, SIZE_PX)], "#0c0b0a", SCENERY)
            return
        horizon = min(scene.view.horizon_px, scene.view.point(0, 0, FAR_M)[1])
        self.canvas.fade(self.air.sky, 0, horizon + 2)
        if scene.weather == "clear":
            self._heaven(horizon)
        height = {"city": 5, "forest": 9, "field": 4, "desert": 7, "mountain": 24}[scene.place]
        for layer in range(2):
            colour = mixed(_RIDGE[scene.place], _SNOW, 0.6 if self.snowy else 0)
            self._ridge(horizon, height * (1 - 0.4 * layer), colour, 700 if layer == 0 else 350)
        low = self.air.shade(mixed(_RIDGE[scene.place], self.air.sky[1], 0.3), FAR_M)
        self.canvas.polygon([(0, horizon), (SIZE_PX, horizon), (SIZE_PX, SIZE_PX), (0, SIZE_PX)], low, SCENERY)

    def _heaven(self, horizon: float) -> None:
        rng, night = self.rng, self.scene.time == "night"
        if night:
            for x, y in rng.uniform((0, 0), (SIZE_PX, horizon * 0.8), (int(rng.integers(12, 40)), 2)):
                self.canvas.ellipse((x, y), 0.4, 0.4, "#fff", None, float(rng.uniform(0.3, 0.9)))
        if rng.random() < 0.4:
            at = float(rng.uniform(10, SIZE_PX - 10)), float(rng.uniform(0.25, 0.7 if night else 0.9)) * horizon
            colour: RGB = (235, 235, 220) if night else (255, 226, 150)
            self.canvas.glow(at, 9 if night else 24, colour, 0.35 if night else 0.7)
            self.canvas.ellipse(at, 2.6, 2.6, "#f4f2e0" if night else "#fff4d0")
        if not night:
            white = mixed(self.air.sky[1], (255, 255, 255), 0.5)
            for _ in range(rng.integers(0, 5)):
                x, y = rng.uniform((0, 4), (SIZE_PX, horizon * 0.7))
                for dx, dy in rng.normal(0, (9, 1.2), (9, 2)):
                    wide = float(rng.uniform(4, 9))
                    self.canvas.glow((x + dx, y + dy), wide, white, 0.4)

    def _ridge(self, horizon: float, height: float, colour: RGB, ahead: float) -> None:
        rng = self.rng
        if self.scene.place == "city":
            x = -4.0
            while x < SIZE_PX:
                wide, up = float(rng.uniform(5, 14)), float(rng.uniform(0.4, 2.6)) * height
                fill = self.air.shade(mixed(colour, (60, 64, 74), float(rng.uniform(0, 0.5))), ahead / 3, 0)
                self.canvas.polygon([(x, horizon + 3), (x, horizon - up), (x + wide, horizon - up), (x + wide, horizon + 3)], fill, SCENERY)
                x += wide * float(rng.uniform(0.8, 1.2))
            return
        columns = np.linspace(0, SIZE_PX, 33)
        waves = sum(
            np.sin(columns * rate * float(rng.uniform(0.7, 1.3)) + float(rng.uniform(0, 6))) * share
            for rate, share in ((0.05, 0.5), (0.11, 0.3), (0.31, 0.2))
        )
        rows = horizon - height * (0.55 + 0.45 * np.asarray(waves))
        edge = list(zip(columns.tolist(), rows.tolist(), strict=True))
        self.canvas.polygon([(0, horizon + 3), *edge, (SIZE_PX, horizon + 3)], self.air.shade(colour, ahead / 3, 0), SCENERY)

    def things(self) -> list[Thing]:
        """What stands beside the road."""
        return list(getattr(self, f"_{self.scene.place}")())

    def _spots(self, count: int, nearest: float, widest: float) -> Iterator[tuple[float, float]]:
        """Places (across, ahead) on both sides, more of them far away than near."""
        for _ in range(count):
            ahead = float(np.exp(self.rng.uniform(np.log(6), np.log(FAR_M * 0.9))))
            across = self.beside + nearest + widest * float(self.rng.random()) ** 1.5
            yield across * float(self.rng.choice([-1, 1])), ahead

    def _forest(self) -> Iterator[Thing]:
        for across, ahead in self._spots(90, 1.6, 26):
            yield ahead, self._tree(across, ahead, conifer=self.rng.random() < 0.7, tall=float(self.rng.uniform(6, 13)))

    def _field(self) -> Iterator[Thing]:
        for across, ahead in self._spots(int(self.rng.integers(4, 22)), 3, 60):
            yield ahead, self._tree(across, ahead, conifer=self.rng.random() < 0.2, tall=float(self.rng.uniform(4, 9)))
        if self.rng.random() < 0.6:
            yield from self._posts(0.9, 4.0, 1.0, (150, 128, 98), 0.07)
        if self.rng.random() < 0.5:
            yield from self._posts(4.5, 28.0, 7.5, (96, 78, 62), 0.14, arm=1.1)

    def _desert(self) -> Iterator[Thing]:
        for across, ahead in self._spots(24, 2, 50):
            yield ahead, self._rock(across, ahead, float(self.rng.uniform(0.3, 1.6)), (166, 122, 90))
        for across, ahead in self._spots(10, 3, 30):
            yield ahead, self._cactus(across, ahead, float(self.rng.uniform(2, 4.5)))

    def _mountain(self) -> Iterator[Thing]:
        for across, ahead in self._spots(22, 2.5, 40):
            yield ahead, self._tree(across, ahead, conifer=True, tall=float(self.rng.uniform(5, 11)))
        for across, ahead in self._spots(16, 1.8, 24):
            yield ahead, self._rock(across, ahead, float(self.rng.uniform(0.4, 2.2)), (124, 120, 114))
        if self.rng.random() < 0.7:
            yield from self._rail(float(self.rng.choice([-1, 1])))

    def _city(self) -> Iterator[Thing]:
        for side in (-1, 1):
            ahead, beside = float(self.rng.uniform(5, 14)), self.beside + float(self.rng.uniform(3, 7))
            while ahead < FAR_M * 0.8:
                deep = float(self.rng.uniform(9, 22))
                if self.rng.random() < 0.86:
                    yield ahead, self._house(side, beside, ahead, deep, float(self.rng.uniform(6, 26)))
                ahead += deep + float(self.rng.uniform(0, 6))
        if self.rng.random() < 0.7:
            yield from self._posts(1.2, 22.0, 6.0, (84, 86, 90), 0.09, lamp=True)
        for across, ahead in self._spots(8, 1.4, 1.5):
            yield ahead, self._tree(across, ahead, conifer=False, tall=float(self.rng.uniform(3.5, 6)))

    def _tunnel(self) -> Iterator[Thing]:
        wide, high = self.beside + 0.8, float(self.rng.uniform(5, 6.5))
        tile = _WALLS[self.rng.integers(1, 4)]
        edges = np.geomspace(FAR_M, 1.2, 44)
        for number, (far, near) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            yield far, self._ring(wide, high, far, near * 0.98, tile, number)

    def _polygon(self, points: list[tuple[float, float]], across: float, ahead: float, colour: RGB, beam: float = 0.5) -> None:
        """A flat thing that faces the camera; points in metres from its foot."""
        corners = [self.view.point(across + x, y, ahead) for x, y in points]
        self.canvas.polygon(corners, self.air.shade(colour, ahead, beam), SCENERY)

    def _tree(self, across: float, ahead: float, conifer: bool, tall: float) -> Callable[[], None]:
        tone = float(self.rng.uniform(0.7, 1.25))
        green: RGB = (38 * tone, 82 * tone, 46 * tone) if conifer else (70 * tone, 112 * tone, 50 * tone)
        green = mixed(green, _SNOW, float(self.rng.uniform(0.3, 0.7)) if self.snowy else 0)
        blobs = self.rng.normal(0, 1, (4, 2))

        def paint() -> None:
            self._polygon([(-0.05 * tall * 0.4, 0), (0.02 * tall, 0), (0.02 * tall, 0.4 * tall), (-0.02 * tall, 0.4 * tall)], across, ahead, (84, 64, 48))
            if conifer:
                for low, wide in ((0.15, 0.25), (0.4, 0.19), (0.65, 0.12)):
                    self._polygon([(-wide * tall, low * tall), (wide * tall, low * tall), (0, min(1.0, low + 0.42) * tall)], across, ahead, mixed(green, (0, 0, 0), 0.2 * (1 - low)))
                return
            scale = self.view.focal_px / ahead
            for (dx, dy), share in zip(blobs, (0.3, 0.26, 0.24, 0.2), strict=True):
                at = self.view.point(across + 0.1 * tall * dx, (0.68 + 0.08 * dy) * tall, ahead)
                fill = self.air.shade(mixed(green, (0, 0, 0), 0.6 * (0.3 - share)), ahead, 0.5)
                self.canvas.ellipse(at, share * tall * scale, share * tall * scale * 0.85, fill, SCENERY)

        return paint

    def _rock(self, across: float, ahead: float, tall: float, colour: RGB) -> Callable[[], None]:
        colour = mixed(colour, _SNOW, 0.7 if self.snowy else 0)
        rough = self.rng.uniform(0.6, 1, 5)
        outline = [(-1.1, 0), (-0.7 * rough[0], 0.7 * rough[1]), (0.1, rough[2]), (0.8 * rough[3], 0.6 * rough[4]), (1.1, 0)]
        return lambda: self._polygon([(x * tall, y * tall) for x, y in outline], across, ahead, colour)

    def _cactus(self, across: float, ahead: float, tall: float) -> Callable[[], None]:
        arms = self.rng.uniform(0.3, 0.6, 2)

        def paint() -> None:
            green: RGB = (76, 120, 72)
            self._polygon([(-0.22, 0), (0.22, 0), (0.22, tall), (-0.22, tall)], across, ahead, green)
            for side, low in zip((-1, 1), arms * tall, strict=True):
                out = side * 0.9
                self._polygon([(0, low), (out, low), (out, low + 0.32), (0, low + 0.32)], across, ahead, green)
                self._polygon([(out - 0.16, low), (out + 0.16, low), (out + 0.16, low + 1.1), (out - 0.16, low + 1.1)], across, ahead, green)

        return paint

    def _posts(
        self, beside: float, apart: float, tall: float, colour: RGB, half: float, arm: float = 0, lamp: bool = False
    ) -> Iterator[Thing]:
        """A row of posts on one side, with cross arms or lamps."""
        across = (self.beside + beside) * float(self.rng.choice([-1, 1]))
        for ahead in np.arange(float(self.rng.uniform(5, 5 + apart)), FAR_M * 0.8, apart).tolist():
            yield ahead, self._post(across, ahead, tall, colour, half, arm, lamp)

    def _post(self, across: float, ahead: float, tall: float, colour: RGB, half: float, arm: float, lamp: bool) -> Callable[[], None]:
        def paint() -> None:
            self._polygon([(-half, 0), (half, 0), (half, tall), (-half, tall)], across, ahead, colour)
            if arm:
                self._polygon([(-arm, tall * 0.9), (arm, tall * 0.9), (arm, tall * 0.93), (-arm, tall * 0.93)], across, ahead, colour)
            if lamp:
                out = -2.0 if across > 0 else 2.0
                self._polygon([(0, tall - half), (out, tall), (out, tall + 2 * half), (0, tall + half)], across, ahead, colour)
                if self.scene.time != "day":
                    at = self.view.point(across + out, tall - 0.1, ahead)
                    scale = self.view.focal_px / ahead
                    self.canvas.glow(at, max(2.5, 1.4 * scale), (255, 214, 140), 0.8)
                    self.canvas.ellipse(at, max(0.7, 0.2 * scale), max(0.5, 0.1 * scale), "#fff0c8")

        return paint

    def _rail(self, side: float) -> Iterator[Thing]:
        """A guard rail along the road."""
        across = side * (self.beside + 0.5)
        edges = np.geomspace(FAR_M * 0.7, 3, 26)
        for far, near in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):

            def paint(far: float = far, near: float = near) -> None:
                point = self.view.point
                for low, high, colour in ((0.0, 0.5, (70, 72, 74)), (0.45, 0.85, (176, 180, 184))):
                    if low == 0.0:
                        self._polygon([(-0.06, low), (0.06, low), (0.06, high), (-0.06, high)], across, far, colour)
                        continue
                    corners = [point(across, low, far), point(across, high, far), point(across, high, near), point(across, low, near)]
                    self.canvas.polygon(corners, self.air.shade(colour, near, 0.7), SCENERY)

            yield far, paint

    def _house(self, side: int, beside: float, ahead: float, deep: float, tall: float) -> Callable[[], None]:
        wall = mixed(_WALLS[self.rng.integers(len(_WALLS))], (90, 90, 94), float(self.rng.uniform(0, 0.5)))
        floors, bays = max(2, int(tall / 3.4)), max(2, int(deep / 3.5))
        lit = self.rng.random((floors, bays)) < (0.12 if self.scene.time == "day" else 0.45)
        wide = float(self.rng.uniform(8, 16))

        def paint() -> None:
            point, across = self.view.point, side * beside
            far = ahead + deep

            def on_side(z: float, y: float) -> Point:
                return point(across, y, z)

            self.canvas.polygon([on_side(ahead, 0), on_side(ahead, tall), on_side(far, tall), on_side(far, 0)], self.air.shade(wall, ahead + 2, 0.3), SCENERY)
            self._polygon([(0, 0), (side * wide, 0), (side * wide, tall), (0, tall)], across, ahead, mixed(wall, (0, 0, 0), 0.22), 0.3)
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
                    self.canvas.polygon([on_side(z0, low), on_side(z0, high), on_side(z1, high), on_side(z1, low)], fill, SCENERY)

        return paint

    def _ring(self, wide: float, high: float, far: float, near: float, tile: RGB, number: int) -> Callable[[], None]:
        """A piece of a tunnel's walls, ceiling and lamps."""

        def paint() -> None:
            point, shade = self.view.point, self.air.shade
            for side in (-1, 1):
                across = side * wide
                for low, high_, colour in ((0, 1.0, mixed(tile, (0, 0, 0), 0.5)), (1.0, 3.2, tile), (3.2, high, mixed(tile, (0, 0, 0), 0.55))):
                    corners = [point(across, low, far), point(across, high_, far), point(across, high_, near), point(across, low, near)]
                    self.canvas.polygon(corners, shade(colour, far), SCENERY)
                inner = side * wide * 0.55
                self.canvas.polygon([point(side * (self.beside - 0.1), 0, far), point(across, 0, far), point(across, 0, near), point(side * (self.beside - 0.1), 0, near)], shade((96, 96, 98), far), SCENERY)
                ceiling = [point(0, high, far), point(across, high, far), point(across, high, near), point(0, high, near)]
                self.canvas.polygon(ceiling, shade((74, 70, 66), far), SCENERY)
                if number % 2:
                    lamp = [point(inner - 0.25, high - 0.05, far), point(inner + 0.25, high - 0.05, far), point(inner + 0.25, high - 0.05, near), point(inner - 0.25, high - 0.05, near)]
                    self.canvas.polygon(lamp, "#ffe2a6", SCENERY, 1.0)

        return paint
