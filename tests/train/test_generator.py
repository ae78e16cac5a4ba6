from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from miaobi.captioning import END
from miaobi.colours import COLOURS
from miaobi.errors import TrainingError
from miaobi.models.autoregressive import AutoregressiveConfig
from miaobi.models.captioning import Captioner
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan
from miaobi.text.memory import pack
from miaobi.text.tokenizer import Tokenizer
from miaobi.train.generator import GeneratorTask
from miaobi.train.pairs import Pairs
from miaobi.train.sources import Captions, Sources

from .conftest import CONFIG, STYLES, words


def test_neighbours_show_the_concept_in_other_styles_first(pairs: Pairs) -> None:
    memory, rng = pairs.sources.memory, np.random.default_rng(0)
    for concept in range(5):
        for style in range(3):
            entries = pairs.neighbours(rng, np.full(20, concept), np.full(20, style))
            same = memory.entry_concept[entries] == concept
            assert not (same & (memory.entry_style[entries] == style)).any()
            expected = 1 if (concept, style) in ((2, 0), (2, 1)) else 2  # "sun" has a style less to offer
            assert (same.sum(axis=1) == expected).all()


def test_a_batch_is_a_function_of_its_generator(pairs: Pairs) -> None:
    one, same, other = (pairs.batch(np.random.default_rng(seed), 12) for seed in (1, 1, 2))
    assert one.latents.shape == (12, 4, 4, 4)
    assert one.condition.neighbours.shape == (12, 2, 4, 4, 4)
    torch.testing.assert_close(one.latents, same.latents, rtol=0, atol=0)
    torch.testing.assert_close(one.condition.text, same.condition.text, rtol=0, atol=0)
    assert not torch.equal(one.latents, other.latents)


