"""Recipes on a bundle with PyTorch weights: every runtime draws the same pictures, the old pipeline stays."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from miaobi import machine
from miaobi.accelerate import (
    Batch,
    Compile,
    Distill,
    Guidance,
    Precision,
    Prune,
    Quantize,
    RecipeError,
    Runtime,
    ShareLayers,
    Steps,
    Threads,
    TinyDecoder,
    apply,
    check,
)
from miaobi.accelerate.bundles import save
from miaobi.accelerate.export import assemble
from miaobi.bundle import Bundle
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.backbone import BackboneConfig
from miaobi.models.diffusion import Diffusion
from miaobi.pipeline import Pipeline, load
from miaobi.train import loop

pytest.importorskip("openvino")
DECODER = {
    "channels": [16, 16],
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1],
    "latent_channels": 32,
    "patch_px": 8,
}


def over_white(pipe: Pipeline, prompts: Sequence[str] = ("red apple", "猫")) -> np.ndarray:
    pixels = pipe.generate(prompts, seed=3, expand=None).pixels.astype(float)
    alpha = pixels[..., 3:] / 255
    return np.asarray(pixels[..., :3] * alpha + 255 * (1 - alpha))


@pytest.fixture(scope="module")
def teacher(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided bundle in PyTorch with the text encoder and the memory of the tiny one."""
    torch.manual_seed(0)
    tiny, folder = Bundle.load(tiny_bundle), tmp_path_factory.mktemp("teacher")
    shape = list(tiny.latent_shape)
    model = {"styles": len(tiny.styles), "latent_shape": shape, "width": 32, "depth": 4, "heads": 2}
    generator = Diffusion(BackboneConfig(**{**model, "latent_shape": tuple(shape)})).eval()  # type: ignore[arg-type]
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in DECODER.items()}
    autoencoder = Autoencoder(AutoencoderConfig(**config)).eval()  # type: ignore[arg-type]
    for name in ("generator", "autoencoder"):
        (folder / name).mkdir()
    loop.save_model(folder / "generator", generator.state_dict(), {"model": model})
    loop.save_model(folder / "autoencoder", autoencoder.state_dict(), {"model": DECODER})
    names = ("tokenizer.json", "text.onnx", "memory.safetensors", "memory.json")
    files: dict[str, bytes | Path] = {name: tiny.path(name) for name in names}
    files |= {
        f"{name}.safetensors": folder / name / "model.safetensors" for name in ("generator", "autoencoder")
    }
    manifest = {
        "name": "teacher",
        "family": "diffusion",
        "styles": list(tiny.styles),
        "default_style": tiny.default_style,
        "runtime": "torch",
        "knobs": {"steps": 6, "guidance": 2.0},
    }
    assemble(folder / "bundle", manifest, files, generator, autoencoder, "fp32")
    return folder / "bundle"


@pytest.fixture(scope="module")
def pipe(teacher: Path) -> Pipeline:
    return load(teacher)


@pytest.fixture(scope="module")
def reference(pipe: Pipeline) -> np.ndarray:
    return over_white(pipe)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_runtime_draws_the_same(pipe: Pipeline, reference: np.ndarray, runtime: str) -> None:
    moved = apply(pipe, (Runtime(runtime),))  # type: ignore[arg-type]
    assert moved.traits.runtime == runtime
    assert np.abs(over_white(moved) - reference).max() <= 2
    receipt = moved.generate("cat", seed=1).receipt
    assert receipt.runtime.startswith(runtime)
    assert receipt.guidance == 2
    np.testing.assert_array_equal(over_white(pipe), reference)


