"""Restyle: a picture of the model's own domain drawn again in another of its styles."""

from dataclasses import dataclass

from miaobi.drawing import After
from miaobi.errors import InputError
from miaobi.images import Float, from_uint8
from miaobi.pipeline import shipped
from miaobi.refine.repair import to_square
from miaobi.refine.stage import Subject


@dataclass(frozen=True)
class Restyle:
    """The picture encoded, given to the generator as what to draw after, and drawn in another style."""

    style: str = ""
    """The style to draw in; empty: the bundle's default."""
    source: str = ""
    """The style that the picture has; empty: that of the most similar picture in the memory."""
    seed: int = 0

    def __call__(self, subject: Subject) -> Float:
        if not subject.prompt:
            raise InputError("restyle needs to know what the picture shows; give --prompt, such as 'a fox'.")
        pipe = subject.pipeline or shipped()
        square, back = to_square(subject.image, pipe.bundle.size_px)
        latents = pipe.encode(square[None])[0]
        source = pipe.bundle.style_id(self.source) if self.source else pipe.memory.nearest_style(latents)
        made = pipe.generate(
            subject.prompt, seed=self.seed, style=self.style or None, after=After(latents, source)
        )
        return back(from_uint8(made.pixels[0]))
