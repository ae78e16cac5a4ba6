"""Runner of Pruna. Flavours: compile (torch.compile), deepcache, deepcache-compile.

Pruna imports torchvision for data sets and metrics, which are not used here: a stand-in takes its place.
"""

import sys
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

from protocol import Draw, Job, drawer, run

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "compile": {"torch_compile": {}},
    "deepcache": {"deepcache": {"interval": 2}},
    "deepcache-compile": {"deepcache": {"interval": 2}, "torch_compile": {}},
}


def stand_in(*names: str) -> None:
    """Let modules of these names be imported, whatever is asked of them."""
    for name in names:
        module = MagicMock(__spec__=ModuleSpec(name, None), __path__=[], __version__="0.28.0")
        sys.modules[name] = module


def load(job: Job) -> Draw:
    import torch
    from diffusers import DiffusionPipeline

    stand_in(*(f"torchvision{part}" for part in ("", ".transforms", ".models", ".utils", ".io")))
    stand_in("torchvision.transforms.functional")
    from pruna import SmashConfig, smash

    torch.set_num_threads(job.threads)
    pipe: Any = DiffusionPipeline.from_pretrained(job.model, safety_checker=None, local_files_only=True)
    config = SmashConfig(list(CONFIGURATIONS[job.flavour]), device="cpu")
    for algorithm, settings in CONFIGURATIONS[job.flavour].items():
        for name, value in settings.items():
            config[f"{algorithm}_{name}"] = value
    smashed = smash(model=pipe, smash_config=config)
    return drawer(smashed, job, torch.from_numpy)


if __name__ == "__main__":
    run(load, ("pruna", "torch", "diffusers", "transformers"))
