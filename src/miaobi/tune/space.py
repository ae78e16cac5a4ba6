"""The recipes that make sense for a pipeline: slots, one for each kind of step, walked in a recipe's order.

Every option passes `accelerate.rules` after the steps chosen before it, so that nothing illegal is ever
measured. What no option is left for is no parameter of the study, and a parameter is named after the options
it has, because a parameter of Optuna always has the same ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal

from miaobi.accelerate.recipe import (
    Batch,
    Cache,
    ChannelsLast,
    Compile,
    Distill,
    Guidance,
    MergeTokens,
    Precision,
    Quantize,
    Recipe,
    RecipeError,
    Runtime,
    Sampler,
    Step,
    Steps,
    Threads,
    TinyDecoder,
)
from miaobi.accelerate.rules import check
from miaobi.machine import cpus, lacks_bf16
from miaobi.traits import RUNTIMES, Traits

Objective = Literal["latency", "throughput", "memory", "size"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "memory", "size")
NOTHING = "-"
_AFTER_TYPES = (Quantize("int8-static"), Quantize("int8-weights"))
"""Integers that are tried first together with bfloat16."""
_COUNTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25, 30, 40)


@dataclass(frozen=True)
class Slot:
    """One kind of step and its values, of which a recipe takes one or none."""

    kind: str
    options: tuple[Step, ...]


@dataclass(frozen=True)
class Space:
    """All legal recipes of some slots, in the order of a recipe's stages."""

    traits: Traits
    slots: tuple[Slot, ...]
    patient: bool = True
    """Whether torch.compile is offered, which works for minutes on a recipe before its first picture."""

    def walk(self, choose: Callable[[str, list[str]], str], barred: frozenset[Step] = frozenset()) -> Recipe:
        """A recipe made by `choose`, which is given a parameter's name and labels, "-" for none first.

        Steps that are `barred`, such as those that failed alone, are never offered.
        """
        recipe: Recipe = ()
        for slot in self.slots:
            offered = {
                number: one
                for number, one in enumerate(slot.options)
                if one not in barred and self.legal((*recipe, one))
            }
            if offered:
                name = f"{slot.kind}:{','.join(map(str, offered))}"
                labels = {str(one): one for one in offered.values()}
                label = choose(name, [NOTHING, *labels])
                recipe = recipe if label == NOTHING else (*recipe, labels[label])
        return recipe

    def parameters(self, recipe: Recipe, barred: frozenset[Step] = frozenset()) -> dict[str, str]:
        """What `walk` has to choose to make a recipe of this space."""
        chosen: dict[str, str] = {}
        wanted = {str(step) for step in recipe}

        def choose(name: str, labels: list[str]) -> str:
            return chosen.setdefault(name, next((one for one in labels if one in wanted), NOTHING))

        self.walk(choose, barred)
        return chosen

    def legal(self, recipe: Recipe) -> bool:
        """Whether `accelerate.rules` lets the recipe pass, and there is time for it."""
        made = _after(self.traits, recipe)
        return made is not None and (self.patient or not (made.compiled and made.runtime == "torch"))

    def ordered(self, steps: Sequence[Step]) -> Recipe:
        """Steps of this space as a recipe: in the order of the slots."""
        return tuple(sorted(steps, key=self._order.__getitem__))

    @cached_property
    def _order(self) -> dict[Step, int]:
        return {one: number for number, slot in enumerate(self.slots) for one in slot.options}

    def starts(self) -> list[Recipe]:
        """What is measured first: the user's students with what usually helps; without students
        combinations that are known to be good, then each kind of step alone with a middle value.
        """
        kinds = {slot.kind: [one for one in slot.options if self.legal((one,))] for slot in self.slots}
        of_kind = {slot.kind: slot.options for slot in self.slots}
        students = kinds.get("distill", [])
        if students:
            return [(), *self._of_students(students, of_kind)]
        runtimes = kinds.get("runtime", [])
        found: list[Recipe] = [(one,) for one in runtimes]
        found += [(one, step) for one in runtimes for step in of_kind.get("quantize", ())[:3]]
        for kind, options in kinds.items():
            many = kind in ("tiny-decoder", "runtime", "precision")
            found += [(one,) for one in (options if many else _middle(options))]
        quick = [one for kind in ("steps", "guidance") for one in _middle(kinds.get(kind, []))]
        quiet = [one for kind in ("channels-last", "compile") for one in kinds.get(kind, [])]
        cached = list(_middle(kinds.get("cache", [])))
        for more in ([], quiet, *([one] for one in runtimes), cached):
            found += [self.ordered([*quick, *more]), self.ordered([*quiet, *more])]
        legal = (one for one in dict.fromkeys(found) if one and self.legal(one))
        return [(), *legal]

    def _of_students(self, students: Sequence[Step], of_kind: dict[str, tuple[Step, ...]]) -> list[Recipe]:
        runtimes, few = of_kind.get("runtime", ()), of_kind.get("steps", ())[:2]
        types, integers = of_kind.get("precision", ())[:2], of_kind.get("quantize", ())
        numbers: list[Recipe] = [(), *((one,) for one in (*types, *integers[:3]))]
        numbers += [(*types[1:], one) for one in integers if one in _AFTER_TYPES]
        found: list[Recipe] = [(one,) for one in students]
        for one in students:
            quick = few[:1] if self.legal((one, *few[:1])) else ()
            for where, more in product([*((one,) for one in runtimes), ()], numbers):
                # one graph for the whole picture is never slower, where OpenVINO can have it
                whole = (one, *quick, *where, *more, Compile())
                able = where == (Runtime("openvino"),) and self.legal(whole)
                found.append(whole if able else whole[:-1])
        found += [(one, step) for one in students for step in (*few, *integers[:3])]
        return [one for one in dict.fromkeys(found) if self.legal(one)]

    def neighbours(self, recipe: Recipe, barred: frozenset[Step] = frozenset()) -> tuple[Recipe, ...]:
        """Legal recipes that differ in one step, but for steps that are no longer legal beside it."""
        if (recipe, barred) not in self._near:
            self._near[recipe, barred] = tuple(dict.fromkeys(self._changed(recipe, barred)))
        return self._near[recipe, barred]

    @cached_property
    def _near(self) -> dict[tuple[Recipe, frozenset[Step]], tuple[Recipe, ...]]:
        return {}

    def _changed(self, recipe: Recipe, barred: frozenset[Step]) -> Iterator[Recipe]:
        for slot in self.slots:
            rest = [step for step in recipe if step not in slot.options]
            if len(rest) < len(recipe):
                yield self._without_illegal(rest)
            for one in slot.options:
                made = self._without_illegal([*rest, one])
                if one in made and one not in recipe and one not in barred:
                    yield made

    def _without_illegal(self, steps: Sequence[Step]) -> Recipe:
        made: Recipe = ()
        for step in self.ordered(steps):
            made = (*made, step) if self.legal((*made, step)) else made
        return made


