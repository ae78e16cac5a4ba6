import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from miaobi.errors import DataError, InputError, MachineError
from miaobi.evaluate import prompts, report
from miaobi.images import UInt8


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP of random weights that reads small Latin letters."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchmetrics")
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    numbers = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPConfig(
        text_config=small | numbers,
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.CLIPModel(config).save_pretrained(folder)
        tokenizer = transformers.CLIPTokenizer(
            vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]
        )
        sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**sizes), tokenizer)
        processor.save_pretrained(folder)
    return folder


def noise(count: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 255, (count, 40, 40, 4)).astype(np.uint8)


def test_clip_of_a_folder_scores_each_picture_with_its_prompt(tiny_clip: Path) -> None:
    pixels, texts = noise(20), [f"thing {letter}" for letter in "abcdefghijklmnopqrst"]
    figures = prompts.r_precision(pixels, texts, str(tiny_clip))
    assert {one.count for one in figures.values()} == {20}
    assert figures["r_precision_top1"].value <= figures["r_precision_top5"].value
    assert figures["clip_score"].high <= 100
    few = prompts.r_precision(pixels[:5], texts[:5], str(tiny_clip))
    assert few["r_precision_top5"].value == 1


def test_clip_of_the_hub_comes_through_torchmetrics(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics.multimodal.clip_score as multimodal
    from transformers import CLIPModel, CLIPProcessor

    def fetched(name: str) -> SimpleNamespace:
        assert name == prompts.CLIP
        model, processor = CLIPModel.from_pretrained(tiny_clip), CLIPProcessor.from_pretrained(tiny_clip)
        return SimpleNamespace(model=model, processor=processor)

    monkeypatch.setattr(multimodal, "CLIPScore", fetched)
    texts = ["red", "blue", "green"]
    assert prompts.r_precision(noise(3), texts) == prompts.r_precision(noise(3), texts, str(tiny_clip))


def test_without_the_hub_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    multimodal = pytest.importorskip("torchmetrics.multimodal.clip_score")
    fid = pytest.importorskip("torchmetrics.image.fid")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no connection\nand more")

    monkeypatch.setattr(multimodal, "CLIPScore", unreachable)
    monkeypatch.setattr(fid, "FrechetInceptionDistance", unreachable)
    with pytest.raises(MachineError, match=r"no connection\); .* --clip FOLDER"):
        prompts.r_precision(noise(2), ["a", "b"])
    with pytest.raises(MachineError, match="--features efficientnet-lite0"):
        prompts.extractor("inception")


def test_inception_is_given_bytes_on_white(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    fid = pytest.importorskip("torchmetrics.image.fid")

    def network(rgb: torch.Tensor) -> torch.Tensor:
        assert (rgb.dtype, rgb.shape[1]) == (torch.uint8, 3)
        return rgb.float().mean((2, 3))

    monkeypatch.setattr(fid, "FrechetInceptionDistance", lambda feature: SimpleNamespace(inception=network))
    features = prompts.extractor("inception")(np.zeros((17, 8, 8, 4), np.uint8))  # nothing: white
    assert features.shape == (17, 3)
    assert (features == 255).all()


def test_equal_sets_are_nearest() -> None:
    def features(pixels: UInt8) -> np.ndarray[Any, Any]:
        return pixels.reshape(len(pixels), -1)[:, :12].astype(np.float32) / 255

    near = prompts.distances(noise(40), noise(40, seed=1), features)
    far = prompts.distances(noise(40), noise(40, seed=1) // 4, features)
    assert near["fid"].high < far["fid"].low
    assert near["kid"].value < far["kid"].value
    with pytest.raises(InputError, match="2 or more"):
        prompts.distances(noise(1), noise(4), features)


def test_real_pictures_are_cut_square(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    (tmp_path / "more").mkdir()
    Image.fromarray(wide).save(tmp_path / "more" / "a.png")
    made = prompts.real_pictures(tmp_path, 5)
    assert made.shape == (1, 5, 5, 4)
    assert (made == 255).all()
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        prompts.real_pictures(tmp_path, 5)
    with pytest.raises(DataError, match="holds no"):
        prompts.real_pictures(tmp_path / "nothing", 5)


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of each"):
        prompts.r_precision(noise(2), ["same", "same"])
    with pytest.raises(InputError, match="efficientnet-lite0 or inception"):
        prompts.extractor("vgg")
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(InputError, match="--real"):
        report.main(["prompts", str(tmp_path / "prompts.txt"), "--clip", ""])


def test_command_measures_a_bundle(
    tiny_bundle: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple\na cat\n\na dog\n")
    (tmp_path / "real").mkdir()
    for number, pixels in enumerate(noise(2)):
        Image.fromarray(pixels).save(tmp_path / "real" / f"{number}.png")
    files = [str(tmp_path / "prompts.txt"), "--real", str(tmp_path / "real"), "--out", str(tmp_path / "out")]
    report.main(["prompts", *files, "-m", str(tiny_bundle), "--clip", str(tiny_clip)])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("clip_score", "r_precision_top1", "fid", "kid", "(n=3)"))
    assert (tmp_path / "out" / "drawn.png").exists()
