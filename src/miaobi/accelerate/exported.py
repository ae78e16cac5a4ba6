"""A PyTorch module that runs as an exported graph behind its own call.

A graph has fixed shapes, which makes it faster; each new set of shapes (another size or batch) has a graph of
its own, exported when it is first called and kept on disk (`accelerate.graph_cache`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from miaobi import machine
from miaobi.accelerate import graph_cache
from miaobi.errors import MachineError
from miaobi.traits import DType

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Options:
    """How graphs are made and run."""

    runtime: str
    """One of those that run graphs: "onnxruntime", "openvino" or "mnn"."""
    dtype: DType
    quantized: str | None
    threads: int
    changes: str
    """What was changed of the module that its weights do not show, such as merged tokens."""


class Flat(nn.Module):
    """A module whose inputs are tensors alone and whose outputs are a tuple of tensors."""

    def __init__(self, module: nn.Module, leaves: Sequence[Any], spec: Any) -> None:
        super().__init__()
        self.module = module
        self.leaves = [None if isinstance(one, Tensor) else one for one in leaves]
        self.places = [place for place, one in enumerate(leaves) if isinstance(one, Tensor)]
        self.spec = spec
        self.layout: Any = None
        self.eval()

    def forward(self, *tensors: Tensor) -> Inputs:
        leaves = list(self.leaves)
        for place, one in zip(self.places, tensors, strict=True):
            leaves[place] = one
        args, kwargs = trees.tree_unflatten(leaves, self.spec)
        result = self.module(*args, **kwargs)
        self.layout = layout_of(result)
        return tuple(one for one in trees.tree_leaves(result) if isinstance(one, Tensor))


class Exported(nn.Module):
    """Calls like `module`, runs as a graph.

    Args:
        name: what it is called in messages.
        module: takes tensors, plain values and containers of them; returns tensors in tuples and lists.
        options: how.
        record: gives inputs that the module is called with while pictures are drawn, for calibration.
        told: called with a line for the receipt.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        options: Options,
        record: Callable[[str], list[Inputs]],
        told: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.name, self.options = name, options
        self.held = [module]  # in a list: its weights are not this module's
        self._record, self._told = record, told
        self.graph_bytes = 0
        """Bytes of the files of the largest graph that was called; 0 before."""
        self._graphs: dict[str, tuple[Callable[[Inputs], list[Tensor]], Any]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = trees.tree_flatten((args, kwargs))
        tensors = tuple(one for one in leaves if isinstance(one, Tensor))
        key = repr((str(spec), [_kind(one) for one in leaves]))
        if key not in self._graphs:
            self._graphs[key] = self._made(key, leaves, spec, tensors)
        run, layout = self._graphs[key]
        return rebuilt(layout, iter(run(tensors)))

    def _made(self, key: str, leaves: Sequence[Any], spec: Any, tensors: Inputs) -> Any:
        from miaobi.accelerate import graph_mnn, graph_onnx, graph_openvino

        backends = {"onnxruntime": graph_onnx, "openvino": graph_openvino, "mnn": graph_mnn}
        backend = backends[self.options.runtime]
        module = self.held[0]
        options = {name: value for name, value in asdict(self.options).items() if name not in backend.AT_RUN}
        versions = {name: version(name) for name in ("miaobi", "torch", "diffusers", *backend.PACKAGES)}
        facts = options | {
            "part": self.name,
            "weights": graph_cache.weights_digest(module),
            "key": key,
            "versions": versions,
        }
        if self.options.quantized:  # a home may be common to unlike machines
            facts["reduce_range"] = machine.int8_overflows()
        folder = graph_cache.folder_of(facts)

        def make(where: Path) -> dict[str, Any]:
            flat = Flat(module, leaves, spec)
            with torch.inference_mode(False), torch.no_grad():
                inputs = tuple(one.detach().cpu().clone() for one in tensors)
                flat(*inputs)
                told = backend.export(flat, inputs, where, self.options.quantized, self._recorded(inputs))
            return {"layout": flat.layout, "notes": told}

        try:
            told = graph_cache.made(folder, facts, make)
            run = backend.load(folder, self.options.dtype, self.options.threads, self.options.quantized)
        except MachineError:
            raise
        except Exception as error:  # exporters and runtimes share no base class
            raise MachineError(
                f"{self.name} cannot be run by {self.options.runtime}: {type(error).__name__}: "
                f"{_why(error)}; choose another runtime."
            ) from error
        files = sum(one.stat().st_size for one in folder.iterdir())
        self.graph_bytes = max(self.graph_bytes, files)
        for note in told["notes"]:
            self._told(f"{self.name}: {note}")
        return run, told["layout"]

    def _recorded(self, inputs: Inputs) -> Callable[[], list[Inputs]]:
        """A few real inputs of the shapes of `inputs`, that one among them where there are no others."""

        def read() -> list[Inputs]:
            shapes = [one.shape for one in inputs]
            same = [one for one in self._record(self.name) if [each.shape for each in one] == shapes]
            return same or [inputs]

        return read


def layout_of(result: Any) -> Any:
    """How tensors are held in tuples and lists, as JSON: null for a tensor.

    Raises:
        MachineError: there is something else among them.
    """
    if isinstance(result, Tensor):
        return None
    if isinstance(result, (tuple, list)):
        return {
            type(result).__name__ if type(result) is list else "tuple": [layout_of(one) for one in result]
        }
    raise MachineError(f"a graph cannot return {type(result).__name__}; choose another runtime.")


def rebuilt(layout: Any, tensors: Any) -> Any:
    """The reverse of `layout_of`, from an iterator of tensors."""
    if layout is None:
        return next(tensors)
    ((kind, held),) = layout.items()
    parts = [rebuilt(one, tensors) for one in held]
    return parts if kind == "list" else tuple(parts)


def _kind(leaf: Any) -> Any:
    return (tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, Tensor) else repr(leaf)


def _why(error: BaseException) -> str:
    """What the innermost cause says, without a terminal's colours: exporters wrap it in advice."""
    while error.__cause__:
        error = error.__cause__
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:300]
