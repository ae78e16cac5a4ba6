"""A handful of pictures through every command of the recipes, to a bundle that draws without PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miaobi import images
from miaobi.captioning import LANGUAGES
from miaobi.cli import main
from miaobi.errors import InputError
from miaobi.models.captioning import Captioner
from miaobi.pipeline import load
from miaobi.text.tokenizer import Tokenizer
from miaobi.train import generator

WORDS = {"sun": "太阳", "moon": "月亮", "star": "星星", "heart": "心"}
STYLES = ("flat", "round")
SCHEDULE = "[schedule]\nsteps = 3\nbatch_size = 4\nwarmup = 1\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has been trained for three steps and exported."""
    root = tmp_path_factory.mktemp("tiny")
    data, text = root / "data", root / "text-data"
    data.mkdir()
    text.mkdir()
    rng = np.random.default_rng(0)
    records, captions, pictures = [], [], []
    for style in STYLES:
        for name, chinese in WORDS.items():
            picture = np.zeros((32, 32, 4), np.uint8)
            picture[4:28, 4:28] = (*rng.integers(0, 255, 3), 255)
            pictures.append(picture)
            about = {"id": f"{style}/{name}", "concept": name, "style": style, "label_en": name}
            split = "heldout" if (style, name) == ("round", "sun") else "train"
            records.append(about | {"label_zh": chinese, "split": split})
    for name, chinese in WORDS.items():
        captions += [{"text": one, "concepts": {name: 1.0}} for one in (name, chinese, f"a {name}")]
    np.save(data / "images.npy", np.stack(pictures))
    for path, rows in ((data / "metadata.jsonl", records), (text / "captions.jsonl", captions)):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    sources = f'data = "{data}"\nautoencoder = "{root}/autoencoder"\ntext = "{root}/text"\n'
    recipes = {
        "text": f'part = "text"\ndata = "{text}"\nvocabulary = 300\n'
        "[model]\nwidth = 16\nlayers = 1\nheads = 2\n",
        "autoencoder": f'part = "autoencoder"\ndata = "{data}"\n[model]\nchannels = [8, 8]\n'
        "encoder_blocks = [1, 1]\ndecoder_blocks = [1, 1]\nlatent_channels = 4\n",
        "codes": f'part = "autoencoder"\ndata = "{data}"\n[model]\nchannels = [8, 8]\n'
        "encoder_blocks = [1, 1]\ndecoder_blocks = [1, 1]\nlatent_channels = 2\nlevels = [3, 3]\n",
        "generator": f'part = "generator"\nfamily = "diffusion"\n{sources}'
        "[model]\ntext_width = 16\nwidth = 16\ndepth = 1\ncontext_depth = 1\nheads = 2\nneighbours = 2\n",
        "distilled": f'part = "distill"\n{sources}teacher = "{root}/generator"\npaths = 4\nsteps = 2\n'
        "substeps = 1\nguidance = 2.0\n",
    }
    for name, recipe in recipes.items():
        path = root / f"{name}.toml"
        path.write_text(recipe + SCHEDULE)
        assert main(["train", str(path), "--out", str(root / name)]) == 0
    (root / "bundle.toml").write_text(
        f'generator = "{root}/distilled"\n{sources}storage = "fp32"\n'
        '[bundle]\nname = "tiny"\ndefault_style = "flat"\nknobs = { steps = 2 }\n'
    )
    assert main(["export", str(root / "bundle.toml"), "--out", str(root / "bundle")]) == 0
    return root


