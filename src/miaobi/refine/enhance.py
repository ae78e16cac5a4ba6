"""Classical enhancement: noise, blur, contrast, white balance. scikit-image and OpenCV do the filtering.

Noise and blur are filtered in premultiplied channels, alpha with them; contrast and balance change straight
colour where something is seen and leave alpha alone. Pictures with a side under 8 px are left as they are by
whatever needs a neighbourhood.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miaobi.images import Float
from miaobi.refine.arrays import (
    from_unit,
    known,
    library,
    opaque,
    straight,
    to_unit,
    too_small,
    within,
)
from miaobi.refine.measure import blur_px, noise_level
from miaobi.refine.stage import Subject

_DRAWN_BLUR_PX = 0.4
"""What `blur_px` finds in a picture drawn with smoothed edges: not to be taken away."""
NOISY, _BLURRED_PX = 0.015, 0.65
"""Less is nothing to act on unasked: clean pictures have as much."""
_WHITE_SHARE = 0.99


@dataclass(frozen=True)
class Denoise:
    """Noise away, edges kept."""

    method: str = "nlm"
    """"nlm": non-local means (Buades et al. 2005); "bilateral": Tomasi & Manduchi 1998; "wavelet":
    BayesShrink (Chang et al. 2000), averaged over shifts.
    """
    strength: float = 0.0
    """Standard deviation of the noise as a share of the range, 0 to 1; 0: measured."""

    def __post_init__(self) -> None:
        known("method", self.method, _DENOISERS)
        within("strength", self.strength, 0, 1)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture; the same where no noise is found.

        Raises:
            MachineError: scikit-image or PyWavelets is missing.
        """
        image = subject.image
        strength = self.strength or noise_level(image)
        if strength == 0 or too_small(image):
            return image.copy()
        unit = to_unit(image)
        channels = 3 if opaque(unit) else 4
        unit[..., :channels] = _DENOISERS[self.method](unit[..., :channels], strength)
        return from_unit(unit)


def _nlm(pixels: Float, sigma: float) -> Float:
    made: Float = library("skimage.restoration").denoise_nl_means(
        pixels, patch_size=5, patch_distance=6, h=0.7 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
    )
    return made


def _bilateral(pixels: Float, sigma: float) -> Float:
    """OpenCV filters one or three channels together, so alpha goes alone."""
    bilateral, size = library("cv2").bilateralFilter, {"d": -1, "sigmaSpace": 2.0}
    parts = [bilateral(np.ascontiguousarray(pixels[..., :3]), sigmaColor=4 * sigma, **size)]
    if pixels.shape[-1] == 4:
        parts.append(bilateral(np.ascontiguousarray(pixels[..., 3]), sigmaColor=2 * sigma, **size)[..., None])
    return np.concatenate(parts, axis=-1)


def _wavelet(pixels: Float, sigma: float) -> Float:
    library("pywt")
    restoration = library("skimage.restoration")
    settings = {"sigma": sigma, "rescale_sigma": True, "channel_axis": -1}
    made: Float = restoration.cycle_spin(
        pixels, restoration.denoise_wavelet, max_shifts=(1, 1, 0), func_kw=settings, workers=1
    )
    return made


_DENOISERS: dict[str, Callable[[Float, float], Float]] = {
    "nlm": _nlm,
    "bilateral": _bilateral,
    "wavelet": _wavelet,
}


@dataclass(frozen=True)
class Sharpen:
    """Unsharp mask: what a blur takes away is added `amount` times."""

    amount: float = 1.0
    """0 to 10."""
    radius_px: float = 1.0
    """Standard deviation of the blur, 0.1 to 20."""

    def __post_init__(self) -> None:
        within("amount", self.amount, 0, 10)
        within("radius_px", self.radius_px, 0.1, 20)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture.

        Raises:
            MachineError: OpenCV is missing.
        """
        cv2, unit = library("cv2"), to_unit(subject.image)
        blurred = cv2.GaussianBlur(unit, (0, 0), self.radius_px, borderType=cv2.BORDER_REPLICATE)
        return from_unit(cv2.addWeighted(unit, 1 + self.amount, blurred, -self.amount, 0))


@dataclass(frozen=True)
class Deblur:
    """A Gaussian blur away."""

    method: str = "wiener"
    """"wiener": regularised inverse filter, stronger regularised where there is noise; "richardson-lucy":
    iterated maximum likelihood (Richardson 1972, Lucy 1974), slower.
    """
    sigma_px: float = 0.0
    """Standard deviation of the blur, 0 to 10; 0: measured."""
    iterations: int = 30
    """Of richardson-lucy, 1 to 500."""

    def __post_init__(self) -> None:
        known("method", self.method, ("wiener", "richardson-lucy"))
        within("sigma_px", self.sigma_px, 0, 10)
        within("iterations", self.iterations, 1, 500)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture; the same where no blur is found.

        Raises:
            MachineError: scikit-image is missing.
        """
        image = subject.image
        sigma_px = self.sigma_px or assumed_blur_px(image)
        if sigma_px == 0 or too_small(image):
            return image.copy()
        restoration, psf, pad = library("skimage.restoration"), gaussian(sigma_px), math.ceil(6 * sigma_px)
        unit = np.pad(to_unit(image), [(pad, pad), (pad, pad), (0, 0)], mode="edge")
        balance = 3e-4 + 27 * noise_level(image) ** 2  # found by search on training pictures
        planes = []
        for plane in np.moveaxis(unit, -1, 0):
            if self.method == "wiener":
                planes.append(restoration.wiener(plane, psf, balance, clip=False))
            else:
                planes.append(
                    restoration.richardson_lucy(plane, psf, self.iterations, clip=False, filter_epsilon=1e-6)
                )
        return from_unit(np.stack(planes, axis=-1)[pad:-pad, pad:-pad].astype(np.float32))


