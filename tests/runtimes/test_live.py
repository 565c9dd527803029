"""Live sources that end, hang and vanish: a real camera server, read by OpenCV over HTTP."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import SourceLostError
from lcr_edge.runtimes.live.sources import LiveSource, Patience
from lcr_edge.runtimes.video import resample
from lcr_edge.video import TimedFrame, VideoSource, name_of
from tests.clips import real_clip
from tests.runtimes.toy import make_bundle

pytest.importorskip("cv2")
from tests.data.network_camera import network_camera

FEW = 30  # frames of one connection; FFmpeg looks at some before it hands out the first


def some(source: LiveSource, count: int) -> list[TimedFrame]:
    return list(itertools.islice(source, count))


def test_the_newest_frame_counts() -> None:
    with network_camera(100.0) as address, LiveSource(VideoSource(address)) as source:
        found = []
        for timed in source:
            found.append(timed)
            if len(found) == 4:
                break
            before = source.seen
            while source.seen < before + 3:  # as a slow step would
                time.sleep(0.01)
        assert source.lag_s(found[-1]) >= 0
        assert source.seen > found[-1].index
    indices = [timed.index for timed in found]
    assert all(later - earlier >= 3 for earlier, later in zip(indices, indices[1:]))
    assert [timed.cut for timed in found] == [None] * 4
    assert source.connections == 1


def test_a_source_that_ends_is_opened_again() -> None:
    said: list[str] = []
    with network_camera(200.0, frames=FEW) as address:
        source = LiveSource(VideoSource(address), Patience(first_wait_s=0.01), lambda state, _: said.append(state))
        with source:
            found = []
            for timed in source:
                found.append(timed)
                if source.connections == 3 and timed.cut is None:
                    break
    cuts = [timed for timed in found if timed.cut]
    assert len(cuts) == 2
    assert {timed.cut for timed in cuts} == {"the source was opened again"}
    assert said == ["waiting", "live"] * 2
    # One clock and one count through all connections.
    times, indices = [timed.time_s for timed in found], [timed.index for timed in found]
    assert times == sorted(times)
    assert indices == sorted(set(indices))
    assert found[-1].index >= 2 * (FEW // 2)
    assert all(tick.gap == tick.timed.cut for tick in resample(found, 1000.0, live=True) if tick.timed.cut)


def test_a_silent_source_is_opened_again() -> None:
    said: list[str] = []
    with network_camera(200.0, frames=FEW, hangs=True) as address:
        source = LiveSource(
            VideoSource(address), Patience(stall_s=0.5, first_wait_s=0.01), lambda _, sentence: said.append(sentence)
        )
        with source:
            cut = next(timed for timed in source if timed.cut)
    assert cut.index > 0
    assert said[0].startswith("no frame for")


def test_a_source_that_does_not_come_back_is_lost() -> None:
    said: list[str] = []
    with network_camera(200.0, frames=FEW) as address:
        first = VideoSource(address)
    source = LiveSource(first, Patience(first_wait_s=0.1, retry_s=1.0), lambda _, sentence: said.append(sentence))
    begin = time.monotonic()
    with source, pytest.raises(SourceLostError, match=r"is lost: .*did not come back within .* s, see --retry"):
        list(source)
    assert time.monotonic() - begin >= 1.0  # the last try is at the limit, it is not given up before
    waits = [float(sentence.split(" in ")[-1].split()[0]) for sentence in said]
    assert waits[:2] == [0.1, 0.2]


def test_without_retries_the_end_is_the_end() -> None:
    said: list[str] = []
    with network_camera(200.0, frames=FEW) as address:
        source = LiveSource(VideoSource(address), Patience(retry_s=0.0), lambda state, _: said.append(state))
        with source, pytest.raises(SourceLostError, match="it gives no more frames"):
            list(source)
    assert said == []


def test_a_camera_that_comes_back_resets_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    with network_camera(100.0, frames=FEW) as address:
        # A connection has 0.3 s of frames, and 12 steps at 8 a second take longer.
        code = main(["run", str(bundle), "--source", address, "--frames", "12", "--json", "-"])
    captured = capsys.readouterr()
    assert code == 0
    lines = [json.loads(line) for line in captured.out.splitlines()]
    steps = [line for line in lines if "top" in line]
    states = [line["state"] for line in lines if "state" in line]
    assert len(steps) == 12
    assert sum(step["reset"] for step in steps) == lines[-1]["summary"]["resets"] >= 1
    assert lines[-1]["summary"]["reconnections"] == states.count("waiting") >= states.count("live") >= 1
    assert all(step["lag_ms"] >= 0 for step in steps)
    assert "opened again in 0.5 s" in captured.err
    assert "state reset at" in captured.err


def test_a_lost_camera_is_a_failure_after_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    with network_camera(100.0, frames=FEW) as address:
        code = main(["run", str(bundle), "--source", address, "--retry", "0"])
    captured = capsys.readouterr()
    assert code == 1
    assert "0 reconnections" in captured.out
    assert captured.err.endswith(f"error: {address} is lost: it gives no more frames\n")


def test_a_camera_of_another_size_cuts_the_stream() -> None:
    with network_camera(100.0) as address, LiveSource(VideoSource(address)) as source:
        one, two = some(source, 2)
    smaller = TimedFrame(two.frame[::2, ::2], two.time_s, two.index)
    gaps = [tick.gap for tick in resample([one, smaller], 1000.0, live=True)]
    assert gaps == [None, "frames of 176 x 144 became frames of 88 x 72"]


@pytest.mark.parametrize("seconds", ["-1", "nan"])
def test_seconds_of_retrying(seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    assert main(["run", str(bundle), "--source", "0", "--retry", seconds]) == 2
    assert "--retry must be 0 or more seconds, or inf" in capsys.readouterr().err


def test_a_camera_that_is_off_at_the_start_is_waited_for(tmp_path: Path) -> None:
    bundle, film = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    with network_camera(100.0) as address:
        pass
    call = [
        "run",
        str(bundle),
        "--source",
        address,
        "--source",
        film,
        "--frames",
        "2",
        "--json",
        str(tmp_path / "lines"),
    ]
    code: list[int] = []
    run = threading.Thread(target=lambda: code.append(main([*call, "--wait-for-sources"])), daemon=True)
    run.start()
    end = time.monotonic() + 60
    while '"waiting"' not in ((tmp_path / "lines").read_text() if (tmp_path / "lines").exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.01)
    with network_camera(100.0, port=urlparse(address).port or 0):
        run.join(60)
    assert code == [0]
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert sum("top" in line and line["source"] == film for line in lines) == 2
    states = [line["state"] for line in lines if "state" in line]
    assert states[0] == "waiting"
    assert states[-1] == "live"
    assert sum("top" in line and line["source"] == address for line in lines) == 2
    assert main([*call, "--wait-for-sources", "--retry", "0"]) == 1
    assert main(call) == 2


def test_a_server_that_restarts_is_found_again() -> None:
    with network_camera(100.0) as address:
        source = LiveSource(VideoSource(address), Patience(first_wait_s=0.05))
        assert len(some(source, 2)) == 2
    with source, network_camera(100.0, port=urlparse(address).port or 0):
        assert next(timed for timed in source if timed.cut).index >= 2


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.2:554/stream", "rtsp://admin:***@10.0.0.2:554/stream"),
        ("http://admin:se:cr@et@cam/", "http://admin:***@cam/"),
        ("http://cam:8080/video?at=a:b@c", "http://cam:8080/video?at=a:b@c"),
        ("videos/a:b@c.mp4", "videos/a:b@c.mp4"),
        ("rtsp://admin:a/b@10.0.0.2/", "rtsp://admin:***@10.0.0.2/"),
        ("rtsp://admin@10.0.0.2/", "rtsp://admin@10.0.0.2/"),
        ("http://cam/v.cgi?user=me&pwd=secret&size=2", "http://cam/v.cgi?user=me&pwd=***&size=2"),
        ("http://[::1]:80/video", "http://[::1]:80/video"),
        ("0", "camera 0"),
        ("/dev/video12", "camera 12"),
    ],
)
def test_no_password_is_shown(source: str, shown: str) -> None:
    assert name_of(source) == shown


def test_no_password_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    assert main(["run", str(bundle), "--source", "http://admin:secret@127.0.0.1:9/"]) == 2
    captured = capsys.readouterr()
    assert "http://admin:***@127.0.0.1:9/" in captured.err
    assert "secret" not in captured.err + captured.out


def test_a_slow_device_is_no_gap_in_what_a_camera_gives() -> None:
    """Only pauses between frames that arrive count, those of dropped frames too."""
    picture = np.zeros((4, 4, 3), np.uint8)
    taken = [TimedFrame(picture, 2.0 * n, 60 * n, pause_s=0.033) for n in range(3)]
    assert [tick.gap for tick in resample(taken, 8.0, live=True)] == [None] * 3
    paused = [taken[0], TimedFrame(picture, 2.0, 60, pause_s=1.5)]
    assert [tick.gap for tick in resample(paused, 8.0, live=True)] == [None, "1.5 s without a frame"]
    with network_camera(50.0) as address, LiveSource(VideoSource(address)) as source:
        frames = iter(source)
        next(frames)
        seen = source.seen
        while source.seen < seen + 5:
            time.sleep(0.01)
        assert 0 < (next(frames).pause_s or 0.0) < 5.0


def test_an_error_of_any_kind_in_the_reading_thread_is_a_reason() -> None:
    class Broken(VideoSource):
        def __iter__(self) -> Iterator[TimedFrame]:
            raise ValueError("no such picture")

    with network_camera(50.0) as address:
        source = LiveSource(Broken(address), Patience(retry_s=0.0))
        with source, pytest.raises(SourceLostError, match=r"cannot be read \(ValueError: no such picture\)"):
            list(source)
