"""Scenes as pictures: an antialiased photograph and a label for each of its pixels."""

import io
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import resvg_py
from canvas import LABELS, MARKING, Canvas, labels_of_grey
from light import Air
from PIL import Image, ImageFilter
from road import Road
from scene import SIZE_PX, Scene, sample
from surroundings import Surroundings
from traffic import Painter

UInt8 = npt.NDArray[np.uint8]
_FINER = 3  # labels are read at this many times the size
_SEEN = 3  # of the 9 small pixels, how many marking ones make a marking
MASK_COLOURS: UInt8 = np.array(
    [(24, 26, 60), (110, 110, 116), (36, 150, 90), (255, 236, 120), (214, 60, 60)], np.uint8
)
"""(5, 3) RGB of each label in the pictures of the style "mask"."""


@dataclass(frozen=True)
class Rendered:
    """A scene, drawn."""

    scene: Scene
    photo: UInt8
    """(128, 128, 4) RGBA, opaque."""
    mask: UInt8
    """(128, 128) labels, see `canvas.LABELS`."""


def render(seed: int) -> Rendered:
    """The scene of a seed, drawn: a function of the seed alone."""
    scene = sample(seed)
    canvas = draw(scene)
    return Rendered(scene, _photograph(canvas, scene), _labels(canvas))


def mask_picture(mask: UInt8) -> UInt8:
    """Labels (..., H, W) as a picture of the style "mask", RGBA (..., H, W, 4)."""
    colours = np.concatenate([MASK_COLOURS, np.full((len(LABELS), 1), 255, np.uint8)], axis=1)
    return np.asarray(colours[mask])


def draw(scene: Scene) -> Canvas:
    """Everything in the scene, painted from far to near."""
    canvas, air = Canvas(), Air(scene)
    rng = np.random.default_rng([scene.seed, 1])
    around, painter = Surroundings(canvas, scene, air, rng), Painter(canvas, scene, air)
    around.background()
    things = around.things()
    things += [(one.ahead_m, partial(painter.vehicle, one)) for one in scene.vehicles]
    if scene.sign:
        things.append((scene.sign.ahead_m, partial(painter.sign, scene.sign)))
    things.sort(key=lambda thing: -thing[0])
    for far_m in Road(canvas, scene, air, rng).strips():
        while things and things[0][0] > far_m:
            things.pop(0)[1]()
    for _, paint in things:
        paint()
    _weather(canvas, scene, rng)
    return canvas


def _weather(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    """Drops and flakes before the camera."""
    if scene.weather == "rain":
        slant = float(rng.normal(0, 1.5))
        for x, y in rng.uniform((-4, -10), (SIZE_PX + 4, SIZE_PX), (int(rng.integers(50, 130)), 2)):
            long, wide = float(rng.uniform(5, 13)), float(rng.uniform(0.15, 0.4))
            corners = ((x, y), (x + wide, y), (x + wide + slant, y + long), (x + slant, y + long))
            canvas.polygon(corners, "#dfe6ee", None, float(rng.uniform(0.12, 0.4)))
    elif scene.weather == "snow":
        for x, y in rng.uniform(0, SIZE_PX, (int(rng.integers(60, 170)), 2)):
            radius = float(rng.uniform(0.35, 1.2))
            canvas.ellipse((x, y), radius, radius, "#fff", None, float(rng.uniform(0.35, 0.9)))


def _photograph(canvas: Canvas, scene: Scene) -> UInt8:
    """What a camera with its blur, exposure, vignette and noise makes of it."""
    picture = _rasterised(canvas.picture_svg(), SIZE_PX).filter(ImageFilter.GaussianBlur(scene.blur_px))
    pixels = np.asarray(picture, np.float32)[..., :3] * scene.exposure
    place = np.linspace(-1, 1, SIZE_PX, dtype=np.float32)
    pixels *= 1 - 0.12 * (place[:, None] ** 2 + place**2)[..., None] / 2
    pixels += np.random.default_rng([scene.seed, 2]).normal(0, scene.noise, pixels.shape)
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([np.rint(pixels.clip(0, 255)).astype(np.uint8), opaque], axis=2)


def _labels(canvas: Canvas) -> UInt8:
    """The label that most of a pixel shows; a marking needs a third of it."""
    grey = np.asarray(_rasterised(canvas.label_svg(), SIZE_PX * _FINER))[..., 0]
    fine = labels_of_grey(grey).reshape(SIZE_PX, _FINER, SIZE_PX, _FINER)
    counts = np.stack([(fine == label).sum(axis=(1, 3)) for label in range(len(LABELS))])
    most = counts.argmax(axis=0)
    return np.where(counts[MARKING] >= _SEEN, MARKING, most).astype(np.uint8)


def _rasterised(svg: str, size_px: int) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size_px, height=size_px, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
