"""Parts of a prompt that add no thing to its scene: openings such as "I want a picture of", and skin."""

import re

from miaobi.text.lexicon import COLOURS
from miaobi.text.scene import has_han

_PICTURE = (
    r"(?:picture|image|photo|photograph|drawing|illustration|emoji|sticker|icon|painting|sketch|scene|pic)s?"
)
_OPENING = re.compile(
    r"^(?:(?:please|kindly|hi|hello|hey),?\s+)*"
    r"(?:(?:i|we)(?:['’]d| would)?\s+(?:want|need|like|love|wish)(?:\s+for)?(?:\s+to\s+(?:have|see|get))?\s+"
    r"(?:you\s+to\s+)?|(?:can|could|would|will)\s+(?:you|i)\s+)?(?:please\s+)?"
    r"(?:(?:give|make|draw|show|create|generate|paint|design|get|have|render|sketch|send)\s+"
    r"(?:(?:me|us)\s+)?)?(?:please\s+)?"
    rf"(?:(?:an?|the|one|some)\s+(?:\w+\s+)?{_PICTURE}"
    r"(?:\s+(?:of|showing|where|in which|that shows)\s+|\s*:\s*))?",
    re.IGNORECASE,
)
_SKIN_WORDS = "|".join(
    ["very", "medium", "light", "dark", "darker", "lighter", "pale", "fair", "tan", "tanned", "olive", "deep"]
    + [word for words, _ in COLOURS.values() for word in words]
)
_SKIN = re.compile(
    rf"[,\s]*\b(?:with|has|have|having)\s+(?:an?\s+|the\s+)?(?:(?:{_SKIN_WORDS})[\s-]+)+"
    r"(?:coloured\s+|colored\s+)?skin\b(?:\s+(?:tone|colou?r))?"
    rf"|\b(?:(?:{_SKIN_WORDS})[\s-]+)+skinned\b",
    re.IGNORECASE,
)

_ASK_ZH = r"(?:请你?|麻烦你?|你?能不能|你?可不可以|你?可以|我们?|帮忙|帮我|给我|替我|为我)"
_WANT_ZH = r"(?:想要|想|要|需要|希望|画出|画|绘制|生成|制作|做|设计|创作|来|看到)"
_PICTURE_ZH = r"(?:图片|图像|图画|插画|插图|图标|照片|表情包|表情|贴纸|画|图)"
_OPENING_ZH = re.compile(
    rf"^(?:{_ASK_ZH}+(?:{_WANT_ZH}|{_ASK_ZH})*{_WANT_ZH}|{_ASK_ZH}+(?=[一两三几\d])|{_WANT_ZH}+(?=[一两三几\d]))"
)
_CANVAS_ZH = re.compile(
    rf"^(?:一?[张幅个副份款枚]{_PICTURE_ZH}(?:\s*[:：,，]\s*|(?:[里中上]面?)?(?:有|画着|画的是|是))"
    r"|一?[张幅副](?=有|关于|画着)(?:有|关于|画着))"
)
_OF_PICTURE_ZH = re.compile(rf"的{_PICTURE_ZH}[。.!！]?$")
_SHADE_ZH = r"(?:[深浅黑白黄棕褐]色?|古铜色|小麦色|中等|较|黝黑|白皙|[红绿蓝紫粉]色?)"
_SKIN_ZH = re.compile(
    rf"[,，]?(?:有着|长着|拥有|有)?{_SHADE_ZH}+的?(?:皮肤|肤色)的?"
    rf"|[,，]?(?:皮肤|肤色)(?:是|很|较|比较|偏)*{_SHADE_ZH}+的?"
)


def without_asides(prompt: str) -> str:
    """The prompt without an opening that only asks for a picture and without words for skin; maybe empty.

    "I want a picture of a cat" is "a cat", "一个黑皮肤的医生" is "一个医生".
    """
    if not has_han(prompt):
        return _SKIN.sub("", _OPENING.sub("", prompt, count=1)).strip(" ,")
    asked = _OPENING_ZH.sub("", prompt, count=1)
    plain = _CANVAS_ZH.sub("", asked, count=1)
    if plain != prompt or re.match("一[张幅]", plain):
        plain = _OF_PICTURE_ZH.sub("", plain)
    return _SKIN_ZH.sub("", plain).strip(" ,，")
