"""A bundle of tiny made-up graphs that keep the contract of a real one; quick settings for property tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from onnx import TensorProto, checker, helper, numpy_helper

from miaobi.bundle import write_bundle
from miaobi.text.memory import Memory

settings.register_profile("quick", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("quick")

STYLES = ["noto", "noto-v1", "twemoji", "fluent", "fluent-flat"]
DIM, CHANNELS, SIZE = 256, 32, 8
WORDS = ["▁red", "▁apple", "▁cat", "红", "苹果", "猫"]
_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[str, list[Any]]],
    outputs: dict[str, list[Any]],
    **weights: np.ndarray,
) -> bytes:
    """ONNX bytes of a graph; inputs are {name: (type letter, shape)}, outputs {name: shape} of float32."""
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, _TYPES[kind], shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def graphs(rng: np.random.Generator, vocabulary: int) -> dict[str, bytes]:
    latent = ["B", CHANNELS, SIZE, SIZE]
    text = graph(
        [
            node("Gather", "table ids", "rows"),
            node("Cast", "mask", "ones", to=TensorProto.FLOAT),
            node("Unsqueeze", "ones last", "column"),
            node("Mul", "rows column", "tokens"),
            node("ReduceSum", "tokens middle", "sum", keepdims=0),
            node("LpNormalization", "sum", "embedding", axis=-1, p=2),
        ],
        {"ids": ("i", ["B", "L"]), "mask": ("b", ["B", "L"])},
        {"tokens": ["B", "L", DIM], "embedding": ["B", DIM]},
        table=rng.standard_normal((vocabulary, DIM)).astype(np.float32),
        last=np.array([-1]),
        middle=np.array([1]),
    )
    context = graph(
        [
            node("Gather", "styles style", "style_rows"),
            node("Add", "embedding style_rows", "context_text"),
            node("ReduceMean", "neighbours", "context_neighbours", axes=[1], keepdims=0),
        ],
        {
            "tokens": ("f", ["B", "L", DIM]),
            "mask": ("b", ["B", "L"]),
            "embedding": ("f", ["B", DIM]),
            "style": ("i", ["B"]),
            "neighbours": ("f", ["B", 3, CHANNELS, SIZE, SIZE]),
            "neighbour_style": ("i", ["B", 3]),
        },
        {"context_text": ["B", DIM], "context_neighbours": latent},
        styles=rng.standard_normal((len(STYLES), DIM)).astype(np.float32),
    )
    denoiser = graph(  # velocity = a point between x and the picture's own target, so that seeds differ
        [
            node("MatMul", "context_text weight", "flat"),
            node("Reshape", "flat shape", "wish"),
            node("Add", "wish context_neighbours", "target"),
            node("Reshape", "t one", "time"),
            node("Mul", "x half", "part"),
            node("Sub", "part target", "away"),
            node("Add", "away time", "velocity"),
        ],
        {
            "x": ("f", latent),
            "t": ("f", ["B"]),
            "context_text": ("f", ["B", DIM]),
            "context_neighbours": ("f", latent),
        },
        {"velocity": latent},
        weight=(rng.standard_normal((DIM, CHANNELS * SIZE * SIZE)) / 16).astype(np.float32),
        shape=np.array([-1, CHANNELS, SIZE, SIZE]),
        one=np.array([-1, 1, 1, 1]),
        half=np.array(0.5, np.float32),
    )
    decoder = graph(
        [
            node("ConvTranspose", "latents kernel", "wide", strides=[16, 16]),
            node("Tanh", "wide", "image"),
        ],
        {"latents": ("f", latent)},
        {"image": ["B", 4, 16 * SIZE, 16 * SIZE]},
        kernel=(rng.standard_normal((CHANNELS, 4, 16, 16)) / 4).astype(np.float32),
    )
    encoder = graph(
        [node("Conv", "image filter", "latents", strides=[16, 16])],
        {"image": ("f", ["B", 4, 16 * SIZE, 16 * SIZE])},
        {"latents": latent},
        filter=(rng.standard_normal((CHANNELS, 4, 16, 16)) / 32).astype(np.float32),
    )
    made = {"text": text, "context": context, "denoiser": denoiser, "decoder": decoder, "encoder": encoder}
    return {f"{name}.onnx": one for name, one in made.items()}


def make_bundle(folder: Path, **changes: Any) -> Path:
    """Write the tiny bundle; `changes` go over keys of its manifest."""
    rng = np.random.default_rng(0)
    pieces = ["<pad>", "<unk>", "<s>", *(f"<0x{value:02X}>" for value in range(256)), *WORDS]
    tokenizer = {
        "version": "1.0",
        "model": {
            "type": "Unigram",
            "unk_id": 1,
            "byte_fallback": True,
            "vocab": [[one, -5.0] for one in pieces],
        },
    }
    concepts, pictures = 5, 20
    keys = rng.standard_normal((2 * concepts, DIM)).astype(np.float32)
    memory = Memory(
        keys=keys / np.linalg.norm(keys, axis=1, keepdims=True),
        key_concept=np.repeat(np.arange(concepts), 2),
        entry_concept=np.arange(pictures) % concepts,
        entry_style=np.arange(pictures) // concepts,
        entry_tone=np.zeros(pictures, int),
        latents=rng.integers(0, 256, (pictures, CHANNELS * SIZE * SIZE // 2)).astype(np.uint8),
        scale=np.full(CHANNELS, 0.3, np.float32),
        shape=(CHANNELS, SIZE, SIZE),
        concepts=[
            {"slug": f"c{i}", "label_en": f"thing {i}", "label_zh": f"东西{i}"} for i in range(concepts)
        ],
        ids=[f"{STYLES[i // concepts]}/c{i % concepts}" for i in range(pictures)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    memory.save(folder / "memory.safetensors", folder / "memory.json")
    files: dict[str, bytes | Path] = {
        **graphs(rng, len(pieces)),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "memory.safetensors": folder / "memory.safetensors",
        "memory.json": folder / "memory.json",
    }
    manifest = {
        "name": "tiny",
        "version": "0.0.1",
        "family": "diffusion",
        "size_px": 128,
        "latent": {"shape": [CHANNELS, SIZE, SIZE]},
        "styles": STYLES,
        "default_style": "fluent-flat",
        "text": {"max_tokens": 32, "dim": DIM},
        "neighbours": 3,
        "knobs": {"steps": 4, "guidance": 1.0},
        "card": {"PSNR": "none, made of random numbers"},
        "licences": ["Apache-2.0"],
    }
    write_bundle(folder, {**manifest, **changes}, files)
    return folder


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test remembers is not the user's, and its runs are tracked nowhere else."""
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured of recipes on machines like this one refuses nothing: tests run alike everywhere."""
    monkeypatch.setattr("miaobi.accelerate.composition.groups", tuple)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny bundle; not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A tiny bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


COLOURS = {"noto": (255, 0, 0), "twemoji": (0, 160, 0), "fluent": (0, 0, 255), "fluent-flat": (90, 90, 90)}
HELDOUT = {("disc", "fluent-flat"), ("bar", "noto")}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three concepts (disc, square, bar) in four styles (colours); two pairs are held out."""
    folder = tmp_path_factory.mktemp("shapes")
    rows, columns = np.mgrid[:128, :128] - 64
    masks = {
        "disc": rows**2 + columns**2 < 40**2,
        "square": np.maximum(abs(rows), abs(columns)) < 50,
        "bar": abs(rows) < 8,
    }
    pictures, lines = [], []
    for concept, mask in sorted(masks.items()):
        for style, colour in COLOURS.items():
            picture = np.zeros((128, 128, 4), np.uint8)
            picture[mask] = (*colour, 255)
            pictures.append(picture)
            split = "heldout" if (concept, style) in HELDOUT else "train"
            row = {"id": f"{style}/{concept}", "concept": concept, "style": style, "label_en": concept}
            lines.append(json.dumps({**row, "label_zh": f"中 {concept}", "split": split}))
    np.save(folder / "images.npy", np.stack(pictures))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def judge_folder(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier trained for three steps."""
    from miaobi.evaluate import classifier

    folder = tmp_path_factory.mktemp("judge")
    schedule = {"steps": 3, "batch_size": 4, "lr": 1e-4, "warmup": 1, "precision": "fp32"}
    classifier.train({"data": str(shapes), "schedule": schedule}, folder, resume=False)
    return folder
