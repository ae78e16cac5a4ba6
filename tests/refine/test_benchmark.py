import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from miaobi.images import Float


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "benchmarks" / "refine.py"
    spec = importlib.util.spec_from_file_location("benchmark_refine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_damage_keeps_the_contract(benchmark: ModuleType, drawn: Float) -> None:
    for name, damage in benchmark.DAMAGES.items():
        before = drawn.copy()
        subject, wanted = damage(drawn, np.random.default_rng(0))
        assert np.array_equal(drawn, before)
        assert subject.image.shape == wanted.shape == drawn.shape
        assert subject.image.dtype == wanted.dtype == np.float32
        assert (benchmark.compare(subject.image, wanted)[0] == 100) == (name == "none")


def test_rows_tell_better_from_unchanged(benchmark: ModuleType, drawn: Float) -> None:
    pictures = [drawn, drawn[:, ::-1], np.roll(drawn, 3, axis=2)]
    noisy = benchmark.measure(benchmark.Case("noise 10 %", "denoise"), pictures)
    clean = benchmark.measure(benchmark.Case("none", "enhance"), pictures)
    assert (noisy.verdict(), clean.verdict()) == ("better", "unchanged")
    assert len(noisy.sheet) == 6
    text = benchmark.page([noisy, clean], {"style before": clean.psnr_before, "ms": 3.0}, 3, "command")
    assert "| noise 10 % | `denoise` |" in text
    assert "Ask for these only" not in text
