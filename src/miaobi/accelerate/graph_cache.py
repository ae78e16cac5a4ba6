"""Exported graphs kept on disk: a folder for each, named by a digest of all that it was made from.

A folder appears whole or not at all. It can be deleted at any time; the graph is then exported again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from miaobi.errors import MachineError
from miaobi.text.remembered import home

META = "meta.json"
_DIGESTS = WeakTensorKeyDictionary()


def folder_of(facts: Mapping[str, Any]) -> Path:
    """Where the graph made from `facts` (JSON) is or would be."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return home() / "graphs" / digest[:32]


def weights_digest(module: nn.Module) -> str:
    """Digest of the names and values of all parameters and buffers."""
    whole = hashlib.blake2b(str(module).encode(), digest_size=16)
    for name, tensor in module.state_dict(keep_vars=True).items():
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        whole.update(_digest(tensor))
    return whole.hexdigest()


def made(folder: Path, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """What `make` told of the graph in `folder`; where there is none yet, `make` writes it into a folder of
    its own, which then takes its place.

    Raises:
        MachineError: the disk is full or cannot be written to.
    """
    meta = folder / META
    if meta.exists():
        found: dict[str, Any] = json.loads(meta.read_text("utf-8"))["told"]
        return found
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        temporary.mkdir(parents=True)
        told = dict(make(temporary))
        (temporary / META).write_text(json.dumps({"told": told, "facts": facts}), "utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not meta.exists():  # or another process was first
                raise
    except OSError as error:
        raise MachineError(
            f"the exported graph cannot be kept in {str(folder.parent)!r}: {error.strerror or error}; free "
            f"some space there or set MIAOBI_HOME to another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return told


def _digest(tensor: torch.Tensor) -> bytes:
    known = _DIGESTS.get(tensor)  # type: ignore[no-untyped-call, unused-ignore]
    version = 0 if tensor.is_inference() else tensor._version
    if known is None or known[0] != version:
        plain = tensor.detach().cpu().contiguous().view(-1)
        data = plain.view(torch.uint8).numpy() if plain.numel() else b""
        known = (version, hashlib.blake2b(data, digest_size=16).digest())  # type: ignore[arg-type]
        _DIGESTS[tensor] = known
    return bytes(known[1])
