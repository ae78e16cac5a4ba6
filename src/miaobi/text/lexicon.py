"""The small words that the planner knows: colours, counts, sizes, relations, places, and what it skips.

Nouns are not here: they are the concepts of the memory. English words are in lower case, Chinese ones
simplified; "|" stands between words.
"""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value", int, str)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


def _by_value(table: Mapping[Value, str]) -> dict[str, Value]:
    """{word: value} of {value: words}."""
    return {word: value for value, words in table.items() for word in _words(words)}


COLOURS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    name: (_words(english), _words(chinese))
    for name, english, chinese in (
        ("red", "red|crimson|scarlet", "红色|红|大红色|大红"),
        ("orange", "orange", "橙色|橘色|橘黄色|橙|橘"),
        ("yellow", "yellow|golden|gold", "黄色|黄|金黄色|金色"),
        ("green", "green", "绿色|绿"),
        ("cyan", "cyan|teal|turquoise", "青色|蓝绿色|青绿色"),
        ("blue", "blue", "蓝色|蓝"),
        ("purple", "purple|violet", "紫色|紫"),
        ("pink", "pink", "粉色|粉红色|粉红"),
        ("brown", "brown", "棕色|褐色|咖啡色"),
        ("black", "black", "黑色|黑"),
        ("white", "white", "白色|白"),
        ("gray", "gray|grey", "灰色|灰|银灰色"),
        (
            "colorful",
            "colorful|colourful|multicolored|multicoloured|rainbow-colored",
            "彩色|五彩|五彩缤纷|五颜六色|七彩|缤纷",
        ),
    )
}
"""Colour -> its English and its Chinese words, the usual one first: those of the model and "colorful"."""

BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    kind: _words(words)
    for kind, words in {
        "garden": "garden|gardens|flower garden|backyard|yard|花园|庭院|院子|花丛|后院",
        "beach": "beach|seaside|shore|seashore|coast|sand|海滩|沙滩|海边|海岸",
        "sky": "sky|skies|air|blue sky|天空|天上|空中|蓝天|半空|云端",
        "sea": "sea|ocean|waves|water|underwater|seabed|大海|海|海洋|海水|海底|水|水下",
        "lake": "lake|pond|pool|湖|湖面|池塘|水池|湖水|荷塘|池子",
        "river": "river|stream|creek|河|小河|河流|河边|小溪|溪流|江",
        "snow": "snow|ice field|snowfield|雪|雪地|冰雪|大雪|冰面",
        "forest": "forest|woods|jungle|rainforest|森林|树林|丛林|林|雨林|竹林",
        "desert": "desert|dunes|沙漠",
        "grass": (
            "grass|meadow|field|fields|lawn|grassland|prairie|savanna|park|farm|hill|hillside|草地|草原|草坪|田野|"
            "公园|农场|田|原野|山坡|麦田"
        ),
        "mountain": "mountains|hills|山|群山|高山|山顶|山间|大山",
        "city": (
            "city|street|road|town|downtown|village|sidewalk|square|highway|"
            "城市|街道|马路|街|大街|街头|小镇|村庄|广场|公路|路"
        ),
        "room": (
            "room|kitchen|bedroom|living room|classroom|office|house interior|floor|"
            "房间|厨房|卧室|客厅|教室|办公室|屋|屋子|室|地板|家"
        ),
        "space": "space|outer space|universe|galaxy|cosmos|宇宙|太空|星空|外太空|银河系",
        "night": "night|night sky|starry sky|midnight|夜晚|夜空|晚上|夜里|黑夜|夜",
        "rain": "rain|storm|rainy day|雨|雨中|下雨天|下雨|雨天|暴风雨|大雨",
        "sunset": "sunset|dusk|twilight|日落|黄昏|夕阳|傍晚|晚霞",
        "sunrise": "sunrise|dawn|morning|日出|清晨|早晨|黎明",
    }.items()
}
"""Kind of background -> the words for it in both languages."""

