"""Scenes: what is allowed in them, their JSON, and boxes that keep the canvas and the relations."""

import json
import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.colours import COLOURS as TRAINED
from miaobi.errors import InputError
from miaobi.text.lexicon import BACKGROUNDS, COLOURS, RELATIONS
from miaobi.text.scene import MAX_LAYERS, Layer, Relation, Scene, Thing, cleaned, prompt_of

OVERLAPPING = {"in", "on", "behind", "front"}
words = st.text("abc 猫狗é-'", min_size=1, max_size=20).map(cleaned).filter(lambda text: text.strip("-' "))


@st.composite
def scenes(draw: st.DrawFn, places: bool = False) -> Scene:
    things: list[Thing] = []
    room = MAX_LAYERS
    for number in range(draw(st.integers(1, 6))):
        relation = None
        if number and draw(st.booleans()):
            word = draw(st.sampled_from(RELATIONS))
            most = min(2 if word == "between" else 1, number)
            to = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=most, unique=True))
            relation = Relation(word, tuple(to))
        elif draw(st.booleans()):
            relation = Relation(draw(st.sampled_from(["above", "below", "left", "right"])))
        count = draw(st.integers(1, max(1, min(5, room - 6))))
        room -= count
        shares = st.floats(0.05, 1)
        size = draw(st.one_of(st.sampled_from(["small", "medium", "large"]), shares))
        place = draw(st.tuples(st.floats(0, 1), st.floats(0, 1))) if places and draw(st.booleans()) else None
        colour = draw(st.sampled_from([None, *COLOURS]))
        things.append(Thing(draw(words), colour, count, size, relation, place))
    return Scene(tuple(things), draw(st.sampled_from([None, "garden", "花园"])))


@given(scenes(places=True))
def test_json_round_trip(scene: Scene) -> None:
    assert Scene.from_json(scene.to_json()) == scene


@settings(max_examples=150)
@given(scenes(places=True))
def test_every_layer_has_a_square_box_on_the_canvas(scene: Scene) -> None:
    layers = scene.layout()
    assert [layer.thing for layer in layers] == [
        number for number, thing in enumerate(scene.things) for _ in range(thing.count)
    ]
    for layer in layers:
        x0, y0, x1, y1 = layer.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert math.isclose(x1 - x0, y1 - y0, abs_tol=2e-4)


def whole(layers: list[Layer], thing: int) -> tuple[float, float, float, float]:
    boxes = [layer.box for layer in layers if layer.thing == thing]
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The common area as a share of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = max(width, 0) * max(height, 0)
    return area / min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))


@settings(max_examples=150)
@given(scenes())
def test_only_what_is_in_on_behind_or_before_another_overlaps(scene: Scene) -> None:
    if any(thing.relation and thing.relation.word in OVERLAPPING | {"between"} for thing in scene.things):
        return
    boxes = [layer.box for layer in scene.layout()]
    for number, box in enumerate(boxes):
        assert all(overlap(box, other) < 0.01 for other in boxes[:number])


@pytest.mark.parametrize("word", RELATIONS)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("background", [None, "sea"])
def test_a_relation_holds(word: str, count: int, background: str | None) -> None:
    things = (Thing("tree"), Thing("house"), Thing("cat", count=count, relation=Relation(word, (0,))))
    if word == "between":
        things = (*things[:2], Thing("cat", count=count, relation=Relation(word, (0, 1))))
    layers = Scene(things, background).layout()
    target, cat = whole(layers, 0), whole(layers, 2)
    x, y, middle = (cat[0] + cat[2]) / 2, (cat[1] + cat[3]) / 2, (target[1] + target[3]) / 2
    if word == "left":
        assert cat[2] <= target[0]
    if word in ("right", "beside"):
        assert cat[0] >= target[2]
    if word == "above":
        assert cat[3] <= target[1]
    if word == "below":
        assert cat[1] >= target[3]
    if word == "in":
        assert target[0] <= cat[0] <= cat[2] <= target[2]
        assert target[1] <= cat[1] <= cat[3] <= target[3]
    if word == "on":
        assert y < middle
        assert target[0] < x < target[2]
        assert overlap(cat, target) > 0
    if word == "behind":
        assert y < middle
    if word == "front":
        assert y > middle
    if word == "between":
        house = whole(layers, 1)
        assert target[2] <= cat[0] <= cat[2] <= house[0]


