"""The text encoder: shapes, padding, exported graph."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from miaobi.models.text import TextConfig, TextModel  # noqa: E402


@pytest.fixture
def model() -> TextModel:
    torch.manual_seed(0)
    made = TextModel(TextConfig(vocabulary=90, width=32, layers=2, heads=2, max_tokens=16))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def batch(rows: int = 3, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    lengths = np.array([length, *rng.integers(1, length, rows - 1)])
    mask = np.arange(length) < lengths[:, None]
    return torch.from_numpy(rng.integers(3, 90, (rows, length)) * mask), torch.from_numpy(mask)


@torch.no_grad()
def test_a_prompt_alone_is_as_in_a_batch(model: TextModel) -> None:
    ids, mask = batch()
    together = model(ids, mask)
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row, :length])
        torch.testing.assert_close(alone.embedding[0], together.embedding[row])
        assert (together.tokens[row, length:] == 0).all()
    torch.testing.assert_close(together.embedding.norm(dim=1), torch.ones(len(ids)))


@torch.no_grad()
def test_new_blocks_change_nothing() -> None:
    few, many = (TextModel(TextConfig(vocabulary=90, width=32, layers=n, heads=2)).eval() for n in (1, 3))
    many.load_state_dict(few.state_dict(), strict=False)
    ids, mask = batch()
    torch.testing.assert_close(few(ids, mask).embedding, many(ids, mask).embedding)


@torch.no_grad()
def test_export_agrees(model: TextModel) -> None:
    runtime = pytest.importorskip("onnxruntime")
    text_export = pytest.importorskip("miaobi.train.text_export")
    session = runtime.InferenceSession(text_export.onnx_model(model).SerializeToString())
    table = model.embedding.weight
    table.copy_(torch.from_numpy(text_export.unpack(*text_export.pack(table.numpy()))))
    for parameter in model.parameters():  # what the graph holds: 8-bit rows
        if (
            parameter.ndim == 2
            and parameter.shape[0] > 1
            and parameter is not model.position
            and parameter is not table
        ):
            integers, scale = text_export.quantise(parameter.detach().numpy())
            parameter.copy_(torch.from_numpy(integers * scale))
    for rows, length in ((3, 7), (1, 1), (2, 16)):
        ids, mask = batch(rows, max(length, 2))
        ids, mask = ids[:, :length], mask[:, :length]
        tokens, embedding = session.run(["tokens", "embedding"], {"ids": ids.numpy(), "mask": mask.numpy()})
        expected = model(ids, mask)
        np.testing.assert_allclose(tokens, expected.tokens, atol=2e-5)
        np.testing.assert_allclose(embedding, expected.embedding, atol=2e-5)


def test_few_bits_are_near() -> None:
    text_export = pytest.importorskip("miaobi.train.text_export")
    table = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    integers, scale = text_export.quantise(table)
    assert integers.dtype == np.int8
    assert np.abs(integers * scale - table).max() <= scale.max() / 2 + 1e-7
    packed, scales = text_export.pack(table)
    assert (packed.dtype, packed.shape, scales.shape) == (np.uint8, (50, 64), (50, 2))
    again = text_export.unpack(packed, scales)
    cosine = (again * table).sum(1) / np.linalg.norm(again, axis=1) / np.linalg.norm(table, axis=1)
    assert cosine.min() > 0.98
    assert (text_export.unpack(*text_export.pack(np.zeros((2, 8), np.float32))) == 0).all()


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="width = 30"):
        TextConfig(vocabulary=10, width=30, heads=4)
    with pytest.raises(ValueError, match="layers = 0"):
        TextConfig(vocabulary=10, layers=0)
