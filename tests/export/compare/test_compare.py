"""One table over precisions and engines: real exports, real timings, and what was measured before is used again."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from lcr_edge import tolerances
from lcr_edge.calibration.collect import collect
from lcr_edge.calibration.footage import MIN_CLIPS
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint, random_checkpoint
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.export.compare.measure import compare
from lcr_edge.export.compare.table import Comparison
from lcr_edge.export.exporter import Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.streams import measure_streams
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import read_bundle

SEED = 7
NETWORK = ["--config", "lcr_pico", "--random-weights", "--seed", str(SEED)]
QUICK = Gate(frames=8, streams=12, per_class=1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(get_config("lcr_pico"), SEED)


@pytest.fixture(scope="module")
def samples(checkpoint: Checkpoint) -> Samples:
    return collect(checkpoint, None, clips=MIN_CLIPS, samples=8)


@pytest.fixture(scope="module")
def table(
    checkpoint: Checkpoint, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Path]:
    """fp32 and dynamic int8 on OpenVINO, decisions and all."""
    out = tmp_path_factory.mktemp("compare")
    return compare(checkpoint, _requests(checkpoint), out, samples=lambda: samples, rounds=2, gate=QUICK), out


def _requests(checkpoint: Checkpoint) -> list[Request]:
    config = checkpoint.config
    return [Request(config, "openvino"), Request(config, "openvino", "int8", quant="dynamic")]


def _forbidden() -> Samples:
    raise AssertionError("no samples are needed")


@pytest.mark.slow
def test_rows_hold_what_the_bundles_are_and_do(table: tuple[Comparison, Path], checkpoint: Checkpoint) -> None:
    comparison, out = table
    base, int8 = comparison.rows
    assert [row.precision for row in comparison.rows] == ["fp32", "int8 dynamic"]
    for row in comparison.rows:
        folder = out / row.bundle
        model = load(folder, threads=1)
        assert row.model_bytes == sum((folder / name).stat().st_size for name in model.bundle.model_files)
        assert row.size_ratio == row.model_bytes / base.model_bytes
        streams = measure_streams(model, checkpoint, frames=QUICK.streams, per_class=1)
        agreed = sum(line.agreed for name, line in streams.lines.items() if name == "4-49")
        assert row.same_class == pytest.approx(agreed / (QUICK.streams - 4))
        assert row.clip_top1 is None  # random weights
        timing = row.timings[1]
        assert timing.bundle == row.bundle
        assert timing.ratio == pytest.approx(timing.minimum_ms / base.timings[1].minimum_ms)
        assert timing.engine_ratio == pytest.approx(timing.engine_ms / base.timings[1].engine_ms)
    assert int8.size_ratio < 1


@pytest.mark.slow
def test_the_table_is_markdown_with_every_figure(table: tuple[Comparison, Path]) -> None:
    comparison, _ = table
    lines = comparison.table().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert {"clip top-1", "same class", "drift", "engine, 1 thread", "step, 1 thread"} < set(head)
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == lines[3].count("|")
    int8 = dict(zip(head, (cell.strip() for cell in lines[3].strip("|").split("|"))))
    row = comparison.rows[1]
    timing = row.timings[1]
    assert int8["model MB"] == f"{row.model_bytes / 1e6:.2f}"
    assert int8["engine, 1 thread"] == f"{1 / timing.engine_ratio:.2f} ({timing.engine_ms:.2f} ms)"
    assert int8["step, 1 thread"] == f"{1 / timing.ratio:.2f} ({timing.minimum_ms:.2f} ms)"
    assert "the weights are random" in comparison.table()
    assert "hardware threads" in comparison.table()


@pytest.mark.slow
def test_bundles_of_the_same_network_are_used_again(
    table: tuple[Comparison, Path], checkpoint: Checkpoint, samples: Samples
) -> None:
    comparison, out = table
    before = {row.bundle: read_bundle(out / row.bundle).manifest for row in comparison.rows}
    again = compare(checkpoint, _requests(checkpoint), out, samples=lambda: samples, rounds=1, gate=QUICK)
    assert [row.reused for row in again.rows] == [True, True]
    assert [row.same_class for row in again.rows] == [row.same_class for row in comparison.rows]
    # Speed alone depends neither on samples nor on what was measured.
    quick = compare(checkpoint, _requests(checkpoint), out, samples=_forbidden, rounds=1, gate=QUICK, judged=False)
    assert [row.reused for row in quick.rows] == [True, True]
    assert {row.bundle: read_bundle(out / row.bundle).manifest for row in comparison.rows} == before


@pytest.mark.slow
@pytest.mark.parametrize("change", ["samples", "gate", "damage"])
def test_what_does_not_fit_is_exported_again(
    table: tuple[Comparison, Path],
    checkpoint: Checkpoint,
    samples: Samples,
    change: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    comparison, made = table
    out = tmp_path / "out"
    shutil.copytree(made, out)
    requests, given, gate, words = _requests(checkpoint), samples, QUICK, "other samples"
    if change == "samples":
        given = dataclasses.replace(samples, seed=samples.seed + 1)
    elif change == "gate":
        requests, gate = requests[:1], dataclasses.replace(QUICK, streams=QUICK.streams + 1)
        words = "not measured in full"
    else:
        (out / comparison.rows[1].bundle / "model.bin").write_bytes(b"")
        words = "model.bin differs"
    again = compare(checkpoint, requests, out, samples=lambda: given, rounds=1, gate=gate)
    assert [row.reused for row in again.rows] == [True, False][-len(requests) :]
    assert words in capsys.readouterr().err
    manifest = read_bundle(out / again.rows[-1].bundle).manifest
    assert manifest["calibration_digest"] == (None if change == "gate" else given.digest)


@pytest.mark.slow
def test_another_network_takes_the_place(table: tuple[Comparison, Path], tmp_path: Path) -> None:
    comparison, made = table
    shutil.copytree(made / comparison.rows[0].bundle, tmp_path / comparison.rows[0].bundle)
    other = random_checkpoint(get_config("lcr_pico"), SEED + 1)
    found = compare(other, _requests(other)[:1], tmp_path, rounds=1, gate=QUICK, judged=False)
    assert [row.reused for row in found.rows] == [False]
    assert read_bundle(tmp_path / found.rows[0].bundle).manifest["checkpoint_sha256"] == other.sha256


@pytest.mark.slow
def test_a_missed_promise_is_shown_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lcr_edge.export.exporter as exporter

    impossible = dataclasses.replace(tolerances.PROMISES["fp32"], step_abs=sys.float_info.min)
    monkeypatch.setitem(tolerances.PROMISES, "fp32", impossible)
    monkeypatch.setattr(exporter, "Gate", lambda **_: QUICK)
    report = tmp_path / "new" / "table.json"
    call = [*NETWORK, "--targets", "openvino", "--precisions", "fp32"]
    call += ["--threads", "1", "--rounds", "1", "--out", str(tmp_path), "--json", str(report)]
    assert main(["compare", *call]) == 1
    shown = capsys.readouterr()
    assert "| openvino | fp32 (MISSED) |" in shown.out
    assert "- lcr_pico-openvino-fp32: one step: logits is off by" in shown.out
    assert "all promises met" not in shown.out
    assert "promises were missed" in shown.err
    assert len(json.loads(report.read_text())["failures"]) >= 1


@pytest.mark.slow
def test_speed_only_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "table.json"
    call = [*NETWORK, "--targets", "openvino", "--precisions", "int8"]
    call += ["--speed-only", "--threads", "1,2", "--rounds", "1", "--out", str(tmp_path / "out"), "--json", str(report)]
    assert main(["compare", *call]) == 0
    out = capsys.readouterr().out
    assert "same class" not in out
    assert "engine, 2 threads" in out
    assert "not judged" in out
    rows = json.loads(report.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "int8 static"]
    assert all(set(row["timings"]) == {"1", "2"} for row in rows)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--targets", "onnx,coreml"], ["'coreml'", "tflite"]),
        (["--precisions", "int8:best"], ["'int8:best'", "int8:dynamic"]),
        (["--precisions", ""], ["unknown precision"]),
        (["--threads", "0"], ["--threads", "from 1 to", "'0'"]),
        (["--threads", "1,two"], ["--threads", "from 1 to", "'1,two'"]),
        (["--rounds", "0"], ["--rounds"]),
        (["--config", "lcr_huge"], ["'lcr_huge'"]),
        (["--precisions", "fp16", "--calibration-clips", "9"], ["--calibration-clips", "int8"]),
        (["--calibration-clips", "1"], ["--calibration-clips"]),
    ],
)
def test_a_wrong_call_is_answered_before_the_work(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compare", "--random-weights", *arguments, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert all(part in errors for part in parts), errors
    assert not out.exists()


@pytest.mark.parametrize("name", ["--out", "--json"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = {
        "--out": str(tmp_path / "out"),
        "--json": str(tmp_path / "x.json"),
        name: str(tmp_path / "file" / "x" / "y"),
    }
    call = [part for pair in given.items() for part in pair]
    assert main(["compare", "--config", "lcr_pico", "--random-weights", *call]) == 2
    errors = capsys.readouterr().err
    assert "cannot make the folder" in errors
    assert "converting" not in errors
