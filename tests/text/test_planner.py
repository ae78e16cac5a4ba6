"""Prompts to scenes with a small memory of names and an encoder that knows nothing."""

import contextlib
import importlib.util
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import miaobi
from miaobi.errors import InputError
from miaobi.text.memory import Memory
from miaobi.text.planner import plan
from miaobi.text.scene import Relation, Scene

NAMES = (
    *(
        "parrot:鹦鹉",
        "cat:猫",
        "dog:狗",
        "house:房子",
        "butterfly:蝴蝶",
        "tree:树",
        "bow and arrow:弓和箭",
        "sun:太阳",
    ),
    *(
        "woman with white cane:拄盲杖的女人",
        "flag: China:国旗: 中国",
        "mountain cableway:缆车",
        "frog:青蛙",
        "crown:皇冠",
    ),
    *(
        "red apple:红苹果",
        "two hearts:两颗心",
        "family: man, woman, boy:家庭: 男人女人男孩",
        "chair:椅子",
        "duck:鸭子",
    ),
    *(
        "glasses:眼镜",
        "books:书",
        "sandwich:三明治",
        "boy:男孩",
        "hat:帽子",
        "horse:马",
        "basket:篮子",
        "moon:月亮",
    ),
)


class NoEncoder:
    def __call__(self, prompts: list[str]) -> Any:
        return type("Features", (), {"embedding": np.zeros((len(prompts), 4), np.float32)})


def memory() -> Memory:
    concepts = []
    for name in NAMES:
        english, chinese = name.rsplit(":", 1)
        if "国旗" in name or "家庭" in name:
            english, chinese = (
                name.split(":国")[0].split(":家")[0],
                name[name.index("国旗" if "国旗" in name else "家庭") :],
            )
        concepts.append({"slug": english, "label_en": english, "label_zh": chinese})
    count = len(concepts)
    return Memory(
        keys=np.eye(count, 4, dtype=np.float32),
        key_concept=np.arange(count),
        entry_concept=np.arange(count),
        entry_style=np.zeros(count, int),
        entry_tone=np.zeros(count, int),
        latents=np.zeros((count, 8), np.uint8),
        scale=np.ones(4, np.float32),
        shape=(4, 2, 2),
        concepts=concepts,
        ids=[f"style/{index}" for index in range(count)],
    )


MEMORY = memory()


def read(prompt: str) -> Scene:
    return plan(prompt, MEMORY, NoEncoder())  # type: ignore[arg-type]


def told(scene: Scene) -> list[str]:
    """Each thing as "2 red house left tree", in alphabetical order."""
    lines = []
    for thing in scene.things:
        parts = [str(thing.count), thing.colour or "", thing.concept]
        if thing.relation:
            others = ",".join(scene.things[one].concept for one in thing.relation.to)
            parts += [thing.relation.word, others or "-"]
        lines.append(" ".join(part for part in parts if part))
    return sorted(lines)


@pytest.mark.parametrize(
    ("prompt", "things", "background"),
    [
        ("a colorful parrot flying in the garden", ["1 colorful parrot"], "garden"),
        ("two butterflies above", ["2 butterfly above -"], None),
        ("a red house on the left", ["1 red house left -"], None),
        ("A CAT, a dog and three ducks!", ["1 cat", "1 dog", "3 duck"], None),
        ("a cat between two trees", ["1 cat between tree", "2 tree"], None),
        ("a cat between a tree and a house", ["1 cat between tree,house", "1 house", "1 tree"], None),
        ("behind the house there is a tree", ["1 house", "1 tree behind house"], None),
        ("a frog wearing a crown", ["1 crown on frog", "1 frog"], None),
        ("a boy riding a horse under the sun", ["1 boy on horse", "1 horse below sun", "1 sun"], None),
        ("a pair of glasses on a chair", ["1 chair", "1 glasses on chair"], None),
        ("a zorble next to a cat", ["1 cat", "1 zorble beside cat"], None),
        ("a dog with a red hat in the snow", ["1 dog", "1 red hat"], "snow"),
        ("under the moon, an owl sits on a tree", ["1 moon", "1 owl on tree", "1 tree below moon"], None),
        ("一只在花园里飞翔的彩色鹦鹉", ["1 colorful 鹦鹉"], "花园"),
        ("上面有两只蝴蝶", ["2 蝴蝶 above -"], None),
        ("左边有一座红色的房子", ["1 red 房子 left -"], None),
        ("桌子上的猫", ["1 桌子", "1 猫 on 桌子"], None),
        ("房子和树之间有三只狗", ["1 房子", "1 树", "3 狗 between 房子,树"], None),
        ("戴帽子的男孩在房子前面", ["1 帽子 on 男孩", "1 房子", "1 男孩 front 房子"], None),
        ("一隻貓和兩隻狗", ["1 猫", "2 狗"], None),
        ("三明治和鸭子", ["1 三明治", "1 鸭子"], None),
        ("海滩上有4只鸭子", ["4 鸭子"], "海滩"),
        ("篮子里有猫和狗", ["1 狗 in 篮子", "1 猫 in 篮子", "1 篮子"], None),
    ],
)
def test_prompts(prompt: str, things: list[str], background: str | None) -> None:
    scene = read(prompt)
    assert told(scene) == sorted(things)
    assert scene.background == background


