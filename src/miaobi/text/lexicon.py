"""The small words that the planner knows: colours, counts, sizes, relations, places, and what it skips.

Nouns are not here: they are the concepts of the memory. English words are in lower case, Chinese ones
simplified.
"""

from collections.abc import Mapping

COLOURS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "red": (("red", "crimson", "scarlet"), ("红色", "红", "大红色", "大红")),
    "orange": (("orange",), ("橙色", "橘色", "橘黄色", "橙")),
    "yellow": (("yellow", "golden", "gold"), ("黄色", "黄", "金黄色", "金色")),
    "green": (("green",), ("绿色", "绿")),
    "cyan": (("cyan", "teal", "turquoise"), ("青色", "蓝绿色", "青绿色")),
    "blue": (("blue",), ("蓝色", "蓝")),
    "purple": (("purple", "violet"), ("紫色", "紫")),
    "pink": (("pink",), ("粉色", "粉红色", "粉红")),
    "brown": (("brown",), ("棕色", "褐色", "咖啡色")),
    "black": (("black",), ("黑色", "黑")),
    "white": (("white",), ("白色", "白")),
    "gray": (("gray", "grey"), ("灰色", "灰", "银灰色")),
    "colorful": (
        ("colorful", "colourful", "multicolored", "multicoloured", "rainbow-colored"),
        ("彩色", "五彩", "五彩缤纷", "五颜六色", "七彩", "缤纷"),
    ),
}
"""Colour -> its English and its Chinese words, the usual one first: those of the model and "colorful"."""

BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "garden": ("garden", "gardens", "flower garden", "backyard", "yard", "花园", "庭院", "院子", "花丛", "后院"),
    "beach": ("beach", "seaside", "shore", "seashore", "coast", "sand", "海滩", "沙滩", "海边", "海岸"),
    "sky": ("sky", "skies", "air", "blue sky", "clouds", "天空", "天上", "空中", "蓝天", "半空", "云端"),
    "sea": ("sea", "ocean", "waves", "water", "underwater", "seabed", "大海", "海", "海洋", "海水", "海底", "水", "水下"),
    "lake": ("lake", "pond", "pool", "湖", "湖面", "池塘", "水池", "湖水", "荷塘", "池子"),
    "river": ("river", "stream", "creek", "河", "小河", "河流", "河边", "小溪", "溪流", "江"),
    "snow": ("snow", "ice field", "snowfield", "雪", "雪地", "冰雪", "大雪", "冰面"),
    "forest": ("forest", "woods", "jungle", "rainforest", "森林", "树林", "丛林", "林", "雨林", "竹林"),
    "desert": ("desert", "dunes", "沙漠"),
    "grass": (
        *("grass", "meadow", "field", "fields", "lawn", "grassland", "prairie", "savanna", "park", "farm", "hill"),
        *("hillside", "草地", "草原", "草坪", "田野", "公园", "农场", "田", "原野", "山坡", "麦田"),
    ),
    "mountain": ("mountains", "hills", "山", "群山", "高山", "山顶", "山间", "大山"),
    "city": (
        *("city", "street", "road", "town", "downtown", "village", "sidewalk", "square", "highway"),
        *("城市", "街道", "马路", "街", "大街", "街头", "小镇", "村庄", "广场", "公路", "路"),
    ),
    "room": (
        *("room", "kitchen", "bedroom", "living room", "classroom", "office", "house interior", "floor"),
        *("房间", "厨房", "卧室", "客厅", "教室", "办公室", "屋", "屋子", "室", "地板", "家"),
    ),
    "space": ("space", "outer space", "universe", "galaxy", "cosmos", "宇宙", "太空", "星空", "外太空", "银河系"),
    "night": ("night", "night sky", "starry sky", "midnight", "夜晚", "夜空", "晚上", "夜里", "黑夜", "夜"),
    "rain": ("rain", "storm", "rainy day", "雨", "雨中", "下雨天", "下雨", "雨天", "暴风雨", "大雨"),
    "sunset": ("sunset", "dusk", "twilight", "日落", "黄昏", "夕阳", "傍晚", "晚霞"),
    "sunrise": ("sunrise", "dawn", "morning", "日出", "清晨", "早晨", "黎明"),
}
"""Kind of background -> the words for it in both languages."""

RELATIONS = ("in", "on", "above", "below", "left", "right", "beside", "between", "behind", "front")
"""How a thing lies to others; above, below, left and right of nothing mean a part of the picture."""

