"""The adapter of diffusers pipelines, against the pipelines themselves."""

import json
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DiffusionPipeline

    import random_pipelines

from miaobi.errors import InputError, MachineError
from miaobi.loading import load as load_any
from miaobi.runtimes import diffusers as adapter
from miaobi.runtimes import diffusers_parts as parts
from miaobi.runtimes.diffusers import DiffusersPipeline, load
from miaobi.runtimes.memory import check_fits, weights_bytes

pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers and transformers about themselves
TINY = [name for name in random_pipelines.MAKERS if name.startswith("tiny")]
PROMPT = "a red apple"


@cache
def tiny(name: str) -> DiffusersPipeline:
    pipe = random_pipelines.build(name)
    return DiffusersPipeline(pipe, parts.traits_of(pipe, name, "cpu", 0)).with_size(64)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_pipelines.save("tiny-sd", tmp_path_factory.mktemp("pipelines"))


@pytest.mark.parametrize("name", TINY)
def test_a_picture_is_the_one_that_the_pipeline_itself_draws(name: str) -> None:
    pipeline = tiny(name)
    guided = parts.guidance_name(pipeline.pipe)
    more: dict[str, Any] = {guided: 3.0, "negative_prompt": "grey"} if guided else {}
    fresh = type(pipeline.pipe)(**pipeline.pipe.components)
    fresh.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    expected = fresh(
        PROMPT, num_inference_steps=2, height=64, width=64, generator=generator, output_type="np", **more
    ).images
    scale = 4 - parts.guidance_zero(fresh) if guided else None
    made = pipeline.generate(
        PROMPT, seed=5, steps=2, guidance=scale, negative_prompt="grey" if guided else None
    )
    np.testing.assert_array_equal(made.pixels[..., :3], np.rint(expected * 255).astype(np.uint8))
    assert (made.pixels[..., 3] == 255).all()


@pytest.mark.parametrize("name", TINY)
def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(name: str) -> None:
    pipeline = tiny(name)
    together = DiffusersPipeline(pipeline.pipe, replace(pipeline.traits, batch=2))
    pair = together.generate(PROMPT, n=2, seed=7, steps=2)
    alone = pipeline.generate(PROMPT, seed=8, steps=2)
    assert np.abs(pair.pixels[1].astype(int) - alone.pixels[0]).max() <= 1
    assert np.abs(pair.pixels[1].astype(int) - pair.pixels[0]).mean() > 5


def test_a_sampler_that_adds_noise_takes_it_from_each_pictures_seed() -> None:
    from diffusers import EulerAncestralDiscreteScheduler

    pipe = DiffusersPipeline(tiny("tiny-sd").pipe, replace(tiny("tiny-sd").traits, batch=2))
    pipe.pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.pipe.scheduler.config)
    pair = pipe.generate(PROMPT, n=2, seed=1, steps=3).pixels
    alone = pipe.generate(PROMPT, seed=2, steps=3).pixels
    assert np.abs(pair[1].astype(int) - alone[0]).max() <= 1


def test_different_prompts_are_drawn_together() -> None:
    pipeline = tiny("tiny-sd")
    together = DiffusersPipeline(pipeline.pipe, replace(pipeline.traits, batch=2))
    made = together.generate([PROMPT, "a black cat"], seed=3, steps=2)
    alone = pipeline.generate("a black cat", seed=3, steps=2)
    assert np.abs(made.pixels[1].astype(int) - alone.pixels[0]).max() <= 1


def test_the_receipt_tells_what_ran() -> None:
    seen: list[int] = []
    made = tiny("tiny-sd").generate(
        PROMPT, n=2, seed=4, steps=2, guidance=1, negative_prompt="x", style="noto", on_progress=seen.append
    )
    told = made.receipt
    assert (told.seeds, told.steps, told.sampler, told.size_px) == ([4, 5], 2, "ddim", 64)
    assert (told.device, told.dtype) == ("cpu", "float32")
    assert told.runtime.startswith("torch ")
    assert set(told.stages_ms) == {"encode", "sample", "decode"}
    assert min(told.stages_ms.values()) > 0
    assert sum(seen) == 2
    assert told.ignored == ["style: only bundles have it", "negative prompt: it needs guidance above 1"]
    assert "drawn after" not in str(told)
    assert json.loads(told.to_json())["bundle"] == "tiny-sd"


