from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from miaobi.accelerate.finetune import finetune_decoder, finetune_generator
from miaobi.accelerate.prune import pruned
from miaobi.errors import InputError
from miaobi.models.autoencoder import Autoencoder, AutoencoderConfig
from miaobi.models.autoregressive import Autoregressive, AutoregressiveConfig
from miaobi.models.backbone import BackboneConfig
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan
from miaobi.text.encoder import TextFeatures
from miaobi.text.memory import Memory, best_scale, pack

TINY = BackboneConfig(
    styles=2, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=2, heads=4
)
NAMES = ("cat", "dog", "sun")


def words(texts: Sequence[str]) -> TextFeatures:
    """A text encoder that knows nothing: each text has a random direction of its own."""
    rows = [
        np.random.default_rng(list(text.encode())).standard_normal((2, 8)).astype(np.float32)
        for text in texts
    ]
    embedding = np.stack([row[0] / np.linalg.norm(row[0]) for row in rows])
    return TextFeatures(np.stack(rows), np.ones((len(texts), 2), bool), embedding, [])


@pytest.fixture
def memory() -> Memory:
    values = np.random.default_rng(0).standard_normal((6, 4, 4, 4)).astype(np.float32)
    scale = best_scale(values)
    return Memory(
        keys=words(NAMES).embedding,
        key_concept=np.arange(3),
        entry_concept=np.arange(6) // 2,
        entry_style=np.arange(6) % 2,
        entry_tone=np.zeros(6, np.int64),
        latents=pack(values, scale),
        scale=scale,
        shape=(4, 4, 4),
        concepts=[{"slug": name, "label_en": name, "label_zh": name + "字"} for name in NAMES],
        ids=[f"{style}/{name}" for name in NAMES for style in "ab"],
    )


def generator(kind: type) -> Any:
    torch.manual_seed(0)
    made = kind(TINY)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made.eval()


@pytest.mark.parametrize(
    ("kind", "strides", "guided"), [(Diffusion, 2, False), (Diffusion, 12, True), (Gan, 1, False)]
)
def test_a_pruned_generator_comes_nearer_to_the_whole(
    kind: type, strides: int, guided: bool, memory: Memory
) -> None:
    whole = generator(kind)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    half = pruned(whole, 0.5)
    distances = finetune_generator(
        half,
        whole,
        memory,
        words,
        60,
        strides,
        guided,
        batch_size=8,
        lr=3e-3,  # type: ignore[arg-type]
    )
    assert len(distances) == 60
    assert np.mean(distances[-10:]) < 0.6 * np.mean(distances[:3])
    assert not half.training
    torch.testing.assert_close(whole.state_dict(), before, rtol=0, atol=0)


def test_a_pruned_decoder_comes_nearer_to_the_whole_and_its_encoder_stays(memory: Memory) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig((8, 16), (1, 1), (1, 1), latent_channels=4, patch_px=2)
    whole = Autoencoder(config).eval()
    half = pruned(whole, 0.5)
    distances = finetune_decoder(half, whole, memory, 60, batch_size=8, lr=3e-3)
    assert np.mean(distances[-10:]) < 0.6 * np.mean(distances[:3])
    torch.testing.assert_close(half.encoder.state_dict(), whole.encoder.state_dict(), rtol=0, atol=0)
    assert all(one.requires_grad for one in half.parameters())
    latents = torch.from_numpy(memory.unpacked(np.arange(6)))
    fresh = pruned(whole, 0.5)
    with torch.no_grad():
        wanted = whole.decode(latents)
        assert (half.decode(latents) - wanted).square().mean() < (
            fresh.decode(latents) - wanted
        ).square().mean()


def test_the_same_arguments_give_the_same_weights(memory: Memory) -> None:
    whole = generator(Diffusion)
    made = [pruned(whole, 0.5) for _ in range(3)]
    for one, seed in zip(made, (0, 0, 1), strict=True):
        finetune_generator(one, whole, memory, words, 3, batch_size=4, seed=seed)  # type: ignore[arg-type]
    first, same, other = (one.state_dict() for one in made)
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_an_equal_model_has_nothing_to_learn(memory: Memory) -> None:
    whole = generator(Diffusion)
    assert finetune_generator(pruned(whole, 0.0), whole, memory, words, 1) == [0.0]  # type: ignore[arg-type]


def test_a_writer_cannot_follow(memory: Memory) -> None:
    writer = Autoregressive(TINY, AutoregressiveConfig(levels=(2, 2, 2, 2), mean=(0.0,) * 4))
    with pytest.raises(InputError, match="no path from noise"):
        finetune_generator(writer, writer, memory, words, 1)  # type: ignore[arg-type]
