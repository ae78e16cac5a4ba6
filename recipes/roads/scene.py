"""Road scenes: what a seed stands for, as parameters in metres and words."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

SIZE_PX = 128
"""Side of a picture."""
FAR_M = 150.0
"""What is further away is background."""

Bend = Literal["straight", "left", "right", "winding"]
Slope = Literal["flat", "uphill", "downhill"]
Place = Literal["city", "forest", "field", "desert", "mountain", "tunnel"]
Weather = Literal["clear", "rain", "snow", "fog"]
Time = Literal["day", "dusk", "night"]
VehicleKind = Literal["car", "truck", "bus", "motorbike"]
Pattern = Literal["solid", "dashed", "double"]
Paint = Literal["white", "yellow"]
Side = Literal["left", "right"]
SignKind = Literal["speed limit", "stop", "warning", "direction"]
Colour = Literal["red", "blue", "white", "black", "silver", "yellow", "green", "orange"]

LENGTH_M: dict[VehicleKind, float] = {"car": 4.4, "truck": 8.5, "bus": 11.0, "motorbike": 2.1}
WIDTH_M: dict[VehicleKind, float] = {"car": 1.85, "truck": 2.5, "bus": 2.55, "motorbike": 0.85}
SIGN_BESIDE_M, SIGN_UP_M = 0.9, 2.7
"""From the edge of the shoulder to a sign's post, and from the ground to the sign's middle."""


@dataclass(frozen=True)
class View:
    """A camera over a road: metres to pixels.

    A point is given by metres to the right of the road's middle, above its surface and ahead of the camera.
    """

    focal_px: float
    height_m: float
    """Of the camera above the road."""
    horizon_px: float
    """Row of the horizon of a flat world."""
    yaw_px: float
    """How far the road's vanishing point is to the right of the picture's middle."""
    across_m: float
    """Camera's place, to the right of the road's middle."""
    bend: Bend
    curvature: float
    """1 / metres, positive to the right; of a winding road: its sideways sweep in metres."""
    grade: float
    """Rise in metres a metre, positive uphill; reached 30 m ahead."""

    def middle(self, ahead_m: float) -> float:
        """Metres that the road's middle has moved to the right."""
        if self.bend == "winding":
            return self.curvature * (1 - float(np.cos(2 * np.pi * ahead_m / 90)))
        return self.curvature * ahead_m**2 / 2

    def rise(self, ahead_m: float) -> float:
        """Metres that the road has risen."""
        return self.grade * (ahead_m**2 / 60 if ahead_m < 30 else ahead_m - 15)

    def point(self, across_m: float, up_m: float, ahead_m: float) -> tuple[float, float]:
        """Column and row in pixels, of a picture of 128."""
        scale = self.focal_px / ahead_m
        x = SIZE_PX / 2 + self.yaw_px + scale * (across_m + self.middle(ahead_m) - self.across_m)
        return x, self.horizon_px + scale * (self.height_m - self.rise(ahead_m) - up_m)

    @property
    def near_m(self) -> float:
        """Distance of the ground just below the picture."""
        return self.focal_px * self.height_m / (SIZE_PX + 8 - self.horizon_px)


@dataclass(frozen=True)
class Line:
    """A marking along the road."""

    across_m: float
    pattern: Pattern
    colour: Paint


@dataclass(frozen=True)
class Vehicle:
    """A vehicle whose near end is `ahead_m` away."""

    kind: VehicleKind
    colour: Colour
    lane: int
    ahead_m: float
    oncoming: bool


@dataclass(frozen=True)
class Sign:
    """A traffic sign beside the road."""

    kind: SignKind
    side: Side
    ahead_m: float
    number: int
    """What a speed limit says."""


@dataclass(frozen=True)
class Scene:
    """Everything that is to be seen, but for the details that the drawing makes up from the same seed."""

    seed: int
    view: View
    lanes: int
    """2 to 4, of both directions; lane 0 is the leftmost."""
    opposite: int
    """How many of them, from the left, are for oncoming traffic."""
    own: int
    """The lane that the camera drives in."""
    lane_m: float
    """Width of a lane."""
    shoulder_m: float
    lines: tuple[Line, ...]
    line_m: float
    """Width of a marking."""
    wear: float
    """Share of the paint that is gone, 0 to 0.7."""
    dash_m: tuple[float, float]
    """Length of a dash and of a gap."""
    slope: Slope
    place: Place
    weather: Weather
    time: Time
    vehicles: tuple[Vehicle, ...]
    """Nearest first."""
    sign: Sign | None
    noise: float
    """Deviation of the sensor's noise, of 255."""
    blur_px: float
    exposure: float

    def lane_middle(self, lane: float) -> float:
        """Metres from the road's middle to a lane's."""
        return (lane + 0.5 - self.lanes / 2) * self.lane_m

    @property
    def half_m(self) -> float:
        """Half the width of the lanes."""
        return self.lanes * self.lane_m / 2


