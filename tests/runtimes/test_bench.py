"""The bench times real steps of every bundle given, compares with the first, and says what the machine says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.config import CLIP_FRAMES
from lcr_edge.runtimes import load
from lcr_edge.runtimes.speed.memory import measure
from lcr_edge.runtimes.speed.timing import STEPS_PER_ROUND, WARM_UP, TimedBundle, bench
from tests.runtimes.toy import make_bundle

PARTS = ("fit_ms", "edges_ms", "engine_ms", "python_ms")


def test_two_bundles_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_bundle(tmp_path / "first", "onnx", "host")
    second = make_bundle(tmp_path / "second", "openvino")
    report, picture = tmp_path / "new" / "bench.json", tmp_path / "bench.html"
    call = ["bench", str(first), str(second), "--rounds", "3", "--json", str(report), "--plot", str(picture)]
    assert main(call) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].startswith("first ")
    assert shown[2].startswith("second ")
    assert len({len(line) for line in shown[:3]}) == 1
    assert len(shown[0]) <= 120
    assert any(line.startswith("Energy") for line in shown)
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["steps"] == 3 * STEPS_PER_ROUND
    rows = found["bundles"]
    assert [row["bundle"] for row in rows] == ["first", "second"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[1]["minimum_ms"] / rows[0]["minimum_ms"])
    for row in rows:
        assert 0 < row["minimum_ms"] <= row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert 0 < row["engine_ms"] + row["edges_ms"] + row["python_ms"] <= row["minimum_ms"] * (1 + 1e-9)
        assert row["engine_ratio"] == pytest.approx(row["engine_ms"] / rows[0]["engine_ms"])
        assert row["window_ms"] > row["minimum_ms"]
        assert row["floor_ratio"] == pytest.approx(row["engine_ms"] / row["floor_ms"])
        assert row["model_bytes"] > 0
        assert 0 < row["memory"]["base"] < row["memory"]["loaded"] <= row["memory"]["stepped"] * 1.1
    assert rows[0]["edges_ms"] > 0
    assert rows[1]["edges_ms"] == 0
    page = picture.read_text()
    assert "<svg" in page
    assert page.count("first") >= 2


def test_quick_leaves_out_what_is_not_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path / "toy", "onnx")
    assert main(["bench", str(folder), "--rounds", "1", "--quick", "--json", "-"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert "engine" in captured.err
    assert "Energy" not in captured.err
    (row,) = found["bundles"]
    assert (row["floor_ms"], row["memory"], row["joules_per_step"]) == (None, None, None)
    assert row["edges"] == "graph"


def test_every_counted_step_is_a_step(tmp_path: Path) -> None:
    timed = TimedBundle(load(make_bundle(tmp_path / "toy", "onnx", "host")), floor=True)
    before = timed.stepper.states()[0]
    for _ in range(STEPS_PER_ROUND):
        timed.fit()
        timed.step()
        timed.products()
    lists = (timed.times, timed.fits, timed.edges, timed.engines, timed.rests, timed.floors)
    assert [len(times) for times in lists] == [STEPS_PER_ROUND] * len(lists)
    for whole, edges, engine, rest in zip(timed.times, timed.edges, timed.engines, timed.rests):
        assert whole == pytest.approx(edges + engine + rest)
        assert min(edges, engine, rest) > 0
    after = timed.stepper.states()[0]
    assert (after.h != before.h).any()
    timed.window()
    assert len(timed.windows) == 1
    assert [len(times) for times in lists] == [STEPS_PER_ROUND] * len(lists)
    np.testing.assert_array_equal(timed.stepper.states()[0].h, after.h)  # the stream goes on where it was
    assert len(timed.windows[0]) == CLIP_FRAMES


def test_the_times_of_a_warm_up_are_not_kept(tmp_path: Path) -> None:
    timed = TimedBundle(load(make_bundle(tmp_path / "toy", "onnx", "host")), floor=True)
    timed.warm_up()
    assert timed.count == WARM_UP
    assert not any((timed.times, timed.fits, timed.edges, timed.engines, timed.rests, timed.floors))


def test_timed_steps_give_the_answers_of_others(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "toy", "tflite", "host")
    timed, model = TimedBundle(load(folder, threads=1)), load(folder, threads=1)
    for frame in timed.golden.frames:
        np.testing.assert_array_equal(timed.stepper.step([frame])[0], model.step_stream(frame))


def test_memory_of_what_cannot_be_loaded(tmp_path: Path) -> None:
    used, why = measure(tmp_path / "none", 1)
    assert used is None
    assert "failed" in why


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["bench", str(make_bundle(tmp_path / "toy", "onnx")), "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "toy"), "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "toy"), "--plot", str(tmp_path)]) != 0
    assert "--plot" in capsys.readouterr().err
    assert len(bench([str(tmp_path / "toy")], rounds=1)) == 1
