from pathlib import Path

import numpy as np
import pytest
import torch

from miaobi.errors import TrainingError
from miaobi.evaluate import classifier
from miaobi.evaluate.classifier import Judge
from miaobi.train.data import load_dataset


def test_augmentation_keeps_white_white_and_the_range() -> None:
    rng = np.random.default_rng(0)
    white = torch.ones(4, 3, 128, 128)
    torch.testing.assert_close(classifier.augment(white, rng), white)
    noise = torch.rand(4, 3, 128, 128)
    moved = classifier.augment(noise, rng)
    assert moved.shape == noise.shape
    assert 0 <= moved.min() <= moved.max() <= 1


def test_a_picture_of_each_heldout_pair_is_chosen(shapes: Path) -> None:
    dataset = load_dataset(shapes)
    chosen = [dataset.records[i].id for i in classifier.heldout_pairs(dataset)]
    assert chosen == ["noto/bar", "fluent-flat/disc"]
    assert classifier.labels(dataset, ["bar", "square"]).tolist() == [0] * 4 + [-1] * 4 + [1] * 4


def test_judge_trains_saves_and_loads(shapes: Path, judge_folder: Path) -> None:
    judge, concepts = classifier.load_judge(judge_folder)
    assert concepts == ["bar", "disc", "square"]
    dataset = load_dataset(shapes)
    scores = classifier.classify(judge, dataset.images)
    assert (scores.argmax(1) == classifier.labels(dataset, concepts)).all()
    np.testing.assert_allclose(
        classifier.classify(judge, dataset.images, np.array([5])), scores[5:6], atol=1e-3
    )


def test_the_judge_in_openvino_scores_alike(shapes: Path, judge_folder: Path) -> None:
    pytest.importorskip("openvino")
    judge, _ = classifier.load_judge(judge_folder)
    fast = classifier.FastJudge.of(judge)
    assert isinstance(fast, classifier.FastJudge)
    pixels = load_dataset(shapes).images[:5]
    np.testing.assert_allclose(
        classifier.classify(fast, pixels), classifier.classify(judge, pixels), atol=1e-3
    )


def test_a_missing_or_damaged_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"model\.safetensors"):
        classifier.load_judge(tmp_path)
    with pytest.raises(ValueError, match="frozen_blocks"):
        Judge(3, frozen_blocks=9)
