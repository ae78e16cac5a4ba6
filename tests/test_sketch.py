"""Scenes to layers, and layers to one picture."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from miaobi.sketch import Sketch
from miaobi.text.scene import Relation, Scene, Thing


def picture(value: float) -> np.ndarray:
    return np.full((4, 16, 16), value, np.float32)


def never(_: np.ndarray) -> np.ndarray:
    raise AssertionError("nothing is to be enlarged")


def test_one_thing_is_the_whole_prompt() -> None:
    sketch = Sketch.of("a very red apple", Scene((Thing("apple", "red"),)))
    assert sketch.single
    assert sketch.texts == ("a very red apple",)
    assert Sketch.of("anything", None).single
    made, layers = sketch.assemble([picture(0.5)], 16, never)
    np.testing.assert_array_equal(made, picture(0.5))
    assert [layer.name for layer in layers] == ["a very red apple"]


def test_a_scene_has_a_layer_for_each_picture_and_its_scenery() -> None:
    scene = Scene(
        (Thing("parrot", "colorful"), Thing("butterfly", count=2, relation=Relation("above"))), "garden"
    )
    sketch = Sketch.of("ignored", scene)
    assert not sketch.single
    assert sketch.texts == ("tulip", "sunflower", "colorful parrot", "butterfly", "butterfly")
    made, layers = sketch.assemble([picture(1)] * 5, 64, lambda one: np.repeat(np.repeat(one, 4, 1), 4, 2))
    assert [layer.name for layer in layers] == ["background", *sketch.texts]
    assert made.shape == (4, 64, 64)
    assert np.all(made[3] == 1)


def test_what_was_counted_does_not_stand_about_as_well() -> None:
    assert Sketch.of("", Scene((Thing("tulip", count=3),), "花园")).texts == ("sunflower", *["tulip"] * 3)


def test_an_unknown_place_is_plain_and_said_so() -> None:
    sketch = Sketch.of("", Scene((Thing("cat"),), "casino"))
    assert sketch.scenery is not None
    assert sketch.notes == ("the background 'casino' is not known; a plain one was drawn",)


@given(st.integers(0, 2**63 - 20))
def test_layers_have_seeds_of_their_own_and_the_first_has_the_pictures(seed: int) -> None:
    sketch = Sketch.of("", Scene((Thing("duck", count=5),)))
    seeds = sketch.seeds(seed)
    assert seeds[0] == seed
    assert len(set(seeds)) == 5
    assert all(0 <= one < 2**63 for one in seeds)
    assert seeds == sketch.seeds(seed)
