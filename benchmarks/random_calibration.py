"""Random weights whose errors show, for `random_pipelines`.

As PyTorch initialises it, a denoiser predicts almost nothing and a decoder paints flat grey: any error would
be invisible, and every shortcut would look exact. So each pipeline is calibrated by drawing with it:

- a denoiser that predicts noise gets a linear fit of the noise in its input onto its last layer, beside that
  layer's random weights: else sampling, which divides by the signal's share, would blow latents up, and all
  that follows the first step would hide behind them;
- the last layer of every denoiser is scaled until its prediction has unit deviation, as a trained one's has;
- the first layer of the decoder is scaled until it passes on unit deviation, its last one until pictures
  spread 0.4 around mid-grey in [-1, 1], where few pixels clip.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PROMPT = "a red apple"
STEPS = 4
PICTURE_SPREAD = 0.4
RIDGE = 0.01
CALIBRATED_AT_PX = 256


def draw(
    pipe: Any, prompt: str = PROMPT, *, seed: int = 0, size_px: int | None = None, **options: Any
) -> Any:
    """What `pipe` makes of a prompt in 4 steps: (1, H, W, 3) in [0, 1], or what `output_type` asks for."""
    size_px = size_px or default_size_px(pipe)
    options = {"num_inference_steps": STEPS, "output_type": "np"} | options
    noise = torch.Generator().manual_seed(seed)
    return pipe(prompt, height=size_px, width=size_px, generator=noise, **options).images


def default_size_px(pipe: Any) -> int:
    """64 for the tiny ones, 512 for the full-size one: what its autoencoder was configured for."""
    return int(getattr(pipe.vae.config, "sample_size", None) or 64)


def denoiser_of(pipe: Any) -> nn.Module:
    """The U-Net or transformer of a pipeline."""
    found: nn.Module = getattr(pipe, "unet", None) or pipe.transformer
    return found


def layers_in_order(network: nn.Module, run: Callable[[], Any]) -> list[nn.Module]:
    """The linear and convolution layers of a network, in the order in which `run` calls them."""
    called: list[nn.Module] = []
    with ExitStack() as hooks:
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
                hooks.callback(layer.register_forward_hook(lambda one, _, __: called.append(one)).remove)
        run()
    return called


def outputs(network: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """What a network returns each time `run` calls it."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        seen.append(torch.stack(first) if isinstance(first, list) else first)

    hook = network.register_forward_hook(keep)
    run()
    hook.remove()
    return seen


def rescale(layer: Any, gain: float, shift: float = 0.0) -> None:
    """Multiply what a layer gives by `gain` and add `shift`, rounded so that every machine gets the same."""
    layer.weight.mul_(float(f"{gain:.3g}"))
    if layer.bias is not None:
        layer.bias.mul_(float(f"{gain:.3g}")).add_(float(f"{shift:.3g}"))


def fit_noise(unet: nn.Module, last: Any, signal: Tensor, run: Callable[[], Any]) -> None:
    """Add to the last layer's middle tap the ridge regression of the noise in the input on its features.

    The inputs are mixtures of smooth random latents and noise at the timesteps that `run` draws at, with the
    signal's share a_t of the variance taken from `signal`:
    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (Ho et al. 2020, equation 4).
    """
    features: list[Tensor] = []
    noises: list[Tensor] = []
    random = torch.Generator().manual_seed(0)

    def mixed(_: nn.Module, arguments: Any, options: Any) -> tuple[Any, Any]:
        latents, timestep, *others = arguments
        share = signal[int(timestep)]
        noise = torch.randn(latents.shape, generator=random)
        sides = [max(2, side // 8) for side in latents.shape[2:]]
        coarse = torch.randn(*latents.shape[:2], *sides, generator=random)
        smooth = nn.functional.interpolate(coarse, size=latents.shape[2:], mode="bicubic")
        noises.append(noise)
        return (share.sqrt() * smooth / smooth.std() + (1 - share).sqrt() * noise, timestep, *others), options

    with ExitStack() as hooks:
        hooks.callback(unet.register_forward_pre_hook(mixed, with_kwargs=True).remove)
        hooks.callback(last.register_forward_pre_hook(lambda _, given: features.append(given[0])).remove)
        run()
    rows = torch.cat(features).movedim(1, -1).flatten(0, -2).double()
    wanted = torch.cat(noises).movedim(1, -1).flatten(0, -2).double()
    moments = rows.T @ rows
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    fitted = torch.linalg.solve(moments, rows.T @ wanted)
    last.weight[:, :, last.kernel_size[0] // 2, last.kernel_size[1] // 2] += fitted.T.float()


@torch.no_grad()
def calibrate(pipe: Any) -> None:
    """Change the first and last layers of denoiser and decoder as the head of this module says."""
    denoiser, decoder = denoiser_of(pipe), pipe.vae.decoder
    size_px = min(default_size_px(pipe), CALIBRATED_AT_PX)
    to_latents = partial(draw, pipe, size_px=size_px, output_type="latent")
    to_picture = partial(draw, pipe, size_px=size_px)
    last = layers_in_order(denoiser, to_latents)[-1]
    if getattr(pipe.scheduler.config, "prediction_type", None) == "epsilon":
        fit_noise(denoiser, last, pipe.scheduler.alphas_cumprod, to_latents)
    rescale(last, 1 / float(torch.stack(outputs(denoiser, to_latents)).std()))
    order = layers_in_order(decoder, to_picture)
    rescale(order[0], 1 / float(outputs(order[0], to_picture)[0].std()))
    picture = outputs(decoder, to_picture)[0]
    gain = PICTURE_SPREAD / float(picture.std())
    rescale(order[-1], gain, -gain * float(picture.mean()))
