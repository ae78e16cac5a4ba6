"""VAE: a posterior over latent noise, a prior that reads the condition, and a decoder that draws in one pass.

Kingma & Welling 2014 (arXiv:1312.6114); conditional prior: Sohn et al. 2015, "Learning Structured Output
Representation using Deep Conditional Generative Models"; β: Higgins et al. 2017; free bits: Kingma et al.
2016 (arXiv:1606.04934).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from miaobi.models.backbone import Backbone, BackboneConfig, Condition
from miaobi.models.layers import Block, patchify, unpatchify


@dataclass(frozen=True)
class VaeConfig:
    depth: int = 4
    """Blocks of the posterior."""
    beta: float = 2.0
    """Weight of the KL divergence, per latent value, against the squared error."""
    free_bits: float = 0.01
    """Nats per value, on average over the batch, that cost nothing: below, the KL does not push."""
    perceptual_weight: float = 0.0
    """Weight of how different drawn and real pictures look, where training gives `Vae.perceptual`."""
    perceptual_pictures: int = 8
    """Pictures of a batch that are decoded for it."""

    def __post_init__(self) -> None:
        if self.depth < 1 or self.beta < 0 or self.free_bits < 0:
            raise ValueError(
                f"depth = {self.depth} must be at least 1, beta = {self.beta} and free_bits = "
                f"{self.free_bits} at least 0"
            )


@dataclass(frozen=True)
class Normal:
    """Independent normal values."""

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """mean + std · noise (the reparameterisation)."""
        return self.mean + self.log_std.exp() * noise

    def divergence(self, other: "Normal") -> Tensor:
        """KL(self ‖ other) of each value, in nats, ≥ 0."""
        # log(σ₂/σ₁) + (σ₁² + (μ₁ - μ₂)²) / (2 σ₂²) - 1/2
        ratio = 2 * (self.log_std - other.log_std)
        distance = (self.mean - other.mean).square() * torch.exp(-2 * other.log_std)
        return 0.5 * (ratio.exp() + distance - 1 - ratio)


class Vae(Backbone):
    """The backbone decodes z (B, C, h, w) in a condition; z has the shape of the latents it draws."""

    def __init__(self, backbone: BackboneConfig, config: VaeConfig = VaeConfig()) -> None:
        super().__init__(backbone)
        self.config = config
        self.perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
        width, patch_width = backbone.width, backbone.latent_shape[0] * backbone.patch**2
        nn.init.normal_(self.output.weight, std=0.02)
        self.prior = _head(width, 2 * patch_width)
        self.posterior_input = nn.Linear(patch_width, width)
        self.posterior_blocks = nn.ModuleList([Block(*backbone.block) for _ in range(config.depth)])
        self.posterior = _head(width, 2 * patch_width)

    def _normal(self, tokens: Tensor) -> Normal:
        """Tokens (B, N, 2 · patch width) → a normal of latents' shape; deviations lie in [0.05, 20]."""
        mean, log_std = tokens.float().chunk(2, dim=-1)
        log_std = 3 * torch.tanh(log_std / 3)  # bounded, with slope 1 at 0
        size, patch = self.backbone.latent_shape[1:], self.backbone.patch
        return Normal(unpatchify(mean, patch, *size), unpatchify(log_std, patch, *size))

    def prior_of(self, bias: Tensor, place: Tensor) -> Normal:
        """p(z | condition), from what `prepare` gave."""
        return self._normal(self.prior(place + bias[:, None]))

    def posterior_of(self, latents: Tensor, bias: Tensor, place: Tensor) -> Normal:
        """q(z | latents, condition); latents (B, C, h, w)."""
        h = self.posterior_input(patchify(latents, self.backbone.patch)) + place + bias[:, None]
        for block in self.posterior_blocks:
            h = block(h)
        return self._normal(self.posterior(h))

    def decode(self, z: Tensor, *prepared: Tensor) -> Tensor:
        """z (B, C, h, w) and what `prepare` gave → latents (B, C, h, w)."""
        return self.clean(z, torch.ones(len(z), device=z.device), *prepared)

    def velocity(self, x: Tensor, t: Tensor, *prepared: Tensor) -> Tensor:
        """noise - x_0, so that one Euler step from t = 1 to 0 draws: the same graphs as diffusion's."""
        return x - self.decode(self.prior_of(prepared[0], prepared[1]).at(x), *prepared)

    def loss(self, latents: Tensor, condition: Condition, rng: torch.Generator) -> dict[str, Tensor]:
        """Squared error of standardised latents (B, C, h, w) and β · KL(posterior ‖ prior) per value, no less
        than the free bits.
        """
        prepared = self.prepare(condition)
        posterior = self.posterior_of(latents, *prepared[:2])
        noise = torch.randn(latents.shape, generator=rng).to(latents.device)
        drawn = self.decode(posterior.at(noise), *prepared).float()
        divergence = posterior.divergence(self.prior_of(*prepared[:2])).mean(0)
        losses = {
            "reconstruction": (drawn - latents).square().mean(),
            "kl": self.config.beta * divergence.clamp(min=self.config.free_bits).mean(),
        }
        if self.perceptual and self.config.perceptual_weight:
            seen = slice(0, self.config.perceptual_pictures)
            losses["perceptual"] = self.config.perceptual_weight * self.perceptual(drawn[seen], latents[seen])
        return losses

    measure = loss
    """What previews report of held-out latents."""

    @torch.no_grad()
    def sample(self, condition: Condition, noise: Tensor, steps: int = 1, guidance: float = 1.0) -> Tensor:
        """Noise (B, C, h, w) through the prior to latents (B, C, h, w); a VAE knows neither steps nor
        guidance.
        """
        prepared = self.prepare(condition)
        return self.decode(self.prior_of(*prepared[:2]).at(noise), *prepared)

    @torch.no_grad()
    def reconstruct(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, h, w) through the posterior's mean and back."""
        prepared = self.prepare(condition)
        return self.decode(self.posterior_of(latents, *prepared[:2]).mean, *prepared)

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, condition: Condition, share: Tensor) -> Tensor:
        """Between two pictures' latents (B, C, h, w), `share` (B,) of the way from the first on."""
        prepared = self.prepare(condition)
        begin, end = (self.posterior_of(one, *prepared[:2]).mean for one in (first, second))
        return self.decode(torch.lerp(begin, end, share[:, None, None, None]), *prepared)


def _head(width: int, values: int) -> nn.Sequential:
    """A norm and a matrix that starts at zero."""
    last = nn.Linear(width, values)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width), last)