def test_a_text_is_encoded_once() -> None:
    pipeline = DiffusersPipeline(tiny("tiny-sd").pipe, tiny("tiny-sd").traits)
    calls: list[object] = []
    handle = pipeline.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first = pipeline.generate(PROMPT, seed=1, steps=1).pixels
    count = len(calls)
    again = pipeline.generate(PROMPT, seed=1, steps=1).pixels
    handle.remove()
    assert count == len(calls) == 2  # without and with the prompt
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny-sd", ("unet", True, 64)),
        ("tiny-sdxl", ("unet", True, 16)),
        ("tiny-sd3", ("transformer", True, 16)),
        ("tiny-flux", ("transformer", False, 16)),
        ("tiny-zimage", ("transformer", True, 16)),
        ("tiny-qwenimage", ("transformer", True, 16)),
    ],
)
def test_traits_follow_from_the_parts(name: str, expected: tuple[str, bool, int]) -> None:
    traits = tiny(name).traits
    assert (traits.backbone, traits.guided, traits.tokens) == expected
    assert traits.convolutions == (traits.backbone == "unet")
    assert traits.blocks >= 2
    assert traits.sampler in traits.samplers
    assert tiny(name).model_bytes > 4 * traits.parameters


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"n": 0}, "n is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"size_px": 63}, "multiple of 8"),
    ],
)
def test_values_outside_of_what_is_allowed_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        tiny("tiny-sd").generate(PROMPT, **wrong)
    with pytest.raises(TypeError, match="stile"):
        tiny("tiny-sd").generate(PROMPT, stile="noto")


def test_a_folder_is_loaded_and_draws_as_before(folder: Path) -> None:
    loaded = load_any(folder, threads=1)
    assert isinstance(loaded, DiffusersPipeline)
    assert loaded.traits.threads == 1
    assert loaded.load_ms > 0
    threads = torch.get_num_threads()
    made = loaded.generate(PROMPT, seed=2, steps=1)
    assert torch.get_num_threads() == threads
    expected = tiny("tiny-sd").generate(PROMPT, seed=2, steps=1)
    assert np.abs(made.pixels.astype(int) - expected.pixels).max() <= 1


def test_a_device_that_is_missing_is_told(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    told = load(folder, device="cuda").generate(PROMPT, steps=1).receipt
    assert (told.device, told.fallbacks) == ("cpu", ["device cuda: PyTorch finds none, ran on cpu"])
    with pytest.raises(InputError, match="unknown device"):
        load(folder, device="tpu")


def test_a_damaged_folder_and_an_unknown_name_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="cannot be loaded as a diffusers pipeline"):
        load(tmp_path)

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(DiffusionPipeline, "download", offline)
    with pytest.raises(MachineError, match=r"no route to host\); check the name and the network"):
        load("nobody/nothing")


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_the_estimate_is_what_the_weights_take(folder: Path, dtype: str, width: int) -> None:
    parameters = tiny("tiny-sd").model_bytes // 4
    assert weights_bytes(folder, dtype) == pytest.approx(parameters * width, rel=0.01)


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_fits("m", 10, 11)
    check_fits("m", 10, None)
    with pytest.raises(MachineError, match=r"m needs at least 11\.0 GB of memory and 10\.9 GB are available"):
        check_fits("m", 10 * 10**9, 10_900_000_000)
    monkeypatch.setattr(adapter, "available_bytes", lambda: 1000)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(MachineError, match="needs at least"):
        load(folder)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="no safetensors file"):
        weights_bytes(tmp_path, "float32")
