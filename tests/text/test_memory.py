from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.errors import BundleError
from miaobi.text import memory
from miaobi.text.memory import Memory

SHAPE = (4, 2, 2)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(seed: int = 0, concepts: int = 6, pictures: int = 30, keys: int = 20) -> Memory:
    rng = np.random.default_rng(seed)
    return Memory(
        keys=unit(rng, keys, 8).astype(np.float16),
        key_concept=rng.permutation(np.arange(keys) % concepts).astype(np.int32),
        entry_concept=rng.integers(0, concepts, pictures).astype(np.int32),
        entry_style=rng.integers(0, 4, pictures).astype(np.uint8),
        entry_tone=rng.integers(0, 3, pictures).astype(np.uint8),
        latents=rng.integers(0, 256, (pictures, 8)).astype(np.uint8),
        scale=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        style_rank=np.stack([[0, *rng.permutation(3) + 1] for _ in range(4)])[
            np.arange(4)[:, None], (np.arange(4) - np.arange(4)[:, None]) % 4
        ].astype(np.uint16),
        shape=SHAPE,
        concepts=[
            {"slug": f"c{index}", "label_en": f"c {index}", "label_zh": f"概念{index}"}
            for index in range(concepts)
        ],
        ids=[f"style/{index}" for index in range(pictures)],
    )


def slow_rank(embedding: np.ndarray, keys: np.ndarray, key_concept: np.ndarray, top: int) -> list[int]:
    best = {
        int(concept): max(
            round(float(embedding @ keys[index]) * 1e4) for index in np.flatnonzero(key_concept == concept)
        )
        for concept in np.unique(key_concept)
    }
    return sorted(best, key=lambda concept: (-best[concept], concept))[:top]


def slow_choice(
    held: Memory, ranked: list[int], style: int, tone: int, k: int, banned: set[int]
) -> list[int]:
    chosen: list[int] = []
    for concept in ranked:
        entries = [
            int(one) for one in np.flatnonzero(held.entry_concept == concept) if int(one) not in banned
        ]
        if concept == ranked[0]:
            entries = [one for one in entries if held.entry_style[one] != style] or entries
        chosen += sorted(
            entries,
            key=lambda one: (
                held.entry_tone[one] != tone,
                held.style_rank[style, held.entry_style[one]],
                one,
            ),
        )
    return (chosen + chosen[:1] * k)[:k]


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_ranking_agrees_with_a_plain_loop(seed: int, top: int) -> None:
    held = make(seed)
    queries = unit(np.random.default_rng(seed + 1), 5, 8)
    keys = held.keys.astype(np.float32)
    ranked, scores = memory.rank_concepts(queries, keys, held.key_concept, 6, top)
    for query, row in zip(queries, ranked, strict=True):
        assert row.tolist() == slow_rank(query, keys, held.key_concept, top)
    assert (np.diff(scores, axis=1) <= 1e-4).all()


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_rule_agrees_with_a_plain_loop(seed: int, k: int) -> None:
    held = make(seed)
    rng = np.random.default_rng(seed + 2)
    queries, style, tone = unit(rng, 4, 8), rng.integers(0, 4, 4), rng.integers(0, 3, 4)
    exclude = rng.integers(-1, len(held.ids), (4, 3))
    found = held.neighbours(queries, style, tone, k, exclude)
    keys = held.keys.astype(np.float32)
    for index in range(4):
        ranked = slow_rank(queries[index], keys, held.key_concept, 6)
        expected = slow_choice(held, ranked, style[index], tone[index], k, set(exclude[index].tolist()))
        assert found.entries[index].tolist() == expected
    np.testing.assert_array_equal(found.styles, held.entry_style[found.entries])
    assert found.latents.shape == (4, k, *SHAPE)


def test_one_query_and_a_batch_find_the_same() -> None:
    held = make()
    queries = unit(np.random.default_rng(5), 40, 8)
    together = held.neighbours(queries, np.zeros(40, int)).entries
    alone = [held.neighbours(query[None], np.zeros(1, int)).entries[0] for query in queries]
    np.testing.assert_array_equal(together, alone)


def test_seeds_mix_the_styles_of_the_best_concept_behind_the_first_picture() -> None:
    held = make(pictures=24, concepts=3)
    held = replace(
        held,
        entry_concept=np.repeat(np.arange(3, dtype=np.int32), 8),
        entry_style=np.tile(np.arange(4, dtype=np.uint8), 6),
        entry_tone=np.zeros(24, np.uint8),
    )
    queries, style = unit(np.random.default_rng(5), 1, 8), np.array([1])
    ranked = held.ranked(queries)
    plain = held.chosen(ranked, style, k=22).entries[0]
    seeds = range(200)
    mixed = held.chosen(ranked.repeat(200, axis=0), style.repeat(200), k=22, seeds=seeds).entries
    best = held.entry_concept[plain] == ranked[0, 0]
    assert best.sum() > 3
    np.testing.assert_array_equal(np.sort(mixed[:, best], axis=1), np.sort(plain[best])[None].repeat(200, 0))
    np.testing.assert_array_equal(mixed[:, ~best], plain[~best][None].repeat(200, 0))
    assert len(np.unique(held.entry_style[mixed[:, best]], axis=0)) == 6  # the asked style is left out
    assert (mixed[:, 0] == plain[0]).all()
    alone = [held.chosen(ranked, style, k=22, seeds=[seed]).entries[0] for seed in seeds]
    np.testing.assert_array_equal(mixed, alone)


