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


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (40, 30)) -> Path:
    Image.new("RGBA", size, colour).save(path)
    return path


def test_refine_chains_stages_and_tells_of_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    code, out, err = run(
        capsys, "refine", source, tmp_path / "b.png", "--stages", "denoise,upscale:scale=2",
        "--reference", source, "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "b.png") as made:
        assert made.size == (80, 60)
        assert made.text["stages"] == "denoise,upscale:scale=2"  # type: ignore[attr-defined]
    told = json.loads(out.splitlines()[-1])["stages"]
    assert [step["name"] for step in told] == ["denoise", "upscale"]
    assert told[0]["psnr_db"] is not None
    assert told[1]["psnr_db"] is None  # the reference has another size


def test_refine_draws_under_a_mask(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    source, mask = picture(tmp_path / "a.png"), Image.new("L", (40, 30))
    mask.paste(255, (0, 0, 20, 30))
    mask.save(tmp_path / "mask.png")
    code, _, err = run(
        capsys, "refine", source, tmp_path / "b.png", "--stages", "inpaint", "--prompt", "cat",
        "--mask", tmp_path / "mask.png", "-m", tiny_bundle,
    )  # fmt: skip
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "b.png") as made:
        assert made.crop((20, 0, 40, 30)).getcolors() == [(600, (255, 0, 0, 255))]
        assert made.getpixel((5, 5)) != (255, 0, 0, 255)


def test_refine_refuses_what_it_cannot_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, small = picture(tmp_path / "a.png"), picture(tmp_path / "s.png", size=(8, 8))
    (tmp_path / "svg.png").write_text("<svg/>")
    out = tmp_path / "b.png"
    fails(capsys, 2, "unknown stage 'polish'", "refine", source, out, "-s", "polish", writes_in=tmp_path)
    fails(capsys, 2, "the settings are", "refine", source, out, "-s", "upscale:by=2", writes_in=tmp_path)
    fails(capsys, 2, "needs a mask", "refine", source, out, "-s", "inpaint", writes_in=tmp_path)
    fails(capsys, 2, "mask is 8x8 px", "refine", source, out, "--mask", small, writes_in=tmp_path)
    fails(capsys, 2, "no picture that can be read", "refine", tmp_path / "svg.png", out, writes_in=tmp_path)
    fails(capsys, 2, "only PNG", "refine", source, tmp_path / "b.jpg", writes_in=tmp_path)
    fails(capsys, 2, "megapixels", "refine", source, out, "--most-megapixels", 0.001, writes_in=tmp_path)
    fails(capsys, 2, "does not exist", "refine", source, tmp_path / "no" / "b.png")


def test_the_help_of_refine_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    from miaobi.refine.stage import STAGES

    code, out, _ = run(capsys, "refine", "--help")
    assert code == 0
    assert not [name for name in STAGES if name not in out]


def test_a_bundle_that_cannot_caption_says_so(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    source = picture(tmp_path / "a.png")
    fails(capsys, 2, "bundle tiny does not caption; give one", "caption", source, "-m", tiny_bundle)
    fails(capsys, 2, "there is no file", "caption", tmp_path / "no.png", "-m", tiny_bundle)
    fails(capsys, 2, "Missing argument 'PICTURES...'", "caption", "-m", tiny_bundle)


def test_remember_list_and_forget(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    source = picture(tmp_path / "bo.png", "blue")
    assert run(capsys, "remember", source, "Bo the fox", "-m", tiny_bundle)[0] == 0
    assert run(capsys, "forget", "-m", tiny_bundle) == (0, "Bo the fox\n", "")
    _, out, _ = run(capsys, "generate", "Bo the fox", "-o", tmp_path / "o.png", "-m", tiny_bundle)
    assert "yours/Bo the fox" in out
    fails(capsys, 2, "there is Bo the fox", "forget", "Bo", "-m", tiny_bundle)
    assert run(capsys, "forget", "Bo the fox", "-m", tiny_bundle) == (0, "forgot 'Bo the fox'\n", "")
    assert run(capsys, "forget", "-m", tiny_bundle) == (0, "", "")


def test_layers_are_written_beside_the_picture(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.png"
    code, _, err = run(
        capsys, "generate", "thing 0 and thing 1 on the beach", "-o", path, "--size", 128, "--layers",
        "--seed", 1, "-m", tiny_bundle,
    )  # fmt: skip
    assert (code, err) == (0, "")
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == [*(f"s-layer-{number}.png" for number in range(5)), "s.ora", "s.png"]
    with Image.open(path) as made:
        scene = json.loads(made.text["scene"])  # type: ignore[attr-defined]
        assert made.text["prompt"] == "thing 0 and thing 1 on the beach"  # type: ignore[attr-defined]
    assert scene["background"] == "beach"
    assert len(scene["things"]) == 2


def test_blend_mixes_pictures_of_one_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    red, blue = picture(tmp_path / "r.png"), picture(tmp_path / "b.png", "blue")
    assert run(capsys, "blend", tmp_path / "o.png", red, blue, "--method", "mean")[0] == 0
    with Image.open(tmp_path / "o.png") as made:
        colour = made.getpixel((3, 3))
    assert isinstance(colour, tuple)
    assert all(abs(one - wanted) <= 1 for one, wanted in zip(colour, (128, 0, 128, 255), strict=True))
    small = picture(tmp_path / "s.png", size=(8, 8))
    fails(capsys, 2, "different sizes", "blend", tmp_path / "x.png", red, small, writes_in=tmp_path)
    fails(capsys, 2, "choose mean or median", "blend", tmp_path / "x.png", red, "--method", "sum")
    fails(capsys, 2, "needs --judge", "blend", tmp_path / "x.png", red, "--method", "best")