@pytest.mark.parametrize(
    "prompt",
    [
        "skin tone",
        "family: man, woman",
        "a cute parrot",
        "red apple",
        "Bow and Arrow",
        "a woman with white cane, dark skin tone",
        "可爱的猫",
        "红苹果",
        "zorble",
        "garden",
        "花园",
        "😀",
        "two hearts",
        "butterflies",
    ],
)
def test_one_single_thing_stays_the_whole_prompt(prompt: str) -> None:
    scene = read(prompt)
    assert scene.simple
    assert scene.things[0].concept == unicodedata.normalize("NFKC", prompt)


@pytest.mark.parametrize(
    ("prompt", "things", "background"),
    [
        ("a cup of hot tea and a cat", ["1 cat", "1 cup of hot tea"], None),
        ("two slices of pizza on a chair", ["1 chair", "2 slice of pizza on chair"], None),
        ("a glass of red wine next to a cat", ["1 cat", "1 glass of red wine beside cat"], None),
        ("a cat and a glass of water", ["1 cat", "1 glass of water"], None),
        ("a field of yellow flowers and a dog", ["1 dog", "3 yellow flower"], "field"),
        ("a cat that purrs and a dog which is smiling", ["1 cat", "1 dog"], None),
        ("a boy who swims under the sun", ["1 boy below sun", "1 sun"], None),
        ("two dogs bark under a tree", ["1 tree", "2 dog below tree"], None),
        ("the ducks swim near a boy", ["1 boy", "3 duck beside boy"], None),
        ("a hat for a birthday party and a dog", ["1 dog", "1 hat"], None),
        ("a basket for cats and dogs on a chair", ["1 basket on chair", "1 chair"], None),
        ("a boy with light brown skin and a dog", ["1 boy", "1 dog"], None),
        ("a dark-skinned boy, a cat", ["1 boy", "1 cat"], None),
        ("four hats, red ones", ["4 red hat"], None),
        ("a duck, yellow, in the lake", ["1 yellow duck"], "lake"),
        ("two cats, both black", ["2 black cat"], None),
        ("a horse that is brown and a dog", ["1 brown horse", "1 dog"], None),
        ("a dog, a red hat, and a cat", ["1 cat", "1 dog", "1 red hat"], None),
        ("a chair with a cat on top", ["1 cat on chair", "1 chair"], None),
        ("a house, on top a dog", ["1 dog on house", "1 house"], None),
        ("the sun on top", ["1 sun above -"], None),
        ("horse left, frog right", ["1 frog right -", "1 horse left -"], None),
        ("sun top, house bottom", ["1 house below -", "1 sun above -"], None),
        ("I'd like an image of two ducks", ["2 duck"], None),
        ("could you draw me a cat and a dog", ["1 cat", "1 dog"], None),
        ("太空站和一只狗", ["1 太空站", "1 狗"], None),
        ("两只沙漠青蛙", ["2 沙漠青蛙"], None),
        ("两艘飞船和太阳", ["1 太阳", "2 飞船"], None),
        ("沙漠里的青蛙", ["1 青蛙"], "沙漠"),
        ("一只从房子往外看的猫", ["1 房子", "1 猫"], None),
        ("一只猫从篮子里看", ["1 猫 in 篮子", "1 篮子"], None),
        ("两只狗向前跑", ["2 狗"], None),
        ("黑皮肤的男孩和一只狗", ["1 狗", "1 男孩"], None),
        ("三顶帽子，红色的", ["3 red 帽子"], None),
        ("鸭子，黄色的，坐在椅子上", ["1 椅子", "1 yellow 鸭子 on 椅子"], None),
        ("一匹马，头上有一只蝴蝶", ["1 蝴蝶 on 马", "1 马"], None),
        ("一座房子，旁边一棵树", ["1 房子", "1 树 beside 房子"], None),
        ("我想要一张图：一只猫和一只狗", ["1 狗", "1 猫"], None),
        ("请画一幅有三只鸭子的画", ["3 鸭子"], None),
    ],
)
def test_what_adds_no_thing(prompt: str, things: list[str], background: str | None) -> None:
    scene = read(prompt)
    assert told(scene) == sorted(things)
    assert scene.background == background


