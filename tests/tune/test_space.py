"""The space of recipes: legal all of it, and its own walk reversed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.accelerate import Batch, Cache, Compile, Distill, Precision, Runtime, Steps
from miaobi.accelerate.rules import check
from miaobi.tune.space import space_of

from .synthetic import TRAITS

WHOLE = space_of(TRAITS, "throughput", cores=4)


@given(st.randoms(use_true_random=False))
def test_a_walk_is_legal_and_its_parameters_lead_back(rng: "object") -> None:
    recipe = WHOLE.walk(lambda name, labels: rng.choice(labels))  # type: ignore[attr-defined]
    check(TRAITS, recipe)
    chosen = WHOLE.parameters(recipe)
    assert WHOLE.walk(lambda name, labels: chosen[name]) == recipe
    for near in WHOLE.neighbours(recipe):
        check(TRAITS, near)
        assert near != recipe


def test_starts_are_legal_and_begin_with_the_baseline() -> None:
    starts = WHOLE.starts()
    assert starts[0] == ()
    assert len(starts) == len(set(starts)) > 10
    for one in starts:
        check(TRAITS, one)
    assert any(isinstance(step, Cache) for one in starts for step in one)


def test_steps_that_failed_are_not_offered() -> None:
    barred = frozenset({Compile(), *(Steps(count) for count in range(1, 20))})
    offered: list[str] = []
    WHOLE.walk(lambda name, labels: offered.extend(labels) or labels[-1], barred)  # type: ignore[func-returns-value]
    assert "compile()" not in offered
    assert not any(one.startswith("steps") for one in offered)
    assert all(barred.isdisjoint({*near} - {Runtime("onnxruntime")}) for near in WHOLE.neighbours((), barred))


def test_what_the_space_holds_follows_from_the_traits() -> None:
    kinds = {slot.kind for slot in space_of(TRAITS, students=["x"], decoders=["y"]).slots}
    assert {"distill", "tiny-decoder", "steps", "runtime"} <= kinds
    assert "batch" not in kinds
    assert any(isinstance(one, Batch) for slot in WHOLE.slots for one in slot.options)
    assert not space_of(TRAITS, students=["x"]).legal((Distill("x"),))  # students are for bundles
    one_step = space_of(replace(TRAITS, steps=1, guided=False, guidance=1.0))
    assert all(slot.kind != "steps" for slot in one_step.slots)


def test_bf16_is_not_offered_where_the_cpu_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for lacks in (True, False):
        monkeypatch.setattr("miaobi.tune.space.lacks_bf16", lambda: lacks)  # noqa: B023
        options = {one for slot in space_of(TRAITS).slots for one in slot.options}
        assert (Precision("bfloat16") in options) is not lacks
        assert Precision("float16") in options


def test_torch_compile_needs_patience() -> None:
    hurried = space_of(TRAITS, cores=2, patient=False)
    assert hurried.legal((Runtime("onnxruntime"),))
    assert not hurried.legal((Compile(),))
    assert space_of(TRAITS, cores=2).legal((Compile(),))
    assert not any(Compile() in one for one in hurried.starts())
