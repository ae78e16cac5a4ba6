import errno
import os
from pathlib import Path

import pytest

from miaobi.errors import InputError, MachineError, MiaobiError
from miaobi.files import atomic_write, check_writable


def test_content_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "妙笔.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_inside_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(bytes(1 // 0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_a_machine_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*(os, "fsync") if step == "fsync" else (Path, "replace"), full)
    with pytest.raises(MachineError, match="No space left"), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"content")
    assert os.listdir(tmp_path) == []


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="does not exist"):
        check_writable(tmp_path / "missing" / "a.png")
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        check_writable(tmp_path / "file" / "a.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="read-only"):
        check_writable(tmp_path / "a.png")


def test_every_error_has_one_root_and_an_exit_code() -> None:
    import miaobi

    codes = {name: getattr(miaobi, name).exit_code for name in miaobi.__all__ if name.endswith("Error")}
    assert codes == {
        "MiaobiError": 1,
        "InputError": 2,
        "MachineError": 1,
        "BundleError": 2,
        "DataError": 2,
        "TrainingError": 1,
    }
    assert all(issubclass(getattr(miaobi, name), MiaobiError) for name in codes)
