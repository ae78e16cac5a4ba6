"""Recipes: TOML both ways, values that no pipeline can use, and which steps are refused where."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.accelerate import check
from miaobi.accelerate.recipe import (
    KINDS,
    Batch,
    Cache,
    ChannelsLast,
    Compile,
    Guidance,
    MergeTokens,
    Precision,
    Prune,
    Quantize,
    RecipeError,
    Runtime,
    Sampler,
    ShareLayers,
    Step,
    Steps,
    Threads,
    TinyDecoder,
    describe,
    dumps,
    loads,
)
from miaobi.traits import RUNTIMES, Traits

UNET = Traits(
    model="unet 1",
    kind="diffusers",
    family="diffusion",
    backbone="unet",
    runtime="torch",
    runtimes=("torch", "onnxruntime", "openvino", "mnn"),
    device="cpu",
    dtype="float32",
    steps=20,
    most_steps=1000,
    guidance=7.5,
    guided=True,
    sampler="ddim",
    samplers=("ddim", "euler"),
    size_px=512,
    tokens=4096,
    blocks=4,
    weights=True,
    parameters=10**9,
    convolutions=True,
)
TINY = replace(UNET, model="tiny 1", kind="bundle", backbone="transformer", tokens=16, blocks=8)
UNGUIDED = replace(TINY, guided=False, runtime="openvino", sampler="euler")
steps = st.one_of(
    st.builds(Prune, st.floats(0.01, 0.99), st.sampled_from(["structured", "unstructured"])),
    st.builds(ShareLayers, st.integers(2, 8)),
    st.builds(TinyDecoder, st.text(min_size=1)),
    st.builds(Steps, st.integers(1, 1000)),
    st.builds(Sampler, st.sampled_from(["ddim", "euler"])),
    st.builds(Guidance, st.floats(1, 20), st.floats(0, 0.4), st.floats(0.5, 1)),
    st.builds(Cache, st.sampled_from(["deep", "first-block"]), st.integers(2, 10)),
    st.builds(MergeTokens, st.floats(0.01, 0.75)),
    st.builds(Runtime, st.sampled_from(RUNTIMES)),
    st.builds(
        Precision,
        st.sampled_from(["float32", "float16", "bfloat16"]),
        st.sampled_from(["all", "decoder"]),
    ),
    st.builds(Quantize, st.sampled_from(["int8-dynamic", "int8-static", "int4-weights"])),
    st.builds(ChannelsLast),
    st.builds(Compile),
    st.builds(Threads, st.integers(1, 64)),
    st.builds(Batch, st.integers(1, 64)),
)


@given(st.lists(steps, max_size=6))
def test_toml_round_trip(recipe: list[Step]) -> None:
    assert loads(dumps(tuple(recipe))) == tuple(recipe)
    assert describe(tuple(recipe))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[step]]\nkind = 'stepps'\n", "choose one of"),
        ("[[step]]\nkind = 'steps'\n", "needs count"),
        ("[[step]]\nkind = 'steps'\ncount = 4\nsize = 3\n", "has no size"),
        ("[[step]]\nkind = 'steps'\ncount = 'four'\n", "a whole number"),
        ("[[step]]\nkind = 'steps'\ncount = true\n", "a whole number"),
        ("[[step]]\nkind = 'runtime'\nruntime = 'tvm'\n", "choose one of torch"),
        ("[[step]]\nkind = 'guidance'\nscale = 3\nbegin = 0.9\nend = 0.5\n", "rising shares"),
        ("[[step]\n", "no TOML"),
        ("step = 3\n", "[[step]] tables"),
    ],
)
def test_bad_recipe_names_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told.replace("[", r"\[")):
        loads(text)


def test_check_follows_the_recipe() -> None:
    after = check(UNET, (Steps(4), Guidance(1), Cache("deep"), Quantize("int8-dynamic"), Threads(2)))
    assert (after.steps, after.guided, after.cached, after.quantized, after.threads) == (
        4,
        False,
        True,
        "int8-dynamic",
        2,
    )


def test_the_decoder_alone_computes_in_another_type() -> None:
    after = check(UNET, (Precision("bfloat16", "decoder"),))
    assert (after.dtype, after.decoder_dtype, after.dtypes()) == (
        "float32",
        "bfloat16",
        "float32, decoder bfloat16",
    )
    both = check(UNET, (Precision("bfloat16"),))
    assert (both.decoder_dtype, both.dtypes()) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize(
    ("traits", "recipe", "told"),
    [
        (UNET, (Steps(1), Cache("deep")), "one step has no earlier one"),
        (UNET, (Cache("first-block"),), "is for a transformer"),
        (UNET, (Steps(4), Cache("deep", 5)), "above its 4 steps"),
        (UNET, (Steps(40),), "only be slower"),
        (UNET, (Steps(20),), "already"),
        (UNET, (Sampler("heun"),), "choose one of ddim, euler"),
        (UNET, (Guidance(1), Guidance(3)), "given twice"),
        (replace(UNET, guided=False), (Guidance(2),), "without guidance"),
        (UNET, (Runtime("torch"),), "already"),
        (UNET, (Runtime("onnxruntime"), Precision("bfloat16")), "computes in fp32"),
        (UNET, (Runtime("onnxruntime"), ChannelsLast()), "chooses its own layout"),
        (UNET, (Runtime("onnxruntime"), Compile()), "compiles each graph anyway"),
        (UNET, (Runtime("openvino"), Compile()), "OpenVINO for a bundle"),
        (UNET, (Runtime("mnn"), Quantize("int8-static")), "choose int8-weights"),
        (UNET, (Runtime("mnn"), Precision("bfloat16")), "computes in fp32"),
        (TINY, (Runtime("openvino"), Compile()), "without guidance alone"),
        (UNGUIDED, (Precision("bfloat16", "decoder"), Compile()), "computes in one type"),
        (replace(UNGUIDED, sampler="consistency"), (Compile(),), "Euler's method alone"),
        (replace(TINY, family="autoregressive"), (Runtime("openvino"), Compile()), "how tokens are chosen"),
        (UNET, (Quantize("int8-static"),), "add Runtime"),
        (UNGUIDED, (Precision("float16"), Quantize("int8-static")), "reference code"),
        (UNET, (Precision("float32", "decoder"),), "already"),
        (UNET, (Precision("bfloat16"), MergeTokens()), "put it before"),
        (UNET, (ShareLayers(2),), "differ in shape"),
        (TINY, (MergeTokens(),), "of a U-Net"),
        (replace(UNET, tokens=256), (MergeTokens(),), "256 tokens"),
        (TINY, (ShareLayers(9),), "only 8 blocks"),
        (replace(TINY, weights=False), (Prune(0.5),), "no PyTorch weights"),
        (
            replace(TINY, runtime="onnxruntime"),
            (Quantize("int8-dynamic"), Batch(8)),
            "depend on the others",
        ),
    ],
)
def test_refused_with_the_reason(traits: Traits, recipe: tuple[Step, ...], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        check(traits, recipe)


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(RecipeError, match=r"only be slower.*is for a transformer"):
        check(UNET, (Steps(40), Cache("first-block")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_rule(kind: str) -> None:
    from miaobi.accelerate import rules

    assert KINDS[kind] in rules._RULES


def test_values_that_no_pipeline_can_use() -> None:
    bad: list[Any] = [
        lambda: Steps(0),
        lambda: Prune(1.0),
        lambda: Guidance(0.5),
        lambda: MergeTokens(0.9),
        lambda: Threads(0),
        lambda: Batch(65),
        lambda: Cache("deep", 1),
        lambda: Quantize("int2"),  # type: ignore[arg-type]
    ]
    for make in bad:
        with pytest.raises(RecipeError, match="choose"):
            make()
