"""verify must fail when it should: on changed weights, a forgotten state, another checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lcr_edge import checkpoint
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.errors import CheckpointError, OutputError, ParityError, UsageError, VideoError
from lcr_edge.export.exporter import Exporter, Gate
from lcr_edge.export.targets.request import Request
from lcr_edge.export.verify.clips import ping_pong, rendered_stream, video_stream
from lcr_edge.export.verify.measure import measure_all, verify
from lcr_edge.export.verify.reference import roll, steps
from lcr_edge.export.verify.remedy import remedy
from lcr_edge.runtimes import Model, State, load
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from lcr_edge.runtimes.checks import same_class
from lcr_edge.runtimes.tallies import Tally
from lcr_edge.tolerances import DRIFT_STREAMS, PROMISES, STREAM_FRAMES
from tests.clips import real_clip
from tests.export import made
from tests.export.targets.rounded import rounded

INT8 = PROMISES["int8"]


def _tampered(folder: Path, change: str) -> Path:
    """A copy of an ONNX bundle with another model inside, sealed as if it were right."""
    model = onnx.load(folder / "model.onnx")
    if change == "weight":
        tensor = next(t for t in model.graph.initializer if t.name.endswith("layers.1.attend.weight"))
        values = numpy_helper.to_array(tensor).copy()
        values.flat[7] += 0.05
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    elif change == "unread":
        _forget_input(model)
    elif change == "unchanged":
        _pass_through(model)
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = file_record(folder / "model.onnx")
    (folder / MANIFEST).write_bytes(seal(manifest))
    return folder


def _forget_input(model: onnx.ModelProto) -> None:
    """state_h_in stays an input, but what was computed from it is computed from zeros."""
    shape = [dim.dim_value for dim in model.graph.input[-2].type.tensor_type.shape.dim]
    zeros = numpy_helper.from_array(np.zeros(shape, np.float32), "nothing")
    model.graph.initializer.append(zeros)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name == "state_h_in":
                node.input[position] = "nothing"


def _pass_through(model: onnx.ModelProto) -> None:
    """state_c_out is state_c_in: a state that never changes."""
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "state_c_out":
                node.output[position] = "lost"
    model.graph.node.append(onnx.helper.make_node("Identity", ["state_c_in"], ["state_c_out"]))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("weight", "one step: state_c is off by"),
        ("unread", "feeding state_h to a step makes no difference"),
        ("unchanged", "state_c did not change"),
    ],
)
def test_a_wrong_model_fails_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, complaint: str
) -> None:
    folder = shutil.copytree(made.bundle("lcr_pico", "onnx"), tmp_path / "bundle")
    _tampered(folder, change)
    report = tmp_path / "report.json"
    assert main(["verify", str(folder), "--frames", "6", "--json", str(report)]) == ParityError.exit_code
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("error:") == 1
    assert json.loads(report.read_text())["passed"] is False


def test_a_right_model_passes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert main(["verify", str(made.bundle("lcr_pico", "onnx")), "--frames", "60", "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert list(written["stream"]) == ["0", "1-3", "4-49", "50-", "all"]
    assert [line["frames"] for line in written["stream"].values()] == [1, 3, 46, 10, 60]
    assert "passed" in capsys.readouterr().out


def test_int8_is_judged_by_averages_and_decisions() -> None:
    """A model rounded to 8 bits is far from fp32's promise, and keeps int8's in one step."""
    report = measure_all(rounded("lcr_pico"), made.checkpoint("lcr_pico"), frames=12, streams=24, per_class=1)
    assert report.one_step["all"].tensors["state_c"].max_abs > (PROMISES["fp32"].step_abs or 0)
    checks = {check.name: check for check in report.every_check}
    for tensor in ("logits", "state_h", "state_c"):
        check = checks[f"one step: {tensor}, rms error / std from frame {INT8.settled}"]
        assert check.met is True
        assert check.promised == INT8.step_relative
        assert 0 < (check.measured or 0) == report.one_step[f"from {INT8.settled}"].tensors[tensor].relative
    assert {name.split(":")[0] for name in checks} == {"one step", "stream", "identity", "streams"}
    assert report.streams is not None
    assert report.clips is not None
    written = json.loads(report.to_json())
    assert written == report.to_dict()
    assert len(written["curves"]["stream"]["frame"]) == report.frames
    assert written["streams"]["lines"]["all"]["frames"] == 24
    assert len(written["checks"]) == len(checks)
    assert b"[0, 1, 2, " in report.to_json()


def test_early_frames_do_not_count_for_int8() -> None:
    """The same frames with the first ones apart: what int8 is judged by starts at its settled frame."""
    report = measure_all(rounded("lcr_pico", 3), made.checkpoint("lcr_pico"), frames=10, decisions=False)
    assert report.stream[f"from {INT8.settled}"].frames == 10 - INT8.settled
    assert report.stream["all"].frames == 10
    late = [report.one_step[name].tensors["logits"] for name in ("4-49", f"from {INT8.settled}", "all")]
    assert late[0].relative == pytest.approx(late[1].relative)
    assert late[1].relative != pytest.approx(late[2].relative)
    assert report.streams is None
    assert report.clips is None


def test_a_miss_of_int8_says_what_to_try() -> None:
    report = measure_all(rounded("lcr_pico", 3), made.checkpoint("lcr_pico"), frames=8, decisions=False)
    assert not report.passed
    assert report.complaint.endswith(remedy(report))
    assert "--precision fp16" in remedy(report)
    assert "MISSED" in report.table()
    fp32 = measure_all(load(made.bundle("lcr_pico", "onnx")), made.checkpoint("lcr_pico"), frames=4)
    assert fp32.streams is None
    assert fp32.clips is None
    assert dataclasses.replace(fp32, broken=("broken",)).complaint == "broken"


@pytest.mark.parametrize(("same", "frames", "met"), [(98, 100, True), (97, 100, False), (9, 10, True), (8, 10, False)])
def test_a_short_clip_may_differ_in_one_frame(same: int, frames: int, met: bool) -> None:
    assert (INT8.top1, INT8.flips) == (0.98, 1), "the cases are made for these"
    assert same_class("stream", same, frames, INT8).met is met
    assert same_class("stream", same, frames, PROMISES["fp32"]).met is False


@pytest.mark.slow
def test_decisions_and_the_page_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages, report = tmp_path / "pages", tmp_path / "report.json"
    command = ["verify", str(made.bundle("lcr_pico", "onnx")), "--frames", "6", "--decisions"]
    assert main([*command, "--report", str(pages), "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert written["streams"]["frames"] == STREAM_FRAMES
    assert written["streams"]["streams"] == DRIFT_STREAMS
    assert written["clips"]["agreement"] == 1.0
    assert [path.suffix for path in pages.iterdir()] == [".html"]
    out = capsys.readouterr().out
    assert "streams: same class" in out
    assert "the same decision on 100.00%" in out


def test_a_page_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    command = ["verify", str(made.bundle("lcr_pico", "onnx")), "--frames", "4", "--report", str(tmp_path / "file")]
    assert main(command) == OutputError.exit_code
    assert "--report" in capsys.readouterr().err


class _Failing(Model):
    """A real model whose state is NaN after some steps."""

    good = 16

    def step(self, frame: Any, state: State) -> tuple[Any, State]:
        logits, after = super().step(frame, state)
        self.good -= 1
        return logits, after if self.good > 0 else State(after.h, after.c * np.float32(np.nan))


def test_a_state_with_nan_is_a_failure() -> None:
    right = rounded("lcr_pico")
    report = measure_all(_Failing(right.bundle, right.engine), made.checkpoint("lcr_pico"), frames=20, decisions=False)
    assert "contains NaN or Inf" in report.failures[0]
    assert INT8.settled < report.frames < 10
    broken = _Failing(right.bundle, right.engine)
    broken.good = 3
    with pytest.raises(ParityError, match="contains NaN or Inf"):
        measure_all(broken, made.checkpoint("lcr_pico"), frames=20, decisions=False)


@pytest.mark.slow
def test_a_bundle_that_misses_its_promise_is_not_written(tmp_path: Path) -> None:
    """The exporter's reference is disturbed after its cell was made: what it converts is no longer the reference."""
    found = checkpoint.random_checkpoint(get_config("lcr_pico"), 3)
    exporter = Exporter(found, tmp_path)
    import torch

    with torch.no_grad():
        found.model.layers[0].get_parameter("attend.weight")[0, 0] += 0.5
    with pytest.raises(ParityError, match="was not written"):
        exporter.export(Request(found.config, "onnx", edges="host"), Gate(frames=4))
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    other = checkpoint.random_checkpoint(get_config("lcr_pico"), 99)
    path = tmp_path / "other.safetensors"
    checkpoint.save(path, other.model, other.labels, {})
    with pytest.raises(CheckpointError, match="another checkpoint"):
        verify(made.bundle("lcr_pico", "onnx"), checkpoint=str(path), frames=2)