def space_of(
    traits: Traits,
    objective: Objective = "latency",
    students: Sequence[str] = (),
    decoders: Sequence[str] = (),
    cores: int | None = None,
    patient: bool = True,
) -> Space:
    """The space of a pipeline: what its traits allow, and the user's students and tiny decoders.

    Pruning and sharing of layers are left out: without training after them they only harm; give their
    results as students.

    Args:
        students: folders of bundles for `Distill`, or "emoji".
        decoders: folders for `TinyDecoder`.
        cores: of the machine; by default those that this process may use.
        patient: whether there is time for torch.compile.
    """
    cores = cores or cpus()
    steps = [count for count in _COUNTS if count < traits.steps]
    scale = traits.guidance
    intervals = [(0.0, 0.5), (0.2, 0.8), (0.0, 0.8)] if traits.steps > 1 else []
    halves = [Precision("bfloat16", "decoder"), Precision("bfloat16")]
    bf16 = traits.device != "cpu" or not lacks_bf16()
    threads = sorted({1, 2, max(1, cores // 2), cores} & set(range(1, cores + 1)))
    wanted: list[tuple[type[Step], Sequence[Step]]] = [
        (Distill, [Distill(one) for one in students]),
        (TinyDecoder, [TinyDecoder(one) for one in decoders]),
        (Steps, [Steps(count) for count in steps]),
        (Sampler, [Sampler(one) for one in traits.samplers]),
        (Guidance, [Guidance(1.0), *(Guidance(scale, begin, end) for begin, end in intervals)]),
        (
            Cache,
            [
                *(Cache("deep", interval) for interval in (2, 3, 5)),
                *(Cache("first-block", threshold=one) for one in (0.05, 0.1, 0.2)),
            ],
        ),
        (MergeTokens, [MergeTokens(ratio) for ratio in (0.25, 0.5)]),
        (Runtime, [Runtime(one) for one in RUNTIMES]),
        (Precision, [*(halves if bf16 else []), Precision("float16")]),
        (
            Quantize,
            [
                *(Quantize("int8-dynamic"), Quantize("int8-static"), Quantize("int8-mixed")),
                *(Quantize("int8-weights"), Quantize("int4-weights")),
            ],
        ),
        (ChannelsLast, [ChannelsLast()]),
        (Compile, [Compile()]),
        (Threads, [Threads(count) for count in threads]),
        (Batch, [Batch(size) for size in (4, 8, 16, 32)] if objective == "throughput" else []),
    ]
    return Space(
        traits, tuple(Slot(options[0].name, tuple(options)) for _, options in wanted if options), patient
    )


@lru_cache(maxsize=100_000)
def _after(traits: Traits, recipe: Recipe) -> Traits | None:
    try:
        return check(traits, recipe)
    except RecipeError:
        return None


def _middle(options: Sequence[Step]) -> list[Step]:
    return list(options[len(options) // 2 : len(options) // 2 + 1])