def test_concepts_of_one_name_keep_their_order() -> None:
    key = unit(np.random.default_rng(0), 1, 8)
    ranked, _ = memory.rank_concepts(key, np.repeat(key, 5, axis=0), np.array([4, 3, 2, 1, 0]), 5, 5)
    assert ranked.tolist() == [[0, 1, 2, 3, 4]]


def test_too_few_pictures_repeat_the_best_and_none_is_an_error() -> None:
    held = make(pictures=2, concepts=2)
    found = held.neighbours(held.keys[:1].astype(np.float32), np.zeros(1, int), k=4)
    best, other, *rest = found.entries[0].tolist()
    assert {best, other} == {0, 1}
    assert rest == [best, best]
    with pytest.raises(ValueError, match="no picture left"):
        held.neighbours(held.keys[:1].astype(np.float32), np.zeros(1, int), exclude=np.array([[0, 1]]))


def test_of_styles_that_nothing_is_known_about_the_asked_one_is_first_then_they_go_by_number() -> None:
    rank = memory.by_number()
    assert rank[2].argsort()[:5].tolist() == [2, 0, 1, 3, 4]


def test_styles_are_ranked_by_how_little_a_concept_differs_in_them() -> None:
    rng = np.random.default_rng(0)
    things = rng.standard_normal((20, *SHAPE)).astype(np.float32)
    # style 1 draws almost like style 0, style 2 otherwise, style 3 has nothing in common with the others
    drawn = [things, things + 0.1, things + 2 * rng.standard_normal(things.shape).astype(np.float32)]
    latents = np.concatenate([*drawn, things[:2]])
    concept = np.concatenate([np.tile(np.arange(20), 3), [50, 51]])
    style = np.concatenate([np.repeat(np.arange(3), 20), [3, 3]])
    shuffled = rng.permutation(len(latents))
    rank = memory.rank_styles(latents[shuffled], concept[shuffled], style[shuffled], 4)
    order = rank.argsort(axis=1).tolist()
    assert [order[0], order[1], order[3]] == [[0, 1, 2, 3], [1, 0, 2, 3], [3, 0, 1, 2]]
    assert (rank[2, 2], rank[2, 3]) == (0, 3)


@given(st.integers(0, 2**32))
def test_packing_keeps_every_level(seed: int) -> None:
    packed = np.random.default_rng(seed).integers(0, 256, (3, 8)).astype(np.uint8)
    scale = np.array([0.1, 0.5, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(memory.pack(memory.unpack(packed, scale, SHAPE), scale), packed)


@given(st.integers(0, 2**32))
def test_packing_is_off_by_half_a_step_at_most(seed: int) -> None:
    latents = np.random.default_rng(seed).standard_normal((3, *SHAPE)).astype(np.float32)
    scale = np.full(4, 0.4, np.float32)
    error = np.abs(memory.unpack(memory.pack(latents, scale), scale, SHAPE) - latents)
    inside = np.abs(latents) <= 7.5 * 0.4
    assert error[inside].max() <= 0.2 + 1e-5


def test_best_scale_is_near_the_theory_for_gaussians() -> None:
    """16 even levels for a unit Gaussian are best at a step of 0.335, error 0.01154 (Max 1960)."""
    latents = np.random.default_rng(0).standard_normal((2000, *SHAPE)).astype(np.float32)
    latents *= np.array([1, 2, 0.5, 1], np.float32)[:, None, None]
    scale = memory.best_scale(latents)
    np.testing.assert_allclose(scale, [0.335, 0.67, 0.1675, 0.335], rtol=0.08)
    error = np.square(memory.unpack(memory.pack(latents, scale), scale, SHAPE) - latents)[:, 0].mean()
    assert error == pytest.approx(0.01154, rel=0.05)


def test_files_round_trip(tmp_path: Path) -> None:
    held = make()
    held.save(tmp_path / "memory.safetensors", tmp_path / "memory.json")
    again = Memory.load(tmp_path / "memory.safetensors", tmp_path / "memory.json", SHAPE)
    assert again.keys.dtype == np.float32
    np.testing.assert_allclose((again.keys * held.keys).sum(axis=1), 1, atol=1e-3)
    for name in (
        "key_concept",
        "entry_concept",
        "entry_style",
        "entry_tone",
        "latents",
        "scale",
        "style_rank",
    ):
        assert getattr(again, name).dtype == getattr(held, name).dtype
        np.testing.assert_array_equal(getattr(again, name), getattr(held, name))
    assert list(again.concepts) == held.concepts
    assert again.ids == held.ids


def test_damaged_files_are_bundle_errors(tmp_path: Path) -> None:
    held = make()
    tensors, names = tmp_path / "memory.safetensors", tmp_path / "memory.json"
    held.save(tensors, names)
    with pytest.raises(BundleError, match="latents"):
        Memory.load(tensors, names, (8, 2, 2))
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(BundleError, match="cannot be read"):
        Memory.load(tensors, names, SHAPE)
    with pytest.raises(BundleError, match="outside"):
        replace(held, concepts=held.concepts[:2])
    with pytest.raises(BundleError, match="rows of entry_style"):
        replace(held, entry_style=held.entry_style[:-1])