RELATIONS = ("in", "on", "above", "below", "left", "right", "beside", "between", "behind", "front")
"""How a thing lies to others; above, below, left and right of nothing mean a part of the picture."""

EN_COUNTS = _by_value(
    {
        1: "a|an|one|another|single",
        2: "two|both|twin|a pair of|pair of|a couple of|couple of|a pair",
        3: "three|several|few|a few|a bunch of|a trio of",
        4: "four|a group of|a pack of|a row of|a pile of",
        5: "five|many|lots of|a lot of|a flock of|a herd of|a school of|a swarm of",
        6: "six|half a dozen",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
        11: "eleven",
        12: "twelve|dozen|a dozen|dozens of",
    }
)
EN_SIZES = _by_value(
    {
        "small": "small|little|tiny|mini|miniature",
        "large": "big|large|huge|giant|enormous|gigantic",
    }
)
EN_RELATIONS = _by_value(
    {
        "in": "in|inside|inside of|within|into|in the middle of",
        "on": (
            "on|on top of|onto|upon|atop|riding|riding on|sitting on|standing on|crossing|rides|ride|"
            "on the top of|at the top of|at top of"
        ),
        "above": "above|over|flying over|high above",
        "below": (
            "under|below|beneath|underneath|on the bottom of|at the bottom of|on bottom of|at bottom of"
        ),
        "beside": (
            "on side of|on the side of|to the side of|at side of|on one side of|next to|outside|beside|"
            ""
            "near|by|close to|alongside|by the side of|at|along|around|against|at the side of|through|"
            "across"
        ),
        "left": "left of|to the left of|on the left of|on the left side of|at the left of",
        "right": "right of|to the right of|on the right of|on the right side of|at the right of",
        "between": "between|in between|in the middle between|among",
        "behind": "behind|in back of|at the back of|hidden by|hidden behind",
        "front": "in front of|before|in the front of",
    }
)
EN_PARTS = _by_value(
    {
        "left": "left :|on the left|on left|at left|to the left|at the left|on the left side",
        "right": "right :|on the right|on right|at right|to the right|at the right|on the right side",
        "above": "top :|at the top|at top|on the top|up above|overhead|in the upper part",
        "below": "bottom :|at the bottom|at bottom|on the bottom|down below|in the lower part",
    }
)
EN_JOINS = _words("alongside with|and|carrying|chasing|eating|holding|playing with|plus|then|with")
EN_HOLDING = _words("full of|filled with|containing|packed with")
EN_WEARING = _words("dressed in|wearing|wears")
EN_PRONOUNS = _words("each other|her|him|it|itself|them")
EN_BREAKS = _words("are|has|have|is|lies|sits|stands|there|there are|there is|there's")
EN_SKIPPED = _words(
    "some|a drawing of|a photo of|a picture of|a sticker of|adorable|an emoji of|an illustration of|"
    "an image of|as|at|away|background|be|beautiful|bright|busy|calm|cartoon|chases|climbing|cozy|create|"
    "cute|dancing|deep|down|draw|drawing of|drinking|driving|eating|eats|emoji of|fat|flies|floating|"
    "fluffy|flying|for|fresh|from|funny|generate|growing|hanging|happy|hiding|his|holds|howling|"
    "illustration of|image of|its|jumping|jumps|looking|looks|lovely|lying|make|me|my|nice|of|off|one's|"
    "out|paint|parked|parking|past|photo of|picture of|placed|playing|plays|please|pretty|quiet|resting|"
    "running|runs|sailing|scene|shining|shiny|show|singing|sitting|sleeping|sleeps|soft|standing|"
    "sticker of|style|sunny|surrounded|sweet|swimming|swims|that|the|their|these|this|those|to|together|"
    "toward|towards|up|very|waiting|walking|walks|which|while|who|wild|young|your"
)
EN_IRREGULAR = dict(
    pair.split(":")
    for pair in _words(
        "mice:mouse|men:man|women:woman|children:child|geese:goose|feet:foot|teeth:tooth|people:person|"
        "leaves:leaf|wolves:wolf|knives:knife|sheep:sheep|fish:fish|deer:deer|oxen:ox|loaves:loaf|"
        "dice:die|fireflies:firefly|cacti:cactus|octopi:octopus|octopuses:octopus|buses:bus|elves:elf|"
        "shelves:shelf|calves:calf|scarves:scarf|halves:half|cookies:cookie|pies:pie|movies:movie|"
        "ties:tie|zombies:zombie|genies:genie|shoes:shoe|bees:bee"
    )
)
"""Plural -> singular, where the ending does not tell."""