MODEL = "[model]\ntext_width = 16\nwidth = 16\ndepth = 2\ncontext_depth = 1\nheads = 2\n"
FAMILIES = {
    "gan": MODEL + "neighbours = 2\n[gan]\nwidth = 8\nblocks = 1\n",
    "vae": MODEL + "neighbours = 2\n[vae]\ndepth = 1\nperceptual_weight = 0.1\nperceptual_pictures = 2\n",
    "diffusion": MODEL + "neighbours = 0\ndistinct = 1\n",
    "autoregressive": MODEL + "neighbours = 2\n[autoregressive]\nkv_heads = 1\n",
}
STEPS = {"diffusion": 2, "autoregressive": 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_from_a_recipe_to_pictures(trained: Path, tmp_path: Path, family: str) -> None:
    """Trained, saved, loaded and exported, it draws the same in PyTorch and in ONNX Runtime."""
    sources = f'data = "{trained}/data"\nautoencoder = "{trained}/autoencoder"\ntext = "{trained}/text"\n'
    recipe, run, steps = tmp_path / "recipe.toml", tmp_path / "run", STEPS.get(family, 1)
    if family == "autoregressive":
        sources = sources.replace("/autoencoder", "/codes")
    recipe.write_text(f'part = "generator"\nfamily = "{family}"\n{sources}{FAMILIES[family]}{SCHEDULE}')
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    recipe.write_text(
        f'generator = "{run}"\n{sources}storage = "fp32"\n'
        f'[bundle]\nname = "tiny"\ndefault_style = "flat"\nknobs = {{ steps = {steps} }}\n'
    )
    assert main(["export", str(recipe), "--out", str(tmp_path / "bundle")]) == 0
    pipe = load(tmp_path / "bundle")
    assert pipe.bundle.family == family
    drawn = pipe.generate("moon", seed=5, style="round").pixels
    expected = generator.load_teacher(run, steps=steps, guidance=1.0)(["moon"], ["round"], [5])
    assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 2
    if steps == 1:
        with pytest.raises(InputError, match=f"steps is 2; a {family} draws in 1"):
            pipe.generate("moon", steps=2)
    if family == "autoregressive":  # one by one, with the cache
        drawn = pipe.generate("moon", seed=5, style="round", steps=4).pixels
        expected = generator.load_teacher(run, steps=4, guidance=1.0)(["moon"], ["round"], [5])
        assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 2


def test_a_captioner_from_a_recipe_to_words(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that only drew learn to caption, and say the same in PyTorch, in a bundle and as a command."""
    sources = f'data = "{trained}/data"\nautoencoder = "{trained}/codes"\ntext = "{trained}/text"\n'
    recipe, plain, run, bundle = (tmp_path / name for name in ("recipe.toml", "plain", "run", "bundle"))
    start = f'part = "generator"\nfamily = "autoregressive"\n{sources}'
    recipe.write_text(start + FAMILIES["autoregressive"] + SCHEDULE)
    assert main(["train", str(recipe), "--out", str(plain)]) == 0
    table = FAMILIES["autoregressive"] + "captioning = 0.5\n"
    longer = '[schedule]\nsteps = 150\nbatch_size = 8\nwarmup = 1\nlr = 0.01\nprecision = "fp32"\n'
    recipe.write_text(f'{start}start_from = "{plain}"\n{table}{longer}')
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    recipe.write_text(
        f'generator = "{run}"\n{sources}storage = "fp32"\n[bundle]\nname = "tiny"\ndefault_style = "flat"\n'
    )
    assert main(["export", str(recipe), "--out", str(bundle)]) == 0
    model, pipe = generator.load(run), load(bundle)
    assert isinstance(model, Captioner)
    tokenizer = Tokenizer(trained / "text" / "tokenizer.json")
    pictures = images.from_uint8(np.load(trained / "data" / "images.npy"))
    latents = torch.from_numpy(pipe.encode(pictures))
    said = {one: [tokenizer.decode(ids) for ids in model.caption(latents, one)] for one in LANGUAGES}
    assert any(said["en"] + said["zh"])
    for language in LANGUAGES:
        assert [pipe.caption(one, language) for one in pictures] == said[language]
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(files, np.load(trained / "data" / "images.npy"), strict=False):
        images.save_png(path, Image.fromarray(picture))
    capsys.readouterr()
    assert main(["caption", *map(str, files), "-m", str(bundle), "--language", "zh"]) == 0
    lines = [f"{path}: {words}" for path, words in zip(files, said["zh"], strict=False)]
    assert capsys.readouterr().out.splitlines() == lines


def test_the_bundle_draws(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sun.png"
    command = ["generate", "太阳", "-o", str(out), "-m", str(trained / "bundle"), "--seed", "3", "--json"]
    assert main(command) == 0
    receipt = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert receipt["steps"] == 2
    with Image.open(out) as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGBA")


def test_the_memory_holds_no_held_out_picture(trained: Path) -> None:
    memory = load(trained / "bundle").memory
    assert "round/sun" not in memory.ids
    assert len(memory.ids) == len(WORDS) * len(STYLES) - 1


def test_onnx_runtime_draws_what_pytorch_draws(trained: Path) -> None:
    """The whole way through the bundle against the PyTorch student, same prompt, style and seed."""
    teacher_folder = trained / "distilled"
    draw = generator.load_teacher(teacher_folder, steps=2, guidance=1.0)
    expected = draw(["moon"], ["round"], [5])
    drawn = load(trained / "bundle").generate("moon", seed=5, style="round").pixels
    assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 2
