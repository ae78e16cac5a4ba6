import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from miaobi import cli

COMMAND = [sys.executable, "-m", "miaobi.cli"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(one) for one in arguments])
    return code, *capsys.readouterr()


def fails(
    capsys: pytest.CaptureFixture[str],
    code: int,
    message: str,
    *arguments: object,
    writes_in: Path | None = None,
) -> None:
    """The command ends with `code` and one clear line, and leaves no file behind."""
    before = sorted(os.listdir(writes_in)) if writes_in else []
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("miaobi: error: ")
    assert message in err
    assert not writes_in or sorted(os.listdir(writes_in)) == before


def test_one_picture(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "鹦鹉.png"
    code, out, err = run(
        capsys, "generate", "一只彩色的鹦鹉", "-o", path, "--seed", 7, "--style", "fluent", "--steps", 3,
        "-m", tiny_bundle,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert os.listdir(tmp_path) == [path.name]
    assert f"wrote        {path}" in out
    for name in ("runtime", "sampling", "seeds", "time", "peak memory", "ignored", "fallbacks"):
        assert f"\n{name}" in out
    with Image.open(path) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (128, 128))
        text = picture.text  # type: ignore[attr-defined]
    assert text["prompt"] == "一只彩色的鹦鹉"
    assert (text["seed"], text["style"], text["steps"], text["bundle"]) == ("7", "fluent", "3", "tiny 0.0.1")


def test_several_pictures_and_a_contact_sheet(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cat.png"
    code, out, _ = run(
        capsys, "generate", "cat", "-o", path, "--n", 4, "--seed", 5, "--json", "--quiet", "-m", tiny_bundle
    )  # fmt: skip
    assert code == 0
    assert sorted(os.listdir(tmp_path)) == ["cat-1.png", "cat-2.png", "cat-3.png", "cat-4.png", "cat.png"]
    assert out.count("\n") == 1
    receipt = json.loads(out)
    assert receipt["seeds"] == [5, 6, 7, 8]
    assert receipt["stages_ms"].keys() == {
        "plan",
        "encode",
        "retrieve",
        "context",
        "sample",
        "decode",
        "compose",
    }
    with Image.open(tmp_path / "cat-3.png") as picture:
        assert picture.text["seed"] == "7"  # type: ignore[attr-defined]
    with Image.open(path) as sheet:
        assert sheet.size == (260, 260)
        assert sheet.text["seed"] == "5 6 7 8"  # type: ignore[attr-defined]


def test_json_is_the_last_line(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    _, out, _ = run(capsys, "generate", "cat", "-o", tmp_path / "a.png", "-m", tiny_bundle, "--json")
    assert json.loads(out.splitlines()[-1])["prompts"] == ["cat"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "is empty"),
        (["\x00\x1b"], "is empty"),
        (["x" * 10_000], "10000 characters; at most 1000"),
        (["cat", "--n", "0"], "choose n from 1 to 64"),
        (["cat", "--n", "10000"], "choose n from 1 to 64"),
        (["cat", "--n", "many"], "'many' is not a valid integer"),
        (["cat", "--seed", "-1"], "seed is -1"),
        (["cat", "--style", "flunt"], "twemoji, fluent, fluent-flat. Did you mean"),
        (["cat", "--steps", "0"], "choose 1 to 100"),
        (["cat", "--device", "abacus"], "choose one of cpu, cuda"),
        (["cat", "--colour", "red"], "No such option"),
        ([], "Missing argument 'PROMPT'"),
        (["cat", "--model", "no-such-folder"], "no bundle at 'no-such-folder'"),
    ],
)  # fmt: skip
def test_bad_input(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    where = [] if "--model" in arguments else ["-m", tiny_bundle]
    fails(capsys, 2, message, "generate", "-o", tmp_path / "a.png", *where, *arguments, writes_in=tmp_path)


def test_bad_output_places(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(capsys, 2, "does not exist; create it", "generate", "cat", "-o", tmp_path / "no" / "a.png")
    (tmp_path / "folder.png").mkdir()
    fails(capsys, 2, "is a folder", "generate", "cat", "-o", tmp_path / "folder.png")
    fails(capsys, 2, "ending in .png", "generate", "cat", "-o", tmp_path / "a.jpg")
    monkeypatch.setattr(os, "access", lambda *_: False)
    fails(capsys, 2, "is read-only", "generate", "cat", "-o", tmp_path / "a.png", writes_in=tmp_path)


def test_a_full_disk(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    fails(
        capsys, 1, "No space left on device", "generate", "cat", "-o", tmp_path / "a.png", "-m", tiny_bundle,
        writes_in=tmp_path,
    )  # fmt: skip


def test_bad_bundles(capsys: pytest.CaptureFixture[str], bundle_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    weights = bundle_copy / "denoiser.onnx"
    weights.write_bytes(weights.read_bytes()[:100])
    fails(capsys, 2, "has 100 bytes instead of", "generate", "cat", "-o", out, "-m", bundle_copy)
    (tmp_path / "model.pt").write_bytes(b"\x80\x04.")
    fails(capsys, 2, "is a pickle", "generate", "cat", "-o", out, "-m", tmp_path / "model.pt")
    (bundle_copy / "bundle.json").write_text("{")
    fails(capsys, 2, "is damaged", "generate", "cat", "-o", out, "-m", bundle_copy)
    assert not out.exists()


def test_info(capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> None:
    code, out, _ = run(capsys, "info", "-m", tiny_bundle)
    assert code == 0
    assert "noto, noto-v1, twemoji, fluent, fluent-flat" in out
    assert "PSNR" in out
    _, out, _ = run(capsys, "info", "-m", tiny_bundle, "--json")
    assert json.loads(out)["default_style"] == "fluent-flat"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["generate", "--help"], ["info", "-h"], ["train", "--help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert out.startswith("Usage: miaobi")
    assert run(capsys, "--version")[1].startswith("miaobi, version 0.")


def test_training_needs_a_recipe_and_its_libraries(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(capsys, 2, "cannot read recipe", "train", tmp_path / "no.toml")
    (tmp_path / "text.toml").write_text('part = "text"\n')
    for name in [one for one in sys.modules if one == "miaobi.train" or one.startswith("miaobi.train.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    fails(capsys, 1, "pip install 'miaobi[train]'", "train", tmp_path / "text.toml")


def subprocess_run(*arguments: object, limit_files: bool = False) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    if limit_files:
        command = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_real_failed_write_ends_in_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    done = subprocess_run("generate", "cat", "-o", tmp_path / "a.png", "-m", tiny_bundle, limit_files=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"miaobi: error: cannot write '{tmp_path / 'a.png'}': File too large; "
        "free some space or choose another folder.\n"
    )
    assert os.listdir(tmp_path) == []


PROGRAM = """
import sys, miaobi, miaobi.cli
assert "numpy" not in sys.modules and "onnxruntime" not in sys.modules
code = miaobi.cli.main(["generate", "cat", "-q", "-o", sys.argv[1], "-m", sys.argv[2]])
unwanted = {"torch", "tokenizers", "onnx", "miaobi.train", "miaobi.models"} & set(sys.modules)
assert not unwanted, unwanted
sys.exit(code)
"""


def test_as_a_program_without_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    """`import miaobi` loads next to nothing, and generating never loads PyTorch or the training code."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "a.png"), str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.png").exists()


def test_a_closed_pipe_is_quiet(tiny_bundle: Path, tmp_path: Path) -> None:
    command = f"{' '.join(COMMAND)} generate cat -o {tmp_path / 'a.png'} -m {tiny_bundle} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
