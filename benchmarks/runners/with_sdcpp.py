"""Runner of stable-diffusion.cpp through the wheels of inferna. Flavours: f32, f16, q8_0.

It draws its noise itself, as PyTorch's generator on the CPU does, so that a seed gives the same as `latents`.
Its Euler sampler and "discrete" schedule visit the timesteps of diffusers' Euler with "linspace".
"""

from pathlib import Path

import numpy as np
from protocol import Draw, Job, run

PARTS = {
    "te": "text_encoder/model",
    "unet": "unet/diffusion_pytorch_model",
    "vae": "vae/diffusion_pytorch_model",
}


def converted(job: Job) -> Path:
    """File with the model's weights in one, under names that stable-diffusion.cpp knows."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    file = Path(job.work) / "sdcpp.safetensors"
    if file.exists():
        return file
    weights = {}
    for prefix, part in PARTS.items():
        with safe_open(Path(job.model) / f"{part}.safetensors", "np") as opened:
            weights.update({f"{prefix}.{name}": opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    save_file(weights, file.with_suffix(".unfinished"))
    file.with_suffix(".unfinished").rename(file)
    return file


def quantized(job: Job) -> Path:
    """The same with the flavour's weights, as GGUF; made where it is not there yet."""
    from inferna.sd import stable_diffusion as native

    exact = converted(job)
    file = exact.with_name(f"sdcpp-{job.flavour}.gguf")
    if job.flavour == "f32":
        return exact
    if not file.exists():
        native.convert_model(str(exact), str(file) + ".unfinished", native.SDType[job.flavour.upper()])
        Path(str(file) + ".unfinished").rename(file)
    return file


def load(job: Job) -> Draw:
    from inferna.sd import stable_diffusion as native

    native.set_log_callback(lambda level, text: None)
    options = native.SDContextParams(
        str(quantized(job)), n_threads=job.threads, wtype=native.SDType[job.flavour.upper()]
    )
    options.rng_type = options.sampler_rng_type = int(native.RngType.CPU)
    options.prediction = int(native.Prediction.EPS)
    context = native.SDContext(options)

    def draw(prompt: str, latents: object, seed: int, steps: int) -> np.ndarray:
        picture = context.generate(
            prompt,
            width=job.size_px,
            height=job.size_px,
            seed=seed,
            sample_steps=steps,
            cfg_scale=job.guidance,
            sample_method=native.SampleMethod.EULER,
            scheduler=native.Scheduler.DISCRETE,
        )[0]
        return np.array(picture.to_numpy())

    return draw


if __name__ == "__main__":
    run(load, ("inferna",), quantized)
