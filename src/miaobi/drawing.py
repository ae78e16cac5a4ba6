"""The bundle at work: texts -> features -> neighbours -> context -> latents or tokens -> pictures."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi import colours, sampling
from miaobi.bundle import Bundle
from miaobi.captioning import write_words
from miaobi.errors import InputError
from miaobi.images import Float, from_uint8, to_uint8
from miaobi.runtimes.graph import Graph, Running, is_whole, open_graph, traits_of
from miaobi.runtimes.onnx import pick_device
from miaobi.text.encoder import TextEncoder, joined
from miaobi.text.memory import Memory, Neighbours
from miaobi.text.prompt import clean_prompt
from miaobi.text.remembered import Remembered, file_of, nothing
from miaobi.traits import Traits


@dataclass(frozen=True)
class Edit:
    """A picture to go on from."""

    latents: Float
    """(C, h, w), of `Pipeline.encode`."""
    mask: Float
    """(h, w) in [0, 1], 1 where to draw, 0 where to keep."""
    strength: float = 1.0
    """How much is drawn anew, above 0 to 1; less keeps rough shapes."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength}; choose above 0 (keep all) to 1 (all anew).")


@dataclass(frozen=True)
class After:
    """A picture to draw after."""

    latents: Float
    """(C, h, w), of `Pipeline.encode`."""
    style: int
    """Number of its style."""

    def neighbours(self, prompts: int, k: int) -> Neighbours:
        """The picture as all `k` neighbours of so many prompts."""
        latents = np.broadcast_to(self.latents, (prompts, k, *self.latents.shape))
        return Neighbours(latents, np.full((prompts, k), self.style), np.full((prompts, k), -1))


@dataclass(frozen=True)
class Drawn:
    """What `Drawer.draw` gives."""

    images: Float
    """(J, 4, size_px, size_px) in about [-1, 1], premultiplied."""
    neighbours: list[list[str]]
    """For each job, the pictures of the memory that it was drawn after."""
    ignored: list[str]
    """What of the texts was not read."""


