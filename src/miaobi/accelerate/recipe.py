"""Recipes: what to change of a pipeline to make it faster, as a tuple of frozen dataclasses.

The type of a step selects the transform (`accelerate.transform`); whether it may be taken stands in
`accelerate.rules`. Each step refuses values that no pipeline could use when it is made.
"""

import json
import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar, Literal, get_args, get_origin

from miaobi.errors import InputError
from miaobi.traits import DType, RuntimeName


class RecipeError(InputError):
    """A recipe cannot be read, or cannot be applied to a pipeline; the message gives every reason."""


class Stage(IntEnum):
    """Where in a recipe a step stands; a later stage works on what an earlier one left."""

    WEIGHTS = 0
    SAMPLING = 1
    NETWORK = 2
    RUNTIME = 3
    NUMBERS = 4
    COMPILE = 5
    MACHINE = 6


@dataclass(frozen=True)
class Step:
    """One change of a pipeline."""

    stage: ClassVar[Stage]

    def __post_init__(self) -> None:
        for one in fields(self):
            allowed = _choices(one.type)
            value = getattr(self, one.name)
            if allowed and value not in allowed:
                raise RecipeError(
                    f"{self.name}: {one.name} is {value!r}; choose one of {', '.join(map(str, allowed))}."
                )

    @property
    def name(self) -> str:
        """The step's kind as recipes write it, such as "merge-tokens"."""
        return kind_of(type(self))

    def __str__(self) -> str:
        told = ", ".join(
            f"{one.name} {_short(getattr(self, one.name))}"
            for one in fields(self)
            if one.default is MISSING or getattr(self, one.name) != one.default
        )
        return f"{self.name}({told})"

    def need(self, right: bool, what: str) -> None:
        """Raise `RecipeError` with the reason `what` where a value is not right."""
        if not right:
            raise RecipeError(f"{self.name}: {what}")


Recipe = tuple[Step, ...]


@dataclass(frozen=True)
class Distill(Step):
    """Exchange the generator for a student that was distilled from it: fewer steps, narrower or shallower.

    `miaobi train` makes students (`part = "distill"`); a student is a bundle of the same latents and styles.
    """

    student: str
    """Folder of the student's bundle, or "emoji", the one inside the package."""
    stage: ClassVar = Stage.WEIGHTS


@dataclass(frozen=True)
class Prune(Step):
    """Remove the least weights by magnitude (Han et al. 2015, arXiv:1506.02626), or whole channels and heads
    (torch-pruning; Fang et al. 2023, arXiv:2301.12900).
    """

    amount: float
    """Share that goes, above 0 and below 1."""
    method: Literal["unstructured", "structured"] = "structured"
    finetune: int = 0
    """Training steps after it, in which the pruned model learns from the whole one's pictures."""
    stage: ClassVar = Stage.WEIGHTS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0 < self.amount < 1, f"amount is {self.amount}; choose above 0 and below 1.")
        self.need(self.finetune >= 0, f"finetune is {self.finetune}; choose 0 or more steps.")


@dataclass(frozen=True)
class ShareLayers(Step):
    """Let each run of `group` blocks use the weights of its first (Lan et al. 2019, "ALBERT")."""

    group: int = 2
    finetune: int = 0
    """Training steps after it, in which the smaller model learns from the whole one's pictures."""
    stage: ClassVar = Stage.WEIGHTS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.group >= 2, f"group is {self.group}; choose 2 or more.")
        self.need(self.finetune >= 0, f"finetune is {self.finetune}; choose 0 or more steps.")


@dataclass(frozen=True)
class TinyDecoder(Step):
    """Exchange the decoder of latents for a smaller one that was trained on the same latents (TAESD)."""

    decoder: str
    """A bundle's folder, or for diffusers a folder of an `AutoencoderTiny`."""
    stage: ClassVar = Stage.WEIGHTS


@dataclass(frozen=True)
class Steps(Step):
    """Sample in so many steps."""

    count: int
    stage: ClassVar = Stage.SAMPLING

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.count >= 1, f"count is {self.count}; choose 1 or more.")


@dataclass(frozen=True)
class Sampler(Step):
    """Sample by another method, one of the pipeline's `samplers`."""

    method: str
    stage: ClassVar = Stage.SAMPLING


@dataclass(frozen=True)
class Guidance(Step):
    """Set classifier-free guidance, or limit it to a part of the path (Kynkäänniemi et al. 2024,
    arXiv:2404.07724); outside of the part, and at scale 1, one evaluation is run instead of two.
    """

    scale: float
    """1: off."""
    begin: float = 0.0
    """Share of the steps, in [0, 1), after which guidance begins."""
    end: float = 1.0
    """Share of the steps, in (0, 1], after which it ends."""
    stage: ClassVar = Stage.SAMPLING

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.scale >= 1, f"scale is {self.scale}; choose 1 (off) or more.")
        self.need(
            0 <= self.begin < self.end <= 1,
            f"begin {self.begin} and end {self.end} must be rising shares of the steps in [0, 1].",
        )


@dataclass(frozen=True)
class Cache(Step):
    """Take deep blocks' results from an earlier step.

    "deep" keeps the inner levels of a U-Net for `interval` steps (Ma et al. 2023, "DeepCache",
    arXiv:2312.00858); "first-block" skips the other blocks of a transformer while the first one's result
    changes by less than `threshold` (ParaAttention's first-block cache, after Liu et al. 2024, "TeaCache",
    arXiv:2411.19108).
    """

    method: Literal["deep", "first-block"]
    interval: int = 2
    threshold: float = 0.1
    stage: ClassVar = Stage.NETWORK

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.interval >= 2, f"interval is {self.interval}; choose 2 or more.")
        self.need(self.threshold > 0, f"threshold is {self.threshold}; choose above 0.")


