"""Runner of diffusers on PyTorch. Flavours: fp32, channels-last, bf16, compile, compile-bf16."""

from typing import Any

from protocol import Draw, Job, drawer, run


def load(job: Job) -> Draw:
    import torch
    from diffusers import DiffusionPipeline

    torch.set_num_threads(job.threads)
    dtype = torch.bfloat16 if "bf16" in job.flavour else torch.float32
    pipe: Any = DiffusionPipeline.from_pretrained(
        job.model, torch_dtype=dtype, safety_checker=None, local_files_only=True
    )
    if job.flavour != "fp32":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if "compile" in job.flavour:
        pipe.unet.compile()
        pipe.vae.decoder.compile()
    return drawer(pipe, job, lambda latents: torch.from_numpy(latents).to(dtype))


if __name__ == "__main__":
    run(load, ("torch", "diffusers", "transformers"))
