"""The one way through: prompt -> plan -> draw -> compose -> refine -> pictures and a receipt."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

import numpy as np

from miaobi import images
from miaobi.bundle import SHIPPED, Bundle
from miaobi.drawing import After, Drawer, Edit, timed
from miaobi.errors import InputError
from miaobi.images import Float
from miaobi.receipt import Generation, Receipt, peak_memory_bytes
from miaobi.refine.stage import Subject, parse
from miaobi.refine.stage import refine as run_stages
from miaobi.refine.upscale import Upscale
from miaobi.runtimes.graph import Graph, Running, dtype_name, open_graph, runtime_name
from miaobi.sketch import Sketch
from miaobi.text.expand import Plan, Planner, make_planner
from miaobi.text.prompt import clean_prompt, skin_tone

MAX_IMAGES = 64
MAX_SEED = 2**63 - 1
EDIT_STEPS = 4
"""Steps at least where a picture is gone on from: with fewer, a strength below 1 would mean little."""
SCALES = (1, 2, 4)
"""Sizes of a picture, in sizes of what the bundle draws."""


class Pipeline(Drawer):
    """A bundle, loaded and ready to draw. Make one with `miaobi.load`."""

    def __init__(
        self, bundle: Bundle, running: Running | None = None, opened: Callable[..., Graph] = open_graph
    ) -> None:
        super().__init__(bundle, running, opened)
        self._planner: tuple[object, Planner] | None = None

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        steps: int | None = None,
        tone: int | None = None,
        size_px: int | None = None,
        expand: str | None = "builtin",
        expand_timeout_s: float = 30.0,
        refine: str = "",
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
            steps: sampling steps, 1 to `bundle.most_steps`; the bundle knows the best number, which for an
                edit is at least `EDIT_STEPS`.
            tone: skin tone, 0 (none), 1 (light) to 5 (dark); without it, what the prompt says.
            size_px: 1, 2 or 4 times `bundle.size_px`; without it that size, and 4 times that for scenes.
            expand: who plans: "builtin", "openai:MODEL@BASE_URL" or "gguf:PATH" (see `text.expand`). A prompt
                that names several things or a place becomes a scene, drawn in layers, unless the bundle
                draws whole pictures (`bundle.scenes`). None: the generator is given the prompt as it is.
            expand_timeout_s: seconds that a language model may take; then the built-in planner plans.
            refine: stages that the pictures go through, such as "enhance" (see `refine.stage`).
            edit: a picture to go on from, instead of noise; there is no planning then.
            after: a picture to draw after, instead of those that the memory has; there is no planning then.
            on_progress: called with the number of pictures that became ready.

        Raises:
            InputError: a value is outside what is allowed.
            MachineError: the runtime failed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if edit and self.bundle.family != "diffusion":
            raise InputError(f"a {self.bundle.family} cannot edit pictures; use a bundle of diffusion.")
        if edit and steps is None:
            steps = max(self.bundle.steps, EDIT_STEPS)
        seeds, steps = self._checked(len(prompts), n, seed, steps, tone, size_px)
        style_id = self.bundle.style_id(style)
        clean = [clean_prompt(one) for one in prompts]
        notes = [what for _, left_out in clean for what in left_out]
        tones = [skin_tone(text) if tone is None else tone for text, _ in clean]
        if not self.bundle.scenes:
            if expand not in (None, "builtin"):
                notes.append(f"the planner {expand}: {self.bundle.name} draws whole pictures")
            expand = None
        chain = parse(refine) if refine else []
        stages: dict[str, float] = {}
        with timed(stages, "plan"):
            texts = [text for text, _ in clean]
            plans = self._plans(texts, None if edit or after else expand, expand_timeout_s)
            sketches = [
                Sketch.of(plan.expanded or text, plan.scene) if plan else Sketch.of(text, None)
                for text, plan in zip(texts, plans, strict=True)
            ]
        if size_px is None:
            size_px = self.bundle.size_px * (1 if all(one.single for one in sketches) else SCALES[-1])
        first = np.cumsum([0, *(len(one.texts) for one in sketches)])
        owners = [number for number, one in enumerate(sketches) for _ in one.texts]
        jobs = [
            (int(first[number]) + layer, own)
            for number, sketch in enumerate(sketches)
            for one in seeds
            for layer, own in enumerate(sketch.seeds(one))
        ]
        drawn = self.draw(
            [text for one in sketches for text in one.texts],
            jobs,
            style_id,
            [tones[owner] for owner in owners],
            steps,
            edit,
            after,
            stages,
            on_progress if len(jobs) == len(sketches) * n else None,
        )
        pictures, layers, refined, neighbours = [], [], [], []
        for number, sketch in enumerate(sketches):
            for index in range(n):
                begin = int(first[number]) * n + index * len(sketch.texts)
                rows = slice(begin, begin + len(sketch.texts))
                with timed(stages, "compose"):
                    image, parts = sketch.assemble(list(drawn.images[rows]), size_px, _enlarged)
                neighbours.append([name for names in drawn.neighbours[rows] for name in names])
                if chain:
                    with timed(stages, "refine"):
                        subject = Subject(image, prompt=clean[number][0], pipeline=self)
                        image, done = run_stages(subject, chain)
                        refined.append([asdict(one) for one in done])
                pictures.append(image)
                layers.append(parts)
                if on_progress and len(jobs) > len(sketches) * n:
                    on_progress(1)
        with timed(stages, "compose"):
            pixels = images.to_uint8(np.stack(pictures) if len(pictures) > 1 else pictures[0][None])
        receipt = Receipt(
            prompts=texts,
            expanded=[plan.expanded if plan else None for plan in plans],
            scenes=[
                None if sketch.single or plan is None else plan.scene.to_json()
                for sketch, plan in zip(sketches, plans, strict=True)
            ],
            bundle=f"{self.bundle.name} {self.bundle.version}",
            runtime=runtime_name(self.running),
            device=self.running.device,
            dtype=dtype_name(self.bundle, self.running),
            threads=self.running.threads,
            style=self.bundle.styles[style_id],
            tones=tones,
            steps=steps,
            sampler="tokens" if self.bundle.family == "autoregressive" else self.bundle.sampler,
            guidance=self.bundle.guidance,
            seeds=seeds * len(clean),
            size_px=size_px,
            neighbours=neighbours,
            refined=refined,
            load_ms=round(self.load_ms, 2),
            stages_ms={name: round(ms, 2) for name, ms in stages.items()},
            total_ms=round(sum(stages.values()), 2),
            peak_memory_bytes=peak_memory_bytes(),
            ignored=[*notes, *drawn.ignored, *(note for sketch in sketches for note in sketch.notes)],
            fallbacks=[*self.notes, *(note for plan in plans if plan for note in plan.notes)],
        )
        return Generation(pixels, receipt, layers)

    def _plans(self, texts: Sequence[str], expand: str | None, timeout_s: float) -> list[Plan | None]:
        if expand is None:
            return [None] * len(texts)
        asked = (expand, timeout_s, self.memory)  # which is another one after `remember`
        if self._planner is None or self._planner[0] != asked:
            made = make_planner(
                expand, self.memory, self._encoder, timeout_s=timeout_s, expands=expand != "builtin"
            )
            self._planner = (asked, made)
        return [self._planner[1].plan(text) for text in texts]

    def _checked(
        self,
        prompts: int,
        n: int,
        seed: int | None,
        steps: int | None,
        tone: int | None,
        size_px: int | None,
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
        sizes = [self.bundle.size_px * scale for scale in SCALES]
        if size_px is not None and size_px not in sizes:
            raise InputError(f"size is {size_px} px; choose {', '.join(map(str, sizes))}.")
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
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"threads is {threads}; choose 1 to 1024, or none for what the runtime likes.")
    found = Bundle.load(SHIPPED if bundle is None else bundle)
    return Pipeline(found, Running(found.runtime, threads=threads or 0, device=device))


@cache
def shipped() -> Pipeline:
    """The bundle inside the package, loaded once, for stages that draw and were given no pipeline."""
    return load()


def _enlarged(picture: Float) -> Float:
    return Upscale(4)(Subject(picture))
