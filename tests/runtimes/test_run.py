"""``lcr-edge run``: reading video, keeping its time, and what is printed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import OutputError, UsageError, VideoError
from lcr_edge.frames import letterbox
from lcr_edge.runtimes import clip_decision, load
from lcr_edge.runtimes.video import TimedFrame, VideoSource, resample
from lcr_edge.video import _file_clock
from tests.clips import real_clip
from tests.runtimes.toy import LABELS, make_bundle

cv2: Any = pytest.importorskip("cv2")
ROOT = Path(__file__).parents[2]


def write_video(path: Path, frames: int, fps: float) -> Path:
    """Grey frames, each 4 levels brighter than the one before, from 16 on; 64 x 48 pixels, MPEG-4."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((48, 64, 3), (16 + 4 * i) % 256, np.uint8))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", 50, 25.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


def at(times: list[float]) -> Iterator[TimedFrame]:
    picture: npt.NDArray[np.uint8] = np.zeros((1, 1, 3), np.uint8)
    return (TimedFrame(picture, time_s, i) for i, time_s in enumerate(times))


def indices(times: list[float], fps: float, live: bool = False) -> list[int]:
    return [tick.timed.index for tick in resample(at(times), fps, live=live)]


def test_resampling_keeps_the_trained_rate() -> None:
    second = [i / 32 for i in range(33)]
    assert indices(second, 8) == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert indices(second, 32) == list(range(33))
    assert indices([0, 0.25, 0.5], 8) == [0, 1, 1, 2, 2]  # 4 fps source: the tick between two frames repeats one
    rounded = [round(i / 30, 2) for i in range(301)]  # a container with centiseconds
    assert indices(rounded, 10) == list(range(0, 301, 3))
    assert indices([5.0, 5.125, 5.25], 8) == [0, 1, 2]
    assert indices([0.0], 8) == [0]
    assert indices([], 8) == []


def test_resampling_does_not_drift() -> None:
    hour = [i / 29.97 for i in range(3600 * 30)]
    assert len(indices(hour, 8)) == int(hour[-1] * 8) + 1


def test_a_live_source_never_repeats_and_counts_what_it_missed() -> None:
    ticks = list(resample(at([0, 0.13, 0.51, 0.6, 0.64]), 8, live=True))
    assert [(tick.timed.index, tick.missed) for tick in ticks] == [(0, 0), (1, 0), (2, 2), (4, 0)]


@pytest.mark.parametrize("live", [False, True])
def test_gaps_cut_the_stream(live: bool) -> None:
    ticks = list(resample(at([0, 0.5, 2.0, 2.5, 1.9, 2.4]), 2, live=live))
    assert [tick.timed.index for tick in ticks] == [0, 1, 2, 3, 4, 5]
    assert [tick.gap for tick in ticks] == [
        None,
        None,
        "1.5 s without a frame",
        None,
        "time ran back by 0.600 s",
        None,
    ]
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="positive"):
            next(resample(at([0]), fps))


def test_a_file_gives_rgb_frames_at_their_times(video: Path) -> None:
    with VideoSource(str(video)) as source:
        frames = list(source)
    assert len(frames) == source.seen == source.frame_count == 50
    assert not source.live
    assert source.shortfall() is None
    assert [frame.index for frame in frames] == list(range(50))
    assert np.allclose([frame.time_s for frame in frames], np.arange(50) / 25, atol=2e-3)
    assert frames[10].frame.shape == (48, 64, 3)
    assert abs(float(frames[10].frame.mean()) - 56) < 3


def test_colours_are_not_swapped(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))  # OpenCV's order: blue, green, red
    writer.release()
    with VideoSource(str(path)) as source:
        red, green, blue = next(iter(source)).frame.reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert green < 50
    assert blue < 50


