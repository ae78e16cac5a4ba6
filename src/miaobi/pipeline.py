"""The one way through: prompt -> encode -> retrieve -> context -> sample -> decode -> pictures and a
receipt."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from miaobi import images, sampling
from miaobi.bundle import SHIPPED, Bundle
from miaobi.errors import InputError
from miaobi.receipt import Generation, Receipt, peak_memory_bytes
from miaobi.runtimes.onnx import OnnxModel, pick_device, runtime_name
from miaobi.text.encoder import TextEncoder
from miaobi.text.memory import Memory
from miaobi.text.prompt import clean_prompt, skin_tone

MAX_IMAGES = 64
MAX_SEED = 2**63 - 1
_BATCH = 8  # pictures drawn together


class Pipeline:
    """A bundle, loaded and ready to draw. Make one with `miaobi.load`."""

    def __init__(self, bundle: Bundle, threads: int | None = None, device: str = "cpu") -> None:
        started = time.perf_counter()
        if threads is not None and not 1 <= threads <= 1024:
            raise InputError(f"threads is {threads}; choose 1 to 1024, or none for what the runtime likes.")
        self.bundle = bundle
        self.device, self._fallbacks = pick_device(device)
        self.threads = threads or 0

        def graph(name: str) -> OnnxModel:
            return OnnxModel(bundle.path(f"{name}.onnx"), self.threads, self.device)

        self._encoder = TextEncoder(bundle.path("tokenizer.json"), graph("text"))
        self._context, self._sampled, self._decoder = (
            graph(name) for name in ("context", bundle.sampled, "decoder")
        )
        self.memory = Memory.load(
            bundle.path("memory.safetensors"), bundle.path("memory.json"), bundle.latent_shape
        )
        self.load_ms = (time.perf_counter() - started) * 1000

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        steps: int | None = None,
        tone: int | None = None,
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
            on_progress: called after each batch with the number of pictures in it.

        Raises:
            InputError: a value is outside what is allowed.
            MachineError: the runtime failed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds, steps = self._checked(len(prompts), n, seed, steps, tone)
        style_ids = np.array([self.bundle.style_id(style)])
        clean = [clean_prompt(one) for one in prompts]
        ignored = [what for _, left_out in clean for what in left_out]
        stages: dict[str, float] = {}
        pixels, neighbours, tones = [], [], []
        for text, _ in clean:  # one by one: a picture does not depend on what is drawn beside it
            with _timed(stages, "encode"):
                features = self._encoder([text])
                ignored += features.ignored
            with _timed(stages, "retrieve"):
                tones.append(skin_tone(text) if tone is None else tone)
                found = self.memory.neighbours(
                    features.embedding, style_ids, tones[-1], self.bundle.neighbours
                )
                neighbours.append([self.memory.ids[entry] for entry in found.entries[0]])
            with _timed(stages, "context"):
                asked = {
                    "tokens": features.tokens,
                    "mask": features.mask,
                    "embedding": features.embedding,
                    "style": style_ids,
                    "neighbours": found.latents,
                    "neighbour_style": found.styles,
                }
                context = self._context(**asked)
                if self.bundle.guidance != 1 and self.bundle.family == "autoregressive":
                    context |= {
                        f"not_{name}": tensor
                        for name, tensor in self._context(**self._nothing(asked)).items()
                    }
            for begin in range(0, n, _BATCH):
                batch = seeds[begin : begin + _BATCH]
                with _timed(stages, "sample"):
                    drawn = (
                        {"codes": self._write(context, batch, steps)}
                        if self.bundle.family == "autoregressive"
                        else {"latents": self._sample(context, batch, steps)}
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
            style=self.bundle.styles[style_ids[0]],
            tones=tones,
            steps=steps,
            sampler="tokens" if self.bundle.family == "autoregressive" else self.bundle.sampler,
            guidance=self.bundle.guidance,
            seeds=seeds * len(clean),
            size_px=self.bundle.size_px,
            neighbours=neighbours,
            load_ms=round(self.load_ms, 2),
            stages_ms={name: round(ms, 2) for name, ms in stages.items()},
            total_ms=round(sum(stages.values()), 2),
            peak_memory_bytes=peak_memory_bytes(),
            ignored=ignored,
            fallbacks=self._fallbacks,
        )
        return Generation(np.concatenate(pixels), receipt)

    def _sample(self, context: dict[str, Any], seeds: list[int], steps: int) -> npt.NDArray[np.float32]:
        """Standardised latents (len(seeds), C, H, W) for the context of one prompt (of batch size 1)."""
        repeated = {name: np.repeat(tensor, len(seeds), axis=0) for name, tensor in context.items()}
        sources = sampling.generators(seeds)

        def velocity(x: npt.NDArray[np.float32], t: float) -> npt.NDArray[np.float32]:
            times = np.full(len(seeds), t, np.float32)
            return self._sampled(x=x, t=times, **repeated)["velocity"]

        def noise() -> npt.NDArray[np.float32]:
            return sampling.draw(sources, self.bundle.latent_shape)

        times = sampling.timesteps(steps)
        if self.bundle.sampler == "consistency":
            return sampling.consistency(velocity, noise(), times, noise)
        return sampling.euler(velocity, noise(), times)

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

    def _write(self, context: dict[str, Any], seeds: list[int], steps: int) -> npt.NDArray[np.int64]:
        """Codes (len(seeds), tokens, codes) for the context of one prompt (of batch size 1)."""
        bundle = self.bundle
        guided = "not_context_keys" in context
        cache = {
            name: np.concatenate(
                [
                    np.repeat(context[one + name], len(seeds), axis=0)
                    for one in (("", "not_") if guided else ("",))
                ]
            )
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
