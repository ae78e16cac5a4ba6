"""What a place looks like: sky, ridges, and what stands beside the road."""

from collections.abc import Iterator

import numpy as np
from canvas import RGB, SCENERY
from light import mixed
from roadside import SNOW, WALLS, Roadside, Thing
from scene import FAR_M, SIZE_PX

_RIDGE: dict[str, RGB] = {
    "city": (120, 124, 132),
    "forest": (58, 88, 62),
    "field": (104, 130, 96),
    "desert": (186, 142, 110),
    "mountain": (112, 120, 136),
}


class Surroundings(Roadside):
    """Paints what a place looks like."""

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
            colour = mixed(_RIDGE[scene.place], SNOW, 0.6 if self.snowy else 0)
            self._ridge(horizon, height * (1 - 0.4 * layer), colour, 700 if layer == 0 else 350)
        low = self.air.shade(mixed(_RIDGE[scene.place], self.air.sky[1], 0.3), FAR_M)
        self.canvas.polygon(
            [(0, horizon), (SIZE_PX, horizon), (SIZE_PX, SIZE_PX), (0, SIZE_PX)], low, SCENERY
        )

    def _heaven(self, horizon: float) -> None:
        rng, night = self.rng, self.scene.time == "night"
        if night:
            for x, y in rng.uniform((0, 0), (SIZE_PX, horizon * 0.8), (int(rng.integers(12, 40)), 2)):
                self.canvas.ellipse((x, y), 0.4, 0.4, "#fff", None, float(rng.uniform(0.3, 0.9)))
        if rng.random() < 0.4:
            at = (
                float(rng.uniform(10, SIZE_PX - 10)),
                float(rng.uniform(0.25, 0.7 if night else 0.9)) * horizon,
            )
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
                self.canvas.polygon(
                    [(x, horizon + 3), (x, horizon - up), (x + wide, horizon - up), (x + wide, horizon + 3)],
                    fill,
                    SCENERY,
                )
                x += wide * float(rng.uniform(0.8, 1.2))
            return
        columns = np.linspace(0, SIZE_PX, 33)
        waves = sum(
            np.sin(columns * rate * float(rng.uniform(0.7, 1.3)) + float(rng.uniform(0, 6))) * share
            for rate, share in ((0.05, 0.5), (0.11, 0.3), (0.31, 0.2))
        )
        rows = horizon - height * (0.55 + 0.45 * np.asarray(waves))
        edge = list(zip(columns.tolist(), rows.tolist(), strict=True))
        self.canvas.polygon(
            [(0, horizon + 3), *edge, (SIZE_PX, horizon + 3)], self.air.shade(colour, ahead / 3, 0), SCENERY
        )

    def things(self) -> list[Thing]:
        """What stands beside the road."""
        return list(getattr(self, f"_{self.scene.place}")())

    def _forest(self) -> Iterator[Thing]:
        for across, ahead in self.spots(90, 1.6, 26):
            yield (
                ahead,
                self.tree(
                    across, ahead, conifer=self.rng.random() < 0.7, tall=float(self.rng.uniform(6, 13))
                ),
            )

    def _field(self) -> Iterator[Thing]:
        for across, ahead in self.spots(int(self.rng.integers(4, 22)), 3, 60):
            yield (
                ahead,
                self.tree(across, ahead, conifer=self.rng.random() < 0.2, tall=float(self.rng.uniform(4, 9))),
            )
        if self.rng.random() < 0.6:
            yield from self.posts(0.9, 4.0, 1.0, (150, 128, 98), 0.07)
        if self.rng.random() < 0.5:
            yield from self.posts(4.5, 28.0, 7.5, (96, 78, 62), 0.14, arm=1.1)

    def _desert(self) -> Iterator[Thing]:
        for across, ahead in self.spots(24, 2, 50):
            yield ahead, self.rock(across, ahead, float(self.rng.uniform(0.3, 1.6)), (166, 122, 90))
        for across, ahead in self.spots(10, 3, 30):
            yield ahead, self.cactus(across, ahead, float(self.rng.uniform(2, 4.5)))

    def _mountain(self) -> Iterator[Thing]:
        for across, ahead in self.spots(22, 2.5, 40):
            yield ahead, self.tree(across, ahead, conifer=True, tall=float(self.rng.uniform(5, 11)))
        for across, ahead in self.spots(16, 1.8, 24):
            yield ahead, self.rock(across, ahead, float(self.rng.uniform(0.4, 2.2)), (124, 120, 114))
        if self.rng.random() < 0.7:
            yield from self.rail(float(self.rng.choice([-1, 1])))

    def _city(self) -> Iterator[Thing]:
        for side in (-1, 1):
            ahead, beside = float(self.rng.uniform(5, 14)), self.beside + float(self.rng.uniform(3, 7))
            while ahead < FAR_M * 0.8:
                deep = float(self.rng.uniform(9, 22))
                if self.rng.random() < 0.86:
                    yield ahead, self.house(side, beside, ahead, deep, float(self.rng.uniform(6, 26)))
                ahead += deep + float(self.rng.uniform(0, 6))
        if self.rng.random() < 0.7:
            yield from self.posts(1.2, 22.0, 6.0, (84, 86, 90), 0.09, lamp=True)
        for across, ahead in self.spots(8, 1.4, 1.5):
            yield ahead, self.tree(across, ahead, conifer=False, tall=float(self.rng.uniform(3.5, 6)))

    def _tunnel(self) -> Iterator[Thing]:
        wide, high = self.beside + 0.8, float(self.rng.uniform(5, 6.5))
        tile = WALLS[self.rng.integers(1, 4)]
        edges = np.geomspace(FAR_M, 1.2, 44)
        for number, (far, near) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            yield far, self.ring(wide, high, far, near * 0.98, tile, number)
