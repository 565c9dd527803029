"""``--record``: what is in the videos of events, and what happens to folders and disks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import OutputError, UsageError
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.live.archive import Archive
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.footage import MAX_SIDE, probe, shrunk
from lcr_edge.runtimes.live.recording import Recorder
from lcr_edge.runtimes.live.reel import Window
from lcr_edge.runtimes.live.stream import Step
from lcr_edge.runtimes.video import Tick
from lcr_edge.video import TimedFrame, VideoSource
from tests.runtimes.test_run import ROOT, write_video
from tests.runtimes.toy import make_bundle

pytest.importorskip("cv2")
WINDOW = Window(before=2.0, after=1.0, longest=60.0, known=0.25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_bundle(tmp_path_factory.mktemp("recording") / "toy", "onnx"), threads=1)


def step(number: int, gap: str | None = None, lag_s: float | None = 0.0) -> Step:
    """A step at ``number`` eighths of a second, of a frame that shows it: six bars that are black or white."""
    bars = [255 * (number >> bit & 1) for bit in range(6)]
    frame = np.repeat(np.asarray(bars, np.uint8), 16)[None, :, None].repeat(48, 0).repeat(3, 2)
    tick = Tick(TimedFrame(frame, number / 8, number), gap)
    return Step(tick, np.zeros(3, np.float32), 0.0, lag_s, ())


def event(start: float, end: float | None = None, number: int = 1, label: str = "left", cut: bool = False) -> Event:
    return Event(number, label, start / 8, None if end is None else end / 8, 0.9, cut)


def play(recorder: Recorder, numbers: range, events: Mapping[int, Event] | None = None, name: str = "door") -> None:
    """Steps, and after some of them an event, as a run tells it."""
    for number in numbers:
        recorder.step(name, step(number))
        if events and number in events:
            recorder.events(name, [events[number]])


def numbers(video: Path) -> list[int]:
    """Which frames are in a video."""
    with VideoSource(str(video)) as source:
        frames = [timed.frame[24, 8::16, 0] > 127 for timed in source]
    return [sum(1 << bit for bit, white in enumerate(bars) if white) for bars in frames]


def videos(folder: Path) -> list[tuple[list[int], dict[str, Any]]]:
    """The frames and the descriptions of the recordings, by source and number of the event."""
    found = []
    for video in folder.glob("*.mp4"):
        about = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
        assert about["video"] == video.name
        found.append((numbers(video), about))
        assert about["frames"] == len(found[-1][0])
    return sorted(found, key=lambda one: (one[1]["source"], one[1]["event"]["number"]))


def made(folder: Path, model: Model, window: Window = WINDOW, **more: Any) -> Recorder:
    return Recorder(Archive(folder, 1e9, **more), window, model)


def test_what_was_before_and_after_an_event_is_in_its_video(tmp_path: Path, model: Model) -> None:
    recorder = made(tmp_path, model)
    play(recorder, range(50), {22: event(20), 31: event(20, 30)})
    recorder.close()
    ((found, about),) = videos(tmp_path)
    assert found == list(range(4, 39))
    assert about["source"] == "door"
    assert about["event"] == event(20, 30).to_dict()
    assert (about["video_start_s"], about["video_end_s"], about["fps"]) == (0.5, 4.75, 8.0)
    assert about["bundle"]["files"]["model.onnx"] == model.manifest["files"]["model.onnx"]["sha256"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".json", ".mp4"]


def test_each_event_of_each_source_has_a_video(tmp_path: Path, model: Model) -> None:
    recorder = made(tmp_path, model)
    two = {22: event(20), 31: event(20, 30), 34: event(32, number=2, label="right"), 41: event(32, 40, 2, "right")}
    play(recorder, range(60), two)
    play(recorder, range(60), {2: event(0), 5: event(0, 4)}, name="../../etc/yard: \n*ü")
    recorder.close()
    found = {(about["source"], about["event"]["number"]): frames for frames, about in videos(tmp_path)}
    assert found == {
        ("door", 1): list(range(4, 39)),
        ("door", 2): list(range(16, 49)),
        ("../../etc/yard: \n*ü", 1): list(range(13)),
    }
    assert {path.parent for path in tmp_path.rglob("*.mp4")} == {tmp_path}


def test_a_cut_ends_a_video(tmp_path: Path, model: Model) -> None:
    recorder = made(tmp_path, model)
    play(recorder, range(25), {22: event(20)})
    recorder.step("door", step(40, gap="1.9 s without a frame"))
    recorder.events("door", [event(20, 24, cut=True)])
    play(recorder, range(41, 50), {43: event(41, number=2)})
    recorder.state("door", "waiting", "no frame for 5 s")
    play(recorder, range(50, 55))
    recorder.close()
    (one, about), (two, _) = videos(tmp_path)
    assert one == list(range(4, 25))
    assert about["event"]["cut"] is True
    assert two == list(range(40, 50))


def test_frames_that_come_late_are_shown_late(tmp_path: Path, model: Model) -> None:
    recorder = made(tmp_path, model)
    recorder.step("door", step(0))
    recorder.step("door", step(2))
    recorder.events("door", [event(0)])
    recorder.step("door", step(6))
    recorder.close()
    ((found, about),) = videos(tmp_path)
    assert found == [0, 0, 2, 2, 2, 2, 6]
    assert about["event"]["event"] == "start"  # its end was never known


def test_the_longest_video(tmp_path: Path, model: Model) -> None:
    recorder = made(tmp_path, model, Window(before=2.0, after=1.0, longest=3.0, known=0.25))
    play(recorder, range(55), {22: event(20), 50: event(20, 49)})
    recorder.close()
    ((found, about),) = videos(tmp_path)
    assert found == list(range(4, 29))
    assert about["event"]["end_s"] is None


def test_frames_of_any_size() -> None:
    large = np.zeros((1081, 1921, 3), np.uint8)
    assert shrunk(large).shape == (MAX_SIDE * 1081 // 1921 // 2 * 2, MAX_SIDE, 3)
    assert shrunk(large[:101, :201]).shape == (100, 200, 3)
    assert shrunk(large[:1, :1900]).shape == (2, MAX_SIDE, 3)


def test_the_oldest_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    archive = Archive(tmp_path, 250_000)
    names = [archive.new_name(1e9 + age, "door", "left") for age in range(5)]
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(bytes(99_000))
        (tmp_path / f"{name}.json").write_bytes(bytes(1_000))
    others = ["film.mp4", "lcr-film.mp4", f"{names[0]}.mkv", f"x{names[0]}.mp4", f"{names[0]}.mp4.bak"]
    for name in others:
        (tmp_path / name).write_bytes(bytes(99_000))
    (tmp_path / "elsewhere").write_bytes(bytes(99_000))
    (tmp_path / f"{names[0][:-1]}z.mp4").symlink_to(tmp_path / "elsewhere")
    assert archive.keep_quota() == 3
    left = {path.name for path in tmp_path.iterdir()}
    assert {path.rpartition(".")[0] for path in left if path.endswith(("json",))} == set(names[3:])
    assert set(others) <= left
    archive = Archive(tmp_path / "small", 10)
    (tmp_path / "small" / f"{names[0]}.mp4").write_bytes(bytes(99))
    assert archive.keep_quota() == 0  # the newest is kept


def test_a_folder_belongs_to_one_process_and_is_tidied(tmp_path: Path) -> None:
    archive = Archive(tmp_path, 1e9)
    name = archive.new_name(1e9, "door", "left")
    left = [f".{name}.mp4", f".{name}.json.{'a' * 16}.tmp.json"]
    kept = [f"{name}.mp4", ".film.mp4", f".{name}.json"]
    for file in (*left, *kept):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UsageError, match="another process is using the folder"):
        Archive(tmp_path, 1e9)
    archive.close()
    Archive(tmp_path, 1e9).close()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", *kept}


def test_a_full_disk_stops_the_recordings_and_not_the_run(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = made(tmp_path, model, reserve=10**18)
    play(recorder, range(50), {22: event(20), 31: event(20, 30), 40: event(38, number=2), 42: event(38, 41, 2)})
    while recorder._waiting:
        time.sleep(0.001)
    recorder._archive._reserve = 0
    play(recorder, range(50, 70), {52: event(50, number=3), 56: event(50, 55, 3)})
    recorder.close()
    errors = capsys.readouterr().err
    assert errors.count("recording stopped: the disk of") == 1
    assert "recording goes on" in errors
    assert f"1 recording in {tmp_path}, 2 could not be made" in errors
    assert len(list(videos(tmp_path))) == 1


def test_a_file_that_the_system_cuts_off_is_no_recording(tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of a video."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from lcr_edge.errors import OutputError
from lcr_edge.runtimes.live.footage import Footage
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
footage = Footage(Path(sys.argv[1]) / "x.mp4", 8.0, (320, 240))
for number, picture in enumerate(np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)):
    footage.add(number / 8, picture)
try:
    footage.finish({})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "of 40 frames arrived; the disk may be full" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_does_not_hold_up_the_steps(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, answer, asked = Archive(tmp_path, 1e9), threading.Event(), threading.Event()
    look = archive.has_space

    def slow() -> bool:
        asked.set()
        return answer.wait(60) and look()

    archive.has_space = slow  # type: ignore[method-assign]
    recorder = Recorder(archive, WINDOW, model, queue_bytes=10 * 48 * 96 * 3)
    play(recorder, range(4), {3: event(0)})
    assert asked.wait(60)
    play(recorder, range(4, 40), {38: event(0, 37)})  # comes back although the disk does not answer
    assert recorder.tally.missing == 26
    film = threading.Thread(target=lambda: recorder.step("film", step(0, lag_s=None)))
    film.start()  # a film waits
    answer.set()
    film.join()
    recorder.close()
    assert "26 frames left out because the disk was slow" in capsys.readouterr().err
    ((found, _),) = videos(tmp_path)
    assert found == list(range(14))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="--record"):
        Archive(tmp_path / "file", 1e9)
    with pytest.raises(UsageError, match="not UTF-8"):
        Archive(tmp_path / "\udcff", 1e9)
    probe(tmp_path / "x.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_run_records_its_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, film = make_bundle(tmp_path / "toy", "onnx"), write_video(tmp_path / "film.mp4", 60, 8.0)
    call = ["run", str(bundle), "--source", str(film), "--source", str(film), "--json", str(tmp_path / "lines")]
    call += ["--enter", "0.01", "--leave", "0.01", "--record-before", "1", "--record", str(tmp_path / "clips")]
    assert main(call) == 2
    assert "--record is about events: add --events" in capsys.readouterr().err
    assert main([*call, "--events"]) == 0
    errors = capsys.readouterr().err
    events = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    ends = [line for line in events if line.get("event") == "end"]
    assert len(ends) == len(list((tmp_path / "clips").glob("*.mp4"))) >= 2
    assert f"{len(ends)} recordings in" in errors
    for _, about in videos(tmp_path / "clips"):
        source, said = about["source"], about["event"]
        assert {"source": source, **said} in ends
        assert about["video_start_s"] == pytest.approx(max(0.0, said["start_s"] - 1), abs=0.13)
    assert main([*call, "--events", "--record-quota", "0"]) == 2
    assert "--record-quota must be from 1 to 1e+09" in capsys.readouterr().err


def test_a_killed_run_leaves_one_file_that_the_next_one_removes(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import numpy as np
from lcr_edge.runtimes.live.archive import Archive
from lcr_edge.runtimes.live.footage import Footage
archive = Archive(Path(sys.argv[1]), 1e9)
footage = Footage(archive.folder / (archive.new_name(1e9, "door", "left") + ".mp4"), 8.0, (64, 48))
footage.add(0.0, np.zeros((48, 64, 3), np.uint8))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -9
    left = [path.name for path in tmp_path.iterdir() if path.name != ".lock"]
    assert len(left) == 1
    assert left[0].startswith(".lcr-")
    Archive(tmp_path, 1e9).close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