def test_parts_of_the_picture() -> None:
    for word in ("left", "right", "above", "below"):
        scene = Scene((Thing("sun", relation=Relation(word)),), "sky")
        x0, y0, x1, y1 = scene.layout()[0].box
        middle = (x0 + x1) / 2 if word in ("left", "right") else (y0 + y1) / 2
        assert middle < 0.4 if word in ("left", "above") else middle > 0.6
    both = Scene((Thing("a", relation=Relation("left")), Thing("b", relation=Relation("right"))))
    left, right = (layer.box for layer in both.layout())
    assert left[2] <= right[0]


def test_between_things_on_the_left_and_on_the_right_and_between_two_of_a_kind() -> None:
    things = (Thing("a", relation=Relation("right")), Thing("b", relation=Relation("left")))
    layers = Scene((*things, Thing("c", relation=Relation("between", (0, 1))))).layout()
    assert whole(layers, 1)[2] <= whole(layers, 2)[0] <= whole(layers, 2)[2] <= whole(layers, 0)[0]
    layers = Scene((Thing("tree", count=2), Thing("dog", relation=Relation("between", (0,))))).layout()
    first, second, dog = (layer.box for layer in layers)
    assert first[2] <= dog[0] <= dog[2] <= second[0]


def test_several_in_one_basket_keep_apart() -> None:
    things = [Thing("basket"), *(Thing(name, relation=Relation("in", (0,))) for name in ("a", "b", "c"))]
    layers = Scene(tuple(things)).layout()
    for before, after in combinations(layers[1:], 2):
        assert overlap(before.box, after.box) < 0.01
    assert all(overlap(layer.box, layers[0].box) > 0.99 for layer in layers[1:])


def test_a_block_moves_as_a_whole() -> None:
    things = (Thing("moon"), Thing("tree", relation=Relation("below", (0,))))
    moon, tree, owl = (
        layer.box for layer in Scene((*things, Thing("owl", relation=Relation("on", (1,))))).layout()
    )
    assert moon[3] <= owl[1] < tree[1] < owl[3]


def test_an_asked_place_and_an_asked_share() -> None:
    box = Scene((Thing("a", place=(0.25, 0.75), size=0.3),)).layout()[0].box
    assert box == pytest.approx((0.1, 0.6, 0.4, 0.9), abs=1e-3)
    alone = Scene((Thing("a"),)).layout()[0].box
    assert alone == pytest.approx((0.03, 0.03, 0.97, 0.97), abs=1e-3)
    box = Scene((Thing("a", size=0.5),)).layout()[0].box
    assert box[2] - box[0] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"concept": ""},
        {"concept": "x" * 81},
        {"concept": "a\nb"},
        {"concept": "a\u202eb"},
        {"concept": "  "},
        {"concept": 3},
        {"concept": "a", "count": 0},
        {"concept": "a", "count": 13},
        {"concept": "a", "count": True},
        {"concept": "a", "count": 2.0},
        {"concept": "a", "colour": "mauve"},
        {"concept": "a", "size": "vast"},
        {"concept": "a", "size": 0},
        {"concept": "a", "size": float("nan")},
        {"concept": "a", "place": (0.5,)},
        {"concept": "a", "place": (0.5, 1.1)},
        {"concept": "a", "place": (0.5, float("nan"))},
    ],
)
def test_bad_things(bad: dict) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        Thing(**bad)


