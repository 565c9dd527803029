"""verify must fail when it should: on changed weights, a forgotten state, another checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lcr_edge import checkpoint
from lcr_edge.calibration.rollout import roll, steps
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.errors import CheckpointError, ParityError, UsageError, VideoError
from lcr_edge.export.clips import ping_pong, rendered_stream, video_stream
from lcr_edge.export.pipeline import Exporter
from lcr_edge.export.targets import Request
from lcr_edge.export.verify import verify
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from lcr_edge.runtimes.judge import Tally
from tests.clips import real_clip
from tests.export import made


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
        ("unread", "state_h fed to a step makes no difference"),
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


def test_a_bundle_that_misses_its_promise_is_not_written(tmp_path: Path) -> None:
    """The exporter's reference is disturbed after the cell was made: what it converts is no longer the reference."""
    found = checkpoint.random_checkpoint(get_config("lcr_pico"), 3)
    exporter = Exporter(found, tmp_path)
    exporter._cell("host")
    import torch

    with torch.no_grad():
        found.model.layers[0].get_parameter("attend.weight")[0, 0] += 0.5
    with pytest.raises(ParityError, match="was not written"):
        exporter.export(Request(found.config, "onnx", edges="host"), frames=4)
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    other = checkpoint.random_checkpoint(get_config("lcr_pico"), 99)
    path = tmp_path / "other.safetensors"
    checkpoint.save(path, other.model, other.labels, {})
    with pytest.raises(CheckpointError, match="another checkpoint"):
        verify(made.bundle("lcr_pico", "onnx"), against=str(path), frames=2)


def test_a_checkpoint_file_is_verified_against_itself(tmp_path: Path) -> None:
    found = checkpoint.random_checkpoint(get_config("lcr_pico"), 5)
    path = tmp_path / "mine.safetensors"
    checkpoint.save(path, found.model, found.labels, {})
    exported = Exporter(checkpoint.load(path), tmp_path).export(Request(found.config, "onnx"), frames=4)
    assert verify(exported.folder, against=str(path), frames=6).passed


@pytest.mark.parametrize("frames", [0, 1, -3])
def test_too_few_frames_are_refused(frames: int) -> None:
    with pytest.raises(UsageError, match="--frames"):
        verify(made.bundle("lcr_pico", "onnx"), frames=frames)


def test_a_missing_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        verify(made.bundle("lcr_pico", "onnx"), clip=str(tmp_path / "no.mp4"), frames=4)


def test_a_short_video_is_played_back_and_forth() -> None:
    assert [ping_pong(i, 3) for i in range(9)] == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert [ping_pong(i, 1) for i in range(3)] == [0, 0, 0]
    config = get_config("lcr_pico")
    frames = list(video_stream(str(real_clip("bikes.mp4")), config, 300))
    assert len(frames) == 300
    assert frames[0].shape == config.frame_shape
    length = next(i for i in range(2, 300) if np.array_equal(frames[i], frames[i - 2]))
    np.testing.assert_array_equal(frames[length], frames[length - 2])
    assert not np.array_equal(frames[0], frames[length - 1])


def test_the_rendered_stream_is_always_the_same() -> None:
    config = get_config("lcr_pico")
    first, second = rendered_stream(config), rendered_stream(config)
    for _ in range(20):
        np.testing.assert_array_equal(next(first), next(second))


def test_the_rollout_continues_from_a_state() -> None:
    model = made.checkpoint("lcr_pico").model
    frames = [frame for frame, _ in zip(rendered_stream(model.config), range(6))]
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