@pytest.mark.parametrize(
    "prompt",
    [
        *("a bottle of wine", "a bowl of hot soup", "a bunch of grapes", "a glass of orange juice"),
        *(
            "a dog that is running",
            "a cat which is smiling",
            "a cake for a birthday party",
            "a hat for running",
        ),
        *("a woman with dark skin", "I want a picture of a cat", "please make me an emoji of a frog"),
        *(
            "太空站",
            "海洋馆",
            "城市公交车",
            "宇宙飞船",
            "花园青蛙",
            "深色皮肤的男孩",
            "请画一幅猫的画",
            "帮我画一只猫",
        ),
    ],
)
def test_one_thing_with_more_words_is_one_thing(prompt: str) -> None:
    assert read(prompt).simple


def test_every_name_stays_one_thing() -> None:
    for concept in MEMORY.concepts:
        for label in (concept["label_en"], concept["label_zh"]):
            scene = read(label)
            assert scene.simple
            assert scene.things[0].concept == label


def test_what_is_too_much_is_said() -> None:
    scene = read("99 cats and a dog")
    assert [thing.count for thing in scene.things] == [12, 1]
    assert "99" in scene.notes[0]
    scene = read("ten cats and ten dogs")
    assert sum(thing.count for thing in scene.things) == 16
    assert scene.notes
    assert read("a cat in the garden at night").notes
    many = " and ".join(f"a cat and a dog{'x' * i}" for i in range(20))
    assert len(read(many).things) <= 16


def test_what_is_behind_comes_first_and_what_is_on_comes_last() -> None:
    assert [thing.concept for thing in read("a house in front of a tree").things] == ["tree", "house"]
    assert [thing.concept for thing in read("a cat on a chair").things] == ["chair", "cat"]
    scene = read("a cat and a tree behind it")
    assert [thing.concept for thing in scene.things] == ["tree", "cat"]
    assert scene.things[0].relation == Relation("behind", (1,))


def test_circles_are_not_made() -> None:
    assert read("a cat on a dog on a cat on it").layout()
    assert read("猫在狗上面狗在猫上面它在它上面").layout()


def test_bad_prompts() -> None:
    for prompt in ("", "  ", "x" * 1001):
        with pytest.raises(InputError):
            read(prompt)


WORDS = (
    "a two cats dog red colorful the in on under left of right next to it between and with , . behind above",
    "there is wearing riding garden 99 猫 狗 两只 红色的 在 里 上面 下 左边 和 之间",
    "有 的 是 戴着 骑着 花园 ， 它",
    "zq 😀 \u200b \ufe0f \u200d",
)
FRAGMENTS = st.sampled_from(" ".join(WORDS).split(" "))


@settings(max_examples=300)
@given(st.lists(FRAGMENTS, max_size=25), st.sampled_from(["", " "]))
def test_any_words_make_a_scene(parts: list[str], joiner: str) -> None:
    try:
        scene = read(joiner.join(parts))
    except InputError:
        return
    assert scene.layout()
    assert Scene.from_json(scene.to_json()).things


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_any_text_makes_a_scene(text: str) -> None:
    with contextlib.suppress(InputError):
        assert read(text).layout()


def benchmark() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "planner.py"
    spec = importlib.util.spec_from_file_location("benchmark_planner", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_shipped_model_reads_the_hundred_prompts() -> None:
    bench = benchmark()
    expected = bench.read(bench.SCENES)
    assert len(expected) == 100
    assert sum(one.language == "zh" for one in expected) == 50
    pipe = miaobi.load(threads=1)
    sums: dict[str, list[int]] = {}
    for one in expected:
        for part, (right, asked) in bench.judge(one, plan(one.prompt, pipe.memory, pipe._encoder)).items():
            total = sums.setdefault(part, [0, 0])
            total[0] += right
            total[1] += asked
    shares = {part: right / asked for part, (right, asked) in sums.items()}
    assert shares["objects"] > 0.95
    assert shares["relations"] > 0.9
    kept = bench.names_kept(pipe.memory, pipe._encoder)
    assert min(kept.values()) > 0.99


def test_the_judge_sees_what_is_wrong() -> None:
    bench = benchmark()
    wanted = next(one for one in bench.read(bench.SCENES) if one.prompt == "a cat under the table")
    assert bench.judge(wanted, read("a cat under the table"))["relations"] == (1, 1)
    assert bench.judge(wanted, read("a cat on the table"))["relations"] == (0, 1)
    assert bench.judge(wanted, read("a dog under a house"))["objects"] == (0, 2)
    assert bench.judge(wanted, read("two red cats under the table"))["counts"] == (1, 2)
    assert bench.judge(wanted, read("two red cats under the table"))["colours"] == (1, 2)
    assert bench.judge(wanted, read("a cat under the table in the garden"))["background"] == (0, 1)
