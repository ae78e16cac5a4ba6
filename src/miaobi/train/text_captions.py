"""Captions as people write them: a thing's name with colours, adjectives, places, requests and slips of the
keyboard around it."""

import re
from typing import NamedTuple

import numpy as np

from miaobi.colours import COLOURS

CLASSES = (*COLOURS, "none")
"""What the colour head tells apart."""

_CHINESE = re.compile(r"[㐀-鿿]")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(" / "))


_ADJECTIVES_EN = _listed("""
    colorful / colourful / rainbow / cute / little / small / tiny / big / large / giant / happy / sad /
    angry / funny / smiling / sleepy / shiny / glossy / glowing / bright / dark / light / pale /
    golden / silver / metallic / pastel / old / new / young / adorable / beautiful / pretty / lovely /
    cool / kawaii / cartoon / flat / minimal / 3d / pixel / round / fluffy / fat / wooden / glass /
    plastic / single / simple / realistic / magical / vintage / neon / friendly
""")
_ADJECTIVES_ZH = _listed("""
    彩色的 / 五颜六色的 / 彩虹色的 / 可爱的 / 小小的 / 小 / 大 / 大大的 / 巨大的 / 开心的 / 快乐的 /
    伤心的 / 生气的 / 搞笑的 / 微笑的 / 困倦的 / 闪亮的 / 发光的 / 明亮的 / 深色的 / 浅色的 / 金色的 /
    银色的 / 金属质感的 / 老 / 旧 / 新 / 年轻的 / 漂亮的 / 美丽的 / 酷酷的 / 萌萌的 / 卡通 / 扁平的 /
    简约的 / 立体的 / 像素风的 / 圆圆的 / 毛茸茸的 / 胖胖的 / 木头的 / 玻璃的 / 塑料的 / 写实的 /
    魔法的 / 复古的 / 霓虹 / 友好的 / 一只 / 一个 / 一朵 / 一辆 / 一张 / 一把 / 一条 / 一位 / 一座 /
    一块 / 一匹 / 一头
""")
_FRAMES_EN = _listed("""
    a {} / an {} / the {} / one {} / some {} / {}! / {}. / my {} / photo of a {} / a photo of {} /
    photo of {} / picture of a {} / an image of a {} / an emoji of a {} / emoji of {} / {} emoji /
    {} icon / icon of a {} / {} sticker / a sticker of a {} / {} clipart / {} logo / {} symbol /
    drawing of a {} / draw a {} / please draw a {} / please draw me a {} / i want a {} / show me a {} /
    generate a {} / make a {} / illustration of a {} / a {}, flat vector illustration /
    {}, flat design / {} 3d render / a {} in 3d style / {} on a white background /
    {} with transparent background / {}, simple / {} for an app / painting of a {} / a cartoon {} /
    {} with a smile / {} with big eyes / {} in the garden / {} on the beach / {} in the rain /
    {} at night / {} in the sky / {} flying in the sky / {} in the forest / {} in the snow /
    {} by the sea / {} in a park / {} on the street / this is a {} / lots of {} / a pair of {} /
    cute kawaii {} sticker / high quality {} / {}, highly detailed
""")
_FRAMES_ZH = _listed("""
    一个{} / 一只{} / 一张{}的照片 / {}的照片 / {}的图片 / {}图片 / {}的图标 / {}图标 / {}表情 /
    {}表情包 / {}的表情符号 / {}贴纸 / 画一个{} / 画一只{} / 请画一个{} / 请画一把{} / 帮我画{} /
    我想要一个{} / 给我一个{} / 生成一个{} / {}的插画 / 卡通风格的{} / 扁平风格的{} / {}，扁平风格 /
    三维渲染的{} / 3d风格的{} / {}，白色背景 / {}，透明背景 / {}，简约 / 水彩画的{} / 带着微笑的{} /
    大眼睛的{} / 花园里的{} / 在花园里的{} / 在花园里飞翔的{} / 沙滩上的{} / 雨中的{} / 夜晚的{} /
    天空中的{} / 在天上飞的{} / 森林里的{} / 雪地里的{} / 海边的{} / 公园里的{} / 街上的{} / 这是{} /
    很多{} / 一群{} / 一些{} / 高清{} / {}！ / {}。 / 一辆{} / 一朵{} / 一张{} / 一把{} / 一条{}
""")
_BESIDE_EN = (
    "{} with a {}",
    "{} and a {}",
    "{} next to a {}",
    "{} holding a {}",
    "{} on a {}",
    "{} in a {}",
    "{} with {}",
)
_BESIDE_ZH = (
    "带着{1}的{0}",
    "拿着{1}的{0}",
    "有{1}的{0}",
    "{1}旁边的{0}",
    "{1}上的{0}",
    "{1}里的{0}",
    "和{1}在一起的{0}",
)
_WORDS = {
    word: name
    for name, colour in COLOURS.items()
    for word in (*colour.en, *colour.zh)
    if word.isascii() or len(word) > 1
}


class Caption(NamedTuple):
    """A caption and the colour that is said in it."""

    text: str
    colour: int
    """Position in CLASSES."""


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in it."""
    return _CHINESE.search(text) is not None


def said_colour(text: str) -> int:
    """The position in CLASSES of the first colour word of a text."""
    if is_chinese(text):
        found = [
            (text.find(word), name) for word, name in _WORDS.items() if not word.isascii() and word in text
        ]
        return CLASSES.index(min(found)[1]) if found else len(CLASSES) - 1
    words = re.findall(r"[a-z]+", text.lower())
    return next((CLASSES.index(_WORDS[word]) for word in words if word in _WORDS), len(CLASSES) - 1)


def vary(text: str, other: str, taken: set[str], rng: np.random.Generator) -> Caption:
    """A caption that is still about `text`.

    `other` is another thing in the same language that may stand beside it; `taken` holds texts with a colour
    that are things of their own ("blue heart"), which a colour word must not make.
    """
    chinese, colour = is_chinese(text), said_colour(text)
    none = len(CLASSES) - 1
    if not chinese and len(text) > 4 and rng.random() < 0.08:
        text = _slip(text, rng)
    if colour == none and rng.random() < 0.45:
        choice = int(rng.integers(none))
        words = COLOURS[CLASSES[choice]].zh if chinese else COLOURS[CLASSES[choice]].en
        word = str(words[rng.integers(len(words))])
        coloured = (
            word + ("的" if word.endswith("色") and rng.random() < 0.8 else "") if chinese else word + " "
        ) + text
        if coloured.replace("的", "").lower() not in taken:
            text, colour = coloured, choice
    if rng.random() < 0.45:
        adjective = _pick(_ADJECTIVES_ZH if chinese else _ADJECTIVES_EN, rng)
        text = adjective + text if chinese else f"{adjective} {text}"
    draw = rng.random()
    if draw < 0.5:
        text = _pick(_FRAMES_ZH if chinese else _FRAMES_EN, rng).format(text)
    elif draw < 0.62:
        text = _pick(_BESIDE_ZH if chinese else _BESIDE_EN, rng).format(text, other)
    return Caption(text, colour)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]


def _slip(text: str, rng: np.random.Generator) -> str:
    """A letter left out, doubled or swapped with the next one."""
    at, kind = int(rng.integers(1, len(text) - 1)), rng.integers(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    return text[:at] + (
        text[at] * 2 + text[at + 1 :] if kind == 1 else text[at + 1] + text[at] + text[at + 2 :]
    )
