"""Several sources on one model: each computes what it computes alone, and none holds up the others."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import SourceLostError
from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.follow import follow
from lcr_edge.runtimes.live.stream import Stream, Turns
from lcr_edge.runtimes.video import TimedFrame, VideoSource
from tests.clips import CLIPS, real_clip
from tests.runtimes.toy import make_bundle

pytest.importorskip("cv2")
from tests.data.network_camera import network_camera
from tests.runtimes.test_run import _start

STEPS = 12


def probabilities(stream: Stream) -> npt.NDArray[np.float32]:
    return np.stack([step.probabilities for step in itertools.islice(stream.steps(), STEPS)])


@pytest.mark.parametrize(
    ("target", "batch"), [("onnx", 1), ("onnx", 3), ("openvino", 1), ("openvino", 3), ("tflite", 1)]
)
def test_eight_streams_equal_eight_alone(target: str, batch: int, tmp_path: Path) -> None:
    """In turn, or as many in a call as the bundle takes."""
    model = load(make_bundle(tmp_path / "bundle", target, "host", batch=batch), threads=1)
    clips = [str(real_clip(name)) for name in CLIPS] * 2
    alone = []
    for clip in clips[:4]:
        with VideoSource(clip) as source:
            alone.append(probabilities(Stream(model, source, None)))
        model.reset()
    assert not np.array_equal(alone[0], alone[1])
    turns, found = Turns() if batch == 1 else None, [np.empty(0, np.float32)] * len(clips)

    def follow(number: int) -> None:
        with VideoSource(clips[number]) as source:
            found[number] = probabilities(Stream(model, source, None, turns))

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, stepped in enumerate(found):
        np.testing.assert_array_equal(stepped, alone[number % 4])


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns, order = Turns(), []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    with turns:
        for asked, thread in enumerate(threads, start=2):
            thread.start()
            while turns._given < asked:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_a_lost_camera_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    with network_camera(50.0) as good, network_camera(200.0, frames=30) as bad:
        call = ["run", str(bundle), "--source", bad, "--source", good, "--frames", "8", "--retry", "0"]
        code = main([*call, "--json", str(tmp_path / "lines")])
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    steps = {
        address: [line for line in lines if line["source"] == address and "top" in line] for address in (good, bad)
    }
    assert code == 1
    assert len(steps[good]) == 8
    assert len(steps[bad]) < 8
    assert [line["state"] for line in lines if "state" in line] == ["lost"]
    summaries = {line["source"]: line["summary"] for line in lines if "summary" in line}
    assert summaries[good]["steps"] == 8
    assert f"{good}: " in captured.out
    assert captured.err.endswith(f"error: {bad} is lost: it gives no more frames\n")


def test_one_source_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    assert main(["run", str(bundle), "--source", clip, "--source", clip, "--frames", "3", "--json", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    one, two = ([line for line in lines if line["source"] == f"{clip} #{number}"] for number in (1, 2))
    assert len(one) == len(two) == 4
    assert [line["top"] for line in one[:3]] == [line["top"] for line in two[:3]]


def test_a_camera_is_released_by_the_thread_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released by another one, a read that hangs could crash."""
    bundle, by, close = make_bundle(tmp_path / "bundle", "onnx"), [], VideoSource.close

    def watched(source: VideoSource) -> None:
        by.append(threading.current_thread())
        close(source)

    monkeypatch.setattr(VideoSource, "close", watched)
    with network_camera(50.0) as address:
        assert main(["run", str(bundle), "--source", address, "--frames", "2"]) == 0
    assert by
    assert threading.main_thread() not in by


def test_the_end_of_many(tmp_path: Path) -> None:
    """SIGTERM ends all of them, with a summary each; a reader that goes away ends them quietly."""
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), real_clip("bikes.mp4")
    with network_camera(50.0) as one, network_camera(50.0) as two:
        with _start(bundle, one, "--source", two) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            seen: set[str] = set()
            while len(seen) < 2:
                seen.add(process.stdout.readline().split(": ")[0])
            process.send_signal(signal.SIGTERM)
            rest, errors = process.stdout.read(), process.stderr.read()
        assert process.returncode == 0, errors
        assert rest.count("frames seen") == 2
        with _start(bundle, one, "--source", str(clip)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            errors = process.stderr.read()
        assert process.returncode == 128 + signal.SIGPIPE, errors
        assert errors == ""


class Recorded:
    """An observer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __getattr__(self, what: str) -> Any:
        return lambda name, *more: self.told.append((what, name)) if what != "events" or more[0] else None


@pytest.mark.parametrize("lost", [False, True])
def test_what_lasts_ends_with_its_source(lost: bool, tmp_path: Path) -> None:
    """Not when the others are over too; and before the source is said to be lost."""
    model = load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)

    class Short:
        seen = 0

        def __iter__(self) -> Iterator[TimedFrame]:
            for index in range(8):
                yield TimedFrame(np.full(model.frame_shape, 40, np.uint8), index / 8, index)
            if lost:
                raise SourceLostError("gone")

    stream = Stream(model, Short(), EventFinder(model.labels, EventRules(enter=0.2, leave=0.1, min_s=0.25)))
    observer: Any = Recorded()
    failure = follow({"door": stream}, observer, None)
    assert (failure is not None) is lost
    told = [what for what, _ in observer.told if what != "step"]
    assert told == ["events", "events", *(["failed"] if lost else [])]
    assert stream.end() == ()
