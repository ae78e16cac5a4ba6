import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miaobi
from miaobi import InputError, Pipeline, images, sampling
from miaobi.pipeline import MAX_IMAGES, MAX_SEED
from miaobi.runtimes import onnx


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Pipeline:
    return miaobi.load(tiny_bundle, threads=1)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_pictures_and_receipt(pipe: Pipeline) -> None:
    made = pipe.generate("red apple", n=3, seed=7, style="twemoji", steps=2)
    assert len(made) == 3
    assert [(one.mode, one.size) for one in made] == [("RGBA", (128, 128))] * 3
    receipt = made.receipt
    assert receipt.prompts == ["red apple"]
    assert (receipt.seeds, receipt.steps, receipt.style) == ([7, 8, 9], 2, "twemoji")
    assert (receipt.runtime, receipt.device, receipt.threads) == (onnx.runtime_name(), "cpu", 1)
    assert list(receipt.stages_ms) == ["plan", "encode", "retrieve", "context", "sample", "decode", "compose"]
    assert receipt.total_ms == pytest.approx(sum(receipt.stages_ms.values()), abs=0.05)
    assert receipt.peak_memory_bytes > 10_000_000
    assert len(receipt.neighbours[0]) == 3
    assert not any(one.startswith("twemoji/") for one in receipt.neighbours[0])
    assert (receipt.ignored, receipt.fallbacks) == ([], [])
    assert json.loads(receipt.to_json())["seeds"] == [7, 8, 9]
    assert "steps 2" in str(receipt)


def test_same_as_the_stages_one_by_one(pipe: Pipeline) -> None:
    """The pipeline against a plain restatement of its line, straight from the graphs."""
    features = pipe._encoder(["猫"])
    found = pipe.memory.chosen(pipe.memory.ranked(features.embedding), np.array([4]), 0, 3, seeds=[3])
    context = pipe._context(
        tokens=features.tokens, mask=features.mask, embedding=features.embedding, style=np.array([4]),
        neighbours=found.latents, neighbour_style=found.styles,
    )  # fmt: skip
    x: Any = np.random.Generator(np.random.Philox(3)).standard_normal((1, 32, 8, 8), np.float32)
    for t in (1.0, 0.75, 0.5, 0.25):
        x = x - 0.25 * pipe._sampled(x=x, t=np.array([t], np.float32), **context)["velocity"]
    expected = images.to_uint8(pipe._decoder(latents=x)["image"])
    assert difference(pipe.generate("猫", seed=3).pixels, expected) <= 1


@pytest.mark.parametrize("sampler", ["euler", "consistency"])
def test_a_picture_depends_on_its_prompt_and_seed_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    pipe = miaobi.load(tiny_bundle, threads=1)
    object.__setattr__(pipe.bundle, "sampler", sampler)
    many = pipe.generate(["red apple", "猫"], n=9, seed=100).pixels
    again = pipe.generate(["red apple", "猫"], n=9, seed=100).pixels
    np.testing.assert_array_equal(many, again)
    for row, prompt in enumerate(["red apple", "猫"]):
        for index in (0, 7, 8):
            alone = pipe.generate(prompt, seed=100 + index).pixels[0]
            assert difference(alone, many[9 * row + index]) <= 1
    assert difference(many[0], many[1]) > 20
    assert difference(many[0], many[9]) > 20


def test_style_and_steps_change_the_picture(pipe: Pipeline) -> None:
    base = pipe.generate("cat", seed=1).pixels
    assert difference(base, pipe.generate("cat", seed=1, style="noto").pixels) > 5
    assert difference(base, pipe.generate("cat", seed=1, steps=1).pixels) > 5


def test_a_random_seed_is_reported_and_repeats(pipe: Pipeline) -> None:
    first = pipe.generate("cat")
    np.testing.assert_array_equal(pipe.generate("cat", seed=first.receipt.seeds[0]).pixels, first.pixels)


@pytest.mark.parametrize(
    "prompt", ["🍎", "👩‍🚀🏽", "Красное яблоко", "تفاحة حمراء", "ส้ม", "‮red‬", "a\x00b", "!?", "7", "猫" * 500]
)
def test_unusual_prompts_are_drawn(pipe: Pipeline, prompt: str) -> None:
    assert pipe.generate(prompt, seed=0).pixels.shape == (1, 128, 128, 4)


