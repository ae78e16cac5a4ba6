"""Restoration by optimisation: the picture itself is changed by gradient descent until it explains what was
seen and looks as a picture should."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miaobi.images import Float
from miaobi.refine.arrays import from_unit, known, library, to_unit, too_small, within
from miaobi.refine.enhance import NOISY, Deblur, Denoise, assumed_blur_px
from miaobi.refine.measure import noise_level
from miaobi.refine.stage import Subject

if TYPE_CHECKING:
    from torch import Tensor

_DENOISED, _DEBLURRED = ("nlm", "bilateral", "wavelet"), ("wiener", "richardson-lucy")
_LEAST_NOISE = 1 / 255
_BLOCKS = (1, 4, 10)  # of EfficientNet-Lite0: edges, textures, parts


@dataclass(frozen=True)
class Restore:
    """The picture I that minimises, over pixels in [0, 1],

    guide·‖m(I) - G‖² + data·‖m(blur(I)) - N‖² + σ·(ssim·(1 - SSIM(I, G)) + tv·TV(I) + perceptual·d(I, G)),

    means over pixels, where N is the picture as seen, σ its noise, and G a guide, the result of a classical
    filter. m is what is left on average of a value with such noise once it is clipped to the range (Foi
    2009): noisy white is seen darker than white. TV is the total variation (Rudin, Osher & Fatemi 1992), d
    the distance of a network's features.

    SSIM to the guide and features kept the guide's faults when this was measured: both are off by default.
    """

    guide: str = "auto"
    """Where G comes from: a method of `Denoise` or `Deblur`, or "auto": "nlm" for a sharp picture, "wiener"
    for a blurred one.
    """
    blur_px: float = 0.0
    """Standard deviation of the Gaussian blur that N has and I shall not have, 0 to 10; 0: measured, if there
    is little noise.
    """
    guide_weight: float = -1.0
    """0 or more, as all weights; 0 leaves the term out. -1: 3 for a sharp picture, 0 for a blurred one, where
    the guide is only where it starts.
    """
    data_weight: float = 1.0
    ssim_weight: float = 0.0
    tv_weight: float = 0.6
    perceptual_weight: float = 0.0
    network: str = "efficientnet"
    """Whose features: "efficientnet" (EfficientNet-Lite0, of the `train` extra) or "vgg16" (torchvision's).
    """
    steps: int = 60
    """Of Adam (Kingma & Ba 2015), 1 to 10,000."""
    rate: float = 0.02
    """The size of the first steps, above 0 to 1; it falls to 0 by a cosine."""
    start_noise: float = 0.01
    """Standard deviation of the noise on the guide from which it starts, as a share of the range, 0 to 1."""
    seed: int = 0
    """Of that noise, 0 or more."""

    def __post_init__(self) -> None:
        known("guide", self.guide, ("auto", *_DENOISED, *_DEBLURRED))
        known("network", self.network, ("efficientnet", "vgg16"))
        within("blur_px", self.blur_px, 0, 10)
        if self.guide_weight != -1:
            within("guide_weight", self.guide_weight, 0, 1e6)
        for name in ("data", "ssim", "tv", "perceptual"):
            within(f"{name}_weight", getattr(self, f"{name}_weight"), 0, 1e6)
        if self.guide_weight == self.data_weight == 0:
            raise ValueError("guide_weight and data_weight are 0; let one be above 0")
        within("steps", self.steps, 1, 10_000)
        within("rate", self.rate, 1e-6, 1)
        within("start_noise", self.start_noise, 0, 1)
        within("seed", self.seed, 0, 2**63 - 1)

    def __call__(self, subject: Subject) -> Float:
        """(4, H, W) as the subject's picture.

        Raises:
            MachineError: PyTorch, scikit-image or the network's weights are missing.
        """
        return self.descend(subject)[0]

    def descend(self, subject: Subject) -> tuple[Float, list[float]]:
        """The picture (4, H, W), and the loss before each step.

        Raises:
            MachineError: as for a call.
        """
        torch = library("torch", "train")
        image = subject.image
        if too_small(image) or not (image[3] > -1).any():
            return image.copy(), []
        noise = noise_level(image)
        sigma_px = self.blur_px or (assumed_blur_px(image) if noise < NOISY else 0.0)
        guide = self._guide(subject, sigma_px)
        seen, wanted = (torch.from_numpy(to_unit(one)).permute(2, 0, 1)[None] for one in (image, guide))
        loss = self._loss(seen, wanted, sigma_px, noise)
        chance = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(self.seed))
        free = [3] if (image[3] == 1).all() else []  # an opaque picture stays opaque
        chance[:, free] = 0
        picture = (wanted + self.start_noise * chance).requires_grad_()
        descent = torch.optim.Adam([picture], self.rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(descent, self.steps)
        losses = []
        for _ in range(self.steps):
            descent.zero_grad()
            value = loss(picture)
            value.backward()  # type: ignore[no-untyped-call]
            picture.grad[:, free] = 0
            descent.step()
            falling.step()
            with torch.no_grad():  # what a picture can be: 0 ≤ c ≤ a ≤ 1
                picture[:, 3:].clamp_(0, 1)
                picture[:, :3] = picture[:, :3].clamp(min=0).minimum(picture[:, 3:])
            losses.append(float(value.detach()))
        return from_unit(picture.detach()[0].permute(1, 2, 0).numpy()), losses

    def _guide(self, subject: Subject, sigma_px: float) -> Float:
        method = self.guide
        if method == "auto":
            method = "wiener" if sigma_px else "nlm"
        if method in _DENOISED:
            return Denoise(method)(subject)
        return Deblur(method, sigma_px)(subject)

    def _loss(
        self, seen: "Tensor", wanted: "Tensor", sigma_px: float, noise: float
    ) -> Callable[["Tensor"], "Tensor"]:
        from miaobi.refine import losses

        guide_weight = (0.0 if sigma_px else 3.0) if self.guide_weight == -1 else self.guide_weight
        level = max(noise, _LEAST_NOISE)
        features, shown = None, []
        if self.perceptual_weight:
            features = losses.vgg16() if self.network == "vgg16" else losses.efficientnet(_BLOCKS)
            shown = features(losses.over_white(wanted))

        def loss(picture: "Tensor") -> "Tensor":
            blurred = losses.clipped_mean(losses.gaussian_blur(picture, sigma_px), noise)
            value = guide_weight * (losses.clipped_mean(picture, noise) - wanted).square().mean()
            value = value + self.data_weight * (blurred - seen).square().mean()
            value = value + level * self.tv_weight * losses.total_variation(picture)
            if self.ssim_weight:
                value = value + level * self.ssim_weight * (1 - losses.ssim(picture, wanted))
            if features:
                drawn = features(losses.over_white(picture))
                value = value + level * self.perceptual_weight * losses.feature_distance(drawn, shown)
            return value

        return loss
