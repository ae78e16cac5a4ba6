import pytest
import torch
from torch import nn

from miaobi import sampling
from miaobi.models.backbone import BackboneConfig, Condition
from miaobi.models.diffusion import Diffusion, DiffusionConfig
from miaobi.models.layers import Attention, RMSNorm, patchify, recompute_inside, unpatchify

TINY = BackboneConfig(
    styles=3, latent_shape=(4, 4, 4), text_width=8, neighbours=2, width=16, depth=2, heads=2
)


def condition(count: int, length: int = 3) -> Condition:
    rng = torch.Generator().manual_seed(1)
    return Condition(
        torch.randn(count, length, 8, generator=rng),
        torch.ones(count, length, dtype=torch.bool),
        torch.randn(count, 8, generator=rng),
        torch.arange(count) % 3,
        torch.randn(count, 2, 4, 4, 4, generator=rng),
        torch.zeros(count, 2, dtype=torch.int64),
    )


def lively() -> Diffusion:
    """A model whose zero-initialised layers are not zero."""
    torch.manual_seed(0)
    model = Diffusion(TINY).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def test_rms_norm_against_torch() -> None:
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(RMSNorm(8)(x), nn.RMSNorm(8, eps=1e-6)(x))


def test_attention_against_torch_without_its_norms() -> None:
    """With queries and keys normalised beforehand nothing is left but torch's own multi-head attention."""
    torch.manual_seed(0)
    ours, reference = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    ours.query_norm, ours.key_norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    reference.in_proj_weight, reference.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    reference.out_proj.weight, reference.out_proj.bias = ours.out.weight, ours.out.bias
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), reference(x, x, x)[0])


def test_patches_round_trip() -> None:
    x = torch.randn(2, 4, 6, 8)
    assert patchify(x, 2).shape == (2, 12, 16)
    torch.testing.assert_close(unpatchify(patchify(x, 2), 2, 6, 8), x, rtol=0, atol=0)


def test_padding_does_not_change_a_picture() -> None:
    model, one = lively(), condition(1)
    padded = Condition(
        torch.cat([one.text, torch.randn(1, 4, 8)], 1),
        torch.cat([one.mask, torch.zeros(1, 4, dtype=torch.bool)], 1),
        *(getattr(one, name) for name in ("embedding", "style", "neighbours", "neighbour_style")),
    )
    noise = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(
        model.walk(one, noise, [1.0, 0.5, 0.0]), model.walk(padded, noise, [1.0, 0.5, 0.0])
    )


def test_a_picture_alone_and_in_a_batch() -> None:
    model, noise = lively(), torch.randn(3, 4, 4, 4)
    together = model.walk(condition(3), noise, sampling.timesteps(3), guidance=2.0)
    alone = Condition(*(getattr(condition(3), name)[1:2] for name in Condition.__dataclass_fields__))
    torch.testing.assert_close(
        model.walk(alone, noise[1:2], sampling.timesteps(3), guidance=2.0), together[1:2]
    )


def test_what_is_dropped_is_not_seen() -> None:
    model, noise = lively(), torch.randn(2, 4, 4, 4)
    times, one = [1.0, 0.0], condition(2)
    other = Condition(*(getattr(condition(2, 3), name) for name in Condition.__dataclass_fields__))
    object.__setattr__(other, "neighbours", one.neighbours + 1)
    object.__setattr__(other, "text", one.text + 1)
    assert not torch.allclose(model.walk(one, noise, times), model.walk(other, noise, times))
    nothing = [model.walk(each.nothing(TINY.styles), noise, times) for each in (one, other)]
    torch.testing.assert_close(*nothing, rtol=0, atol=0)


def test_guidance_extrapolates_from_nothing_to_the_condition() -> None:
    model, noise, one = lively(), torch.randn(2, 4, 4, 4), condition(2)
    plain, nothing = (model.walk(each, noise, [1.0, 0.0]) for each in (one, one.nothing(TINY.styles)))
    torch.testing.assert_close(model.walk(one, noise, [1.0, 0.0], 3.0), nothing + 3 * (plain - nothing))


