"""GAN: one pass from noise to latents, taught by a discriminator that also reads the text.

Relativistic pairing with R1 and R2: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN
Baseline" (R3GAN, arXiv:2501.05441). Mismatched captions as negatives: Reed et al. 2016 (arXiv:1605.05396).
Projection of the condition: Miyato & Koyama 2018 (arXiv:1802.05637). Matching pictures to their texts against
the rest of the batch: Kang et al. 2023, GigaGAN (arXiv:2303.05511).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from miaobi.models.autoencoder import Residual
from miaobi.models.backbone import Backbone, BackboneConfig, Condition


@dataclass(frozen=True)
class GanConfig:
    width: int = 160
    """Channels of the discriminator's finest stage; the next has twice as many."""
    blocks: int = 2
    """Residual blocks of each of its two stages."""
    generator_weight: float = 1.0
    """λ_G, of the generator's adversarial loss."""
    discriminator_weight: float = 1.0
    """λ_D, of the discriminator's."""
    text_weight: float = 0.5
    """λ_text, of matching pictures to texts."""
    mismatch_weight: float = 0.5
    """Share of real pictures with foreign captions in the discriminator's loss."""
    penalty: float = 0.3
    """γ of R1 and R2."""
    temperature: float = 0.1
    """Of the matching."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0 or self.penalty < 0 or self.temperature <= 0:
            raise ValueError(
                f"width = {self.width} must be at least 1, blocks = {self.blocks} and penalty = "
                f"{self.penalty} at least 0, temperature = {self.temperature} above 0"
            )


class Discriminator(nn.Module):
    """Latents and their condition to a score, and to a feature that should point where the text does.

    Convolutions without normalisation, as in R3GAN; text and style alone are read, not the neighbours.
    """

    def __init__(self, backbone: BackboneConfig, config: GanConfig) -> None:
        super().__init__()
        self.config = config
        channels, height, width = backbone.latent_shape
        wide = 2 * config.width
        self.picture = nn.Sequential(
            nn.Conv2d(channels, config.width, 3, padding=1),
            *(Residual(config.width) for _ in range(config.blocks)),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * config.width, wide, 1),
            *(Residual(wide) for _ in range(config.blocks)),
            nn.ReLU(),
            nn.Conv2d(wide, wide, (height // 2, width // 2)),
            nn.Flatten(),
        )
        self.score = nn.Linear(wide, 1)
        self.style = nn.Embedding(backbone.styles + 1, wide)
        self.text = nn.Linear(backbone.text_width, wide)
        self.feature = nn.Linear(wide, backbone.text_width)

    def forward(self, latents: Tensor, embedding: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w), pooled text (B, text_width), style ids (B,) → scores (B,), features
        (B, text_width) of unit norm.
        """
        h = self.picture(latents)
        with torch.autocast(h.device.type, enabled=False):  # few products, whose digits the losses need
            h = h.to(torch.promote_types(h.dtype, torch.float32))
            told = embedding * embedding.shape[1] ** 0.5  # components of about one, as the style's are
            asked = (self.text(told) + self.style(style)) * h.shape[1] ** -0.5
            score = self.score(h)[:, 0] + (h * asked).sum(1)
            return score, F.normalize(self.feature(h), dim=-1)

    def losses(self, drawn: Tensor, asked: Condition, real: Tensor, shown: Condition) -> dict[str, Tensor]:
        """Both players' losses of latents (B, C, h, w) that were drawn as `asked` and of real ones that are
        `shown`, each to be lowered by its own weights.

        generator      λ_G f(D(fake) - D(real))
        text           λ_text · matching of drawn pictures, for the generator
        discriminator  λ_D f(D(real) - D(fake))
        matching       λ_text · matching of real pictures, for the discriminator
        mismatch       λ_D f(D(real) - D(real, foreign caption))
        r1, r2         γ/2 |∇D|² at real and at drawn pictures
        with f(x) = log(1 + e^-x), and D frozen where the generator learns.
        """
        c, wanted, known = self.config, (asked.embedding, asked.style), (shown.embedding, shown.style)
        with _wide_autocast(real.device.type):
            frozen = {name: value.detach() for name, value in self.named_parameters()}
            judged, feature = functional_call(self, frozen, (drawn, *wanted))
            against, _ = functional_call(self, frozen, (real, *known))
            losses = {
                "generator": c.generator_weight * F.softplus(against - judged).mean(),
                "text": c.text_weight * matching(feature, asked.embedding, c.temperature),
            }
            drawn, real = (latents.detach().requires_grad_() for latents in (drawn, real))
            real_score, real_feature = self(real, *known)
            drawn_score, _ = self(drawn, *wanted)
            foreign_score, _ = self(real.detach(), shown.embedding.roll(1, 0), shown.style)
            mismatch = c.mismatch_weight * F.softplus(foreign_score - real_score).mean()
            losses |= {
                "discriminator": c.discriminator_weight * F.softplus(drawn_score - real_score).mean(),
                "mismatch": c.discriminator_weight * mismatch,
                "matching": c.text_weight * matching(real_feature, shown.embedding, c.temperature),
                "r1": 0.5 * c.penalty * squared_gradient(real_score, real),
                "r2": 0.5 * c.penalty * squared_gradient(drawn_score, drawn),
            }
        return losses


