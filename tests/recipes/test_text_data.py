"""Dictionaries behind the text encoder's data, on a few made-up lines of each."""

import io
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from miaobi.errors import DataError

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"
sys.path.insert(0, str(RECIPE))

import lexicon  # noqa: E402
import meanings  # noqa: E402

LINES = [
    "貓 猫 [mao1] /cat/CL:隻|只[zhi1]/(dialect) to hide oneself/",
    "小貓 小猫 [xiao3 mao1] /kitten/a small cat/",
    "轎車 轿车 [jiao4 che1] /sedan/car/",
    "汽車 汽车 [qi4 che1] /car/automobile/",
    "張 张 [Zhang1] /surname Zhang/",
]
NOUNS = """  1 This is the licence.
00000001 05 n 01 animal 0 002 ~ 00000002 n 0000 ~ 00000003 n 0000 | a living thing
00000002 05 n 01 cat 0 002 @ 00000001 n 0000 ~ 00000004 n 0000 | feline mammal; "the cat sat"
00000003 05 n 01 dog 0 001 @ 00000001 n 0000 | canine mammal
00000004 05 n 02 tabby 0 mouse_hunter 0 001 @ 00000002 n 0000 | a striped cat
"""
INDEX = """  1 This is the licence.
animal n 1 1 ~ 1 1 00000001
cat n 1 2 @ ~ 1 1 00000002
dog n 1 1 @ 1 1 00000003
tabby n 1 1 @ 1 0 00000004
mouse_hunter n 1 1 @ 1 0 00000004
"""


@pytest.fixture
def dictionary(tmp_path: Path) -> list[lexicon.Entry]:
    (tmp_path / "dump.dat").write_bytes(pickle.dumps(LINES, protocol=3))
    return lexicon.cedict(tmp_path / "dump.dat")


@pytest.fixture
def wordnet(tmp_path: Path) -> lexicon.WordNet:
    path = tmp_path / "wordnet.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (("data.noun", NOUNS), ("data.verb", ""), ("data.adj", ""), ("index.noun", INDEX)):
            member = tarfile.TarInfo(f"package/dict/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return lexicon.WordNet(path)


def test_cedict(dictionary: list[lexicon.Entry]) -> None:
    found = {entry.simplified: entry.meanings for entry in dictionary}
    assert found == {
        "猫": ("cat", "to hide oneself"),
        "小猫": ("kitten", "small cat"),
        "轿车": ("sedan", "car"),
        "汽车": ("car", "automobile"),
    }
    assert lexicon.simplifications(dictionary) == {"貓": "猫", "車": "车", "轎": "轿"}


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "dump.dat").write_bytes(
        b"cos\nsystem\n(S'touch " + str(tmp_path / "bad").encode() + b"'\ntR."
    )
    with pytest.raises(DataError):
        lexicon.cedict(tmp_path / "dump.dat")
    assert not (tmp_path / "bad").exists()


def test_wordnet(wordnet: lexicon.WordNet) -> None:
    (cat,) = wordnet.nouns["cat"]
    synset = wordnet.synsets[cat]
    assert (synset.lemmas, synset.gloss, synset.file) == (("cat",), "feline mammal", 5)
    assert [wordnet.synsets[at].lemmas for at in synset.hyponyms] == [("tabby", "mouse hunter")]


def test_damaged_wordnet(tmp_path: Path) -> None:
    (tmp_path / "wordnet.tgz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"wordnet\.tgz"):
        lexicon.WordNet(tmp_path / "wordnet.tgz")


def test_words_of_concepts(dictionary: list[lexicon.Entry], wordnet: lexicon.WordNet) -> None:
    def row(english: str, chinese: str, tags_en: list[str], tags_zh: list[str]) -> dict[str, object]:
        category = "Animals & Nature" if english != "automobile" else "Travel & Places"
        return {
            "label_en": english,
            "label_zh": chinese,
            "tags_en": tags_en,
            "tags_zh": tags_zh,
            "category": category,
        }

    concepts = {
        "cat": row("cat", "猫", ["pet", "kitty"], ["宠物"]),
        "dog": row("dog", "狗", ["pet"], []),
        "automobile": row("automobile", "汽车", ["car"], []),
    }
    extra = {"cat": ["kitty", "tabby", "Pussy_cat"], "automobile": ["auto"]}

    def encode(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 4), np.float32) / 2

    found = meanings.concept_words(
        concepts, {"cat": {"en": "Kitty", "zh": "寵物"}}, wordnet, dictionary, extra, encode
    )
    assert {"cat", "猫", "pet", "tabby", "mouse hunter"} <= found["cat"].keys()
    assert not {"kitty", "宠物", "dog"} & found["cat"].keys()
    assert found["cat"]["cat"] == 1.0
    assert found["cat"]["pet"] < 1.0
    assert found["automobile"].keys() >= {"automobile", "汽车", "car", "auto"}