def test_a_home_common_to_unlike_cpus(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made in 8 bits overflows in a CPU without int8 dot products."""
    made = []
    for features in ({"avx2"}, {"avx2", "avx512_vnni"}):
        monkeypatch.setattr(machine, "cpu_features", partial(frozenset, features))
        changed = apply(pipe, (Runtime("onnxruntime"), Quantize("int8-dynamic")))
        made.append(changed.bundle.path("denoiser.onnx").read_bytes())
    assert made[0] != made[1]


@pytest.mark.parametrize("steps", [1, 2])
def test_one_graph_draws_what_its_parts_do(pipe: Pipeline, steps: int) -> None:
    parts = apply(pipe, (Steps(steps), Guidance(1), Runtime("openvino")))
    whole = apply(parts, (Compile(),))
    assert np.abs(over_white(whole) - over_white(parts)).max() <= 2
    np.testing.assert_allclose(over_white(whole, prompts=("猫",))[0], over_white(whole)[1], atol=1)
    assert "picture" in whole.generate("cat", seed=1).receipt.stages_ms
    again = whole.generate("cat", seed=1, steps=4)  # other steps than it was built for: by its parts
    assert "picture" not in again.receipt.stages_ms
    np.testing.assert_array_equal(again.pixels, parts.generate("cat", seed=1, steps=4).pixels)


def test_the_receipt_tells_integers_beside_another_type(pipe: Pipeline) -> None:
    weights = Quantize("int8-weights")
    mixed = apply(pipe, (Steps(1), Guidance(1), Runtime("openvino"), Precision("bfloat16"), weights))
    assert mixed.generate("cat", seed=1).receipt.dtype == "int8-weights, the rest bfloat16"
    plain = apply(pipe, (Steps(1), Guidance(1), Runtime("openvino"), weights))
    assert plain.generate("cat", seed=1).receipt.dtype == "int8-weights"


def test_one_graph_of_integers(pipe: Pipeline) -> None:
    parts = apply(pipe, (Steps(1), Guidance(1), Runtime("openvino"), Quantize("int8-static")))
    whole = apply(parts, (Compile(),))
    assert np.abs(over_white(whole) - over_white(parts)).mean() <= 2


@pytest.mark.parametrize(
    ("runtime", "method"),
    [
        ("onnxruntime", "int8-dynamic"),
        ("onnxruntime", "int8-static"),
        ("onnxruntime", "int8-mixed"),
        ("onnxruntime", "int8-weights"),
        ("onnxruntime", "int4-weights"),
        ("openvino", "int8-static"),
        ("openvino", "int8-weights"),
        ("openvino", "int8-dynamic"),
    ],
)
def test_quantized_stays_near_and_alone_as_in_a_batch(
    pipe: Pipeline, reference: np.ndarray, runtime: str, method: str
) -> None:
    made = apply(pipe, (Steps(2), Guidance(1), Runtime(runtime), Quantize(method)))  # type: ignore[arg-type]
    plain = apply(pipe, (Steps(2), Guidance(1), Runtime(runtime)))  # type: ignore[arg-type]
    both, expected = over_white(made), over_white(plain)
    error = np.abs(both - expected).mean()
    assert 0 < error < 0.25 * np.abs(expected - expected.mean()).mean() + 1
    np.testing.assert_allclose(over_white(made, prompts=("猫",))[0], both[1], atol=1)
    np.testing.assert_array_equal(over_white(pipe), reference)


def test_settings_are_those_of_the_new_pipeline_alone(pipe: Pipeline) -> None:
    made = apply(pipe, (Steps(3), Guidance(2, 0, 0.5), Precision("bfloat16"), Threads(1), Batch(2)))
    told = made.generate("cat", seed=1).receipt
    assert (told.steps, told.dtype, told.threads) == (3, "bfloat16", 1)
    assert (pipe.traits.steps, pipe.traits.dtype, pipe.traits.batch) == (6, "float32", 8)
    assert check(pipe.traits, (Steps(3), Threads(1), Batch(2))).steps == 3


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_the_decoder_alone_computes_in_another_type(pipe: Pipeline, runtime: str) -> None:
    moved = apply(pipe, (Runtime(runtime),)) if runtime != pipe.traits.runtime else pipe  # type: ignore[arg-type]
    made = apply(moved, (Precision("bfloat16", "decoder"),), measured=False)
    assert made.generate("cat", seed=1).receipt.dtype == "float32; decoder bfloat16"
    assert np.abs(over_white(made) - over_white(moved)).mean() < 2
    latents = np.random.default_rng(0).standard_normal((1, *pipe.bundle.latent_shape), np.float32)
    one, other = (np.asarray(each._decoder(latents=latents)["image"]) for each in (made, moved))
    assert runtime == "openvino" or np.abs(one - other).max() > 0  # OpenVINO has bf16 on some CPUs alone


def test_guidance_of_a_part_is_neither_all_nor_nothing(pipe: Pipeline, reference: np.ndarray) -> None:
    off = over_white(apply(pipe, (Guidance(1),)))
    part = over_white(apply(pipe, (Guidance(2, 0.2, 0.7),)))
    most = over_white(apply(pipe, (Guidance(2, 0, 0.99),)))  # the last of six steps begins before
    assert min(np.abs(part - one).mean() for one in (off, reference)) > 0
    np.testing.assert_array_equal(most, reference)


@pytest.mark.parametrize("step", [Prune(0.5), Prune(0.5, "unstructured"), ShareLayers(2)])
def test_smaller_models_run_everywhere_and_are_made_once(pipe: Pipeline, step: Prune | ShareLayers) -> None:
    made = apply(pipe, (step,))
    graphs = apply(pipe, (step, Runtime("onnxruntime")))
    assert made.bundle.folder == graphs.bundle.folder != pipe.bundle.folder
    np.testing.assert_allclose(over_white(made), over_white(graphs), atol=2)
    assert made.traits.parameters <= pipe.traits.parameters


def test_a_student_brings_its_own_knobs(pipe: Pipeline, tiny_bundle: Path) -> None:
    made = apply(pipe, (Distill(str(tiny_bundle)), Steps(2)))
    assert (made.bundle.name, made.traits.steps, made.traits.guided) == ("tiny", 2, False)
    assert made.traits.runtime == "onnxruntime"


def test_another_decoder(pipe: Pipeline, teacher: Path, tmp_path: Path) -> None:
    same = teacher.parent / "autoencoder"
    made = apply(pipe, (TinyDecoder(str(same)),))
    np.testing.assert_allclose(over_white(made), over_white(pipe), atol=1)
    with pytest.raises(RecipeError, match="train it"):
        apply(pipe, (TinyDecoder(str(tmp_path)),))


def test_saved_it_is_a_bundle_like_any_other(pipe: Pipeline, tmp_path: Path) -> None:
    made = apply(pipe, (Steps(2), Guidance(1), Runtime("openvino"), Quantize("int8-static")))
    save(made, tmp_path / "fast")
    again = load(tmp_path / "fast")
    assert (again.bundle.steps, again.traits.runtime) == (2, "openvino")
    np.testing.assert_array_equal(over_white(again), over_white(made))
