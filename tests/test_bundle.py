import errno
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

import miaobi
from miaobi import BundleError, MachineError
from miaobi.bundle import FILES, MANIFEST, Bundle, write_bundle

ALL = (*FILES, "denoiser.onnx")


def change_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_round_trip(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert (bundle.name, bundle.version, bundle.size_px, bundle.latent_shape) == (
        "tiny",
        "0.0.1",
        128,
        (32, 8, 8),
    )
    assert (bundle.steps, bundle.guidance, bundle.sampler) == (4, 1.0, "euler")
    assert [bundle.path(name).name for name in ALL] == list(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_file_is_checked_when_it_is_loaded(bundle_copy: Path, name: str) -> None:
    path = bundle_copy / name
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(BundleError, match="bytes instead of"):
        miaobi.load(bundle_copy)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="was altered"):
        miaobi.load(bundle_copy)
    path.unlink()
    with pytest.raises(BundleError, match="is missing"):
        miaobi.load(bundle_copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"family": "flow"}, "'flow' is unknown; this version draws diffusion, gan"),
        ({"default_style": "oil"}, "default style"),
        ({"latent": {"shape": [32, 8]}}, "is damaged"),
        ({"styles": 5}, "is damaged"),
        ({"files": {}}, "lists no context.onnx"),
        ({"files": []}, "is damaged"),
        ({"knobs": {"steps": 0}}, "steps"),
        ({"knobs": {"sampler": "magic"}}, "sampler"),
        ({"size_px": "big"}, "is damaged"),
    ],
)
def test_wrong_manifests_are_refused(bundle_copy: Path, changes: dict[str, Any], message: str) -> None:
    change_manifest(bundle_copy, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\xff"])
def test_damaged_manifests_are_refused(bundle_copy: Path, text: str) -> None:
    (bundle_copy / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(bundle_copy)


def test_places_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path / "missing")
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"\x08")
    with pytest.raises(BundleError, match="a bundle is a folder"):
        Bundle.load(tmp_path / "a.onnx")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_pickles_are_never_opened(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "model.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    for name in ("weights", "model.pt", "archive", "."):
        with pytest.raises(BundleError, match="is a pickle"):
            Bundle.load(name)
    content = pickle.dumps(Trap())
    files: dict[str, bytes | Path] = {name: bundle_copy / name for name in ALL}
    manifest = json.loads((bundle_copy / MANIFEST).read_text())
    write_bundle(tmp_path / "disguised", manifest, {**files, "denoiser.onnx": content})
    with pytest.raises(BundleError, match="is a pickle"):
        miaobi.load(tmp_path / "disguised")
    with pytest.raises(BundleError, match="is a pickle"):
        write_bundle(tmp_path / "listed", manifest, {**files, "denoiser.pth": content})
    assert not (tmp_path / "trapped").exists()


def test_names_cannot_leave_the_folder(bundle_copy: Path) -> None:
    files = json.loads((bundle_copy / MANIFEST).read_text())["files"]
    change_manifest(bundle_copy, files={**files, "../outside.onnx": files["text.onnx"]})
    with pytest.raises(BundleError, match="not a plain name"):
        Bundle.load(bundle_copy)


def test_graphs_that_do_not_fit_are_bundle_errors(bundle_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text())
    files: dict[str, bytes | Path] = {name: bundle_copy / name for name in ALL}
    write_bundle(tmp_path / "noise", manifest, {**files, "decoder.onnx": b"\x08not a graph"})
    with pytest.raises(BundleError, match=r"decoder.onnx' cannot be loaded"):
        miaobi.load(tmp_path / "noise")
    write_bundle(tmp_path / "swapped", manifest, {**files, "decoder.onnx": bundle_copy / "text.onnx"})
    with pytest.raises(BundleError, match=r"decoder.onnx wants ids, mask"):
        miaobi.load(tmp_path / "swapped").generate("cat", seed=0)


def test_a_full_disk_leaves_no_bundle(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_bundle(bundle_copy, manifest, {name: (bundle_copy / name).read_bytes() for name in ALL})
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(bundle_copy)


def test_a_captioner_comes_with_its_graph(bundle_copy: Path) -> None:
    assert Bundle.load(bundle_copy).caption_cache == ()
    change_manifest(bundle_copy, caption_cache=[8, 2, 64])
    with pytest.raises(BundleError, match=r"lists no captioner\.onnx"):
        Bundle.load(bundle_copy)
