import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.errors import InputError, MachineError
from miaobi.evaluate import bench, flops, speed
from miaobi.evaluate.energy import Energy
from miaobi.evaluate.speed import Timings


class Nothing:
    """Draws nothing, at most so many pictures together."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self.asked: list[tuple[str, int, int | None]] = []

    def generate(self, prompt: str, n: int = 1, seed: int | None = None) -> None:
        if n > self.most:
            raise MachineError("no memory left.")
        self.asked.append((prompt, n, seed))


def test_pipelines_draw_the_same_in_turn() -> None:
    a, b = Nothing(), Nothing()
    rounds: list[int] = []
    timings = speed.take_turns({"a": a, "b": b}, 5, warm_up=2, on_round=rounds.append)
    assert a.asked == b.asked
    assert rounds == [1, 2, 3, 4, 5]
    assert len(timings.ms["a"]) == len(timings.ms["b"]) == 5
    assert len({prompt for prompt, _, _ in a.asked}) == len({seed for _, _, seed in a.asked}) == 7


def test_seeds_of_batches_do_not_overlap() -> None:
    pipe = Nothing()
    speed.take_turns({"a": pipe}, 4, warm_up=0, pictures=8)
    assert [seed for _, _, seed in pipe.asked] == [0, 8, 16, 24]


@settings(max_examples=6)
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=30), st.floats(0.1, 10))
def test_ratios_are_of_pairs(base: list[float], factor: float) -> None:
    ms = np.array(base)
    timings = Timings({"base": ms, "changed": ms * factor}, {})
    ratio, speedup = timings.ratio("changed", "base"), timings.speedup("changed", "base")
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([factor] * 3)
    assert speedup.value == pytest.approx(1 / factor)
    assert ratio.count == len(base)
    latency = timings.latency("base")
    assert latency["p50_ms"].value <= latency["p95_ms"].value
    assert latency["p50_ms"].low <= latency["p50_ms"].value <= latency["p50_ms"].high


def test_throughput_ends_where_the_machine_does() -> None:
    found, failure = speed.throughput({"a": Nothing(), "b": Nothing(most=2)}, (4, 1, 2), rounds=2)
    assert sorted(found) == [1, 2]
    assert found[2].pictures == 2
    assert "4 pictures" in failure
    assert "no memory" in failure


def test_energy_is_read_and_a_counter_may_begin_again(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    (tmp_path / "intel-rapl:0:0").mkdir()  # a core's, which is part of the package
    package.mkdir()
    (package / "max_energy_range_uj").write_text("5000000\n")
    (package / "energy_uj").write_text("4000000\n")
    energy = Energy.find(tmp_path)
    before = energy.read()
    assert (energy.packages, before) == ((package,), [4_000_000])
    (package / "energy_uj").write_text("4500000\n")
    assert energy.joules_since(before) == 0.5
    (package / "energy_uj").write_text("1000000\n")
    assert energy.joules_since(before) == 2
    timings = speed.take_turns({"a": Nothing()}, 2, energy=energy)
    figure = timings.energy("a")
    assert figure is not None
    assert (figure.value, figure.count) == (0, 2)


def test_energy_is_not_made_up(tmp_path: Path) -> None:
    energy = Energy.find(tmp_path)
    assert "unavailable" in energy.why_not
    assert speed.take_turns({"a": Nothing()}, 2, energy=energy).energy("a") is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert "may not be read" in Energy.find(tmp_path).why_not


def test_a_fresh_process_draws_a_bundle(tiny_bundle: Path) -> None:
    fresh = speed.in_fresh_process(str(tiny_bundle), '[[step]]\nkind = "steps"\ncount = 2\n')
    assert fresh.first_picture_ms > fresh.load_ms + fresh.apply_ms + fresh.draw_ms > 0
    assert fresh.apply_ms > 0
    assert fresh.peak_memory_bytes >= fresh.resident_bytes
    figures = speed.first_pictures([fresh, fresh])
    assert figures["peak_memory_mb"].count == 2


def test_a_fresh_process_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"bundle\.json"):
        speed.in_fresh_process(str(tmp_path / "nothing"))


def test_sizes(tiny_bundle: Path, tmp_path: Path) -> None:
    from miaobi import load

    listed = speed.size_on_disk(str(tiny_bundle))
    assert listed is not None
    assert listed == speed.weights_bytes(load(tiny_bundle))
    (tmp_path / "weights").write_bytes(b"12345")
    assert speed.size_on_disk(str(tmp_path)) == 5
    assert speed.size_on_disk("owner/name") is None
    assert speed.weights_bytes(SimpleNamespace()) is None
    assert speed.weights_bytes(SimpleNamespace(model_bytes=7)) == 7


def test_the_report_holds_every_figure_with_its_count(tmp_path: Path) -> None:
    figures, ratios, notes = bench.measure(
        {bench.BASELINE: Nothing(), bench.CHANGED: Nothing()},
        rounds=4,
        batches=(1, 2),
        energy=Energy.find(tmp_path),
    )
    assert set(ratios) == {"speedup", "throughput_1", "throughput_2"}
    assert ratios["speedup"].count == 4
    assert any("unavailable" in note for note in notes)
    report = bench.Report({"model": "m"}, figures, ratios, notes)
    table = report.table()
    assert table.count("(n=4)") == 5  # two latencies of two pipelines, and the speedup
    assert "pictures_per_s_batch_2" in table
    kept: dict[str, Any] = json.loads(report.to_json())
    assert kept["figures"]["changed"]["p50_ms"]["count"] == 4


def test_one_pipeline_has_no_ratios(tmp_path: Path) -> None:
    _, ratios, _ = bench.measure(
        {bench.BASELINE: Nothing()}, rounds=2, batches=(), energy=Energy.find(tmp_path)
    )
    assert ratios == {}


def test_bad_input_is_named(tmp_path: Path) -> None:
    for text in ("0", "1,x", "65"):
        with pytest.raises(InputError, match="1 to 64"):
            bench.parse_batches(text)
    assert bench.parse_batches("") == []
    with pytest.raises(InputError, match="cannot read"):
        bench.read_recipe(tmp_path / "none.toml")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="no prompts"):
        bench.read_prompts(tmp_path / "empty")
    with pytest.raises(InputError, match="2 or more rounds"):
        speed.take_turns({}, 1)


def test_the_command_measures_a_changed_bundle(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = speed.Fresh(900.0, 300.0, 0.0, 100.0, 200_000_000, 150_000_000)
    monkeypatch.setattr(speed, "in_fresh_process", lambda *_, **__: fresh)
    monkeypatch.setattr(flops, "GEMM_SIZE", 128)
    (tmp_path / "recipe.toml").write_text('[[step]]\nkind = "steps"\ncount = 2\n')
    files = ["-m", str(tiny_bundle), "--recipe", str(tmp_path / "recipe.toml")]
    few = ["--rounds", "2", "--batches", "2", "--fresh", "2", "--threads", "1", "--json"]
    bench.main([*files, *few])
    shown = capsys.readouterr().out
    kept = json.loads(shown.splitlines()[-1])
    assert "steps(count 2)" in shown
    for name in (bench.BASELINE, bench.CHANGED):
        figures = kept["figures"][name]
        assert figures["first_picture_ms"]["count"] == 2
        assert {"p50_ms", "p95_ms", "first_picture_ms", "peak_memory_mb", "weights_mb"} <= set(figures)
        assert figures["share_of_gemm_limit_percent"]["value"] > 0
    gflop = [kept["figures"][name]["gflop"]["value"] for name in (bench.BASELINE, bench.CHANGED)]
    assert gflop[1] < gflop[0]
    assert kept["ratios"]["speedup"]["count"] == 2


def test_prompts_are_many_and_different() -> None:
    assert len(set(speed.PROMPTS)) == len(speed.PROMPTS) == 160
