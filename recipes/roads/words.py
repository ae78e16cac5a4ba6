"""What a scene is called, in English and in Chinese, from its own parameters.

A caption says the road, its weather and time, and what is on it or beside it: the nearest vehicle and the
sign, or the two nearest vehicles. It stays within the 32 tokens that the text encoder reads.
"""

from dataclasses import dataclass

from scene import Scene, Vehicle

_LANES = {2: ("two", "双"), 3: ("three", "三"), 4: ("four", "四")}
_PLACES = {
    "city": ("city road", "城市道路"),
    "forest": ("forest road", "森林道路"),
    "field": ("country road", "乡村道路"),
    "desert": ("desert road", "沙漠道路"),
    "mountain": ("mountain road", "山路"),
    "tunnel": ("tunnel", "隧道"),
}
_BENDS = {
    "straight": ("", ""),
    "left": (" curving left", "左弯"),
    "right": (" curving right", "右弯"),
    "winding": ("", ""),
}
_SLOPES = {"flat": ("", ""), "uphill": (" uphill", "上坡"), "downhill": (" downhill", "下坡")}
_WEATHER = {
    "clear": ("", ""),
    "rain": (" in rain", "雨中"),
    "snow": (" in snow", "雪中"),
    "fog": (" in fog", "雾中"),
}
_TIMES = {"day": (" by day", "白天"), "dusk": (" at dusk", "黄昏"), "night": (" at night", "夜晚")}
_VEHICLES = {
    "car": ("car", "汽车"),
    "truck": ("truck", "卡车"),
    "bus": ("bus", "公交车"),
    "motorbike": ("motorbike", "摩托车"),
}
_COLOURS = {
    "red": "红色",
    "blue": "蓝色",
    "white": "白色",
    "black": "黑色",
    "silver": "银色",
    "yellow": "黄色",
    "green": "绿色",
    "orange": "橙色",
}
_SIGNS = {"speed limit": "限速标志", "stop": "停车标志", "warning": "警告标志", "direction": "方向标志"}
_SIDES = {"left": "左侧", "right": "右侧"}


@dataclass(frozen=True)
class Words:
    """Captions of a scene, and shorter ones that are true of it too."""

    label_en: str
    label_zh: str
    tags_en: tuple[str, ...]
    tags_zh: tuple[str, ...]


def words(scene: Scene) -> Words:
    """What the scene is called."""
    place, place_zh = _PLACES[scene.place]
    lanes, lanes_zh = _LANES[scene.lanes]
    bend, bend_zh = _BENDS[scene.view.bend]
    slope, slope_zh = _SLOPES[scene.slope]
    (weather, weather_zh), (time, time_zh) = _WEATHER[scene.weather], _TIMES[scene.time]
    shape, shape_zh = {"straight": ("straight ", "笔直的"), "winding": ("winding ", "蜿蜒的")}.get(
        scene.view.bend, ("", "")
    )
    if scene.place == "tunnel":
        time, time_zh = "", ""
    road = f"a {shape}{lanes}-lane {place}{bend}{slope}{weather}{time}"
    road_zh = f"{time_zh}{weather_zh}{shape_zh}{lanes_zh}车道{place_zh}{bend_zh}{slope_zh}"
    named = [_vehicle(one, scene) for one in scene.vehicles]
    things = named[: 1 if scene.sign else 2]
    if scene.sign:
        side = scene.sign.side
        things.append((f"a {scene.sign.kind} sign on the {side}", _SIDES[side] + _SIGNS[scene.sign.kind]))
    air = (f"road{weather}{time}", f"{time_zh}{weather_zh}道路") if weather or time else (place, place_zh)
    shorter = [(f"{shape}{lanes}-lane {place}{bend}", f"{shape_zh}{lanes_zh}车道{place_zh}{bend_zh}"), air]
    if things:
        where = "in" if scene.place == "tunnel" else "on"
        shorter.append((f"{things[0][0]} {where} a {place}", f"{place_zh}，{things[0][1]}"))
    return Words(
        ", ".join([road, *(english for english, _ in things)]),
        "，".join([road_zh, *(chinese for _, chinese in things)]),
        tuple(english for english, _ in shorter),
        tuple(chinese for _, chinese in shorter),
    )


def _vehicle(vehicle: Vehicle, scene: Scene) -> tuple[str, str]:
    """A vehicle and where it is, seen from the own lane."""
    kind, kind_zh = _VEHICLES[vehicle.kind]
    what, what_zh = f"{vehicle.colour} {kind}", _COLOURS[vehicle.colour] + kind_zh
    article = "an" if vehicle.colour == "orange" else "a"
    if vehicle.oncoming:
        return f"an oncoming {what}", f"迎面{what_zh}"
    if vehicle.lane == scene.own:
        return f"{article} {what} ahead", f"前方{what_zh}"
    side = "left" if vehicle.lane < scene.own else "right"
    return f"{article} {what} on the {side}", f"{_SIDES[side]}{what_zh}"
