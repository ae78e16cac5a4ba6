"""Recipes for diffusers pipelines: what they leave as it was, and how close the new pipeline stays."""

import copy
import json
import sys
import warnings
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
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    import random_pipelines
    from miaobi.accelerate.diffusers import changed

from torch import nn

from miaobi.accelerate import graph_cache
from miaobi.accelerate.diffusers_wrappers import Limited
from miaobi.accelerate.exported import Exported, Options, layout_of, rebuilt
from miaobi.accelerate.recipe import (
    Batch,
    Cache,
    ChannelsLast,
    Distill,
    Guidance,
    MergeTokens,
    Precision,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Sampler,
    Steps,
    TinyDecoder,
)
from miaobi.accelerate.rules import PACKAGES
from miaobi.accelerate.transform import apply
from miaobi.errors import InputError, MachineError
from miaobi.runtimes import diffusers_parts as parts
from miaobi.runtimes.clock import Clock
from miaobi.runtimes.diffusers import DiffusersPipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers and torchao about themselves
PROMPT = "a red apple"
STEPS = 3


@cache
def tiny(name: str = "tiny-sd") -> DiffusersPipeline:
    pipe = random_pipelines.build(name)
    return DiffusersPipeline(pipe, parts.traits_of(pipe, name, "cpu", 0)).with_size(64)


def drawn(pipeline: DiffusersPipeline, **more: Any) -> np.ndarray:
    return pipeline.generate(PROMPT, seed=3, **({"steps": STEPS} | more)).pixels


