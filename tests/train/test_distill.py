"""Distillation: paths, walks, students, matching."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from miaobi.errors import InputError
from miaobi.models.diffusion import Diffusion
from miaobi.models.gan import Gan, GanConfig
from miaobi.train import distill, generator, loop
from miaobi.train.matching import Matching
from miaobi.train.pairs import Pairs, replace_rows
from miaobi.train.sources import Sources

from .conftest import CONFIG


def test_a_student_equal_to_an_unguided_teacher_has_nothing_to_learn(
    pairs: Pairs, model: Diffusion, tmp_path: Path
) -> None:
    paths = distill.draw_paths(model, pairs, 256, steps=2, substeps=1, guidance=1.0, folder=tmp_path)
    student = distill.DistillTask(model, pairs, paths)
    with torch.no_grad():
        losses = student.loss(student.batch(np.random.default_rng(0), 8), torch.Generator())
    assert set(losses) == {"path"}
    assert float(losses["path"]) < 1e-3


def test_parts_of_a_batch_are_walked_in_fewer_steps(pairs: Pairs, model: Diffusion, tmp_path: Path) -> None:
    paths = distill.draw_paths(model, pairs, 256, steps=4, substeps=1, guidance=1.0, folder=tmp_path)

    def loss(*walks: int) -> float:
        task = distill.DistillTask(model, pairs, paths, walks)
        with torch.no_grad():
            return float(task.loss(task.batch(np.random.default_rng(0), 8), torch.Generator())["path"])

    assert loss(4) < 1e-3 < loss(2)
    two, last = (
        loss(2),
        replace_rows(pairs.condition(["a"] * 2, np.zeros(2, int), np.zeros((2, 2), int)), slice(1)),
    )
    assert 0 < loss(4, 4, 4, 2) < two
    task = distill.DistillTask(model, pairs, paths, (4, 2))
    noise = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(task.draw(last, noise), model.walk(last, noise, [1.0, 0.5, 0.0]))
    with pytest.raises(InputError, match=r"walks \[3\] do not divide steps = 4"):
        distill.DistillTask(model, pairs, paths, (4, 3))


def test_matching_pulls_drawn_pictures_to_their_concept_and_style(
    pairs: Pairs, judge_folder: Path, tmp_path: Path
) -> None:
    weights, recipe = loop.load_model(judge_folder)
    weights["head"] = torch.cat([weights["head"], weights["head"][:2]])  # and two styles
    loop.save_model(tmp_path, weights, recipe)
    (tmp_path / "concepts.json").write_bytes((judge_folder / "concepts.json").read_bytes())
    autoencoder, table = pairs.sources.autoencoder, {"classifier": str(tmp_path), "count": 3}
    matching = Matching(table, autoencoder, ["square", "bar", "cat"])
    latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    concept, style = torch.tensor([0, -1, 2, 0]), torch.tensor([1, 0, 1, 0])

    def losses(concept: torch.Tensor) -> dict[str, torch.Tensor]:
        return matching(latents, concept, style, torch.Generator().manual_seed(0))

    both = losses(concept)
    assert set(both) == {"cross_entropy", "style"}
    sum(both.values(), torch.zeros(())).backward()
    assert latents.grad is not None
    assert latents.grad[[0, 2]].abs().amax((1, 2, 3)).min() > 0
    assert not latents.grad[3].any()  # past the count
    one = losses(torch.tensor([0, -1, -1, 0]))["cross_entropy"]
    torch.testing.assert_close(both["cross_entropy"], one)  # "cat" is no class of it
    assert not losses(torch.full((4,), -1))["cross_entropy"].any()
    with pytest.raises(InputError, match=r"\[matching\] has no weight; it may have classifier"):
        Matching({"weight": 1}, autoencoder, [])


def test_paths_are_kept_and_taken_up_again(pairs: Pairs, model: Diffusion, tmp_path: Path) -> None:
    first = distill.draw_paths(model, pairs, 256, steps=2, substeps=2, guidance=2.0, folder=tmp_path)
    nn.init.zeros_(model.output.weight)
    both = distill.draw_paths(model, pairs, 512, steps=2, substeps=2, guidance=2.0, folder=tmp_path)
    assert len(both.texts) == 512
    np.testing.assert_array_equal(both.points[:256], first.points)
    assert not np.allclose(both.points[256:, -1], both.points[:256, -1])


def test_distilling_brings_the_student_nearer_to_the_guided_teacher(
    pairs: Pairs, model: Diffusion, tmp_path: Path
) -> None:
    paths = distill.draw_paths(model, pairs, 256, steps=2, substeps=3, guidance=3.0, folder=tmp_path)
    student = distill.DistillTask(model, pairs, paths)
    plan = loop.Schedule(steps=60, batch_size=32, lr=2e-3, warmup=1, precision="fp32")
    totals = [step.losses["total"] for step in loop.fit(student, loop.start(student.model, plan), plan)]
    assert totals[-1] < 0.7 * totals[0]


def test_a_discriminator_learns_beside_the_student(pairs: Pairs, model: Diffusion, tmp_path: Path) -> None:
    for name in ("gan", "student"):
        (tmp_path / name).mkdir()
    gan = Gan(model.backbone, GanConfig(width=8, blocks=1))
    loop.save_model(tmp_path / "gan", gan.state_dict(), {})
    table = {"start_from": str(tmp_path / "gan"), "width": 8, "blocks": 1, "generator_weight": 0.5}
    discriminator = distill.discriminator_of(table, model)
    torch.testing.assert_close(discriminator.state_dict(), gan.discriminator.state_dict())
    paths = distill.draw_paths(
        model, pairs, 256, steps=2, substeps=1, guidance=1.0, folder=tmp_path / "paths"
    )
    task = distill.DistillTask(model, pairs, paths, (1, 2), discriminator=discriminator)
    batch = task.batch(np.random.default_rng(0), 6)
    assert batch[3] is not None
    assert len(batch[3].latents) == 6
    losses = task.loss(batch, torch.Generator().manual_seed(0))
    told = {"generator", "text", "discriminator", "mismatch", "matching", "r1", "r2"}
    assert set(losses) == {"path", *told}
    student = [p for name, p in model.named_parameters() if not name.startswith("discriminator.")]
    for names, learns in (({"path", "generator", "text"}, True), (told - {"generator", "text"}, False)):
        model.zero_grad()
        torch.stack([losses[name] for name in names]).sum().backward(retain_graph=True)
        assert any(p.grad is not None and bool(p.grad.any()) for p in student) is learns
        assert (
            any(p.grad is not None and bool(p.grad.any()) for p in discriminator.parameters()) is not learns
        )
    loop.save_model(tmp_path / "student", model.state_dict(), {"model": asdict(model.backbone)})
    alone = generator.load(tmp_path / "student").state_dict()
    assert alone.keys() == {name for name in model.state_dict() if not name.startswith("discriminator.")}
    again = distill.discriminator_of({**table, "start_from": str(tmp_path / "student")}, model)
    torch.testing.assert_close(again.state_dict(), discriminator.state_dict())
    with pytest.raises(InputError, match="has no discriminator of this width"):
        distill.discriminator_of({**table, "width": 16}, model)


def test_several_teachers_teach_as_the_mean_of_their_weights(model: Diffusion) -> None:
    twice = Diffusion(model.backbone)
    twice.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    expected = {name: 1.5 * value for name, value in model.state_dict().items()}
    torch.testing.assert_close(dict(distill.mean_of([model, twice]).state_dict()), expected)
    other = Diffusion(replace(model.backbone, depth=1 + model.backbone.depth))
    with pytest.raises(InputError, match="differ in size"):
        distill.mean_of([model, other])


def test_a_student_like_its_teacher_starts_as_it_is(model: Diffusion) -> None:
    student, told = distill.student_of(model, {})
    assert told == "starts from the weights of the teacher"
    torch.testing.assert_close(student.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_shallower_student_starts_from_the_teachers_blocks() -> None:
    teacher = Diffusion(replace(CONFIG, depth=3))
    student, told = distill.student_of(teacher, {"depth": 2})
    assert told == "starts from 2 of the 3 blocks of the teacher"
    for own, number in zip(student.blocks, (0, 2), strict=True):
        torch.testing.assert_close(own.state_dict(), teacher.blocks[number].state_dict(), rtol=0, atol=0)


def test_a_student_without_biases_starts_from_the_teachers_matrices(model: Diffusion) -> None:
    student, told = distill.student_of(model, {"bias": False})
    assert (
        told
        == f"starts from {CONFIG.depth} of the {CONFIG.depth} blocks of the teacher, without their biases"
    )
    weights = model.state_dict()
    torch.testing.assert_close(
        dict(student.state_dict()), {name: weights[name] for name in student.state_dict()}, rtol=0, atol=0
    )
    linears = [one for block in student.blocks for one in block.modules() if isinstance(one, nn.Linear)]
    assert [one.bias for one in linears] == [None] * (5 * CONFIG.depth)


def test_a_narrower_student_starts_from_nothing_and_learns(
    pairs: Pairs, model: Diffusion, tmp_path: Path
) -> None:
    student, told = distill.student_of(model, {"width": 8})
    assert told.startswith("starts from no weights: none of 8 wide with 2 heads")
    assert student.backbone == replace(CONFIG, width=8)
    paths = distill.draw_paths(model, pairs, 256, steps=1, substeps=2, guidance=2.0, folder=tmp_path)
    task, plan = (
        distill.DistillTask(student, pairs, paths),
        loop.Schedule(steps=60, batch_size=32, lr=3e-3, warmup=1, precision="fp32"),
    )
    totals = [step.losses["total"] for step in loop.fit(task, loop.start(student, plan), plan)]
    assert totals[-1] < 0.8 * totals[0]


def test_a_student_differs_in_size_alone(model: Diffusion) -> None:
    with pytest.raises(InputError, match=r"\[student\] has no patch; it may have depth, bias, width, heads"):
        distill.student_of(model, {"patch": 1})


def test_a_recipe_distils_into_a_student_and_goes_on(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, depth=2)
    (tmp_path / "teacher").mkdir()
    loop.save_model(tmp_path / "teacher", Diffusion(config).state_dict(), {"model": asdict(config)})
    monkeypatch.setattr(Sources, "load", lambda recipe: pairs.sources)
    recipe = {
        "teacher": [str(tmp_path / "teacher")] * 2,
        "student": {"width": 8},
        "paths": 256,
        "steps": 1,
        "substeps": 1,
        "guidance": 1.0,
        "schedule": {"steps": 1, "batch_size": 4, "precision": "fp32"},
    }
    distill.train(recipe, tmp_path / "first", False)
    student = generator.load(tmp_path / "first")
    assert student.backbone == replace(config, width=8)
    again = {**recipe, "start_from": str(tmp_path / "first")}
    again["schedule"] = {**recipe["schedule"], "lr": 1e-12}  # type: ignore[dict-item]
    distill.train(again, tmp_path / "second", False)
    torch.testing.assert_close(generator.load(tmp_path / "second").state_dict(), student.state_dict())
    distill.train({**again, "student": {"width": 8, "depth": 1}}, tmp_path / "third", False)
    shallow = generator.load(tmp_path / "third")
    assert shallow.backbone == replace(config, width=8, depth=1)
    torch.testing.assert_close(shallow.output.state_dict(), student.output.state_dict())
