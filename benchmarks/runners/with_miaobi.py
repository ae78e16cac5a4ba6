"""Runner of Miaobi itself, with a recipe or plan. Flavour: plan."""

from pathlib import Path
from typing import Any

import numpy as np
from protocol import Draw, Job, run


def load(job: Job) -> Draw:
    import miaobi
    from miaobi.accelerate import apply
    from miaobi.accelerate.recipe import loads

    recipe = loads(Path(job.plan).read_text("utf-8")) if job.plan else ()
    pipe: Any
    if (Path(job.model) / "model_index.json").exists():
        from miaobi.runtimes.diffusers import load as load_diffusers

        pipe = load_diffusers(job.model, threads=job.threads).with_size(job.size_px)
    else:
        pipe = miaobi.load(job.model or None, threads=job.threads)
    fast = apply(pipe, recipe) if recipe else pipe

    def draw(prompt: str, latents: Any, seed: int, steps: int) -> np.ndarray:
        made = fast.generate(prompt, seed=seed, steps=steps, guidance=job.guidance, size_px=job.size_px)
        return np.asarray(made[0].convert("RGB"))

    return draw


if __name__ == "__main__":
    run(load, ("miaobi", "torch", "diffusers", "openvino", "onnxruntime"))