def test_bad_relations_and_scenes() -> None:
    for word, to in (("over", (0,)), ("in", ()), ("between", ()), ("on", (0, 1)), ("between", (0, 0))):
        with pytest.raises(ValueError, match=r".{10}"):
            Relation(word, to)
    a, b = Thing("a", relation=Relation("on", (1,))), Thing("b", relation=Relation("on", (0,)))
    for things in (
        (),
        (a, b),
        (a,),
        (Thing("a", relation=Relation("on", (-1,))),),
        (Thing("a", count=12),) * 2,
    ):
        with pytest.raises(ValueError, match=r".{10}"):
            Scene(things)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        '{"things": [',
        '{"things": []}',
        '{"things": {}}',
        '{"things": [1]}',
        '{"things": [{}]}',
        '{"things": [{"concept": null}]}',
        '{"things": [{"concept": ["a"]}]}',
        '{"things": [{"concept": "a", "shell": "rm"}]}',
        '{"things": [{"concept": "a"}], "run": 1}',
        '{"things": [{"concept": "a", "count": "2"}]}',
        '{"things": [{"concept": "a", "count": 1e3}]}',
        '{"things": [{"concept": "a", "count": NaN}]}',
        '{"things": [{"concept": "a", "size": Infinity}]}',
        '{"things": [{"concept": "a", "colour": ["red"]}]}',
        '{"things": [{"concept": "a", "colour": {"r": 1}}]}',
        '{"things": [{"concept": "a", "place": "left"}]}',
        '{"things": [{"concept": "a", "place": [[0], 1]}]}',
        '{"things": [{"concept": "a", "relation": "on"}]}',
        '{"things": [{"concept": "a", "relation": {"word": "on", "to": 0}}]}',
        '{"things": [{"concept": "a", "relation": {"word": "on", "to": ["0"]}}]}',
        '{"things": [{"concept": "a", "relation": {"word": "on", "to": [[0]]}}]}',
        '{"things": [{"concept": "a", "relation": {"word": "on", "to": [7]}}]}',
        '{"things": [{"concept": "/etc/passwd"}]}',
        '{"things": [{"concept": "../../secret"}]}',
        '{"things": [{"concept": "C:\\\\temp"}]}',
        '{"things": [{"concept": "cat"}], "background": "http://example.org/x.png"}',
        '{"things": [' + ",".join(['{"concept": "a"}'] * 17) + "]}",
        "[" * 10_000,
        '{"things": ' + "[" * 5000 + "]" * 5000 + "}",
        " " * 20_000,
    ],
)
def test_bad_json(text: str) -> None:
    with pytest.raises(InputError, match="scene"):
        Scene.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["things", "background", "concept", "count", "colour", "relation", "word", "to", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(json_values)
def test_any_json_is_a_scene_or_an_input_error(value: object) -> None:
    try:
        scene = Scene.from_json(json.dumps(value))
    except InputError:
        return
    assert scene.layout()


def test_text_from_json_is_cleaned() -> None:
    scene = Scene.from_json(
        '{"things": [{"concept": " red\\u0000\\n  ｃａｔ "}], "background": "花\\u200b园"}'
    )
    assert scene.things[0].concept == "red cat"
    assert scene.background == "花园"


def test_the_schema_names_every_field_and_limit() -> None:
    schema = Scene.schema()
    thing = schema["properties"]["things"]["items"]["properties"]
    assert set(thing) == set(Thing.__dataclass_fields__)
    assert thing["relation"]["anyOf"][0]["properties"]["word"]["enum"] == list(RELATIONS)
    assert json.loads(json.dumps(schema)) == schema


def test_prompts_of_things() -> None:
    assert prompt_of(Thing("house", "red")) == "red house"
    assert prompt_of(Thing("房子", "red")) == "红色的房子"
    assert prompt_of(Thing("parrot", "colorful")) == "colorful parrot"
    assert prompt_of(Thing("鹦鹉", "colorful")) == "彩色的鹦鹉"
    assert prompt_of(Thing("red apple", "red")) == "red apple"
    assert prompt_of(Thing("红苹果", "red")) == "红苹果"
    assert prompt_of(Thing("hundred points", "red")) == "red hundred points"
    assert prompt_of(Thing("cat")) == "cat"


def test_backgrounds_and_simple_scenes() -> None:
    assert Scene((Thing("a"),), "Garden").background_kind == "garden"
    assert Scene((Thing("a"),), "海滩").background_kind == "beach"
    assert Scene((Thing("a"),), "opera").background_kind is None
    assert all(Scene((Thing("a"),), kind).background_kind == kind for kind in BACKGROUNDS)
    assert Scene((Thing("a"),)).simple
    assert not Scene((Thing("a", count=2),)).simple
    assert not Scene((Thing("a"),), "sea").simple


def test_colours_are_those_that_the_model_learns() -> None:
    for name, colour in TRAINED.items():
        english, chinese = COLOURS[name]
        assert set(colour.en) <= set(english)
        assert set(colour.zh) <= set(chinese)
        assert (english[0], chinese[0]) == (colour.en[0], colour.zh[0])
    assert set(COLOURS) == {*TRAINED, "colorful"}