def test_what_was_not_read_is_reported(pipe: Pipeline) -> None:
    ignored = pipe.generate("\x07red " + "cat " * 200, seed=0).receipt.ignored
    assert any("U+0007" in one for one in ignored)
    assert any("tokens" in one for one in ignored)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "is empty"),
        ({"prompt": "x" * 10_000}, "10000 characters; at most 1000"),
        ({"prompt": []}, "0 prompts given; give 1 to 64"),
        ({"prompt": ["cat"] * 9, "n": 8}, "choose n from 1 to 7"),
        ({"prompt": ["cat"] * 65}, "65 prompts given; give 1 to 64"),
        ({"n": 0}, f"choose n from 1 to {MAX_IMAGES}"),
        ({"n": 10_000}, f"choose n from 1 to {MAX_IMAGES}"),
        ({"seed": -1}, "seed is -1; choose 0 to"),
        ({"seed": MAX_SEED, "n": 2}, "choose 0 to"),
        ({"steps": 0}, "choose 1 to 100"),
        ({"tone": 6}, "choose 0"),
        ({"style": "fluent-flot"}, "twemoji, fluent, fluent-flat. Did you mean 'fluent-flat'?"),
        ({"style": "oil painting"}, "the styles are"),
    ],
)  # fmt: skip
def test_bad_input_names_the_value_and_what_is_allowed(
    pipe: Pipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        pipe.generate(**{"prompt": "cat", **arguments})
    assert message in str(error.value)


def test_largest_seed_is_drawn(pipe: Pipeline) -> None:
    assert pipe.generate("cat", seed=MAX_SEED).receipt.seeds == [MAX_SEED]


def test_progress_counts_every_picture(pipe: Pipeline) -> None:
    seen: list[int] = []
    pipe.generate(["cat", "apple"], n=9, seed=0, on_progress=seen.append)
    assert seen == [8, 8, 2]


def test_a_missing_device_falls_back_and_says_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    receipt = miaobi.load(tiny_bundle, device="cuda").generate("cat", seed=0).receipt
    assert receipt.device == "cpu"
    assert "cuda" in receipt.fallbacks[0]
    with pytest.raises(InputError, match="choose one of cpu, cuda"):
        miaobi.load(tiny_bundle, device="tpu")
    with pytest.raises(InputError, match="choose 1 to 1024"):
        miaobi.load(tiny_bundle, threads=0)


def test_skin_tone_comes_from_the_prompt_or_the_argument(pipe: Pipeline) -> None:
    made = pipe.generate(["hand: dark skin tone", "手: 较浅肤色", "hand"], seed=0)
    assert made.receipt.tones == [5, 1, 0]
    assert pipe.generate("hand: dark skin tone", seed=0, tone=0).receipt.tones == [0]


def test_noise_is_the_documented_one(pipe: Pipeline) -> None:
    drawn = sampling.draw(sampling.generators([5]), pipe.bundle.latent_shape)
    reference = np.random.Generator(np.random.Philox(5)).standard_normal((32, 8, 8), np.float32)
    np.testing.assert_array_equal(drawn[0], reference)


SCENE = "a thing 0 above a thing 1 in the garden"


def test_a_scene_is_drawn_in_layers(pipe: Pipeline) -> None:
    made = pipe.generate(SCENE, n=2, seed=4, size_px=256)
    assert made.pixels.shape == (2, 256, 256, 4)
    assert made.receipt.scenes[0] is not None
    names = [layer.name for layer in made.layers[0]]
    assert names == ["background", "tulip", "sunflower", "thing 0", "thing 1"]
    alone = pipe.generate(SCENE, seed=5, size_px=256)
    assert np.abs(made.pixels[1].astype(int) - alone.pixels[0]).max() <= 1
    assert pipe.generate(SCENE, seed=4).pixels.shape == (1, 512, 512, 4)


def test_without_a_planner_the_prompt_is_one_picture(pipe: Pipeline) -> None:
    made = pipe.generate(SCENE, seed=4, expand=None)
    assert made.receipt.scenes == [None]
    assert made.pixels.shape == (1, 128, 128, 4)


def test_a_bundle_of_whole_pictures_plans_no_layers(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text("utf-8"))
    (bundle_copy / "bundle.json").write_text(json.dumps({**manifest, "scenes": False}), "utf-8")
    pipe = miaobi.load(bundle_copy)
    made = pipe.generate(SCENE, seed=4)
    np.testing.assert_array_equal(made.pixels, pipe.generate(SCENE, seed=4, expand=None).pixels)
    asked = pipe.generate(SCENE, seed=4, expand="openai:m@http://127.0.0.1:9/v1").receipt.ignored
    note = "the planner openai:m@http://127.0.0.1:9/v1: tiny draws whole pictures"
    assert asked == [note, *made.receipt.ignored]


def test_prompts_of_one_call_share_a_size(pipe: Pipeline) -> None:
    made = pipe.generate(["cat", SCENE], seed=4)
    assert made.pixels.shape == (2, 512, 512, 4)
    assert made.receipt.scenes[0] is None
    assert len(made.receipt.neighbours[0]) == 3
    assert len(made.receipt.neighbours[1]) == 3 * 4


def test_refinement_is_in_the_receipt(pipe: Pipeline) -> None:
    made = pipe.generate("cat", n=2, seed=4, refine="redraw:strength=0.5,upscale:scale=2")
    assert made.pixels.shape == (2, 256, 256, 4)
    assert [one["name"] for one in made.receipt.refined[1]] == ["redraw", "upscale"]
    assert "refine" in made.receipt.stages_ms


def test_a_dead_language_model_changes_nothing_but_the_receipt(pipe: Pipeline) -> None:
    plain = pipe.generate(SCENE, seed=4, size_px=128)
    made = pipe.generate(
        SCENE, seed=4, size_px=128, expand="openai:m@http://127.0.0.1:9/v1", expand_timeout_s=2
    )
    np.testing.assert_array_equal(made.pixels, plain.pixels)
    assert any("built-in planner" in note for note in made.receipt.fallbacks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_px": 100}, "size is 100 px; choose 128, 256, 512"),
        ({"expand": "magic"}, "unknown planner 'magic'"),
        ({"refine": "polish"}, "unknown stage 'polish'"),
        ({"refine": "upscale:scale=3"}, "choose 2 or 4"),
    ],
)
def test_bad_plans_and_stages(pipe: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.generate("cat", **arguments)
