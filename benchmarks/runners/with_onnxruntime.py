"""Runner of ONNX Runtime through optimum-onnx. Flavours: fp32, int8-dynamic (its own quantization)."""

import shutil
from pathlib import Path

from protocol import Draw, Job, drawer, run


def converted(job: Job) -> Path:
    """Folder of the model as ONNX graphs; made where it is not there yet."""
    folder = Path(job.work) / f"onnxruntime-{job.flavour}"
    if (folder / "model_index.json").exists():
        return folder
    if job.flavour == "fp32":
        from optimum.exporters.onnx import main_export

        main_export(
            job.model, output=folder, task="text-to-image", library_name="diffusers", do_validation=False
        )
        return folder
    from dataclasses import replace

    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = converted(replace(job, flavour="fp32"))
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(exact, unfinished, ignore=shutil.ignore_patterns("unet"))
    (unfinished / "unet").mkdir()
    shutil.copy(exact / "unet" / "config.json", unfinished / "unet")
    quantize_dynamic(
        exact / "unet" / "model.onnx",
        unfinished / "unet" / "model.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"DefaultTensorType": 1},
    )
    unfinished.rename(folder)
    return folder


def load(job: Job) -> Draw:
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    pipe = ORTStableDiffusionPipeline.from_pretrained(converted(job), session_options=options)
    return drawer(pipe, job, torch.from_numpy)


if __name__ == "__main__":
    run(load, ("onnxruntime", "optimum-onnx", "torch", "diffusers", "transformers"), converted)
