from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from miaobi.errors import InputError, TrainingError
from miaobi.evaluate import generation, report
from miaobi.evaluate.classifier import load_judge
from miaobi.evaluate.features import FeatureExtractor, dataset_features
from miaobi.evaluate.generation import Bench
from miaobi.images import UInt8, from_uint8, to_uint8
from miaobi.pipeline import load
from miaobi.train.data import load_dataset


@pytest.fixture(scope="module")
def bench(shapes: Path, judge_folder: Path) -> Bench:
    return Bench(load_dataset(shapes), *load_judge(judge_folder), FeatureExtractor())


def copier(bench: Bench, knows: str) -> generation.Draw:
    """Draws the data set's own pictures, for prompts that hold `knows`; otherwise nothing."""
    records = bench.dataset.records

    def draw(prompts: Sequence[str], styles: Sequence[str], seeds: Sequence[int]) -> UInt8:
        made = np.zeros((len(prompts), 128, 128, 4), np.uint8)
        for index, (prompt, style) in enumerate(zip(prompts, styles, strict=True)):
            for i, record in enumerate(records):
                if record.style == style and knows in prompt and record.concept in prompt:
                    made[index] = bench.dataset.images[i]
        return made

    return draw


def test_perfect_pictures_score_like_real_ones(bench: Bench) -> None:
    draw = copier(bench, "")
    figures, made = generation.evaluate_names(draw, bench, lambda pixels: pixels, draw)
    assert (made == bench.dataset.images[bench.pairs]).all()
    for name in ("en", "zh", "reconstructions", "teacher"):
        assert figures[f"{name}/top1_share_of_real"].value == 1
        assert figures[f"{name}/fid"].value == pytest.approx(0, abs=1e-6)
    assert figures["en/top1_minus_teacher"].value == 0
    assert figures["en/top1"].count == 2
    assert figures["en/style"].value == figures["real/style"].value


def test_pictures_of_nothing_score_nothing_in_that_language(bench: Bench) -> None:
    figures, _ = generation.evaluate_names(copier(bench, "中"), bench)
    assert figures["zh/top1_share_of_real"].value == 1
    assert figures["en/fid"].value > 1
    assert figures["en/top1"].value < 1


def test_paraphrases_are_compared_with_names(bench: Bench) -> None:
    tags = {"disc": {"en": "a round disc", "zh": "圆"}, "bar": {"en": "beam"}, "unknown": {"en": "x"}}
    figures = generation.evaluate_paraphrases(copier(bench, ""), bench, tags)
    assert figures["paraphrase_en/top1_by_name"].value == 1
    assert figures["paraphrase_en/top1_share"].value == pytest.approx(0.5, abs=0.5)
    assert figures["paraphrase_en/top1"].count == 2
    assert figures["paraphrase_zh/top1"].count == 1


def test_one_picture_for_all_seeds_has_no_diversity(bench: Bench) -> None:
    figures = generation.evaluate_diversity(copier(bench, ""), bench)
    assert figures["diversity/seeds_of_a_prompt"].value == pytest.approx(0, abs=1e-3)
    assert figures["diversity/real_styles_of_a_concept"].value > 1


def test_copies_are_found_and_shown(bench: Bench) -> None:
    figures, sheet = generation.evaluate_copying(copier(bench, ""), bench, shown=3)
    assert figures["copying/share"].value >= 10 / 12  # the two held-out pictures are not in the memory
    assert (sheet[:3] == sheet[3:]).all()


def test_features_are_kept_until_the_data_changes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dataset_features(bench.dataset, bench.extractor)
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(dataset_features(bench.dataset, bench.extractor), first)


def test_perfect_reconstructions_are_capped(bench: Bench) -> None:
    figures = generation.evaluate_autoencoder(lambda pixels: pixels, bench.dataset)
    assert (figures["psnr_db"].value, figures["ssim"].value) == pytest.approx((100, 1))


def test_a_bundle_reconstructs_with_its_own_graphs(tiny_bundle: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 4), np.uint8)
    pipe = load(tiny_bundle)
    expected = to_uint8(pipe.decode(pipe.encode(from_uint8(pixels))))
    made = report.autoencoder_reconstruct(tiny_bundle)(pixels)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_command_writes_a_report_and_sheets(
    shapes: Path, judge_folder: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["generation", "-m", str(tiny_bundle), "--data", str(shapes), "--judge", str(judge_folder)]
    report.main(
        [*common, "--only", "names", "--only", "copying", "--limit", "3", "--out", str(tmp_path / "out")]
    )
    assert "en/top1_share_of_real" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["nearest_to_memory.png", "real_and_drawn.png", "report.json"]


def test_command_names_what_is_missing(
    shapes: Path, judge_folder: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    common = ["generation", "-m", str(tiny_bundle), "--data", str(shapes)]
    with pytest.raises(TrainingError, match="train that part first"):
        report.main([*common, "--judge", str(tmp_path)])
    missing = ["--only", "paraphrases", "--tags", str(tmp_path / "none.json")]
    with pytest.raises(InputError, match="--tags"):
        report.main([*common, "--judge", str(judge_folder), *missing])