ZH_DIGITS = _by_value(
    {
        1: "一",
        2: "二|两|俩|一对|一双",
        3: "三|几|数|一些",
        4: "四|好几|多|一排|两双|两对|一堆",
        5: "五|许多|很多|不少|一群",
        6: "六|半打|众多",
        7: "七",
        8: "八",
        9: "九",
        10: "十",
        11: "十一",
        12: "十二|一打",
    }
)
ZH_MEASURES = (
    "只个条头匹朵棵颗座辆艘架把张本支枝根块片杯瓶碗盘份位名顶件双对枚台部列栋间幅面盏"
    "串束株尾峰口粒滴团轮道扇所封盒包罐袋群"
)
ZH_SIZES = _by_value(
    {
        "small": "小|小小|小小的|小型|迷你|微小的",
        "large": "大|大大的|巨大|巨大的|大型|巨型|超大",
    }
)
ZH_RELATIONS = _by_value(
    {
        "in": "里|里面|中|内|之中|当中|里边|里头|内部",
        "on": "上|头上|背上|顶上|身上",
        "above": "上面|上方|上边|之上|头顶|顶部|上空",
        "below": "下|下面|下方|下边|底下|之下|脚下|底部",
        "left": "左边|左侧|左面|左方|左",
        "right": "右边|右侧|右面|右方|右",
        "beside": "旁边|旁|身边|边上|附近|身旁|一旁|边|侧",
        "between": "之间|中间|的中间|的之间",
        "behind": "后面|后|后边|背后|身后|后方",
        "front": "前面|前|前边|面前|身前|前方|门口|门前",
    }
)
ZH_AT = _words("在|坐在|站在|停在|躺在|放在|趴在|落在|位于|挂在|睡在|藏在|蹲在|飞在")
ZH_ONTO = _by_value(
    {
        "on": "骑着|骑|骑在|踩着|坐着",
        "above": "飞过|飞越|越过|跳过",
        "beside": "围着|绕着|挨着|靠着|紧挨着|靠近",
    }
)
ZH_WEARING = _words("戴着|戴|穿着|穿")
ZH_JOINS = _words("和|与|跟|及|以及|还有|、|带着|同|并")
ZH_HAVE = _words("出现|有|是|有着|停着|放着|挂着|插着|摆着|站着|坐着|躺着|长着|飞着|趴着|漂着|开着")
ZH_SKIPPED = _words(
    "飞向|跑向|走向|游向|画|请|一下|可爱|漂亮|美丽|快乐|开心|正在|正|着|了|吧|地|得|它|它们|飞翔|飞|游泳|游|行走|走|跑|奔跑|跳|跳舞|玩|玩耍|吃|喝|睡觉|睡|坐|站|叫|拿着|拿|抱着|抱|看着|"
    "看|对着|嚎叫|盛开|追着|追|追逐|唱歌|散步|休息|过|背景是|背景|的图片|图片|的图标|图标|表情|那|这|都|也|还|地方|并且|看到|一起|飘着|飘|漂浮|盛着|装着|吐着|爬|晒太阳|"
    "举着|提着|推着|牵着|微笑|闪闪发光|发光"
)