@dataclass(frozen=True)
class MergeTokens(Step):
    """Merge the most similar tokens around self-attention (Bolya & Hoffman 2023, arXiv:2303.17604)."""

    ratio: float = 0.5
    """Share of the tokens that is merged away, above 0 and at most 0.75."""
    stage: ClassVar = Stage.NETWORK

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0 < self.ratio <= 0.75, f"ratio is {self.ratio}; choose above 0 to 0.75.")


@dataclass(frozen=True)
class Runtime(Step):
    """Run on PyTorch, ONNX Runtime, OpenVINO or, diffusers pipelines, MNN; the graphs are exported where they
    have to be."""

    runtime: RuntimeName
    stage: ClassVar = Stage.RUNTIME


@dataclass(frozen=True)
class Precision(Step):
    """Compute in another floating-point type.

    The decoder alone in bfloat16 is nearly exact: nothing after it makes its errors larger, while those of a
    sampling step go through all that follow, and through guidance.
    """

    dtype: DType
    part: Literal["all", "decoder"] = "all"
    stage: ClassVar = Stage.NUMBERS


@dataclass(frozen=True)
class Quantize(Step):
    """Multiply or store in integers, by the runtime's own tools (torchao, ONNX Runtime, NNCF)."""

    method: Literal["int8-dynamic", "int8-static", "int8-mixed", "int8-weights", "int4-weights"]
    """Activations scaled as they come, or by calibration, or convolutions by calibration and matrices as they
    come; or only the weights stored so."""
    stage: ClassVar = Stage.NUMBERS


@dataclass(frozen=True)
class ChannelsLast(Step):
    """Lay pictures out with the channels last, for PyTorch's convolutions."""

    stage: ClassVar = Stage.NUMBERS


@dataclass(frozen=True)
class Compile(Step):
    """torch.compile; on OpenVINO one graph for the whole of a bundle, from the context to the decoder."""

    stage: ClassVar = Stage.COMPILE


@dataclass(frozen=True)
class Threads(Step):
    """Threads of one operator."""

    count: int
    stage: ClassVar = Stage.MACHINE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(1 <= self.count <= 1024, f"count is {self.count}; choose 1 to 1024.")


@dataclass(frozen=True)
class Batch(Step):
    """Draw so many pictures together: more pictures a second, each of them later."""

    size: int
    stage: ClassVar = Stage.MACHINE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(1 <= self.size <= 64, f"size is {self.size}; choose 1 to 64.")


STEPS: tuple[type[Step], ...] = (
    *(Distill, Prune, ShareLayers, TinyDecoder, Steps, Sampler, Guidance, Cache, MergeTokens),
    *(Runtime, Precision, Quantize, ChannelsLast, Compile, Threads, Batch),
)


def kind_of(step: type[Step]) -> str:
    """ "merge-tokens" for `MergeTokens`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", step.__name__).lower()


KINDS: dict[str, type[Step]] = {kind_of(step): step for step in STEPS}


def to_tables(recipe: Recipe) -> list[dict[str, Any]]:
    """A recipe as plain tables, values that are the default left out."""
    return [
        {"kind": step.name}
        | {
            one.name: getattr(step, one.name)
            for one in fields(step)
            if one.default is MISSING or getattr(step, one.name) != one.default
        }
        for step in recipe
    ]


def from_tables(tables: Any) -> Recipe:
    """The reverse of `to_tables`.

    Raises:
        RecipeError: a kind or a field is unknown or missing, or a value is not allowed.
    """
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise RecipeError(f"a recipe is a list of [[step]] tables, got {type(tables).__name__}.")
    return tuple(_step(dict(one), number) for number, one in enumerate(tables, 1))


def _step(table: dict[str, Any], number: int) -> Step:
    kind = table.pop("kind", None)
    if kind not in KINDS:
        raise RecipeError(f"step {number}: kind is {kind!r}; choose one of {', '.join(KINDS)}.")
    known = {one.name: one for one in fields(KINDS[kind])}
    unknown = sorted(set(table) - set(known))
    missing = sorted(name for name, one in known.items() if one.default is MISSING and name not in table)
    if unknown or missing:
        told = [f"has no {', '.join(unknown)}"] if unknown else []
        told += [f"needs {', '.join(missing)}"] if missing else []
        raise RecipeError(
            f"step {number}, {kind}, {' and '.join(told)}; its fields are {', '.join(known) or 'none'}."
        )
    for name, value in table.items():
        wanted = known[name].type if known[name].type in (int, float) else str
        if wanted is float and type(value) is int:
            table[name] = value = float(value)
        if type(value) is not wanted:
            give = "a whole number" if wanted is int else "a number" if wanted is float else "a text"
            raise RecipeError(f"step {number}, {kind}: {name} is {value!r}; give {give}.")
    return KINDS[kind](**table)


def loads(text: str) -> Recipe:
    """The recipe of a TOML text of [[step]] tables; raises `RecipeError`."""
    try:
        return from_tables(tomllib.loads(text).get("step", []))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the recipe is no TOML: {error}.") from error


def dumps(recipe: Recipe) -> str:
    """A recipe as TOML that `loads` reads."""
    return "\n".join(
        "[[step]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in table.items())
        for table in to_tables(recipe)
    )


def describe(recipe: Recipe) -> str:
    """One line for people, such as "steps(count 4), runtime(runtime openvino)"."""
    return ", ".join(map(str, recipe)) or "as it is"


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _toml(value: Any) -> str:
    """Numbers and texts are written alike in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
