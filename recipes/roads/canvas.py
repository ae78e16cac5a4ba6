"""Shapes from far to near, written as one svg twice: as a picture, and as labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scene import SIZE_PX

Point = tuple[float, float]
RGB = tuple[float, float, float]
"""0 to 255 each."""
SCENERY, ROAD, OWN_LANE, MARKING, VEHICLE = range(5)
"""Labels: what a pixel shows. `ROAD` is the lanes beside the own one; sky and shoulders are `SCENERY`."""
LABELS = ("scenery", "road", "own lane", "marking", "vehicle")
_LABEL_STEP = 40  # between the grey levels that stand for labels in the second svg


@dataclass(frozen=True)
class Shape:
    """A filled path. Without a fill it is a label alone, without a label paint alone (shadow, rain)."""

    path: str
    fill: str | None
    label: int | None
    opacity: float = 1.0


@dataclass
class Canvas:
    """Shapes in the order in which they are painted, and gradients."""

    shapes: list[Shape] = field(default_factory=list)
    gradients: dict[str, str] = field(default_factory=dict)

    def polygon(
        self, points: Iterable[Point], fill: str | None, label: int | None = None, opacity: float = 1.0
    ) -> None:
        """A polygon of points in pixels."""
        path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "z"
        self.shapes.append(Shape(path, fill, label, opacity))

    def ellipse(
        self,
        middle: Point,
        radius_x: float,
        radius_y: float,
        fill: str | None,
        label: int | None = None,
        opacity: float = 1.0,
    ) -> None:
        """An ellipse; radii in pixels."""
        (x, y), arc = middle, f"a{radius_x:.2f} {radius_y:.2f} 0 1 0"
        path = f"M{x - radius_x:.2f} {y:.2f}{arc} {2 * radius_x:.2f} 0{arc} {-2 * radius_x:.2f} 0z"
        self.shapes.append(Shape(path, fill, label, opacity))

    def glow(self, middle: Point, radius_px: float, colour: RGB, opacity: float) -> None:
        """Light that fades away from its middle."""
        self.ellipse(middle, radius_px, radius_px, self._gradient("radial", [colour, colour], (opacity, 0)))

    def fade(self, colours: Sequence[RGB], top_px: float, bottom_px: float) -> None:
        """A band over the whole width, from one colour at its top to another at its bottom."""
        corners = ((0, top_px), (SIZE_PX, top_px), (SIZE_PX, bottom_px), (0, bottom_px))
        self.polygon(corners, self._gradient("linear", colours, (1, 1)), SCENERY)

    def _gradient(self, kind: str, colours: Sequence[RGB], opacities: Sequence[float]) -> str:
        direction = ' x2="0" y2="1"' if kind == "linear" else ""
        stops = "".join(
            f'<stop offset="{place}" stop-color="{hexadecimal(colour)}" stop-opacity="{opacity:.2f}"/>'
            for place, (colour, opacity) in enumerate(zip(colours, opacities, strict=True))
        )
        name = self.gradients.setdefault(f"{kind}{direction}|{stops}", f"g{len(self.gradients)}")
        return f"url(#{name})"

    def picture_svg(self) -> str:
        """What is to be seen."""
        gradients = []
        for about, name in self.gradients.items():
            head, stops = about.split("|")
            kind, direction = head.split(" ", 1) if " " in head else (head, "")
            gradients.append(f'<{kind}Gradient id="{name}" {direction}>{stops}</{kind}Gradient>')
        painted = (
            f'<path d="{one.path}" fill="{one.fill}"'
            + (f' opacity="{one.opacity:.2f}"' if one.opacity < 1 else "")
            + "/>"
            for one in self.shapes
            if one.fill
        )
        return _document(f"<defs>{''.join(gradients)}</defs>{''.join(painted)}", "auto")

    def label_svg(self) -> str:
        """Labels as grey levels, without antialiasing; `labels_of_grey` reads them."""
        painted = (
            f'<path d="{one.path}" fill="{hexadecimal((one.label * _LABEL_STEP,) * 3)}"/>'
            for one in self.shapes
            if one.label is not None
        )
        return _document("".join(painted), "crispEdges")


def labels_of_grey(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The labels that grey levels of `Canvas.label_svg` stand for."""
    return grey // np.uint8(_LABEL_STEP)


def hexadecimal(colour: Sequence[float]) -> str:
    """A colour, clipped, as svg writes it."""
    return "#" + "".join(f"{min(255, max(0, round(value))):02x}" for value in colour)


def _document(content: str, rendering: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE_PX} {SIZE_PX}" '
        f'width="{SIZE_PX}" height="{SIZE_PX}" shape-rendering="{rendering}">{content}</svg>'
    )
