"""The bench times real steps of every bundle given and compares with the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lcr_edge.runtimes.bench as bench_module
from lcr_edge.cli import main
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bench import STEPS_PER_ROUND, WARM_UP, _TimedBundle, bench
from tests.runtimes.toy import make_bundle


def test_two_bundles_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_bundle(tmp_path / "first", "onnx"), make_bundle(tmp_path / "second", "openvino")
    report = tmp_path / "bench.json"
    assert main(["bench", str(first), str(second), "--rounds", "3", "--json", str(report)]) == 0
    assert "openvino" in capsys.readouterr().out
    rows = json.loads(report.read_text())
    assert main(["bench", str(first), "--rounds", "1", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["bundle"] == "first"
    assert "min ms" in captured.err
    assert [row["bundle"] for row in rows] == ["first", "second"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[1]["minimum_ms"] / rows[0]["minimum_ms"])
    for row in rows:
        assert 0 < row["minimum_ms"] <= row["median_ms"] <= row["p95_ms"]
        assert 0 < row["engine_ms"] < row["minimum_ms"]
        assert row["engine_ratio"] == pytest.approx(row["engine_ms"] / rows[0]["engine_ms"])
        assert row["model_bytes"] > 0


def test_every_counted_step_is_a_step(tmp_path: Path) -> None:
    stream = _TimedBundle(load(make_bundle(tmp_path / "toy", "onnx")))
    before = stream.state
    for _ in range(STEPS_PER_ROUND):
        stream.step()
    assert len(stream.times) == STEPS_PER_ROUND
    assert len(stream.engine_times) == STEPS_PER_ROUND
    assert all(0 < engine < whole for engine, whole in zip(stream.engine_times, stream.times))
    assert (stream.state.h != before.h).any()


def test_the_times_of_a_warm_up_are_not_kept(tmp_path: Path) -> None:
    stream = _TimedBundle(load(make_bundle(tmp_path / "toy", "onnx")))
    stream.warm_up()
    assert stream.count == WARM_UP
    assert not stream.times
    assert not stream.engine_times


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (X86.format("avx512_vnni avx_vnni"), "Some CPU (avx512_vnni, avx_vnni)"),
        (X86.format("avx512_vnniw"), "Some CPU (no int8 dot product)"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", "(asimddp)"),
    ],
)
def test_the_machine_in_words(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "_CPU", tmp_path / "cpuinfo")
    assert "dot product" not in bench_module.machine()  # unknown is not absent
    (tmp_path / "cpuinfo").write_text(text)
    assert words in bench_module.machine()
    assert "hardware threads" in bench_module.machine()


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["bench", str(make_bundle(tmp_path / "toy", "onnx")), "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "toy"), "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err
    assert len(bench([str(tmp_path / "toy")], rounds=1)) == 1
