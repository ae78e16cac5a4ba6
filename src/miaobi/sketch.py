"""From a scene to the pictures that are drawn for it, and from those back to one picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from miaobi.compose import Box, Layer, composite, place
from miaobi.images import Float
from miaobi.scenery import PLAIN, SCENERIES, Scenery, backdrop
from miaobi.text.scene import Scene, prompt_of

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Sketch:
    """What is drawn for one prompt, from the back to the front."""

    texts: tuple[str, ...]
    """What each layer shows, as the generator is asked for it."""
    boxes: tuple[Box, ...]
    scenery: Scenery | None = None
    """What stands behind all of them; None: nothing."""
    notes: tuple[str, ...] = ()
    """What of the scene is not drawn, in words."""

    @classmethod
    def of(cls, prompt: str, scene: Scene | None) -> "Sketch":
        """The sketch of a scene; where there is none, or but one thing in it, the prompt is one picture."""
        if scene is None or scene.simple:
            return cls((prompt,), (_WHOLE,))
        layers = scene.layout()
        texts = [prompt_of(scene.things[layer.thing]) for layer in layers]
        boxes = [layer.box for layer in layers]
        notes, scenery = [], None
        if scene.background is not None:
            kind = scene.background_kind
            scenery = SCENERIES.get(kind, PLAIN) if kind else PLAIN
            if scenery is PLAIN:
                notes.append(f"the background {scene.background!r} is not known; a plain one was drawn")
            # a count that was asked for stays right: nothing of the kind stands about as well
            about = [one for one in scenery.about if one[0] not in {thing.concept for thing in scene.things}]
            texts[:0] = [text for text, _ in about]
            boxes[:0] = [box for _, box in about]
        return cls(tuple(texts), tuple(boxes), scenery, tuple(notes))

    @property
    def single(self) -> bool:
        """Whether the picture is what the generator draws and nothing else."""
        return self.boxes == (_WHOLE,) and self.scenery is None

    def seeds(self, seed: int) -> list[int]:
        """A seed for each layer, from that of the picture; the first layer's is the picture's own."""
        if len(self.texts) == 1:
            return [seed]
        others = np.random.SeedSequence(seed).generate_state(len(self.texts), np.uint64) >> np.uint64(1)
        return [seed, *map(int, others[1:])]

    def assemble(
        self, drawn: Sequence[Float], size_px: int, enlarge: Callable[[Float], Float]
    ) -> tuple[Float, list[Layer]]:
        """The drawn layers (each (4, S, S)) in their places, (4, size_px, size_px), and the layers."""
        layers = [
            place(text, picture, box, size_px, enlarge)
            for text, box, picture in zip(self.texts, self.boxes, drawn, strict=True)
        ]
        if self.scenery:
            layers.insert(0, Layer("background", backdrop(self.scenery, size_px), 0, 0))
        return (layers[0].image if self.single else composite(layers, size_px)), layers