class Gan(nn.Module):
    """A backbone that draws in one pass, and its discriminator."""

    def __init__(self, backbone: BackboneConfig, config: GanConfig = GanConfig()) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.generator = Backbone(backbone)
        nn.init.normal_(self.generator.output.weight, std=0.02)
        self.discriminator = Discriminator(backbone, config)

    def prepare(self, condition: Condition) -> tuple[Tensor, ...]:
        """See `Backbone.prepare`."""
        return self.generator.prepare(condition)

    def velocity(self, x: Tensor, t: Tensor, *prepared: Tensor) -> Tensor:
        """noise - x_0, so that one Euler step from t = 1 to 0 draws: the same graphs as diffusion's."""
        return x - self.generator.clean(x, torch.ones_like(t), *prepared)

    def draw(self, condition: Condition, noise: Tensor) -> Tensor:
        """Noise (B, C, h, w) → latents (B, C, h, w)."""
        t = torch.ones(len(noise), device=noise.device)
        return self.generator.clean(noise, t, *self.prepare(condition))

    def sample(self, condition: Condition, noise: Tensor, steps: int = 1, guidance: float = 1.0) -> Tensor:
        """`draw` without gradients; a GAN knows neither steps nor guidance."""
        with torch.no_grad():
            return self.draw(condition, noise)

    def loss(self, latents: Tensor, condition: Condition, rng: torch.Generator) -> dict[str, Tensor]:
        """Both players' losses of standardised latents (B, C, h, w), see `Discriminator.losses`."""
        noise = torch.randn(latents.shape, generator=rng).to(latents.device)
        drawn = self.draw(condition, noise).float()
        return self.discriminator.losses(drawn, condition, latents, condition)

    def measure(self, latents: Tensor, condition: Condition, rng: torch.Generator) -> dict[str, Tensor]:
        """`margin`, how far the discriminator prefers real latents (B, C, h, w) to drawn ones (0: it cannot
        tell), and `spread`, how much drawn pictures differ from each other, as a share of what real ones do.
        """
        noise = torch.randn(latents.shape, generator=rng).to(latents.device)
        asked = (condition.embedding, condition.style)
        fake = self.sample(condition, noise).float()
        with _wide_autocast(latents.device.type):
            margin = self.discriminator(latents, *asked)[0] - self.discriminator(fake, *asked)[0]
        drawn, real = (one.var(dim=0, correction=0).mean() for one in (fake, latents))
        return {"margin": margin.mean(), "spread": drawn / real}


def matching(features: Tensor, embedding: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each picture's text among the batch's (van den Oord et al. 2018, InfoNCE).

    Features and embeddings (B, width) of unit norm; rows without a text (zero embeddings) and equal texts
    count as no negatives.
    """
    scores = features @ embedding.T / temperature
    same = (embedding @ embedding.T) > 0.999
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    none = embedding.square().sum(1) < 0.5
    scores = scores.masked_fill((same | none[None]) & ~own, -1e4)
    told = F.cross_entropy(scores, torch.arange(len(scores), device=scores.device), reduction="none")
    return (told * ~none).sum() / (~none).sum().clamp(min=1)


def _wide_autocast(device: str) -> torch.autocast:
    """bf16 where the caller's autocast is; without autocast where it is fp16, which second derivatives leave
    the range of.
    """
    on = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16
    return torch.autocast(device, torch.bfloat16, enabled=on)


def squared_gradient(scores: Tensor, at: Tensor) -> Tensor:
    """Mean over the batch of |∂score/∂at|² (Mescheder et al. 2018); scores (B,), at (B, …)."""
    (gradient,) = torch.autograd.grad(scores.sum(), at, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
