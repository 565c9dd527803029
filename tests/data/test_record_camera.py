"""lcr-edge record on a camera: measured rates, countdown, questions, a camera that goes, signals."""

from __future__ import annotations

import math
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lcr_edge.cli import main
from lcr_edge.data.encode import write_video
from lcr_edge.data.record import footage
from lcr_edge.data.record.footage import Camera, Film
from lcr_edge.errors import VideoError
from lcr_edge.frames import Frame
from lcr_edge.video import TimedFrame, VideoSource
from tests.clips import frames, real_clip
from tests.data.network_camera import network_camera

ROOT = Path(__file__).resolve().parents[2]
CLIP = "carphone_pristine.mp4"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less waiting; processes of their own wait as users do."""
    monkeypatch.setattr(footage, "WARM_UP_S", 0.1)
    monkeypatch.setattr(footage, "STALL_S", 1.0)
    monkeypatch.setattr("lcr_edge.data.record.session.WARM_UP_S", 0.1)


class Watched(VideoSource):
    """A file whose frames arrive at given times, in seconds: the clock of a camera, made repeatable."""

    def __init__(self, times: Sequence[float], large_from: int = 1000) -> None:
        super().__init__(str(real_clip(CLIP)))
        self.live = True
        self._times, self._large_from = times, large_from

    def __iter__(self) -> Iterator[TimedFrame]:
        for timed, time_s in zip(super().__iter__(), self._times):
            picture = timed.frame if timed.index < self._large_from else timed.frame[:100]
            yield TimedFrame(picture, time_s, timed.index)


def nothing(_: Frame | None) -> None:
    pass


def clip_at(times: Sequence[float], seconds: float, **more: int) -> footage.Clip:
    camera = Camera(Watched(times, **more), 640)
    try:
        return camera.clip(seconds, nothing)
    finally:
        camera.close()


def duration(path: Path) -> float:
    with VideoSource(str(path)) as source:
        return source.frame_count / source.fps


@pytest.mark.parametrize(
    ("times", "count", "fps"),
    [
        ([k / 30 for k in range(40)], 30, 30.0),
        ([k / 12 for k in range(40)], 12, 12.0),  # the source says 29.97
        ([3600 + k / 7.7 for k in range(40)], 8, 7.7),
        ([0.0, 0.1, 0.15, 0.4, 0.45, 0.6, 0.9, 0.95, 1.05, 1.4], 7, 7 / 0.95),
    ],
)
def test_a_clip_lasts_as_long_as_it_took(times: list[float], count: int, fps: float, tmp_path: Path) -> None:
    clip = clip_at(times, 1.0)
    assert len(clip.frames) == count
    assert clip.fps == pytest.approx(fps)
    write_video(tmp_path / "x.mp4", clip.frames, clip.fps)
    assert duration(tmp_path / "x.mp4") == pytest.approx(times[count] - times[0], rel=1e-3)


def test_what_training_cannot_read_is_refused() -> None:
    with pytest.raises(VideoError, match=r"gives 0\.50 frames a second, and training reads 1 to 240"):
        clip_at([0.0, 2.0, 4.0], 1.0)
    with pytest.raises(VideoError, match="changes the size of its frames"):
        clip_at([k / 10 for k in range(20)], 1.0, large_from=5)
    with pytest.raises(VideoError, match="has stopped giving frames"):
        clip_at([0.0, 0.1, 0.2], 1.0)


def test_the_clips_of_a_file_lose_no_frame_between_them() -> None:
    source = VideoSource(str(real_clip(CLIP)))
    film = Film(source, 640)
    counts = [len(film.clip(place * 0.65, 0.65, nothing).frames) for place in range(5)]
    film.close()
    assert sum(counts) == math.ceil(5 * 0.65 * 29.97)
    assert set(counts) == {19, 20}


@pytest.mark.slow
def test_a_network_camera_is_recorded_at_the_rate_that_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--clips", "2", "--seconds", "1", "--countdown", "1", "--classes", "wave"]
    with network_camera(12.0) as address:
        with VideoSource(address) as source:
            assert source.fps == 25.0, "a camera that lies"
        assert main(["record", "--out", str(tmp_path), "--source", address, *options]) == 0
    shown = capsys.readouterr()
    assert shown.err == "wave 1 of 2: 1 recording\nwave 2 of 2: 1 recording\n"
    assert f" fps -> {tmp_path}/val/wave/002.mp4" in shown.out
    for path in (tmp_path / "train/wave/001.mp4", tmp_path / "val/wave/002.mp4"):
        # Wide enough for a busy machine, and far from 12 frames at 25 a second.
        assert 0.8 < duration(path) < 1.5


def test_start_is_for_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with network_camera(20.0) as address:
        assert main(["record", "--out", str(tmp_path), "--source", address, "--classes", "a", "--start", "1"]) == 2
    assert "--start is a place in a video file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
def test_a_camera_that_goes_leaves_the_clips_before(
    hangs: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--clips", "9", "--seconds", "0.5", "--countdown", "0", "--classes", "wave"]
    with network_camera(20.0, frames=32, hangs=hangs) as address:
        begin = time.monotonic()
        assert main(["record", "--out", str(tmp_path), "--source", address, *options]) == 1
        assert time.monotonic() - begin < 20
    shown = capsys.readouterr()
    assert ("has given no frame for 1 s" if hangs else "has stopped giving frames") in shown.err
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 1 <= len(found) <= 3
    assert f"what was recorded is kept: {len(found)} of 9 clips are there. To go on:" in shown.out
    assert all(path.suffix == ".mp4" and not path.name.startswith(".") for path in found)


def spawn(*words: str, stdin: int | None = None) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "lcr_edge", "record", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(call, cwd=ROOT, stdin=stdin, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drops_the_clip_in_progress(number: signal.Signals, tmp_path: Path) -> None:
    with network_camera(20.0) as address:
        options = ["--classes", "a,b", "--clips", "2", "--seconds", "0.5", "--countdown", "0", "--source", address]
        process = spawn("--out", str(tmp_path), *options)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("a 1 of 2: ")
        process.send_signal(number)
        printed, errors = process.communicate()
        assert process.returncode == 128 + number, errors
        assert "stopping: the clip in progress is dropped" in errors
        assert "Traceback" not in errors
        found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert found[0] == "train/a/001.mp4"
        assert all(name.endswith("mp4") and "/." not in name for name in found)
        note, command = printed.splitlines()[-2:]
        assert note == f"stopped: {len(found)} of 4 clips are there. To go on:"
        assert main(shlex.split(command)[1:]) == 0
    assert len(list(tmp_path.glob("*/*/*.mp4"))) == 4


def answered(answers: Sequence[tuple[str, str]], *words: str) -> tuple[int, str, str]:
    """Run on a terminal: each answer is typed when stderr shows the text before it. Exit code, stdout, stderr."""
    ours, theirs = pty.openpty()
    process = spawn(*words, stdin=theirs)
    assert process.stderr is not None
    os.close(theirs)
    shown = ""
    for wait_for, typed in answers:
        seen = ""
        while wait_for not in seen:
            letter = process.stderr.read(1)
            assert letter, shown + seen
            seen += letter
        shown += seen
        os.write(ours, typed.encode())
    out, rest = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, out, shown + rest


@pytest.mark.slow
def test_review_of_a_camera(tmp_path: Path) -> None:
    with network_camera(20.0) as address:
        options = ["--classes", "a", "--clips", "3", "--seconds", "0.5", "--countdown", "0", "--source", address]
        answers = [
            (" frames: [k]eep, [r]edo, [p]lay again, [q]uit? ", "r\n"),
            ("[q]uit? ", "what\n"),
            ("[q]uit? ", "p\n"),
            ("[q]uit? ", "keep\n"),
            ("a 2 of 3, ", ""),
            ("[q]uit? ", "q\n"),
        ]
        code, out, errors = answered(answers, "--review", "--out", str(tmp_path), *options)
    assert code == 1, errors
    assert errors.count("a 1 of 3: recording") == 2
    assert "there is no window to play it in: start with --preview" in errors
    assert "stopped: 1 of 3 clips are there. To go on:" in out
    assert [path.name for path in tmp_path.rglob("*.mp4")] == ["001.mp4"]


def test_review_of_a_file(tmp_path: Path) -> None:
    """A part that is left out stays missing, and the parts after it stay the same."""
    options = ["--classes", "a", "--clips", "3", "--seconds", "0.5", "--source", str(real_clip(CLIP))]
    answers = [("[q]uit? ", "k\n"), ("[l]eave out, [p]lay again, [q]uit? ", "l\n"), ("[q]uit? ", "k\n")]
    code, out, errors = answered(answers, "--review", "--out", str(tmp_path), *options)
    assert code == 1, errors
    assert out.splitlines()[-1] == "left out, and missing: 1 of a"
    assert sorted(path.name for path in tmp_path.rglob("*.mp4")) == ["001.mp4", "003.mp4"]
    third = frames(tmp_path / "train/a/003.mp4", 1)[0].astype(int)
    assert abs(third - frames(real_clip(CLIP), 31)[30]).mean() < abs(third - frames(real_clip(CLIP), 16)[15]).mean()


def test_a_signal_at_a_question_stops(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["--out", str(tmp_path), "--classes", "a", "--source", str(real_clip(CLIP)), "--review", "--start", "0.5"]
    process = spawn(*words, stdin=theirs)
    assert process.stderr is not None
    while process.stderr.read(1) != "?":
        pass
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert out.splitlines()[-1].endswith("--review --start 0.5")


def test_after_a_start_of_ones_own_the_printed_command_goes_on_behind_it(tmp_path: Path) -> None:
    options = ["--classes", "a", "--source", str(real_clip(CLIP)), "--seconds", "0.5", "--clips", "3", "--start=0.5"]
    answers = [("[q]uit? ", "k\n"), ("[q]uit? ", "q\n")]
    code, out, errors = answered(answers, "--review", "--out", str(tmp_path), *options)
    assert code == 1, errors
    assert out.splitlines()[-1].endswith("--clips 3 --start 1")
