"""The bench times real steps of every bundle given and compares with the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcr_edge.cli import main
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bench import STEPS_PER_ROUND, _Stream, bench
from tests.runtimes.toy import make_bundle


def test_two_bundles_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_bundle(tmp_path / "first", "onnx"), make_bundle(tmp_path / "second", "openvino")
    report = tmp_path / "bench.json"
    assert main(["bench", str(first), str(second), "--rounds", "3", "--json", str(report)]) == 0
    assert "openvino" in capsys.readouterr().out
    rows = json.loads(report.read_text())
    assert [row["bundle"] for row in rows] == ["first", "second"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[1]["minimum_ms"] / rows[0]["minimum_ms"])
    for row in rows:
        assert 0 < row["minimum_ms"] <= row["median_ms"] <= row["p95_ms"]
        assert row["model_bytes"] > 0


def test_every_counted_step_is_a_step(tmp_path: Path) -> None:
    stream = _Stream(load(make_bundle(tmp_path / "toy", "onnx")))
    before = stream.state
    for _ in range(STEPS_PER_ROUND):
        stream.step()
    assert len(stream.times) == STEPS_PER_ROUND
    assert (stream.state.h != before.h).any()


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["bench", str(make_bundle(tmp_path / "toy", "onnx")), "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
    assert len(bench([str(tmp_path / "toy")], rounds=1)) == 1
