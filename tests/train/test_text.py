"""Training the text encoder on a few captions, its keys, and captions as people write them."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from miaobi.errors import DataError, TrainingError  # noqa: E402
from miaobi.text.encoder import TextEncoder  # noqa: E402
from miaobi.train import text  # noqa: E402
from miaobi.train.data import Record  # noqa: E402
from miaobi.train.text_captions import CLASSES, said_colour, vary  # noqa: E402
from miaobi.train.text_export import export_text  # noqa: E402
from miaobi.train.text_keys import accuracy, build_keys  # noqa: E402

THINGS = {
    "cat": ["cat", "kitty", "house cat", "猫", "猫咪"],
    "car": ["car", "automobile", "motor car", "汽车", "轿车"],
    "sun": ["sun", "sunshine", "the bright sun", "太阳", "日光"],
    "tree": ["tree", "oak tree", "green tree", "树", "大树"],
}


def write_data(folder: Path, teacher: bool) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines, targets = [], []
    for name, texts in THINGS.items():
        centre = rng.standard_normal(32)
        for one in texts:
            lines.append(json.dumps({"text": one, "concepts": {name: 1.0}}, ensure_ascii=False))
            targets.append(centre + 0.3 * rng.standard_normal(32))
    for word in ("stone", "石头", "to run", "跑"):
        lines.append(json.dumps({"text": word}, ensure_ascii=False))
        targets.append(rng.standard_normal(32))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    if teacher:
        rows = np.array(targets)
        np.save(
            folder / "targets.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
        )
    return folder


def recipe(data: Path, steps: int = 60) -> dict[str, object]:
    return {
        "part": "text",
        "data": str(data),
        "vocabulary": 420,
        "model": {"width": 32, "layers": 1, "heads": 2},
        "schedule": {
            "steps": steps,
            "batch_size": 48,
            "lr": 5e-3,
            "warmup": 5,
            "ema": 0.9,
            "precision": "fp32",
        },
    }


def run_onnx(path: Path) -> object:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("teacher", [True, False])
def test_learns_a_few_things(tmp_path: Path, teacher: bool) -> None:
    out = tmp_path / "run"
    text.train(recipe(write_data(tmp_path / "data", teacher), 80 if teacher else 150), out, resume=False)
    export_text(out, out / "text.onnx")
    encoder = TextEncoder(out / "tokenizer.json", run_onnx(out / "text.onnx"))
    records = [Record(name, name, "flat", texts[0], texts[3]) for name, texts in THINGS.items()]
    keys, key_concept = build_keys(records, {}, encoder)
    queries = [(one, [i]) for i, texts in enumerate(THINGS.values()) for one in texts]
    first, five, _ = accuracy(encoder, keys, key_concept, queries)
    assert five == 1.0
    assert first >= (0.9 if teacher else 0.6)
    model, tokenizer = text.load(out)
    prompts = [one for one, _ in queries]
    cosines = (text.embed(model, tokenizer, prompts) * encoder(prompts).embedding).sum(1)
    assert cosines.min() > 0.99


def test_a_batch_depends_on_its_rng_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    text.train(recipe(write_data(tmp_path / "data", True), 2), out, resume=False)
    model, tokenizer = text.load(out)
    captions = text.Captions.load(tmp_path / "data")
    tasks = [text.TextTask(model, tokenizer, captions, 0.5, 0.05) for _ in range(2)]
    tasks[1].batch(np.random.default_rng(9), 16)
    one, other = (task.batch(np.random.default_rng(3), 16) for task in tasks)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right)
    named = one.concept[one.concept >= 0]
    assert len(named) == 8
    assert set(named.tolist()) <= set(range(len(THINGS)))


def test_more_words_change_nothing_else(tmp_path: Path) -> None:
    data, first, second = write_data(tmp_path / "data", True), tmp_path / "first", tmp_path / "second"
    text.train(recipe(data, 40), first, resume=False)
    more = recipe(data, 20)
    more |= {"start_from": str(first), "new_words": 4, "concept_share": 0.5}
    with pytest.raises(ValueError, match="weight_decay"):
        text.train(more, second, resume=False)
    more["schedule"] = {**more["schedule"], "weight_decay": 0.0}  # type: ignore[dict-item]
    captions = (data / "captions.jsonl").read_text("utf-8").splitlines()
    captions += [
        json.dumps({"text": word, "concepts": {"cat": 0.5}, "zipf": 4.0}) for word in ("qzxqzx", "vwkvwk")
    ]
    (data / "captions.jsonl").write_text("\n".join(captions) + "\n", "utf-8")
    targets = np.load(data / "targets.npy")
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
    turned = np.concatenate([targets, targets[:1], targets[:1]]).astype(np.float32) @ rotation
    np.save(data / "targets.npy", turned.astype(np.float16))
    text.train(more, second, resume=False)
    (old, old_tokenizer), (new, new_tokenizer) = text.load(first), text.load(second)
    assert "▁qzxqzx" in new_tokenizer.pieces
    assert len(new_tokenizer.encode("qzxqzx")) == 2
    names = [name for texts in THINGS.values() for name in texts]
    kept = [name for name in names if old_tokenizer.encode(name) == new_tokenizer.encode(name)]
    assert {"cat", "car", "sun", "tree"} <= set(kept)
    np.testing.assert_array_equal(text.embed(old, old_tokenizer, kept), text.embed(new, new_tokenizer, kept))
    words = text.embed(new, new_tokenizer, ["qzxqzx", "cat", "tree"])
    assert words[0] @ words[1] > words[0] @ words[2] + 0.2


def test_damaged_data(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", True)
    np.save(folder / "targets.npy", np.zeros((3, 32), np.float16))
    with pytest.raises(DataError, match="3 targets"):
        text.Captions.load(folder)
    (folder / "captions.jsonl").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        text.Captions.load(folder)
    with pytest.raises(TrainingError):
        text.load(tmp_path)


def test_colours_said() -> None:
    assert CLASSES[said_colour("a dark blue apple")] == "blue"
    assert CLASSES[said_colour("绿色的猫")] == "green"
    assert CLASSES[said_colour("redwood 西红柿")] == "none"
    rng = np.random.default_rng(0)
    for _ in range(300):
        caption = vary("heart", "cat", {"blue heart"}, rng)
        assert "blue heart" not in caption.text
        assert caption.colour == len(CLASSES) - 1 or said_colour(caption.text) == caption.colour


def test_held_back_keywords_are_no_keys(tmp_path: Path) -> None:
    out = tmp_path / "run"
    text.train(recipe(write_data(tmp_path / "data", True), 5), out, resume=False)
    export_text(out, out / "text.onnx")
    encoder = TextEncoder(out / "tokenizer.json", run_onnx(out / "text.onnx"))
    record = Record("cat", "cat", "flat", "cat", "猫", ("kitty", "Feline"), ("猫科",))
    all_keys, concept = build_keys([record], {}, encoder)
    fewer, _ = build_keys([record], {"cat": {"en": "feline", "zh": "貓科"}}, encoder)
    assert all_keys.shape == fewer.shape == (3, 32)
    assert concept.tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(fewer.astype(np.float32), axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(all_keys[1:], fewer[1:])  # the names
    plain = Record("cat", "cat", "flat", "cat", "猫", ("kitty",))
    np.testing.assert_array_equal(fewer, build_keys([plain], {}, encoder)[0])