@pytest.mark.slow
def test_a_checkpoint_file_is_verified_against_itself(tmp_path: Path) -> None:
    found = checkpoint.random_checkpoint(get_config("lcr_pico"), 5)
    path = tmp_path / "mine.safetensors"
    checkpoint.save(path, found.model, found.labels, {})
    exported = Exporter(checkpoint.load(path), tmp_path).export(Request(found.config, "onnx"), Gate(frames=4))
    assert verify(exported.folder, checkpoint=str(path), frames=6).passed


@pytest.mark.parametrize("frames", [0, 1, -3])
def test_too_few_frames_are_refused(frames: int) -> None:
    with pytest.raises(UsageError, match="--frames"):
        verify(made.bundle("lcr_pico", "onnx"), frames=frames)


def test_too_few_frames_for_int8_are_refused() -> None:
    with pytest.raises(UsageError, match=f"--frames must be at least {INT8.settled + 1}"):
        measure_all(rounded("lcr_pico"), made.checkpoint("lcr_pico"), frames=INT8.settled)


def test_a_missing_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        verify(made.bundle("lcr_pico", "onnx"), clip=str(tmp_path / "no.mp4"), frames=4)


def test_a_short_video_is_played_back_and_forth() -> None:
    assert [ping_pong(i, 3) for i in range(9)] == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert [ping_pong(i, 1) for i in range(3)] == [0, 0, 0]
    config = get_config("lcr_pico")
    frames = list(video_stream(str(real_clip("bikes.mp4")), config, "letterbox", 300))
    assert len(frames) == 300
    assert frames[0].shape == config.frame_shape
    length = next(i for i in range(2, 300) if np.array_equal(frames[i], frames[i - 2]))
    np.testing.assert_array_equal(frames[length], frames[length - 2])
    assert not np.array_equal(frames[0], frames[length - 1])


