"""Any text-to-picture pipeline of diffusers, behind the same call as Miaobi's own bundles.

How a pipeline is called follows from its signature and parts (`runtimes.diffusers_parts`). PyTorch and
diffusers are imported when a pipeline is loaded.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miaobi.errors import InputError, MachineError
from miaobi.receipt import Generation, Receipt, peak_memory_bytes
from miaobi.runtimes import diffusers_parts as parts
from miaobi.runtimes.clock import Clock
from miaobi.runtimes.memory import available_bytes, check_fits, weights_bytes
from miaobi.text.prompt import clean_prompt
from miaobi.traits import DType, Traits

if TYPE_CHECKING:
    from miaobi.accelerate.recipe import Recipe

MAX_IMAGES = 64
MAX_SEED = 2**63 - 1
_BUNDLES_ALONE = {"style", "tone", "expand", "expand_timeout_s", "refine", "edit", "after"}


class DiffusersPipeline:
    """A diffusers pipeline, loaded and ready to draw. Make one with `miaobi.runtimes.diffusers.load`, and a
    faster one with `miaobi.accelerate.apply`.

    Args:
        pipe: the `diffusers.DiffusionPipeline`; a shallow copy is kept.
        traits: what it can do and how it runs.
        notes: what runs otherwise than asked, for receipts.
        load_ms: what loading took.
        origin: the pipeline that this one was made from, and the recipe.
        clock: tells parts of the pipeline how far sampling is.
    """

    def __init__(
        self,
        pipe: Any,
        traits: Traits,
        notes: Sequence[str] = (),
        load_ms: float = 0.0,
        origin: "tuple[DiffusersPipeline, Recipe] | None" = None,
        clock: Clock | None = None,
    ) -> None:
        self.pipe = copy.copy(pipe)
        self.pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        self.clock = clock or Clock()
        self.pipe.progress_bar = self.clock.bar
        self.traits = traits
        """What it can do and how it runs."""
        self.notes = list(notes)
        """What is to be told in every receipt."""
        self.origin: tuple[DiffusersPipeline, Recipe] = origin or (self, ())
        """The pipeline as it was loaded, and the recipe that made this one of it."""
        self.load_ms = load_ms
        self._prompts: dict[str, Any] = {}
        self._encode = type(pipe).encode_prompt
        self.pipe.encode_prompt = self._encoded

    @property
    def model_bytes(self) -> int:
        """Bytes of all weights as they run; those of graphs are known once a picture was drawn."""
        return parts.bytes_of(self.pipe)

    def with_size(self, size_px: int) -> "DiffusersPipeline":
        """The same pipeline, which draws squares of this side when it is not told.

        Raises:
            InputError: the side is no multiple of what the model needs.
        """
        self._check_size(size_px)
        tokens = self.traits.tokens * size_px**2 // self.traits.size_px**2
        loaded, recipe = self.origin
        made = copy.copy(self)
        made.traits = replace(self.traits, size_px=size_px, tokens=tokens)
        made.origin = (made if loaded is self else loaded.with_size(size_px), recipe)
        return made

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        size_px: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        **others: Any,
    ) -> Generation:
        """Draw `n` pictures of each prompt.

        Args:
            prompt: text, at most 1,000 characters; or several of them.
            n: pictures of each prompt; at most 64 in all.
            seed: the pictures of a prompt use seed, seed + 1, …; without it a random one, told in the
                receipt. Noise is drawn for each picture by itself, so that a picture is the same alone and in
                a batch.
            steps: sampling steps, 1 to `traits.most_steps`.
            guidance: scale of guidance s in `uncond + s · (cond - uncond)`; 1: off. Pipelines that count it
                from 0 are given one less.
            negative_prompt: what the second evaluation of guidance is given; by default nothing.
            size_px: side of the square pictures.
            on_progress: called with the number of pictures that became ready.
            others: arguments of bundles (`style`, `refine` …), which are ignored, as the receipt tells.

        Raises:
            InputError: a value is outside what is allowed.
            MachineError: the runtime failed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        clean = [clean_prompt(one) for one in prompts]
        size_px = self.traits.size_px if size_px is None else size_px
        steps = self.traits.steps if steps is None else steps
        guidance = self.traits.guidance if guidance is None else float(guidance)
        seeds = self._checked(len(prompts), n, seed, steps, guidance, size_px)
        ignored = [what for _, left_out in clean for what in left_out]
        ignored += self._ignored(guidance, negative_prompt, others)
        jobs = [(text, one) for text, _ in clean for one in seeds]
        stages = {"encode": 0.0, "sample": 0.0, "decode": 0.0}
        pixels: list[npt.NDArray[np.uint8]] = []
        notes: list[str] = []
        with self._threads():
            for first in range(0, len(jobs), self.traits.batch):
                some = jobs[first : first + self.traits.batch]
                made, blacked = self._draw(some, steps, guidance, negative_prompt, size_px, stages)
                pixels.append(made)
                notes += [
                    f"picture {first + one + 1} was blacked by the model's safety checker" for one in blacked
                ]
                if on_progress:
                    on_progress(len(some))
        receipt = Receipt(
            prompts=[text for text, _ in clean],
            bundle=self.traits.model,
            runtime=runtime_name(self.traits),
            device=self.traits.device,
            dtype=self.traits.dtypes() + (f", {self.traits.quantized}" if self.traits.quantized else ""),
            threads=self.traits.threads,
            steps=steps,
            sampler=self.traits.sampler,
            guidance=guidance,
            seeds=seeds * len(clean),
            size_px=size_px,
            load_ms=round(self.load_ms, 2),
            stages_ms={name: round(ms, 2) for name, ms in stages.items()},
            total_ms=round(sum(stages.values()), 2),
            peak_memory_bytes=peak_memory_bytes(),
            ignored=ignored,
            fallbacks=[*self.notes, *notes],
        )
        return Generation(np.concatenate(pixels), receipt)

    def _draw(
        self,
        jobs: Sequence[tuple[str, int]],
        steps: int,
        guidance: float,
        negative_prompt: str | None,
        size_px: int,
        stages: dict[str, float],
    ) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """Pictures (N, size_px, size_px, 4) of (prompt, seed) pairs, and which were blacked."""
        import torch

        texts = [text for text, _ in jobs]
        several = len(set(texts)) > 1
        arguments: dict[str, Any] = {
            "prompt": texts if several else texts[:1],
            "num_images_per_prompt": 1 if several else len(jobs),
            "generator": [torch.Generator("cpu").manual_seed(seed) for _, seed in jobs],
            "num_inference_steps": steps,
            "height": size_px,
            "width": size_px,
            "output_type": "np",
        }
        name = parts.guidance_name(self.pipe)
        if name:
            arguments[name] = guidance - 1 + parts.guidance_zero(self.pipe)
            if guidance > 1:
                # a pipeline with `true_cfg_scale` is guided only where it is given one; its template needs a
                # character
                missing = " " if name == "true_cfg_scale" else ""
                negative = missing if negative_prompt is None else negative_prompt
                arguments["negative_prompt"] = [negative] * len(arguments["prompt"])
        elif "guidance_scale" in parts.call_parameters(self.pipe):
            arguments["guidance_scale"] = guidance
        denoiser = getattr(self.pipe, parts.denoiser_name(self.pipe) or "unet")
        if hasattr(denoiser, "reset"):  # a cache of the picture before
            denoiser.reset()
        self.clock.size_px = size_px
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                made = self.pipe(**arguments)
        except (RuntimeError, MemoryError, ValueError) as error:
            raise MachineError(
                f"{self.traits.model} failed on {runtime_name(self.traits)}: {error}"
            ) from error
        ended = time.perf_counter()
        for stage, begin, end in (
            ("encode", started, self.clock.began),
            ("sample", self.clock.began, self.clock.ended),
            ("decode", self.clock.ended, ended),
        ):
            stages[stage] += (end - begin) * 1000
        colours = np.rint(np.asarray(made.images) * 255).astype(np.uint8)
        flags = getattr(made, "nsfw_content_detected", None) or []
        opaque = np.full((*colours.shape[:-1], 1), 255, np.uint8)
        return np.concatenate([colours, opaque], axis=-1), [one for one, flag in enumerate(flags) if flag]

    def _encoded(self, *given: Any, **named: Any) -> Any:
        """The pipeline's own `encode_prompt`, done once for the same texts."""
        key = repr((given, sorted(named.items())))
        if "tensor(" in key:
            return self._encode(self.pipe, *given, **named)
        if key not in self._prompts:
            if len(self._prompts) >= MAX_IMAGES:
                self._prompts.clear()
            self._prompts[key] = self._encode(self.pipe, *given, **named)
        return self._prompts[key]

    def _ignored(self, guidance: float, negative_prompt: str | None, others: dict[str, Any]) -> list[str]:
        """What was asked for and has no effect, or `TypeError` for what nothing knows."""
        unknown = sorted(set(others) - _BUNDLES_ALONE)
        if unknown:
            raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
        told = [f"{name}: only bundles have it" for name in ("style", "tone", "refine") if others.get(name)]
        told += [f"{name}: only bundles can" for name in ("edit", "after") if others.get(name)]
        if negative_prompt and (guidance <= 1 or not parts.guidance_name(self.pipe)):
            told.append("negative prompt: it needs guidance above 1")
        return told

    def _checked(
        self, prompts: int, n: int, seed: int | None, steps: int, guidance: float, size_px: int
    ) -> list[int]:
        """The seeds of one prompt's pictures, or `InputError`."""
        seed = int.from_bytes(os.urandom(4), "little") if seed is None else int(seed)
        if not 1 <= prompts <= MAX_IMAGES:
            raise InputError(f"{prompts} prompts given; give 1 to {MAX_IMAGES} prompts.")
        if n < 1 or n * prompts > MAX_IMAGES:
            raise InputError(f"n is {n} for {prompts} prompt(s); choose n from 1 to {MAX_IMAGES // prompts}.")
        if not 1 <= steps <= self.traits.most_steps:
            raise InputError(f"steps is {steps}; choose 1 to {self.traits.most_steps}.")
        if not 0 <= seed <= MAX_SEED - n + 1:
            raise InputError(f"seed is {seed}; choose 0 to {MAX_SEED - n + 1}.")
        if not 1 <= guidance <= 100:
            raise InputError(f"guidance is {guidance}; choose 1 (off) to 100.")
        self._check_size(size_px)
        return [seed + index for index in range(n)]

    def _check_size(self, size_px: int) -> None:
        multiple = parts.size_multiple_px(self.pipe)
        if size_px < multiple or size_px % multiple:
            raise InputError(f"size is {size_px} px; choose a multiple of {multiple} px.")

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """PyTorch's threads as this pipeline wants them, and back."""
        import torch

        before = torch.get_num_threads()
        if self.traits.threads:
            torch.set_num_threads(self.traits.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def load(
    model: str | os.PathLike[str],
    *,
    threads: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
) -> DiffusersPipeline:
    """Load a folder that diffusers saved, or a model of the hub by its id, "owner/name".

    Only safetensors are read, never pickle. Whether the weights fit in memory is estimated from their files
    first.

    Args:
        threads: threads of one operator; by default PyTorch chooses.
        device: "cpu", "cuda" or "mps"; where it is missing the CPU runs and the receipt says so.
        dtype: floating-point type of the weights.

    Raises:
        InputError: the folder is damaged, no text-to-picture pipeline, or a value is outside what is allowed.
        MachineError: the model cannot be fetched or does not fit in memory, or diffusers is not installed.
    """
    if find_spec("torch") is None or find_spec("diffusers") is None:
        raise MachineError("diffusers pipelines need PyTorch and diffusers; pip install 'miaobi[diffusers]'.")
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"threads is {threads}; choose 1 to 1024, or none for what PyTorch likes.")
    import torch
    from diffusers import DiffusionPipeline

    device, notes = _pick_device(device)
    name = os.fspath(model)
    started = time.perf_counter()
    with _quiet():
        folder = Path(name) if Path(name).is_dir() else _fetched(name)
        if device == "cpu":
            check_fits(name, weights_bytes(folder, dtype), available_bytes())
        try:
            pipe = DiffusionPipeline.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=find_spec("accelerate") is not None,
            )
        except (OSError, ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            raise InputError(
                f"{name!r} cannot be loaded as a diffusers pipeline: {_first_line(error)}; save it again "
                f"with pipeline.save_pretrained(folder), or give another model."
            ) from error
    if parts.denoiser_name(pipe) is None or "prompt" not in parts.call_parameters(pipe):
        raise InputError(
            f"{name!r} is a {type(pipe).__name__}, which does not draw from text by a U-Net or a "
            f"transformer; give a text-to-picture pipeline."
        )
    pipe.to(device)
    label = name if not Path(name).is_dir() else Path(name).resolve().name
    traits = parts.traits_of(pipe, label, device, threads or 0)
    return DiffusersPipeline(pipe, traits, notes, (time.perf_counter() - started) * 1000)


def runtime_name(traits: Traits) -> str:
    """Name and version of the runtime, such as "torch 2.6.0, compiled"."""
    from importlib.metadata import version

    return f"{traits.runtime} {version(traits.runtime)}" + (", compiled" if traits.compiled else "")


def _fetched(name: str) -> Path:
    """Folder of a hub model, fetched where it is not there yet."""
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:  # the hub's and the network's errors share no base class
        raise MachineError(
            f"{name!r} is no folder here and cannot be fetched from the model hub ({_first_line(error)}); "
            f"check the name and the network, or give a folder that diffusers saved."
        ) from error


def _pick_device(device: str) -> tuple[str, list[str]]:
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device not in there:
        raise InputError(f"unknown device {device!r}; choose one of {', '.join(there)}.")
    return (device, []) if there[device] else ("cpu", [f"device {device}: PyTorch finds none, ran on cpu"])


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of loading."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    bars = suppress(ImportError)
    with bars:
        from transformers.utils import logging as more

        more.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        with bars:
            more.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