def sample(seed: int) -> Scene:
    """The scene that a seed stands for."""
    rng = np.random.default_rng([seed, 0])
    place: Place = _pick(rng, city=0.22, forest=0.2, field=0.2, desert=0.14, mountain=0.16, tunnel=0.08)
    time: Time = "day" if place == "tunnel" else _pick(rng, day=0.48, dusk=0.22, night=0.3)
    weather: Weather = (
        "clear" if place == "tunnel" else _pick(rng, clear=0.46, rain=0.22, snow=0.16, fog=0.16)
    )
    lanes = int(rng.choice([2, 3, 4], p=[0.45, 0.3, 0.25]))
    opposite = 0 if rng.random() < 0.35 else lanes // 2
    own = int(rng.integers(opposite, lanes))
    lane_m = float(rng.uniform(3.1, 3.8))
    shoulder_m = float(rng.uniform(0.3, 2.2))
    bend: Bend = _pick(rng, straight=0.34, left=0.28, right=0.28, winding=0.1)
    slope: Slope = _pick(rng, flat=0.6, uphill=0.2, downhill=0.2)
    curvature = {
        "straight": 0.0,
        "left": -1 / rng.uniform(28, 120),
        "right": 1 / rng.uniform(28, 120),
        "winding": float(rng.choice([-1, 1]) * rng.uniform(2.5, 6)),
    }[bend]
    view = View(
        focal_px=float(rng.uniform(84, 108)),
        height_m=float(rng.uniform(1.5, 2.7)),
        horizon_px=float(rng.uniform(42, 60)),
        yaw_px=float(rng.normal(0, 4)),
        across_m=(own + 0.5 - lanes / 2) * lane_m + float(rng.normal(0, 0.25)),
        bend=bend,
        curvature=curvature,
        grade={"flat": 0.0, "uphill": rng.uniform(0.04, 0.09), "downhill": -rng.uniform(0.03, 0.06)}[slope],
    )
    return Scene(
        seed=seed,
        view=view,
        lanes=lanes,
        opposite=opposite,
        own=own,
        lane_m=lane_m,
        shoulder_m=shoulder_m,
        lines=_lines(rng, lanes, opposite, lane_m),
        line_m=float(rng.uniform(0.18, 0.3)),
        wear=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])),
        dash_m=(float(rng.uniform(2, 4.5)), float(rng.uniform(3, 7))),
        slope=slope,
        place=place,
        weather=weather,
        time=time,
        vehicles=_vehicles(rng, view, lanes, opposite, own, lane_m, 24.0 if weather == "fog" else 42.0),
        sign=None
        if place == "tunnel" or rng.random() < 0.5
        else _sign(rng, view, lanes * lane_m / 2 + shoulder_m),
        noise=float(rng.uniform(0.5, 3) + (2 if time == "night" else 0)),
        blur_px=float(rng.uniform(0, 0.5)),
        exposure=float(rng.normal(1, 0.07)),
    )


def _pick(rng: np.random.Generator, **shares: float) -> Any:
    """One of the names, by their shares."""
    return str(rng.choice(list(shares), p=list(shares.values())))


def _lines(rng: np.random.Generator, lanes: int, opposite: int, lane_m: float) -> tuple[Line, ...]:
    """Markings from left to right: edges (one road in five has none), between lanes, between directions."""
    found = []
    edges = rng.random() < 0.8
    yellow = rng.random() < 0.6
    centre: Pattern = _pick(rng, double=0.5, solid=0.25, dashed=0.25)
    between: Pattern = _pick(rng, dashed=0.9, solid=0.1)
    for number in range(lanes + 1):
        across = (number - lanes / 2) * lane_m
        if number in (0, lanes):
            if edges:
                colour: Paint = "yellow" if number == 0 and not opposite and yellow else "white"
                found.append(Line(across + (0.2 if number == 0 else -0.2), "solid", colour))
        elif number == opposite:
            found.append(Line(across, centre, "yellow" if yellow else "white"))
        else:
            found.append(Line(across, between, "white"))
    return tuple(found)


def _vehicles(
    rng: np.random.Generator,
    view: View,
    lanes: int,
    opposite: int,
    own: int,
    lane_m: float,
    furthest_m: float,
) -> tuple[Vehicle, ...]:
    """Up to three vehicles in sight, none inside another."""
    found: list[Vehicle] = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.15, 0.35, 0.3, 0.2]))):
        kind: VehicleKind = _pick(rng, car=0.55, truck=0.2, bus=0.12, motorbike=0.13)
        colour: Colour = _pick(rng, **dict.fromkeys(get_args(Colour), 1 / 8))
        lane, ahead = int(rng.integers(lanes)), float(np.exp(rng.uniform(np.log(6.5), np.log(furthest_m))))
        column, _ = view.point((lane + 0.5 - lanes / 2) * lane_m, 0, ahead)
        free = all(one.lane != lane or not -14 < one.ahead_m - ahead < LENGTH_M[kind] + 4 for one in found)
        if 6 < column < SIZE_PX - 6 and free and (lane != own or ahead > 9):
            found.append(Vehicle(kind, colour, lane, ahead, lane < opposite))
    return tuple(sorted(found, key=lambda one: one.ahead_m))


def _sign(rng: np.random.Generator, view: View, edge_m: float) -> Sign | None:
    """A sign that is wholly in the picture, where one of six places allows it."""
    kind: SignKind = _pick(rng, **{"speed limit": 0.3, "stop": 0.2, "warning": 0.3, "direction": 0.2})
    side: Side = _pick(rng, right=0.8, left=0.2)
    number = int(rng.choice([30, 50, 60, 80]))
    across = edge_m + SIGN_BESIDE_M
    for ahead in rng.uniform(7, 17, 6):
        column, row = view.point(across if side == "right" else -across, SIGN_UP_M, float(ahead))
        if 9 < column < SIZE_PX - 9 and row > 9:
            return Sign(kind, side, float(ahead), number)
    return None
