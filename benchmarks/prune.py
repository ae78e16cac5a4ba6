"""What pruning and sharing save and cost: milliseconds, bytes and fidelity, beside the model as it was.

    python benchmarks/prune.py [--runtime onnxruntime] [--finetune 0] [--threads 2]

The decoder draws one picture and the generator takes one step, in fp32, all settings in turn in one run; the
time is the median. Fidelity needs no data: the decoder's pictures of the memory's latents against those of
the whole decoder (PSNR, dB), and the squared distance of the points on the path from noise to latents to the
whole generator's, at names of the memory. "refit" is `accelerate.refit`, with the memory's latents;
--finetune trains the generators so many steps first. Ends with one line of JSON.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np


def onnxruntime_runner(graph: bytes, threads: int) -> Callable[[dict[str, Any]], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def openvino_runner(graph: bytes, threads: int) -> Callable[[dict[str, Any]], Any]:
    import openvino

    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(graph)
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda inputs: request.infer(inputs)


RUNNERS = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}


def decoders(whole: Any, latents: Any) -> dict[str, Any]:
    from miaobi.accelerate.prune import pruned
    from miaobi.accelerate.refit import refit_decoder

    made = {"as it was": whole}
    for amount in (0.5, 0.9):
        made[f"unstructured {amount}"] = pruned(whole, amount, "unstructured")
    for amount in (0.25, 0.5, 0.75):
        made[f"structured {amount}"] = pruned(whole, amount)
        refitted = made[f"structured {amount}, refit"] = pruned(whole, amount)
        refit_decoder(refitted, whole, latents)
    return made


def generators(whole: Any) -> dict[str, Any]:
    from miaobi.accelerate.prune import pruned
    from miaobi.accelerate.share import shallower, shared

    made = {"as it was": whole}
    for amount in (0.5, 0.9):
        made[f"unstructured {amount}"] = pruned(whole, amount, "unstructured")
    for amount in (0.25, 0.5):
        made[f"structured {amount}"] = pruned(whole, amount)
    made["every two blocks shared"] = shared(whole, 2)
    made["half of the blocks"] = shallower(whole, whole.backbone.depth // 2)
    return made


def timed(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: median(one) for name, one in times.items()}


@click.command(help=__doc__)
@click.option(
    "--autoencoder", type=click.Path(path_type=Path), default=Path("recipes/emoji/weights/autoencoder")
)
@click.option(
    "--generator", "weights", type=click.Path(path_type=Path), default=Path("recipes/emoji/weights/generator")
)
@click.option("--runtime", type=click.Choice(list(RUNNERS)), default="onnxruntime", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--strides", type=click.IntRange(1), default=12, show_default=True, help="Of the generator's path."
)
@click.option("--finetune", type=click.IntRange(0), default=0, show_default=True)
def main(
    autoencoder: Path, weights: Path, runtime: str, threads: int, repeats: int, strides: int, finetune: int
) -> None:
    import torch

    from miaobi.accelerate.export import decoder_graph, generator_graphs
    from miaobi.accelerate.finetune import finetune_generator
    from miaobi.bundle import SHIPPED, Bundle
    from miaobi.runtimes.onnx import OnnxModel
    from miaobi.text.encoder import TextEncoder
    from miaobi.text.memory import Memory
    from miaobi.train import autoencoder as autoencoder_part
    from miaobi.train import generator as generator_part

    torch.set_num_threads(threads)
    bundle = Bundle.load(SHIPPED)
    encoder = TextEncoder(bundle.path("tokenizer.json"), OnnxModel(bundle.path("text.onnx"), threads))
    memory = Memory.load(bundle.path("memory.safetensors"), bundle.path("memory.json"), bundle.latent_shape)
    order = np.random.default_rng(0).permutation(len(memory.ids))
    some, others = (torch.from_numpy(memory.unpacked(order[part])) for part in (slice(192), slice(192, 256)))
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}

    whole = autoencoder_part.load(autoencoder)
    with torch.no_grad():
        wanted = whole.decode(others)
    for name, model in decoders(whole, some).items():
        with torch.no_grad():
            error = float(((model.decode(others) - wanted) / 2).square().mean())
        graph = decoder_graph(model, "fp32", bundle.latent_shape[1])["decoder.onnx"]
        run = RUNNERS[runtime](graph, threads)
        runs[f"decoder, {name}"] = lambda run=run: run({"latents": others[:1].numpy()})
        fidelity = -10 * np.log10(max(error, 1e-10))
        rows[f"decoder, {name}"] = {"mb": len(graph) / 1e6, "psnr_db": round(float(fidelity), 2)}
    teacher = generator_part.load(weights)
    rng = np.random.default_rng(0)
    for name, model in generators(teacher).items():
        graphs = generator_graphs(model, "fp32")
        size = sum(map(len, graphs.values())) / 1e6
        inputs = _inputs(model, rng)
        run = RUNNERS[runtime](graphs["denoiser.onnx"], threads)
        runs[f"generator, {name}"] = lambda run=run, inputs=inputs: run(inputs)
        before = finetune_generator(model, teacher, memory, encoder, 1, strides, lr=1e-12)[0]
        row = rows[f"generator, {name}"] = {"mb": size, "distance": round(before, 4)}
        if finetune and before:
            finetune_generator(model, teacher, memory, encoder, finetune, strides)
            row["finetuned"] = round(
                finetune_generator(model, teacher, memory, encoder, 1, strides, lr=1e-12)[0], 4
            )
    times = timed(runs, repeats)
    click.echo(f"{'setting':<40}{'ms':>8}{'ratio':>7}{'MB':>8}  fidelity")
    for name, row in rows.items():
        part = name.split(",")[0]
        row |= {"ms": round(times[name], 2), "ratio": round(times[name] / times[f"{part}, as it was"], 2)}
        told = f"{row['psnr_db']:.1f} dB" if "psnr_db" in row else f"{row['distance']:.4f}"
        told += f", fine-tuned {row['finetuned']:.4f}" if "finetuned" in row else ""
        click.echo(f"{name:<40}{row['ms']:>8.2f}{row['ratio']:>7.2f}{row['mb']:>8.1f}  {told}")
    click.echo(json.dumps({"runtime": runtime, "threads": threads, "finetune": finetune, "rows": rows}))


def _inputs(model: Any, rng: np.random.Generator) -> dict[str, Any]:
    """One picture's inputs of a step."""
    import torch

    from miaobi.models.backbone import Condition

    config = model.backbone
    shape, count = config.latent_shape, config.neighbours
    normal = lambda *size: torch.from_numpy(rng.standard_normal(size, np.float32))  # noqa: E731
    condition = Condition(
        normal(1, 8, config.text_width),
        torch.ones(1, 8, dtype=torch.bool),
        normal(1, config.text_width),
        torch.zeros(1, dtype=torch.int64),
        normal(1, count, *shape),
        torch.zeros(1, count, dtype=torch.int64),
    )
    with torch.no_grad():
        prepared = model.prepare(condition)
    names = ("context_bias", "context_place", "context_keys", "context_values", "context_mask")
    told = {name: part.numpy() for name, part in zip(names, prepared, strict=True)}
    return {"x": normal(1, *shape).numpy(), "t": np.full(1, 0.5, np.float32), **told}


if __name__ == "__main__":
    main()