@cache
def before(name: str = "tiny-sd") -> np.ndarray:
    return drawn(tiny(name))


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean((one[..., :3].astype(float) - other[..., :3]) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(
    ("recipe", "least_db", "most_db"),
    [
        ((ChannelsLast(),), 60, 100),
        ((Precision("bfloat16"),), 25, 60),
        ((Precision("bfloat16", "decoder"),), 40, 70),
        ((Quantize("int8-weights"),), 40, 80),
        ((Quantize("int8-dynamic"),), 30, 70),
        ((Quantize("int4-weights"),), 20, 60),
        ((Cache("deep"),), 10, 50),
        ((MergeTokens(0.5),), 15, 60),
        ((Guidance(7.5, 0.4, 1.0),), 5, 40),
        ((Batch(2),), 99, 100),
    ],
    ids=str,
)
def test_the_new_pipeline_is_near_and_the_old_one_as_it_was(
    recipe: Recipe, least_db: float, most_db: float
) -> None:
    expected = before()
    weights = [one.data_ptr() for one in tiny().pipe.unet.parameters()]
    made = changed(tiny(), recipe)
    assert least_db <= psnr_db(drawn(made), expected) <= most_db
    np.testing.assert_array_equal(drawn(tiny()), expected)
    assert [one.data_ptr() for one in tiny().pipe.unet.parameters()] == weights
    assert made.origin == (tiny(), recipe)


def test_what_does_not_change_is_shared() -> None:
    made = changed(tiny(), (Quantize("int8-weights"),))
    convolutions = [one for one in made.pipe.unet.modules() if isinstance(one, nn.Conv2d)]
    own = {one.data_ptr() for one in tiny().pipe.unet.parameters()}
    assert {one.weight.data_ptr() for one in convolutions} <= own
    assert made.pipe.text_encoder is tiny().pipe.text_encoder


def test_a_changed_pipeline_is_changed_further() -> None:
    made = apply(apply(tiny(), (Steps(4), ChannelsLast())), (Steps(2), Precision("bfloat16")))
    assert (made.traits.steps, made.traits.dtype) == (2, "bfloat16")
    assert [step.name for step in made.origin[1]] == ["steps", "channels-last", "precision"]
    assert made.generate(PROMPT, seed=3).receipt.steps == 2


@pytest.mark.parametrize("name", ["tiny-sd", "tiny-sd3", "tiny-zimage", "tiny-qwenimage", "tiny-flux"])
def test_every_sampler_that_is_offered_draws(name: str) -> None:
    pictures = [before(name)]
    for method in tiny(name).traits.samplers:
        if method != tiny(name).traits.sampler:
            made = changed(tiny(name), (Sampler(method),))
            assert made.traits.sampler == method
            pictures.append(drawn(made))
            np.testing.assert_array_equal(drawn(made), pictures[-1])
    assert all(np.isfinite(one).all() and one[..., :3].std() > 5 for one in pictures)
    assert len({one.tobytes() for one in pictures}) == len(pictures)


@pytest.mark.parametrize("name", ["tiny-sd", "tiny-sdxl", "tiny-sd3", "tiny-zimage", "tiny-qwenimage"])
def test_outside_of_its_part_guidance_is_off_and_costs_nothing(name: str) -> None:
    """A part that no step falls into is no guidance at all; one evaluation is run where two were."""
    made = changed(tiny(name), (Guidance(5.0, 0.99, 1.0),))
    network = getattr(made.pipe, parts.denoiser_name(made.pipe) or "")
    rows: list[int] = []

    def count(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(len(given[0] if given else named["hidden_states"]))

    handle = network.network.register_forward_pre_hook(count, with_kwargs=True)
    limited = drawn(made)
    handle.remove()
    assert rows == [1] * STEPS
    assert psnr_db(limited, drawn(tiny(name), guidance=1)) > 50


def test_inside_of_its_part_guidance_is_as_ever() -> None:
    network = nn.Linear(3, 3)
    clock = Clock(steps=4)
    limited = Limited(network, clock, 0.25, 0.75, apart=False)
    given = torch.arange(12.0).reshape(4, 3)
    for done, guided in enumerate([False, True, True, False]):
        clock.done = done
        expected = network(given) if guided else torch.cat([network(given[2:])] * 2)
        torch.testing.assert_close(limited(given), expected)


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-flux", "tiny-qwenimage", "tiny-zimage"])
def test_a_transformers_first_block_decides(name: str) -> None:
    never = changed(tiny(name), (Cache("first-block", threshold=1e-9),))
    np.testing.assert_array_equal(drawn(never), before(name))
    often = changed(tiny(name), (Cache("first-block", threshold=100.0),))
    assert psnr_db(drawn(often), before(name)) < 60
    np.testing.assert_array_equal(drawn(often), drawn(often))  # nothing is left of the picture before
    with pytest.raises(RecipeError, match="a graph cannot"):
        apply(tiny(name), (Cache("first-block"), Runtime("openvino")))


def test_a_small_decoder_takes_the_decoders_place(tmp_path: Path) -> None:
    AutoencoderTiny(
        decoder_block_out_channels=(8, 8, 8, 8), encoder_block_out_channels=(8, 8, 8, 8)
    ).save_pretrained(tmp_path / "fits")
    AutoencoderTiny(
        latent_channels=16, decoder_block_out_channels=(8, 8, 8, 8), encoder_block_out_channels=(8, 8, 8, 8)
    ).save_pretrained(tmp_path / "other")
    made = apply(tiny(), (TinyDecoder(str(tmp_path / "fits")),))
    assert drawn(made).shape == before().shape
    assert made.model_bytes < tiny().model_bytes
    with pytest.raises(InputError, match="16 channels"):
        apply(tiny(), (TinyDecoder(str(tmp_path / "other")),))
    with pytest.raises(InputError, match="no folder of an AutoencoderTiny"):
        apply(tiny(), (TinyDecoder(str(tmp_path)),))


def test_a_step_for_bundles_is_refused() -> None:
    with pytest.raises(RecipeError, match="no meaning for a diffusers pipeline"):
        changed(tiny(), (Distill("emoji"),))


class Block(nn.Module):
    """Convolution, matrix product and a list, as denoisers have them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = nn.Conv2d(16, 32, 3, padding=1)
        self.linear = nn.Linear(32, 64)

    def forward(self, picture: Any, time: Any, more: dict[str, Any] | None = None, flag: bool = True) -> Any:
        hidden = torch.nn.functional.silu(self.convolution(picture)) * time
        tokens = self.linear(hidden.flatten(2).transpose(1, 2))
        return tokens, [hidden + (more or {}).get("shift", 0)]


def exported(module: nn.Module, runtime: str, quantized: str | None = None) -> tuple[Exported, list[str]]:
    told: list[str] = []
    rows = [(torch.randn(2, 16, 8, 8), torch.rand(())) for _ in range(4)]
    options = Options(runtime, "float32", quantized, 1, "")
    return Exported("block", module, options, lambda _: rows, told.append), told


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    return tmp_path / "graphs"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "mnn"])
def test_a_graph_gives_what_the_module_gives_and_is_kept(
    runtime: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[runtime][0])
    block = Block().eval()
    graph, _ = exported(block, runtime)
    picture, time, shift = torch.randn(2, 16, 8, 8), torch.tensor(0.5), torch.ones(1)
    with torch.inference_mode():
        for more in (None, {"shift": shift}):
            expected = block(picture, time, more=more)
            tokens, (hidden,) = graph(picture, time, more=more)
            torch.testing.assert_close(tokens, expected[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(hidden, expected[1][0], rtol=1e-4, atol=1e-4)
        kept = sorted(store.iterdir())
        assert len(kept) == 2
        monkeypatch.setattr("miaobi.accelerate.exported.Flat", lambda *_: pytest.fail("exported again"))
        again, _ = exported(Block().eval(), runtime)
        torch.testing.assert_close(
            again(picture, time, more=None)[0], block(picture, time)[0], rtol=1e-4, atol=1e-4
        )
        monkeypatch.undo()
        monkeypatch.setenv("MIAOBI_HOME", str(store.parent))
        exported(Block(1).eval(), runtime)[0](picture, time, more=None)  # other weights
    assert len(list(store.iterdir())) == 3


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
        ("openvino", "int4-weights"),
        ("mnn", "int8-weights"),
        ("mnn", "int4-weights"),
    ],
)
def test_graphs_in_integers_are_near_and_say_what_they_are(runtime: str, method: str, store: Path) -> None:
    pytest.importorskip(PACKAGES[runtime][0])
    if runtime == "openvino":
        pytest.importorskip("nncf")
    block = Block().eval()
    graph, told = exported(block, runtime, method)
    picture, time = torch.randn(2, 16, 8, 8), torch.tensor(0.5)
    with torch.inference_mode():
        expected, made = block(picture, time)[0], graph(picture, time)[0]
    error = float((made - expected).std() / expected.std())
    assert 1e-5 < error < (0.25 if "int4" in method else 0.05)
    assert told
    assert all("int" in line and "fp32" in line for line in told)


def test_a_graph_too_large_for_mnn_is_refused_before_it_is_loaded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("MNN")
    block = Block().eval()
    filtered = 4 * 9 * 16 * 32 * 4
    needed = filtered + 4 * (32 + 32 * 64 + 64)
    with torch.inference_mode():
        exported(block, "mnn")[0](torch.randn(2, 16, 8, 8), torch.tensor(0.5))
        told = json.loads(next(store.glob("*/facts.json")).read_text("utf-8"))
        assert needed <= told["memory_bytes"] < 1.01 * needed
        monkeypatch.setattr("miaobi.accelerate.graph_mnn.available_bytes", lambda: needed)
        with pytest.raises(MachineError, match="what MNN makes of the network needs"):
            exported(block, "mnn")[0](torch.randn(2, 16, 8, 8), torch.tensor(0.5))


def test_what_cannot_be_a_graph_is_told(store: Path) -> None:
    class Odd(nn.Module):
        def forward(self, one: Any) -> Any:
            return {"sum": one.sum()}

    with pytest.raises(MachineError, match="cannot return dict"):
        exported(Odd(), "onnxruntime")[0](torch.ones(2))
    assert not list(store.glob("*"))  # nothing half-made is left


def test_a_graph_that_fails_half_way_leaves_nothing(store: Path) -> None:
    def fail(where: Path) -> dict[str, Any]:
        (where / "graph.onnx").write_bytes(b"half")
        raise RuntimeError("out of something")

    folder = graph_cache.folder_of({"a": 1})
    with pytest.raises(RuntimeError):
        graph_cache.made(folder, {"a": 1}, fail)
    assert not [*store.glob("*"), *store.glob(".*")]
    assert graph_cache.made(folder, {"a": 1}, lambda _: {"x": 2}) == {"x": 2}
    assert graph_cache.made(folder, {"a": 1}, fail) == {"x": 2}


def test_the_digest_is_of_the_values() -> None:
    one, same, other = Block(), Block(), Block(1)
    assert graph_cache.weights_digest(one) == graph_cache.weights_digest(same)
    assert graph_cache.weights_digest(one) != graph_cache.weights_digest(other)
    with torch.no_grad():
        one.linear.bias[0] += 1
    assert graph_cache.weights_digest(one) != graph_cache.weights_digest(same)


def test_layouts_are_rebuilt() -> None:
    value = (torch.zeros(1), [torch.ones(2), (torch.ones(3),)])
    flat = iter([value[0], value[1][0], value[1][1][0]])
    assert repr(rebuilt(layout_of(value), flat)) == repr(value)


def test_a_whole_pipeline_runs_as_graphs(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    pipe = copy.copy(tiny().pipe)
    pipe.unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()
    pipe.vae = AutoencoderTiny(
        decoder_block_out_channels=(8,) * 4, encoder_block_out_channels=(8,) * 4
    ).eval()
    small = DiffusersPipeline(pipe, parts.traits_of(pipe, "small", "cpu", 0))
    made = apply(small, (Cache("deep"), Runtime("openvino")))
    told = made.generate(PROMPT, seed=3, steps=3)
    assert psnr_db(told.pixels, drawn(changed(small, (Cache("deep"),)))) > 50
    assert told.receipt.runtime.startswith("openvino ")
    assert made.model_bytes != small.model_bytes  # that of the files
    assert len(list(store.iterdir())) == 3  # all of the network, its outermost layers, the decoder