EN_COUNTS = {
    **{"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8},
    **{"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "dozen": 12, "a dozen": 12, "both": 2, "twin": 2},
    **{"a pair of": 2, "pair of": 2, "a couple of": 2, "couple of": 2, "a pair": 2, "half a dozen": 6},
    **{"several": 3, "some": 3, "few": 3, "a few": 3, "many": 5, "lots of": 5, "a lot of": 5, "a bunch of": 3},
    **{"a group of": 4, "a flock of": 5, "a herd of": 5, "a pack of": 4, "a school of": 5, "a swarm of": 5},
    **{"a row of": 4, "a pile of": 4, "a trio of": 3, "another": 1, "single": 1, "dozens of": 12},
}
EN_SIZES = {
    **dict.fromkeys(("small", "little", "tiny", "mini", "miniature"), "small"),
    **dict.fromkeys(("big", "large", "huge", "giant", "enormous", "gigantic"), "large"),
}
EN_RELATIONS = {
    **dict.fromkeys(("in", "inside", "inside of", "within", "into", "in the middle of"), "in"),
    **dict.fromkeys(("on", "on top of", "onto", "upon", "atop", "riding", "riding on", "sitting on"), "on"),
    **dict.fromkeys(("standing on", "crossing", "rides", "ride"), "on"),
    **dict.fromkeys(("on the top of", "at the top of", "at top of"), "on"),
    **dict.fromkeys(("above", "over", "flying over", "high above"), "above"),
    **dict.fromkeys(("under", "below", "beneath", "underneath"), "below"),
    **dict.fromkeys(("on the bottom of", "at the bottom of", "on bottom of", "at bottom of"), "below"),
    **dict.fromkeys(("on side of", "on the side of", "to the side of", "at side of", "on one side of"), "beside"),
    **dict.fromkeys(("left of", "to the left of", "on the left of", "on the left side of", "at the left of"), "left"),
    **dict.fromkeys(
        ("right of", "to the right of", "on the right of", "on the right side of", "at the right of"), "right"
    ),
    **dict.fromkeys(("next to", "beside", "besides", "near", "by", "close to", "alongside", "by the side of"), "beside"),
    **dict.fromkeys(("at", "along", "around", "against", "at the side of", "through", "across"), "beside"),
    **dict.fromkeys(("between", "in between", "in the middle between", "among"), "between"),
    **dict.fromkeys(("behind", "in back of", "at the back of"), "behind"),
    **dict.fromkeys(("in front of", "before", "in the front of"), "front"),
}
EN_PARTS = {
    **dict.fromkeys(("on the left", "on left", "at left", "to the left", "at the left", "on the left side"), "left"),
    **dict.fromkeys(("on the right", "on right", "at right", "to the right", "at the right", "on the right side"), "right"),
    **dict.fromkeys(("at the top", "on top", "at top", "on the top", "up above", "overhead", "in the upper part"), "above"),
    **dict.fromkeys(("at the bottom", "at bottom", "on the bottom", "down below", "in the lower part"), "below"),
}
EN_JOINS = {"and", "with", "plus", "then", "holding", "carrying", "eating", "chasing", "playing with", "alongside with"}
EN_WEARING = {"wearing", "wears", "dressed in"}
EN_PRONOUNS = {"it", "them", "him", "her", "each other", "itself"}
EN_BREAKS = {"there is", "there are", "there's", "is", "are", "sits", "stands", "there", "has", "have", "lies"}
EN_SKIPPED = {
    *("the", "its", "his", "their", "this", "that", "these", "those", "who", "which", "while", "my", "your", "up"),
    *("cute", "lovely", "beautiful", "pretty", "adorable", "funny", "happy", "nice", "fluffy", "young", "very"),
    *("flying", "walking", "running", "swimming", "standing", "sitting", "sleeping", "playing", "jumping", "lying"),
    *("floating", "looking", "eating", "drinking", "singing", "resting", "growing", "hanging", "shining", "parked"),
    *("dancing", "hiding", "waiting", "climbing", "driving", "sailing", "surrounded", "placed", "howling", "past"),
    *("flies", "runs", "swims", "walks", "jumps", "sleeps", "plays", "looks", "eats", "chases", "holds", "parking"),
    *("together", "away", "please", "draw", "me", "show", "paint", "make", "create", "generate", "cartoon", "style"),
    *("picture of", "image of", "drawing of", "photo of", "illustration of", "an image of", "a picture of", "scene"),
    *("a drawing of", "a photo of", "an illustration of", "emoji of", "an emoji of", "sticker of", "a sticker of"),
    *("to", "from", "for", "as", "at", "of", "out", "off", "down", "toward", "towards", "background", "be", "one's"),
    *("bright", "shiny", "wild", "fresh", "cozy", "sunny", "calm", "quiet", "busy", "deep", "fat", "soft", "sweet"),
}
EN_IRREGULAR = {
    **{"mice": "mouse", "men": "man", "women": "woman", "children": "child", "geese": "goose", "feet": "foot"},
    **{"teeth": "tooth", "people": "person", "leaves": "leaf", "wolves": "wolf", "knives": "knife", "sheep": "sheep"},
    **{"fish": "fish", "deer": "deer", "oxen": "ox", "loaves": "loaf", "dice": "die", "fireflies": "firefly"},
    **{"cacti": "cactus", "octopi": "octopus", "octopuses": "octopus", "buses": "bus", "elves": "elf"},
    **{"shelves": "shelf", "calves": "calf", "scarves": "scarf", "halves": "half", "cookies": "cookie", "pies": "pie"},
    **{"movies": "movie", "ties": "tie", "zombies": "zombie", "genies": "genie", "shoes": "shoe", "bees": "bee"},
}

ZH_DIGITS = {
    **{"一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10},
    **{"十一": 11, "十二": 12, "几": 3, "数": 3, "好几": 4, "一些": 3, "许多": 5, "很多": 5, "不少": 5, "多": 4, "俩": 2},
    **{"一群": 5, "一对": 2, "一双": 2, "一排": 4, "一打": 12, "两双": 4, "两对": 4, "一堆": 4, "半打": 6, "众多": 6},
}
ZH_MEASURES = "只个条头匹朵棵颗座辆艘架把张本支枝根块片杯瓶碗盘份位名顶件双对枚台部列栋间幅面盏串束株尾峰口粒滴团轮道扇所封盒包罐袋群"
ZH_SIZES = {
    **dict.fromkeys(("小", "小小", "小小的", "小型", "迷你", "微小的"), "small"),
    **dict.fromkeys(("大", "大大的", "巨大", "巨大的", "大型", "巨型", "超大"), "large"),
}
ZH_RELATIONS = {
    **dict.fromkeys(("里", "里面", "中", "内", "之中", "当中", "里边", "里头", "内部"), "in"),
    **dict.fromkeys(("上", "头上", "背上", "顶上", "身上"), "on"),
    **dict.fromkeys(("上面", "上方", "上边", "之上", "头顶", "顶部", "上空"), "above"),
    **dict.fromkeys(("下", "下面", "下方", "下边", "底下", "之下", "脚下", "底部"), "below"),
    **dict.fromkeys(("左边", "左侧", "左面", "左方", "左"), "left"),
    **dict.fromkeys(("右边", "右侧", "右面", "右方", "右"), "right"),
    **dict.fromkeys(("旁边", "旁", "身边", "边上", "附近", "身旁", "一旁", "边", "侧"), "beside"),
    **dict.fromkeys(("之间", "中间", "的中间", "的之间"), "between"),
    **dict.fromkeys(("后面", "后", "后边", "背后", "身后", "后方"), "behind"),
    **dict.fromkeys(("前面", "前", "前边", "面前", "身前", "前方", "门口", "门前"), "front"),
}
ZH_AT = ("在", "坐在", "站在", "停在", "躺在", "放在", "趴在", "落在", "位于", "挂在", "睡在", "藏在", "蹲在", "飞在")
ZH_ONTO = {
    **dict.fromkeys(("骑着", "骑", "骑在", "踩着", "坐着"), "on"),
    **dict.fromkeys(("飞过", "飞越", "越过", "跳过"), "above"),
    **dict.fromkeys(("挨着", "靠着", "紧挨着", "靠近"), "beside"),
}
ZH_WEARING = ("戴着", "戴", "穿着", "穿")
ZH_JOINS = ("和", "与", "跟", "及", "以及", "还有", "、", "带着", "同", "并")
ZH_HAVE = ("有", "是", "有着", "停着", "放着", "挂着", "插着", "摆着", "站着", "坐着", "躺着", "长着", "飞着", "趴着", "漂着", "开着")
ZH_SKIPPED = (
    *("画", "请", "一下", "可爱", "漂亮", "美丽", "快乐", "开心", "正在", "正", "着", "了", "吧", "地", "得", "它", "它们"),
    *("飞翔", "飞", "游泳", "游", "行走", "走", "跑", "奔跑", "跳", "跳舞", "玩", "玩耍", "吃", "喝", "睡觉", "睡", "坐", "站", "叫"),
    *("拿着", "拿", "抱着", "抱", "看着", "看", "对着", "嚎叫", "盛开", "追着", "追", "追逐", "唱歌", "散步", "休息", "过"),
    *("背景是", "背景", "的图片", "图片", "的图标", "图标", "表情", "那", "这", "都", "也", "还", "地方", "并且", "看到", "一起"),
    *("飘着", "飘", "漂浮", "盛着", "装着", "吐着", "爬", "晒太阳", "举着", "提着", "推着", "牵着", "微笑", "闪闪发光", "发光"),
)
