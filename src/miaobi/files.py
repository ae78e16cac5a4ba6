"""Files appear whole or not at all: a temporary file in the same folder, fsync, rename."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from miaobi.errors import InputError, MachineError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file handle; on a clean exit its content becomes `path`, otherwise `path` stays.

    Raises:
        InputError: `path` is a folder, or its own folder is missing, no folder or read-only.
        MachineError: the disk is full or fails.
    """
    path = Path(path)
    check_writable(path)
    temporary = path.with_name(f".miaobi-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(_read_only(path.parent)) from error
        reason = error.strerror or str(error)
        raise MachineError(
            f"cannot write {str(path)!r}: {reason}; free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` where no file could be created at `path`, before any work goes into its content."""
    path = Path(path)
    folder = path.parent
    if path.is_dir() or path.name == "":
        raise InputError(f"{str(path)!r} is a folder; give a file, such as {str(path / 'out.png')!r}.")
    if not folder.exists():
        raise InputError(
            f"the folder {str(folder)!r} does not exist; create it (mkdir -p) or choose another."
        )
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; choose an output path inside a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(_read_only(folder))


def _read_only(folder: Path) -> str:
    return f"the folder {str(folder)!r} is read-only; choose one that can be written to."


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