def test_files_that_are_no_video(tmp_path: Path, video: Path) -> None:
    whole = video.read_bytes()
    cases = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"this is text\n" * 1000, "not a video that this OpenCV can read"),
        "truncated.mp4": (whole[: len(whole) // 2], "not a video that this OpenCV can read"),  # the index is at the end
    }
    for name, (data, hint) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=hint):
            list(VideoSource(str(tmp_path / name)))
    for path, hint in ((tmp_path / "missing.mp4", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(VideoError, match=hint):
            VideoSource(str(path))


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "none.mp4", 0, 25.0)
    with pytest.raises(VideoError, match=r"none\.mp4"):
        list(VideoSource(str(path)))


def test_a_damaged_video_ends_with_a_warning(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8, (64, 48))
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    for picture in noise:
        writer.write(picture)
    writer.release()
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert main(["run", str(bundle), "--source", str(path)]) == 0
    captured = capsys.readouterr()
    assert "clip: " in captured.out
    assert "declares 40 frames" in captured.err


def test_cameras_and_addresses_that_do_not_answer() -> None:
    for camera in ("97", "/dev/video97"):
        with pytest.raises(VideoError, match="no camera 97"):
            VideoSource(camera)
    with pytest.raises(VideoError, match="check the address"):
        VideoSource("http://127.0.0.1:9/none")


def test_json_lines_equal_the_api(bundle: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--source", str(video), "--json", "-", "--threads", "1", "--top", "2"]) == 0
    captured = capsys.readouterr()
    *lines, last = [json.loads(line) for line in captured.out.splitlines()]
    model = load(bundle, threads=1)
    with VideoSource(str(video)) as source:
        ticks = list(resample(source, 8.0))
    assert len(lines) == len(ticks) == 16
    state, rows = model.initial_state(), []
    for line, tick in zip(lines, ticks):
        logits, state = model.step(letterbox(tick.timed.frame, 32, 48), state)
        rows.append(logits)
        assert line["frame"] == tick.timed.index
        assert line["time_s"] == pytest.approx(tick.timed.time_s, abs=1e-4)
        assert line["latency_ms"] > 0
        assert line["reset"] is False
        exponents = np.exp(logits.astype(np.float64))
        expected = sorted(zip(exponents / exponents.sum(), LABELS), reverse=True)[:2]
        assert [entry["label"] for entry in line["top"]] == [label for _, label in expected]
        assert [entry["probability"] for entry in line["top"]] == pytest.approx([p for p, _ in expected], abs=1e-5)
    decision = LABELS[clip_decision(np.stack(rows))]
    assert last == {
        "summary": {
            "seen": 50,
            "steps": 16,
            "resets": 0,
            "missed": 0,
            "largest_state": pytest.approx(max(float(np.abs(part).max()) for part in (state.h, state.c)), abs=1e-4),
            "decision": decision,
            "shortfall": None,
            "engine": model.engine.name,
        }
    }
    text = captured.err.splitlines()
    assert len(text) == 16 + 2
    assert text[-2].startswith("50 frames seen, 16 stepped, 0 resets")
    assert text[-1] == f"clip: {decision}"


def test_json_lines_in_a_file_beside_the_text(
    bundle: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(bundle), "--source", str(video), "--frames", "4", "--json"]
    file, link = tmp_path / "lines.json", tmp_path / "link.json"
    link.symlink_to(file)
    for path in (file, link):
        file.write_text("an older run, longer than the new one\n" * 100)
        assert main([*command, str(path)]) == 0
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [set(line) == {"summary"} for line in lines] == [False] * 4 + [True]
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 4 + 2
        assert captured.err == ""
    assert link.is_symlink()
    assert main([*command, str(tmp_path / "missing" / "lines.json")]) == OutputError.exit_code
    assert "No such file" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_json_lines_that_cannot_be_written(bundle: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--source", str(video), "--json", "/dev/full"]) == OutputError.exit_code
    assert "cannot write /dev/full: No space left" in capsys.readouterr().err
    assert Path("/dev/full").is_char_device()


def test_text_and_stopping_early(bundle: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--source", str(video), "--frames", "3"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:4] == ["0.160", "s", "frame", "4"]
    probabilities = [float(text) for text in re.findall(r"[a-z] ([01]\.\d\d)\b", lines[1])]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=0.02)  # all three classes, two digits each
    assert lines[3].startswith("8 frames seen, 3 stepped")
    assert lines[4].startswith("clip: ")
    assert captured.err == ""


def test_an_internal_bundle_decides_as_the_explicit_one(
    tmp_path: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tops = []
    for mode in ("explicit", "internal"):
        folder = make_bundle(tmp_path / mode, "openvino", "graph", mode)
        assert main(["run", str(folder), "--source", str(video), "--json", "-"]) == 0
        tops.append([json.loads(line)["top"] for line in capsys.readouterr().out.splitlines()[:-1]])
    for ours, theirs in zip(*tops):
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [e["probability"] for e in ours] == pytest.approx([e["probability"] for e in theirs], abs=1e-5)


def test_a_gap_resets_the_state(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = write_video(tmp_path / "slow.mp4", 4, 0.5)  # 2 s between frames: every frame starts a stream
    assert main(["run", str(bundle), "--source", str(slow), "--json", "-"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()[:-1]]
    assert [line["reset"] for line in lines] == [False, True, True, True]
    assert captured.err.count("state reset at") == 3
    assert "3 resets" in captured.err
    model = load(bundle)
    with VideoSource(str(slow)) as source:
        last = list(source)[-1].frame
    logits, _ = model.step(letterbox(last, 32, 48), model.initial_state())
    assert lines[-1]["top"][0]["label"] == LABELS[int(logits.argmax())]


def test_a_real_video(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = real_clip("bikes.mp4")
    assert main(["run", str(bundle), "--source", str(path), "--json", "-"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()[:-1]]
    capture = cv2.VideoCapture(str(path))
    frames, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    assert abs(len(lines) - frames / fps * 8) <= 1
    assert "0 resets" in captured.err
    gaps = np.diff([line["time_s"] for line in lines])
    assert abs(float(gaps.mean()) - 1 / 8) < 0.005


@pytest.mark.parametrize(
    ("arguments", "status", "hint"),
    [
        (["--source", "missing.mp4"], 2, "does not exist"),
        (["--source", "97"], 2, "no camera 97"),
        (["--source", "97", "--frames", "0"], 2, "--frames must be at least 1"),
        (["--source", "97", "--top", "-1"], 2, "--top must be at least 1"),
        (["--source", "97", "--threads", "0"], 2, "--threads must be at least 1"),
    ],
)
def test_errors_are_one_line(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, hint: str
) -> None:
    assert main(["run", str(bundle), *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert hint in captured.err
    assert captured.err.count("\n") == 1


def _start(bundle: Path, video: Path | str, *more: str) -> subprocess.Popen[str]:
    # A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; import sys; from lcr_edge.cli import main; sys.exit(main(['run', *sys.argv[1:]]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(bundle), "--source", str(video), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_service_manager_end_it_cleanly(number: int, bundle: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mp4", 3000, 8)  # its lines fill the pipe: the process waits for us
    with _start(bundle, video) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert " frame " in process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert "frames seen" in rest
    assert "3000 stepped" not in rest
    assert "Traceback" not in errors


def test_a_closed_pipe_ends_quietly(bundle: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mp4", 3000, 8)
    with _start(bundle, video) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE, errors  # as a shell shows it of any program
    assert errors == ""


def test_a_file_is_kept_where_the_run_cannot_begin(
    bundle: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, film = tmp_path / "old.json", video.read_bytes()
    old.write_text("old")
    assert main(["run", str(bundle), "--source", str(tmp_path / "none.mp4"), "--json", str(old)]) == 2
    assert old.read_text() == "old"
    assert main(["run", str(bundle), "--source", str(video), "--json", str(video)]) == 2
    assert video.read_bytes() == film
    assert "is the source itself" in capsys.readouterr().err


def test_names_that_are_no_files(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--source", "/dev/null"]) == 2
    assert "is not a regular file" in capsys.readouterr().err
    assert main(["run", str(bundle), "--source", "x\udcff.mp4"]) == 2  # bytes that are not UTF-8, as Python has them
    assert "is not UTF-8: rename the file" in capsys.readouterr().err


def test_frames_stored_in_another_order_are_no_gap() -> None:
    """OpenCV gives such a file's times as they are stored (H.264 with B-frames)."""
    clock = _file_clock(30.0, "film.mp4")
    times = [clock(stored) for stored in (0.0, 0.101, 0.067, 0.134, 0.034, 0.234)]
    assert times == [0.0, 0.101, 0.101, 0.134, 0.134, 0.234]
    assert [tick.gap for tick in resample(at(times), 8.0)] == [None] * len(indices(times, 8.0))
    assert clock(-20.0) == -20.0  # another film behind the first
