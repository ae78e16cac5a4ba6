"""Runner of OpenVINO through optimum-intel.

Flavours: fp32, default (its own choice of precision), int8-weights, int8-hybrid (8-bit weights, and the
U-Net's activations too, calibrated on prompts).
"""

from pathlib import Path
from typing import Any

from protocol import Draw, Job, drawer, run

CALIBRATION = ["a b c", "x y z", "a red apple", "an old house by the sea"]


def converted(job: Job) -> Path:
    """Folder of the model as OpenVINO graphs; made where it is not there yet."""
    from optimum.intel import OVStableDiffusionPipeline, OVWeightQuantizationConfig

    kind = job.flavour if job.flavour.startswith("int8") else "fp32"
    folder = Path(job.work) / f"openvino-{kind}-{job.size_px}"
    if (folder / "model_index.json").exists():
        return folder
    options: dict[str, Any] = {"compile": False}
    if kind == "int8-weights":
        options["quantization_config"] = OVWeightQuantizationConfig(bits=8)
    elif kind == "int8-hybrid":
        options["quantization_config"] = OVWeightQuantizationConfig(
            bits=8, quant_method="hybrid", dataset=CALIBRATION, num_samples=len(CALIBRATION)
        )
    else:
        options["load_in_8bit"] = False
    pipe = OVStableDiffusionPipeline.from_pretrained(job.model, export=True, **options)
    pipe.save_pretrained(folder)
    return folder


def load(job: Job) -> Draw:
    import torch
    from optimum.intel import OVStableDiffusionPipeline

    config = {
        "INFERENCE_NUM_THREADS": str(job.threads),
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "CACHE_DIR": "",
    }
    if job.flavour == "fp32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    pipe = OVStableDiffusionPipeline.from_pretrained(converted(job), compile=False, ov_config=config)
    pipe.reshape(batch_size=1, height=job.size_px, width=job.size_px, num_images_per_prompt=1)
    pipe.compile()
    return drawer(pipe, job, torch.from_numpy)


if __name__ == "__main__":
    run(load, ("openvino", "optimum-intel", "nncf", "torch", "diffusers", "transformers"), converted)
