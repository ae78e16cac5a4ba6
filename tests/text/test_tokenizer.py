"""The pure-Python tokenizer: normalisation, parity with `tokenizers`, round trip, bad files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.errors import BundleError, MachineError
from miaobi.text.tokenizer import MAX_TOKENS, Tokenizer, normalise

PIECES = {
    "▁red": -3.0,
    "▁re": -5.0,
    "d": -6.0,
    "▁": -7.0,
    "r": -7.0,
    "e": -6.5,
    "猫": -4.0,
    "黑猫": -5.0,
    "黑": -4.5,
    "🍎": -8.0,
}


def write(folder: Path) -> Path:
    library = pytest.importorskip("tokenizers")
    head = ["<pad>", "<unk>", "<s>", *(f"<0x{value:02X}>" for value in range(256))]
    vocabulary = [*((piece, 0.0) for piece in head), *PIECES.items()]
    made = library.Tokenizer(library.models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("Red 貓!", ["▁red", "猫", "!"]),
        ("ＲＥＤ　ＡＰＰＬＥ", ["▁red", "▁apple"]),
        ("一只 cute 的 penguin", ["一只", "▁cute", "的", "▁penguin"]),
        ("twelve o’clock 12", ["▁twelve", "▁o'clock", "1", "2"]),
        ("👍🏽❤️", ["👍", "❤"]),
        ("什么 南宁", ["什么", "南宁"]),
        ("", []),
    ],
)
def test_normalise(text: str, segments: list[str]) -> None:
    assert normalise(text) == segments


def test_best_cut(path: Path) -> None:
    tokenizer = Tokenizer(path)
    names = {number: piece for piece, number in tokenizer.pieces.items()}
    assert [names[i] for i in tokenizer.encode("red 黑貓 🍎")] == ["<s>", "▁red", "黑猫", "🍎"]
    assert [names[i] for i in tokenizer.encode("ß")] == ["<s>", "▁", "<0xC3>", "<0x9F>"]


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("Red  APPLE", "red apple"),
        ("一只 cute 的 penguin", "一只 cute的 penguin"),
        ("hand, light-skinned ß🍎", "hand, light-skinned ß🍎"),
        ("", ""),
    ],
)
def test_decoding(path: Path, text: str, again: str) -> None:
    tokenizer = Tokenizer(path)
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.pad]) == again
    assert tokenizer.encode(again) == tokenizer.encode(text)


@given(st.lists(st.integers(0, 268)))
def test_any_ids_are_some_text(path: Path, ids: list[int]) -> None:
    Tokenizer(path).decode(ids).encode()


@given(st.text(alphabet="red▁ 黑猫🍎xß!1", max_size=20))
def test_same_ids_as_the_library(path: Path, text: str) -> None:
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path))
    expected = library.encode(" ".join(normalise(text)), add_special_tokens=False).ids
    assert Tokenizer(path).encode(text)[1:] == expected


@given(st.text(max_size=40))
def test_nothing_is_lost(path: Path, text: str) -> None:
    tokenizer = Tokenizer(path)
    names = {number: piece for piece, number in tokenizer.pieces.items()}
    data = b""
    for number in tokenizer.encode(text)[1:]:
        piece = names[number]
        data += bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.encode()
    assert data.decode("utf-8", "surrogatepass") == "".join(normalise(text))


def test_batch_pads_and_cuts(path: Path) -> None:
    ids, mask, cut = Tokenizer(path).batch(["red", "黑" * 50, ""])
    assert ids.shape == mask.shape == (3, MAX_TOKENS)
    assert mask.sum(1).tolist() == [2, MAX_TOKENS, 1]
    assert cut == [0, 51 - MAX_TOKENS, 0]
    assert (ids[~mask] == Tokenizer.pad).all()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model": {"type": "BPE", "byte_fallback": true}}', '{"model": {}}']
)
def test_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError):
        Tokenizer(tmp_path / "tokenizer.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        Tokenizer(tmp_path / "none.json")