def test_the_rendered_stream_is_always_the_same() -> None:
    config = get_config("lcr_pico")
    first, second = (rendered_stream(config, "letterbox") for _ in range(2))
    for _ in range(20):
        np.testing.assert_array_equal(next(first), next(second))


def test_the_rollout_continues_from_a_state() -> None:
    model = made.checkpoint("lcr_pico").model
    frames = [frame for frame, _ in zip(rendered_stream(model.config, "letterbox"), range(6))]
    whole = roll(model, frames)
    second = list(steps(model, frames[3:], (whole.state_h[2], whole.state_c[2])))
    np.testing.assert_array_equal(np.stack([step.state_c for step in second]), whole.state_c[3:])
    np.testing.assert_array_equal(np.stack([step.logits for step in second]), whole.logits[3:])
    assert whole.state_h.dtype == np.float32
    assert set(np.unique(whole.edges)) == {0, 1}


def test_a_rollout_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        roll(made.checkpoint("lcr_pico").model, [])


def test_a_tally_sums_up_what_numpy_would(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((5, 7, 3)).astype(np.float32) + 2
    found = reference + rng.standard_normal(reference.shape).astype(np.float32) * np.float32(1e-3)
    tally = Tally()
    for a, b in zip(found, reference):
        tally.add(a, b)
    error = found.astype(np.float64) - reference
    assert tally.max_abs == pytest.approx(np.abs(error).max(), rel=1e-12)
    assert tally.relative == pytest.approx(np.sqrt((error**2).mean()) / reference.astype(np.float64).std(), rel=1e-9)
    tally.add(np.full((7, 3), np.nan, np.float32), reference[0])
    assert np.isnan(tally.max_abs)
