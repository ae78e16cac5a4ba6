import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from miaobi.captioning import END
from miaobi.errors import InputError
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.captioning import Captioner, autoregressive
from miaobi.train import loop

Make = Callable[[int], Condition]
LEVELS = (3, 3, 2, 2)
CONFIG = AutoregressiveConfig(LEVELS, (0.0,) * 4, kv_heads=1, captioning=0.5, words=20)


@pytest.fixture
def model(backbone: BackboneConfig) -> Captioner:
    torch.manual_seed(0)
    made = Captioner(replace(backbone, width=32, depth=2), CONFIG).eval()
    nn.init.normal_(made.head.weight, std=0.3)
    nn.init.normal_(made.words.weight, std=0.5)
    return made


def pictures(model: Autoregressive, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(5)
    return model.to_latents(torch.randint(math.prod(LEVELS), (count, 4, 4), generator=rng))


@torch.no_grad()
def test_the_cache_changes_nothing(model: Captioner) -> None:
    latents, ids = pictures(model, 3), torch.randint(1, 20, (3, 5))
    language = torch.tensor([0, 1, 1])
    expected = model.caption_logits(latents, ids, language)
    keys = values = torch.zeros(3, *model.cache_shape[:2], 0, model.cache_shape[2])
    _, keys, values = model.say(latents, torch.zeros(3, 5).long(), torch.arange(5), keys, values)
    told = torch.cat([model.config.words + language[:, None], ids], dim=1)
    for step in range(5):
        logits, keys, values = model.say(
            latents, told[:, step : step + 1], torch.tensor([5 + step]), keys, values
        )
        torch.testing.assert_close(logits, expected[:, step], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_word_sees_the_picture_the_language_and_the_words_before_it(model: Captioner) -> None:
    latents, ids, english = pictures(model, 2), torch.randint(1, 20, (1, 5)), torch.tensor([0])
    logits = model.caption_logits(latents[:1], ids, english)
    changed = ids.clone()
    changed[0, 2] = ids[0, 2] % 19 + 1
    other = model.caption_logits(latents[:1], changed, english)
    torch.testing.assert_close(other[:, :3], logits[:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(other[:, 3], logits[:, 3])
    assert not torch.allclose(model.caption_logits(latents[1:], ids, english), logits)
    assert not torch.allclose(model.caption_logits(latents[:1], ids, 1 - english), logits)


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_words_and_the_first_end(model: Captioner) -> None:
    latents, language = pictures(model, 2), torch.tensor([0, 1])
    ids = torch.tensor([[4, 7, END, END, END], [9, 3, 5, 6, END]])
    chances = model.caption_logits(latents, ids, language).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    expected = -torch.cat([chances[0, :3], chances[1]]).mean()
    torch.testing.assert_close(model.caption_loss(latents, ids, language), expected)
    shorter = model.caption_loss(latents[:1], ids[:1, :3], language[:1])
    torch.testing.assert_close(shorter, -chances[0, :3].mean())


@torch.no_grad()
def test_drawing_is_that_of_the_same_weights_without_captions(model: Captioner, condition: Make) -> None:
    plain = Autoregressive(model.backbone, replace(CONFIG, captioning=0.0)).eval()
    own = model.own_weights()
    plain.load_state_dict({name: one for name, one in model.state_dict().items() if name not in own})
    one, latents, noise = condition(4), pictures(model, 4), torch.randn(4, 4, 4, 4)
    found, expected = (each.loss(latents, one, torch.Generator().manual_seed(1)) for each in (model, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(model.sample(one, noise), plain.sample(one, noise), rtol=0, atol=0)


def test_without_captioning_there_is_nothing_of_it(backbone: BackboneConfig) -> None:
    made = autoregressive(backbone, replace(CONFIG, captioning=0.0))
    assert type(made) is Autoregressive
    assert type(autoregressive(backbone, CONFIG)) is Captioner
    with pytest.raises(ValueError, match="words = 0 must be above 0"):
        Captioner(backbone, replace(CONFIG, words=0))
    with pytest.raises(ValueError, match=r"captioning = 1\.0 must be 0"):
        replace(CONFIG, captioning=1.0)


def test_it_learns_eight_pictures_by_heart_and_says_the_same_when_loaded(
    model: Captioner, tmp_path: Path
) -> None:
    """Captions of different lengths in both languages, every word of them."""
    latents, rng = pictures(model, 8), torch.Generator().manual_seed(0)
    words = torch.randint(1, 20, (2, 8, 6), generator=rng)
    length = torch.randint(1, 6, (2, 8, 1), generator=rng)
    words = words.masked_fill(torch.arange(6) >= length, END)
    language = torch.arange(2).repeat_interleave(8)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        model.caption_loss(latents.repeat(2, 1, 1, 1), words.flatten(0, 1), language).backward()
        optimiser.step()
    loop.save_model(tmp_path, model.state_dict(), {})
    again = Captioner(model.backbone, CONFIG)
    again.load_state_dict(loop.load_model(tmp_path)[0])
    for number, name in enumerate(("en", "zh")):
        expected = [[one for one in row if one != END] for row in words[number].tolist()]
        assert model.caption(latents, name) == expected
        assert again.eval().caption(latents, name) == expected
        assert model.caption(latents[3:4], name) == expected[3:4]
        assert model.caption(latents, name, most=2) == [row[:2] for row in expected]
    with pytest.raises(InputError, match="unknown language 'fr'; captions come in en, zh"):
        model.caption(latents, "fr")