class Drawer:
    """A bundle's graphs and memory, loaded."""

    def __init__(
        self, bundle: Bundle, running: Running | None = None, opened: Callable[..., Graph] = open_graph
    ) -> None:
        started = time.perf_counter()
        running = running or Running(bundle.runtime)
        device, self.notes = pick_device(running.device)
        self.bundle, self.running, self._opened = bundle, replace(running, device=device), opened
        self._encoder = TextEncoder(bundle.path("tokenizer.json"), self._graph("text"))
        self._context, self._sampled, self._decoder = (
            self._graph(name) for name in ("context", bundle.sampled, "decoder")
        )
        self._whole = self._graph("picture") if is_whole(bundle, self.running) else None
        self.memory = self._own_memory = Memory.load(
            bundle.path("memory.safetensors"), bundle.path("memory.json"), bundle.latent_shape
        )
        remembered = Remembered.load(file_of(bundle))
        if remembered and bundle.neighbours:
            self.memory = remembered.joined(self.memory, bundle.neighbours)
        self.load_ms = (time.perf_counter() - started) * 1000

    @property
    def traits(self) -> Traits:
        """What recipes are checked against."""
        return traits_of(self.bundle, self.running)

    def draw(
        self,
        texts: Sequence[str],
        jobs: Sequence[tuple[int, int]],
        style: int,
        tones: Sequence[int],
        steps: int,
        edit: Edit | None = None,
        after: After | None = None,
        stages: dict[str, float] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Drawn:
        """Draw a picture for each job: a text's number, and a seed.

        Args:
            texts: clean prompts.
            jobs: J pairs; the picture of one does not depend on the others.
            style: number of the style.
            tones: skin tone of each text.
            steps: sampling steps.
            edit: a picture to go on from, instead of noise.
            after: a picture to draw after, instead of those that the memory has.
            stages: the milliseconds of each stage are added to these.
            on_batch: called with the number of pictures after each batch.

        Raises:
            MachineError: the runtime failed.
        """
        stages = {} if stages is None else stages
        numbers, seeds = (list(part) for part in zip(*jobs, strict=True))
        with timed(stages, "encode"):  # one by one: what a text means does not depend on the others
            # OpenVINO compiles a graph for each length that it meets
            multiple = 8 if self.running.runtime == "openvino" else 1
            features = joined([self._encoder([text]) for text in texts], multiple)
        with timed(stages, "retrieve"):
            asked = np.full(len(jobs), style)
            if after is None:
                ranked = self.memory.ranked(features.embedding)[numbers]
                tone = np.array(tones)[numbers]
                found = self.memory.chosen(ranked, asked, tone, self.bundle.neighbours, seeds=seeds)
                self._repaint(found, [texts[number] for number in numbers])
            else:
                found = after.neighbours(len(jobs), self.bundle.neighbours)
        question = {
            "tokens": features.tokens[numbers],
            "mask": features.mask[numbers],
            "embedding": features.embedding[numbers],
            "style": asked,
            "neighbours": found.latents,
            "neighbour_style": found.styles,
        }
        whole = self._whole if edit is None and steps == self.bundle.steps else None
        pictures = []
        for begin in range(0, len(jobs), self.running.batch):
            rows = slice(begin, begin + self.running.batch)
            part = {name: tensor[rows] for name, tensor in question.items()}
            if whole is not None:
                with timed(stages, "picture"):
                    noise = sampling.draw(sampling.generators(seeds[rows]), self.bundle.latent_shape)
                    pictures.append(whole(**part, x=noise)["image"])
            else:
                with timed(stages, "context"):
                    context = self._context(**part)
                    if self.bundle.guidance != 1:
                        unasked = self._context(**self._nothing(part))
                        context |= {f"not_{name}": tensor for name, tensor in unasked.items()}
                with timed(stages, "sample"):
                    drawn = (
                        {"codes": self._write(context, seeds[rows], steps)}
                        if self.bundle.family == "autoregressive"
                        else {"latents": self._sample(context, seeds[rows], steps, edit)}
                    )
                with timed(stages, "decode"):
                    pictures.append(self._decoder(**drawn)["image"])
            if on_batch:
                on_batch(len(seeds[rows]))
        names = [[self.memory.ids[one] for one in row if one >= 0] for row in found.entries]
        images = np.concatenate(pictures) if len(pictures) > 1 else pictures[0]
        return Drawn(images, names, features.ignored)

    def _repaint(self, found: Neighbours, texts: Sequence[str]) -> None:
        """Paint neighbours that are named by another colour than their text asks for, in place: for "blue
        apple" the green apples, which the generator was never taught in blue.
        """
        if self.bundle.family == "autoregressive" or "encoder.onnx" not in self.bundle.files:
            return
        painted: dict[tuple[int, str], Float] = {}
        for row, text in enumerate(texts if self.bundle.neighbours else ()):
            if not (asked := colours.named(text)):
                continue
            concept = self.memory.concepts[self.memory.entry_concept[found.entries[row, 0]]]
            if colours.named(concept["label_en"]) in (None, asked):
                continue
            for place, entry in enumerate(found.entries[row].tolist()):
                if (entry, asked) not in painted:
                    picture = to_uint8(self.decode(found.latents[row, place : place + 1]))[0]
                    other = colours.recolour(picture, asked)
                    painted[entry, asked] = self.encode(from_uint8(other[None]))[0]
                found.latents[row, place] = painted[entry, asked]

    def remember(self, name: str, picture: Float, style: str | None = None) -> None:
        """Draw after this picture from now on where a prompt says `name`; kept for later pipelines too.

        Args:
            name: such as "Bo the fox"; a name that is remembered already is given the new picture.
            picture: (4, size_px, size_px) in [-1, 1], premultiplied.
            style: the style that the picture has, one of `bundle.styles`; None: that of the most similar
                picture in the memory.

        Raises:
            InputError: the name or style cannot be used, or the bundle has no encoder.
        """
        latents = self.encode(picture[None])[0]
        number = self.memory.nearest_style(latents) if style is None else self.bundle.style_id(style)
        key = self._encoder([clean_prompt(name)[0]]).embedding[0]
        path = file_of(self.bundle)
        kept = Remembered.load(path) or nothing(len(key), latents.shape)
        kept = kept.with_picture(name, key, latents, number)
        kept.save(path)
        self.memory = kept.joined(self._own_memory, self.bundle.neighbours)

    def forget(self, name: str) -> None:
        """Undo `remember`; raises `InputError` where nothing is remembered as `name`."""
        path = file_of(self.bundle)
        kept = Remembered.load(path) or nothing(self.memory.keys.shape[1], self.bundle.latent_shape)
        kept = kept.without(name)
        kept.save(path)
        self.memory = kept.joined(self._own_memory, self.bundle.neighbours)

    def _sample(
        self, context: dict[str, Any], seeds: Sequence[int], steps: int, edit: Edit | None
    ) -> npt.NDArray[np.float32]:
        """Standardised latents (len(seeds), C, H, W); context has a row for each of the seeds."""
        sources, bundle = sampling.generators(seeds), self.bundle
        asked = {name: tensor for name, tensor in context.items() if not name.startswith("not_")}
        both = {
            name: np.concatenate([tensor, context[f"not_{name}"]])
            for name, tensor in asked.items()
            if f"not_{name}" in context
        }
        first, last = bundle.guided_part

        def velocity(x: npt.NDArray[np.float32], t: float) -> npt.NDArray[np.float32]:
            if not both or not first <= 1 - t < last:
                return self._sampled(x=x, t=np.full(len(seeds), t, np.float32), **asked)["velocity"]
            twice = np.concatenate([x, x])
            told = self._sampled(x=twice, t=np.full(len(twice), t, np.float32), **both)["velocity"]
            conditional, unconditional = np.split(told, 2)
            return np.asarray(sampling.guide(conditional, unconditional, bundle.guidance))

        def noise() -> npt.NDArray[np.float32]:
            return sampling.draw(sources, bundle.latent_shape)

        times = sampling.timesteps(steps)
        if edit:
            # the steps that remain from the time where as much noise as `strength` is left
            times = times[-1 - max(1, round(edit.strength * steps)) :]
            return sampling.edit(velocity, edit.latents[None], noise(), times, edit.mask)
        if bundle.sampler == "consistency":
            return sampling.consistency(velocity, noise(), times, noise)
        return sampling.euler(velocity, noise(), times)

    def encode(self, pictures: Float) -> Float:
        """Pictures (B, 4, size_px, size_px) in [-1, 1], premultiplied → standardised latents (B, C, h, w).

        Raises:
            InputError: the bundle has no encoder, or the pictures another size.
        """
        size = self.bundle.size_px
        if pictures.shape[1:] != (4, size, size):
            raise InputError(f"pictures are {pictures.shape[1:]}; this bundle encodes {(4, size, size)}.")
        return np.asarray(self._picture_encoder(image=pictures)["latents"])

    def decode(self, latents: Float) -> Float:
        """The reverse of `encode`; not for the autoregressive family, whose decoder reads codes."""
        return np.asarray(self._decoder(latents=latents)["image"])

    def caption(self, picture: Float, language: str = "en") -> str:
        """What a picture shows, in words, the likeliest at each step.

        Args:
            picture: (4, size_px, size_px) in [-1, 1], premultiplied.
            language: "en" or "zh".

        Raises:
            InputError: the language is unknown, the picture has another size, or the bundle does not caption.
        """
        bundle, tokenizer, graph = self.bundle, self._encoder.tokenizer, self._captioner
        layers, heads, size = bundle.caption_cache
        latents = self.encode(picture[None])
        keys = values = np.zeros((1, layers, heads, 0, size), np.float32)

        def say(ids: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            nonlocal keys, values
            told = graph(latents=latents, ids=ids, places=places, context_keys=keys, context_values=values)
            keys, values = told["keys"], told["values"]
            return np.asarray(told["logits"])

        (words,) = write_words(say, 1, bundle.tokens, tokenizer.size, language)
        return tokenizer.decode(words)

    @cached_property
    def _captioner(self) -> Graph:
        if not self.bundle.caption_cache:
            raise InputError(
                f"bundle {self.bundle.name} does not caption; give one of the autoregressive family that was "
                "trained with captioning above 0 (recipes/emoji/autoregressive.toml)."
            )
        return self._graph("captioner")

    @cached_property
    def _picture_encoder(self) -> Graph:
        if "encoder.onnx" not in self.bundle.files:
            raise InputError(
                f"bundle {self.bundle.name} has no encoder.onnx to read pictures with; export it again."
            )
        return self._graph("encoder")

    def _graph(self, name: str) -> Graph:
        return self._opened(self.bundle, name, self.running)

    def _nothing(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the context graph is asked when there is no prompt, for guidance."""
        none = len(self.bundle.styles)
        return {
            **asked,
            "mask": np.zeros_like(asked["mask"]),
            "embedding": np.zeros_like(asked["embedding"]),
            "style": np.full_like(asked["style"], none),
            "neighbour_style": np.full_like(asked["neighbour_style"], none),
        }

    def _write(self, context: dict[str, Any], seeds: Sequence[int], steps: int) -> npt.NDArray[np.int64]:
        """Codes (len(seeds), tokens, codes); context has a row for each of the seeds."""
        bundle = self.bundle
        guided = "not_context_keys" in context
        cache = {
            name: np.concatenate([context[one + name] for one in (("", "not_") if guided else ("",))])
            for name in ("context_keys", "context_values", "context_mask")
        }

        def logits(
            codes: npt.NDArray[np.int64], known: npt.NDArray[np.bool_], index: npt.NDArray[np.int64]
        ) -> npt.NDArray[np.float32]:
            asked = {"codes": codes, "known": known}
            if guided:
                asked = {name: np.concatenate([tensor, tensor]) for name, tensor in asked.items()}
            filling = np.array([int(len(index) > 1)])
            told = self._sampled(**asked, index=index, filling=filling, **cache)
            if not filling:
                cache["context_keys"], cache["context_values"] = told["keys"], told["values"]
                cache["context_mask"] = np.pad(cache["context_mask"], [(0, 0)] * 3 + [(0, 1)])
            if not guided:
                return np.asarray(told["logits"])
            conditional, unconditional = np.split(told["logits"], 2)
            return np.asarray(sampling.guide(conditional, unconditional, bundle.guidance))

        chance = sampling.uniform(
            sampling.draw(sampling.generators(seeds), bundle.latent_shape), bundle.patch
        )
        return sampling.write_tokens(logits, chance, steps, bundle.temperature, bundle.top_k, bundle.top_p)


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Add the milliseconds of the block to `stages[name]`."""
    started = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + (time.perf_counter() - started) * 1000
