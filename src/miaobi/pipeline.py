"""The one way through: prompt -> encode -> retrieve -> context -> sample -> decode -> pictures and a
receipt."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi import images, sampling
from miaobi.bundle import SHIPPED, Bundle
from miaobi.errors import InputError
from miaobi.images import Float
from miaobi.receipt import Generation, Receipt, peak_memory_bytes
from miaobi.runtimes.onnx import OnnxModel, pick_device, runtime_name
from miaobi.text.encoder import TextEncoder, joined
from miaobi.text.memory import Memory, Neighbours
from miaobi.text.prompt import clean_prompt, skin_tone
from miaobi.text.remembered import Remembered, file_of, nothing

MAX_IMAGES = 64
MAX_SEED = 2**63 - 1
_BATCH = 8  # pictures drawn together


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


class Pipeline:
    """A bundle, loaded and ready to draw. Make one with `miaobi.load`."""

    def __init__(self, bundle: Bundle, threads: int | None = None, device: str = "cpu") -> None:
        started = time.perf_counter()
        if threads is not None and not 1 <= threads <= 1024:
            raise InputError(f"threads is {threads}; choose 1 to 1024, or none for what the runtime likes.")
        self.bundle = bundle
        self.device, self._fallbacks = pick_device(device)
        self.threads = threads or 0

        self._encoder = TextEncoder(bundle.path("tokenizer.json"), self._graph("text"))
        self._context, self._sampled, self._decoder = (
            self._graph(name) for name in ("context", bundle.sampled, "decoder")
        )
        self.memory = self._own_memory = Memory.load(
            bundle.path("memory.safetensors"), bundle.path("memory.json"), bundle.latent_shape
        )
        remembered = Remembered.load(file_of(bundle))
        if remembered and bundle.neighbours:
            self.memory = remembered.joined(self.memory, bundle.neighbours)
        self.load_ms = (time.perf_counter() - started) * 1000

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        steps: int | None = None,
        tone: int | None = None,
        edit: Edit | None = None,
        after: After | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Generation:
        """Draw `n` pictures of each prompt.

        Args:
            prompt: text in English or Chinese, at most 1,000 characters; or several of them.
            n: pictures of each prompt; at most 64 in all.
            seed: the pictures of a prompt use seed, seed + 1, …; without it a random one, told in the
                receipt. A prompt, seed and bundle give the same picture alone and in a batch.
            style: one of `bundle.styles`.
            steps: sampling steps, 1 to `bundle.most_steps`; the bundle knows the best number.
            tone: skin tone, 0 (none), 1 (light) to 5 (dark); without it, what the prompt says.
            edit: a picture to go on from, instead of noise.
            after: a picture to draw after, instead of those that the memory has for the prompt.
            on_progress: called after each batch with the number of pictures in it.

        Raises:
            InputError: a value is outside what is allowed.
            MachineError: the runtime failed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds, steps = self._checked(len(prompts), n, seed, steps, tone)
        if edit and self.bundle.family != "diffusion":
            raise InputError(f"a {self.bundle.family} cannot edit pictures; use a bundle of diffusion.")
        style_id = self.bundle.style_id(style)
        clean = [clean_prompt(one) for one in prompts]
        ignored = [what for _, left_out in clean for what in left_out]
        stages: dict[str, float] = {}
        tones = [skin_tone(text) if tone is None else tone for text, _ in clean]
        with _timed(stages, "encode"):  # one by one: what a prompt means does not depend on the others
            read = [self._encoder([text]) for text, _ in clean]
            ignored += [what for one in read for what in one.ignored]
            features = joined(read)
        with _timed(stages, "retrieve"):
            asked = np.full(len(prompts), style_id)
            found = (
                self.memory.neighbours(features.embedding, asked, np.array(tones), self.bundle.neighbours)
                if after is None
                else after.neighbours(len(prompts), self.bundle.neighbours)
            )
        with _timed(stages, "context"):
            question = {
                "tokens": features.tokens,
                "mask": features.mask,
                "embedding": features.embedding,
                "style": asked,
                "neighbours": found.latents,
                "neighbour_style": found.styles,
            }
            context = self._context(**question)
            if self.bundle.guidance != 1 and self.bundle.family == "autoregressive":
                nothing = self._context(**self._nothing(question))
                context |= {f"not_{name}": tensor for name, tensor in nothing.items()}
        jobs = [(number, one) for number in range(len(prompts)) for one in seeds]
        pixels = []
        for begin in range(0, len(jobs), _BATCH):
            numbers, batch = zip(*jobs[begin : begin + _BATCH], strict=True)
            part = {name: tensor[list(numbers)] for name, tensor in context.items()}
            with _timed(stages, "sample"):
                drawn = (
                    {"codes": self._write(part, batch, steps)}
                    if self.bundle.family == "autoregressive"
                    else {"latents": self._sample(part, batch, steps, edit)}
                )
            with _timed(stages, "decode"):
                pixels.append(images.to_uint8(self._decoder(**drawn)["image"]))
            if on_progress:
                on_progress(len(batch))
        receipt = Receipt(
            prompts=[text for text, _ in clean],
            bundle=f"{self.bundle.name} {self.bundle.version}",
            runtime=runtime_name(),
            device=self.device,
            dtype=self.bundle.dtype,
            threads=self.threads,
            style=self.bundle.styles[style_id],
            tones=tones,
            steps=steps,
            sampler="tokens" if self.bundle.family == "autoregressive" else self.bundle.sampler,
            guidance=self.bundle.guidance,
            seeds=seeds * len(clean),
            size_px=self.bundle.size_px,
            neighbours=[[self.memory.ids[one] for one in row if one >= 0] for row in found.entries],
            load_ms=round(self.load_ms, 2),
            stages_ms={name: round(ms, 2) for name, ms in stages.items()},
            total_ms=round(sum(stages.values()), 2),
            peak_memory_bytes=peak_memory_bytes(),
            ignored=ignored,
            fallbacks=self._fallbacks,
        )
        return Generation(np.concatenate(pixels), receipt)

    def _sample(
        self, context: dict[str, Any], seeds: Sequence[int], steps: int, edit: Edit | None
    ) -> npt.NDArray[np.float32]:
        """Standardised latents (len(seeds), C, H, W); context has a row for each of the seeds."""
        sources = sampling.generators(seeds)

        def velocity(x: npt.NDArray[np.float32], t: float) -> npt.NDArray[np.float32]:
            return self._sampled(x=x, t=np.full(len(seeds), t, np.float32), **context)["velocity"]

        def noise() -> npt.NDArray[np.float32]:
            return sampling.draw(sources, self.bundle.latent_shape)

        times = sampling.timesteps(steps)
        if edit:
            # the steps that remain from the time where as much noise as `strength` is left
            times = times[-1 - max(1, round(edit.strength * steps)) :]
            return sampling.edit(velocity, edit.latents[None], noise(), times, edit.mask)
        if self.bundle.sampler == "consistency":
            return sampling.consistency(velocity, noise(), times, noise)
        return sampling.euler(velocity, noise(), times)

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

    def encode(self, pictures: Float) -> Float:
        """Pictures (B, 4, size_px, size_px) in [-1, 1], premultiplied → standardised latents (B, C, h, w).

        Raises:
            InputError: the bundle has no encoder, or the pictures another size.
        """
        size = self.bundle.size_px
        if pictures.shape[1:] != (4, size, size):
            raise InputError(f"pictures are {pictures.shape[1:]}; this bundle encodes {(4, size, size)}.")
        return np.asarray(self._picture_encoder(image=pictures)["latents"])

    @cached_property
    def _picture_encoder(self) -> OnnxModel:
        if "encoder.onnx" not in self.bundle.files:
            raise InputError(
                f"bundle {self.bundle.name} has no encoder.onnx to read pictures with; export it again."
            )
        return self._graph("encoder")

    def _graph(self, name: str) -> OnnxModel:
        return OnnxModel(self.bundle.path(f"{name}.onnx"), self.threads, self.device)

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

    def _checked(
        self, prompts: int, n: int, seed: int | None, steps: int | None, tone: int | None
    ) -> tuple[list[int], int]:
        """The seeds of one prompt's pictures and the number of steps, or `InputError`."""
        steps = self.bundle.steps if steps is None else steps
        seed = int.from_bytes(os.urandom(4), "little") if seed is None else int(seed)
        if not 1 <= prompts <= MAX_IMAGES:
            raise InputError(f"{prompts} prompts given; give 1 to {MAX_IMAGES} prompts.")
        if n < 1 or n * prompts > MAX_IMAGES:
            most = MAX_IMAGES // prompts
            raise InputError(f"n is {n} for {prompts} prompt(s); choose n from 1 to {most}.")
        most = self.bundle.most_steps
        if not 1 <= steps <= most:
            allowed = f"choose 1 to {most}." if most > 1 else f"a {self.bundle.family} draws in 1."
            raise InputError(f"steps is {steps}; {allowed}")
        if not 0 <= seed <= MAX_SEED - n + 1:
            raise InputError(f"seed is {seed}; choose 0 to {MAX_SEED - n + 1}.")
        if tone is not None and not 0 <= tone <= 5:
            raise InputError(f"tone is {tone}; choose 0 (none) or 1 (light) to 5 (dark).")
        return [seed + index for index in range(n)], steps


def load(
    bundle: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: str = "cpu"
) -> Pipeline:
    """Load a bundle: a folder with `bundle.json`, by default the one inside the package.

    Args:
        threads: threads of one operator; by default the runtime chooses.
        device: "cpu" or "cuda"; where it is missing the CPU runs and the receipt says so.

    Raises:
        BundleError: the bundle is missing, damaged or altered.
        InputError: a value is outside what is allowed.
    """
    return Pipeline(Bundle.load(SHIPPED if bundle is None else bundle), threads, device)


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Add the milliseconds of the block to `stages[name]`."""
    started = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + (time.perf_counter() - started) * 1000