def test_sampling_is_the_plain_euler_of_sampling_py() -> None:
    model, noise, one = lively(), torch.randn(2, 4, 4, 4), condition(2)
    prepared = model.prepare(one)
    with torch.no_grad():
        reference = sampling.euler(
            lambda x, t: model.velocity(x, torch.full((2,), t), *prepared), noise, sampling.timesteps(4)
        )
    torch.testing.assert_close(model.sample(one, noise, 4, 1.0), reference)


def test_a_new_model_predicts_zero_latents() -> None:
    """Its velocity is then x_t / t, and exact for latents that are zero."""
    model, one = Diffusion(TINY), condition(3)
    x, t = torch.randn(3, 4, 4, 4), torch.tensor([0.2, 0.5, 1.0])
    torch.testing.assert_close(model.velocity(x, t, *model.prepare(one)), x / t[:, None, None, None])
    loss = model.loss(torch.zeros(3, 4, 4, 4), one, torch.Generator().manual_seed(0))["flow"]
    torch.testing.assert_close(loss, torch.tensor(0.0))


def test_memorises_one_picture() -> None:
    torch.manual_seed(0)
    wide = BackboneConfig(**{**TINY.__dict__, "width": 48, "depth": 3})
    model, target, one = Diffusion(wide), torch.randn(1, 4, 4, 4), condition(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = torch.Generator().manual_seed(0)
    repeated = Condition(
        *(getattr(one, name).repeat_interleave(32, 0) for name in Condition.__dataclass_fields__)
    )
    for _ in range(300):
        loss = model.loss(target.expand(32, -1, -1, -1), repeated, rng)["flow"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = model.sample(one, torch.randn(1, 4, 4, 4, generator=rng), 20, 1.0)
    assert (drawn - target).square().mean() < 0.05 * target.square().mean()


def test_patch_must_divide() -> None:
    with pytest.raises(ValueError, match="must divide"):
        BackboneConfig(styles=1, latent_shape=(4, 6, 5), patch=2)


def test_repeats_are_a_batch_with_every_picture_several_times() -> None:
    model, one = lively(), condition(2)
    latents = torch.randn(2, 4, 4, 4)
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    seen_thrice = Diffusion(TINY, DiffusionConfig(repeats=3))
    seen_thrice.load_state_dict(model.state_dict())
    longer = Condition(*(getattr(one, name)[rows] for name in Condition.__dataclass_fields__))
    torch.testing.assert_close(
        seen_thrice.loss(latents, one, torch.Generator().manual_seed(3))["flow"],
        model.loss(latents[rows], longer, torch.Generator().manual_seed(3))["flow"],
    )


def test_shared_blocks_are_the_same_block_several_times() -> None:
    """Two blocks used in turn against four whose weights were made equal."""
    settings = {**TINY.__dict__, "depth": 4}
    torch.manual_seed(0)
    shared = Diffusion(BackboneConfig(**settings | {"distinct": 2})).eval()
    for parameter in shared.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    whole = Diffusion(BackboneConfig(**settings)).eval()
    weights = shared.state_dict()
    for name, value in shared.state_dict().items():
        for block in (0, 1):
            if name.startswith(f"blocks.{block}."):
                weights[name.replace(f"blocks.{block}.", f"blocks.{block + 2}.")] = value
    whole.load_state_dict(weights)
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in whole.parameters())
    one, noise = condition(2), torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(shared.sample(one, noise, 2, 2.0), whole.sample(one, noise, 2, 2.0))
    with pytest.raises(ValueError, match="distinct = 3 blocks must divide depth = 4"):
        BackboneConfig(**settings | {"distinct": 3})


def test_text_alone() -> None:
    torch.manual_seed(0)
    model = Diffusion(BackboneConfig(**{**TINY.__dict__, "neighbours": 0})).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    one, noise = condition(2), torch.randn(2, 4, 4, 4)
    other = Condition(one.text + 1, *(getattr(one, n) for n in list(Condition.__dataclass_fields__)[1:]))
    assert not torch.allclose(model.sample(one, noise, 1, 1.0), model.sample(other, noise, 1, 1.0))


def test_recomputing_gives_the_same_gradients() -> None:
    latents, gradients = torch.randn(3, 4, 4, 4), []
    for again in (False, True):
        model = lively().train()
        if again:
            assert recompute_inside(model) == TINY.depth + TINY.context_depth
        model.loss(latents, condition(3), torch.Generator().manual_seed(0))["flow"].backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1])
