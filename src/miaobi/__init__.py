"""Miaobi: text (English, Chinese) to pictures with small trained models, without PyTorch at run time.

    import miaobi
    pipe = miaobi.load()
    images = pipe.generate("red apple", n=4, seed=1)
    images[0].save("apple.png")

Importing does nothing: no logging, no device probing, no download; the names below are loaded on first use.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from miaobi.errors import BundleError, DataError, InputError, MachineError, MiaobiError, TrainingError
    from miaobi.loading import load
    from miaobi.pipeline import Pipeline
    from miaobi.receipt import Generation, Receipt

__all__ = [
    "BundleError",
    "DataError",
    "Generation",
    "InputError",
    "MachineError",
    "MiaobiError",
    "Pipeline",
    "Receipt",
    "TrainingError",
    "__version__",
    "load",
]

_HOMES = {"Pipeline": "pipeline", "load": "loading", "Generation": "receipt", "Receipt": "receipt"}


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'miaobi' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"miaobi.{_HOMES.get(name, 'errors')}"), name)