def assumed_blur_px(image: Float) -> float:
    """Standard deviation of the Gaussian blur that came over a picture (4, H, W) drawn with smooth edges; 0
    where it is as sharp as a drawn one may be.
    """
    found = blur_px(image)
    return math.sqrt(found**2 - _DRAWN_BLUR_PX**2) if found > _BLURRED_PX else 0.0


def gaussian(sigma_px: float) -> npt.NDArray[np.float32]:
    """A Gaussian point-spread function (2r + 1, 2r + 1) with sum 1, r = ⌈3σ⌉."""
    radius = math.ceil(3 * sigma_px)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    square = np.outer(line, line)
    return np.asarray(square / square.sum(), np.float32)


@dataclass(frozen=True)
class Contrast:
    """Contrast of lightness, evened out by region: CLAHE (Zuiderveld 1994)."""

    clip: float = 2.0
    """How far a region's contrast may rise, 0.1 to 40."""
    tiles: int = 4
    """Regions along a side, 1 to 32."""

    def __post_init__(self) -> None:
        within("clip", self.clip, 0.1, 40)
        within("tiles", self.tiles, 1, 32)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture, with its alpha.

        Raises:
            MachineError: OpenCV is missing.
        """
        image = subject.image
        unit = to_unit(image)
        seen = unit[..., 3] > 0
        if too_small(image) or not seen.any():
            return image.copy()
        cv2 = library("cv2")
        lab = cv2.cvtColor(straight(unit), cv2.COLOR_RGB2Lab)
        lightness = np.rint(lab[..., 0] * (255 / 100)).astype(np.uint8)
        lightness[~seen] = np.median(lightness[seen])  # what is not seen has no say
        made = cv2.createCLAHE(self.clip, (self.tiles, self.tiles)).apply(lightness)
        lab[..., 0] = made.astype(np.float32) * (100 / 255)
        return _coloured(unit, cv2.cvtColor(lab, cv2.COLOR_Lab2RGB))


@dataclass(frozen=True)
class Balance:
    """White balance: one factor for each of red, green and blue (von Kries 1902)."""

    method: str = "white-patch"
    """"white-patch": the lightest 1 % are white (Land 1977); "gray-world": the mean is grey (Buchsbaum
    1980).
    """

    def __post_init__(self) -> None:
        known("method", self.method, ("gray-world", "white-patch"))

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture, with its alpha."""
        unit = to_unit(subject.image)
        colour, alpha = straight(unit), unit[..., 3]
        if not (alpha > 0).any():
            return subject.image.copy()
        if self.method == "gray-world":
            level = np.average(colour.reshape(-1, 3), axis=0, weights=alpha.ravel())
        else:
            level = np.quantile(colour[alpha > 0], _WHITE_SHARE, axis=0)
        wanted = level.mean() if self.method == "gray-world" else level.max()
        return _coloured(unit, colour * (wanted / np.maximum(level, 1 / 255)).astype(np.float32))


def _coloured(unit: Float, colour: Float) -> Float:
    """The picture (H, W, 4) with straight colour (H, W, 3) instead of its own, as (4, H, W)."""
    alpha = unit[..., 3:]
    return from_unit(np.concatenate([np.clip(colour, 0, 1) * alpha, alpha], axis=-1))


@dataclass(frozen=True)
class Enhance:
    """What the picture needs of `Denoise` and `Deblur`, by measurement; nothing where it needs nothing.

    Contrast and colour are never touched: whether they are meant cannot be measured.
    """

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture.

        Raises:
            MachineError: scikit-image is missing.
        """
        if (noise := noise_level(subject.image)) > NOISY:
            return Denoise(strength=min(noise, 1.0))(subject)
        return Deblur()(subject)