@pytest.fixture
def captioned_pairs(sources: Sources, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """Half of a batch is captioned."""
    monkeypatch.setattr(words, "tokenizer", Tokenizer(tiny_bundle / "tokenizer.json"), raising=False)
    return Pairs(sources, 2, captioning=0.5)


def test_a_share_of_a_batch_is_captioned_in_both_languages(captioned_pairs: Pairs) -> None:
    tokenizer = captioned_pairs.sources.encoder.tokenizer
    batch = captioned_pairs.batch(np.random.default_rng(0), 12)
    assert batch.captioned is not None
    assert len(batch.latents) == len(batch.condition.style) == len(batch.captioned.latents) == 6
    assert (batch.captioned.ids[:, -1] == END).all()
    said = [tokenizer.decode(row) for row in batch.captioned.ids.tolist()]
    assert set(batch.captioned.language.tolist()) == {0, 1}
    for text, language in zip(said, batch.captioned.language.tolist(), strict=True):
        assert ("字" in text) == (language == 1)
        assert any(name in text for name in ("字", "cat", "dog", "sun", "car", "tree"))
    one = captioned_pairs.batch(np.random.default_rng(0), 1)
    assert (len(one.latents), one.captioned) == (1, None)  # something is always drawn


def test_captions_are_learned_beside_pictures(captioned_pairs: Pairs) -> None:
    size = captioned_pairs.sources.encoder.tokenizer.size
    config = AutoregressiveConfig((3, 3, 2, 2), (0.0,) * 4, kv_heads=1, captioning=0.5, words=size)
    model = Captioner(CONFIG, config)
    task = GeneratorTask(model, captioned_pairs, {"steps": 2})
    batch = task.batch(np.random.default_rng(0), 8)
    latents = model.to_latents(torch.zeros(4, 4, 4, dtype=torch.int64))  # those of the pairs are no codes
    assert batch.captioned is not None
    batch = replace(batch, latents=latents, captioned=replace(batch.captioned, latents=latents))
    with torch.no_grad():
        losses = task.loss(batch, torch.Generator().manual_seed(0))
    assert set(losses) == {"next", "fill", "caption"}
    assert abs(float(losses["caption"]) - np.log(size)) < 0.5  # before it has learned, any word is as likely


def test_held_out_pairs_are_neither_trained_on_nor_asked_of_the_teacher(pairs: Pairs) -> None:
    heldout = int(pairs.sources.dataset.split("heldout")[0])
    assert heldout not in pairs.sources.latents.source[pairs.rows]
    texts, styles, _, concepts = pairs.requests(np.random.default_rng(0), 500)
    assert not ((concepts == 2) & (styles == 2)).any()
    blue = [any(word in text for word in COLOURS["blue"].en + COLOURS["blue"].zh) for text in texts]
    np.testing.assert_array_equal(concepts == -1, blue)
    assert not any("sun" in text and style == 2 for text, style in zip(texts, styles, strict=True))
    chosen, condition = pairs.heldout()
    assert chosen.tolist() == [heldout]
    assert condition.style.tolist() == [2]


def as_splits(sources: Sources, split: Mapping[str, str]) -> Sources:
    """The same pictures, split by their concepts; the memory keeps what is trained on."""
    records = tuple(replace(one, split=split.get(one.concept, "train")) for one in sources.dataset.records)
    kept = [name for name in ("cat", "dog", "sun", "car", "tree") if name not in split]
    rows = np.array([i for i, one in enumerate(records) if one.concept in kept])
    values = sources.latents.values[rows].astype(np.float32)
    memory = replace(
        sources.memory,
        keys=words(kept).embedding,
        key_concept=np.arange(len(kept)),
        entry_concept=np.array([kept.index(records[i].concept) for i in rows]),
        entry_style=sources.dataset.style_ids()[rows],
        entry_tone=np.zeros(len(rows), np.int64),
        latents=pack(values, sources.memory.scale),
        concepts=[{"slug": name, "label_en": name, "label_zh": name} for name in kept],
        ids=[records[i].id for i in rows],
    )
    return replace(
        sources, dataset=replace(sources.dataset, records=records), memory=memory, memory_rows=rows
    )


def test_a_concept_that_is_held_out_whole_is_drawn_from_what_its_name_finds(
    sources: Sources, model: Diffusion
) -> None:
    pairs = Pairs(as_splits(sources, {"sun": "heldout"}), 2)
    chosen, condition = pairs.heldout()
    assert sorted(chosen.tolist()) == [6, 7, 8]
    memory = pairs.sources.memory
    expected = memory.neighbours(words(["sun"] * 3).embedding, pairs.styles[chosen], 0, 2)
    torch.testing.assert_close(condition.neighbours, torch.from_numpy(expected.latents))
    assert set(GeneratorTask(model, pairs, {"steps": 1}).report()[0]) == {"flow", "latent_error"}


def test_where_nothing_is_held_out_reports_are_on_training_pictures(sources: Sources) -> None:
    pairs = Pairs(as_splits(sources, {}), 2)
    assert sorted(pairs.heldout()[0].tolist()) == list(range(15))


def test_a_recipe_weighs_styles_and_frames_names(sources: Sources) -> None:
    recipe = {"style_weights": {"noto": 0.0}, "frames": {"en": ["photo: {}"], "zh": ["{}的照片"]}}
    pairs = Pairs.of(sources, 2, recipe)
    styles = pairs.styles[sources.latents.source[pairs.rows]]
    assert ((pairs.shares > 0) == (styles != STYLES.index("noto"))).all()
    texts = pairs.texts(np.random.default_rng(0), np.arange(15))
    assert all(text.startswith("photo: ") or text.endswith("的照片") for text in texts)
    with pytest.raises(ValueError, match="allowed are 0 or more, for the styles noto, twemoji, fluent"):
        Pairs.of(sources, 2, {"style_weights": {"oil": 1.0}})


def test_a_recipe_says_how_often_neighbours_are_shuffled(sources: Sources) -> None:
    asked = np.ones(50, int), np.full(50, 2)
    rng = np.random.default_rng(0)
    never, always = (
        Pairs.of(sources, 2, {"shuffled": share}).neighbours(rng, *asked) for share in (0.0, 1.0)
    )
    assert len(np.unique(never, axis=0)) == 1
    assert len(np.unique(always, axis=0)) == 2
    assert (np.sort(always, axis=1) == np.sort(never, axis=1)).all()  # it has no other pictures


def test_recoloured_pictures_say_so(pairs: Pairs) -> None:
    texts = pairs.texts(np.random.default_rng(0), np.full(20, 15))
    assert all(any(word in text for word in COLOURS["blue"].en + COLOURS["blue"].zh) for text in texts)


def test_kept_captions_are_those_of_the_encoder() -> None:
    captions = Captions(words)  # type: ignore[arg-type]
    captions(["a cat"])
    again, fresh = captions(["a dog", "a cat"]), words(["a dog", "a cat"])
    np.testing.assert_allclose(again.tokens, fresh.tokens, atol=1e-2)
    np.testing.assert_allclose(again.embedding, fresh.embedding, atol=1e-2)


def test_the_report_draws(pairs: Pairs, model: Diffusion) -> None:
    figures, sheet = GeneratorTask(model, pairs, {"steps": 2, "guidance": 2.0}).report()
    assert set(figures) == {"flow", "latent_error"}
    assert sheet is not None


def test_a_gan_that_draws_one_picture_for_all_prompts_is_stopped(
    pairs: Pairs, model: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = Gan(model.backbone)
    monkeypatch.setattr(gan, "measure", lambda *_: {"margin": 3.0, "spread": 0.5})
    assert GeneratorTask(gan, pairs, {}).report()[0]["spread"] == 0.5
    monkeypatch.setattr(gan, "measure", lambda *_: {"margin": 3.0, "spread": 0.004})
    with pytest.raises(TrainingError, match=r"the GAN collapsed.*vary by 0\.40%"):
        GeneratorTask(gan, pairs, {}).report()
