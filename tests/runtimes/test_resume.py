"""``--state-file``: states that are kept through a restart, bit for bit, and files that cannot be used."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcr_edge.arrays import npz_of
from lcr_edge.cli import main
from lcr_edge.errors import OutputError, UsageError
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.live.resume import Keeper
from lcr_edge.runtimes.live.stream import Step, Stream, Turns
from lcr_edge.video import TimedFrame
from tests.fuzz.damage import as_json, bounded, changed_arrays, changed_bytes, changed_json, npz
from tests.runtimes.toy import KINDS, clip, make_bundle

FRAMES = clip(12)
STOP = 7


class Camera:
    """Frames at the trained rate, as a live source gives them."""

    from_file = False

    live = True

    def __init__(self, address: str, frames: npt.NDArray[np.uint8]) -> None:
        self.address = self.name = address
        self._frames = frames
        self.seen = 0

    def lag_s(self, _timed: TimedFrame) -> float:
        return 0.0

    def __iter__(self) -> Iterator[TimedFrame]:
        for index, frame in enumerate(self._frames):
            yield TimedFrame(frame, index / 8, index)


def stream_of(
    model: Model, address: str = "rtsp://me:secret@cam/", turns: Turns | None = None, begin: int = 0
) -> Stream:
    camera: Any = Camera(address, FRAMES[begin:])
    stream = Stream(model, camera, None, turns)
    stream.live = camera
    return stream


def steps(keeper: Keeper, name: str, stream: Stream, count: int) -> list[Step]:
    found = []
    for step in itertools.islice(stream.steps(), count):
        keeper.step(name, step)
        found.append(step)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_bundle(tmp_path_factory.mktemp("resume") / "toy", "onnx"), threads=1)


def kept(path: Path, model: Model, name: str = "door", max_age_s: float = 3600) -> str:
    """Step a camera, stop in the middle, and write its state."""
    keeper, stream = Keeper(path, model, 60.0, max_age_s), stream_of(model, turns=Turns())
    keeper.begin(name, stream)
    steps(keeper, name, stream, STOP)
    keeper.ended(name, stream)
    keeper.close()
    return name


def said(path: Path, model: Model, capsys: pytest.CaptureFixture[str], max_age_s: float = 3600, **stream: Any) -> str:
    """What a run that begins with the file says about its camera."""
    capsys.readouterr()
    keeper = Keeper(path, model, 60.0, max_age_s)
    keeper.begin("door", stream_of(model, turns=Turns(), **stream))
    keeper.close()
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "kind", [*KINDS, ("openvino", "graph", "internal", "fp16"), ("onnx", "graph", "explicit", "int8")]
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_resumed_stream_goes_on_bit_for_bit(kind: tuple[str, str, str, str], alone: bool, tmp_path: Path) -> None:
    bundle, path = make_bundle(tmp_path / "toy", *kind), tmp_path / "state"
    if alone == (kind[1] == "host"):
        pytest.skip("enough with and without turns")
    turns = None if alone else Turns()
    whole = [step.probabilities for step in stream_of(load(bundle, threads=1), turns=turns).steps()]
    for begin, end in ((0, STOP), (STOP, len(FRAMES))):
        model = load(bundle, threads=1)
        keeper, stream = Keeper(path, model, 3600.0, 3600.0), stream_of(model, turns=turns, begin=begin)
        keeper.begin("door", stream)
        found = [step.probabilities for step in steps(keeper, "door", stream, end - begin)]
        keeper.ended("door", stream)
        keeper.close()
        np.testing.assert_array_equal(np.stack(found), np.stack(whole[begin:end]))
    fresh = next(stream_of(load(bundle, threads=1), begin=STOP).steps()).probabilities
    assert not np.array_equal(fresh, whole[STOP])


def test_several_cameras_of_which_one_is_new(tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    for names in (("door", "yard"), ("yard", "roof")):
        turns, keeper = Turns(), Keeper(path, model, 60.0, 3600.0)
        for name in names:
            stream = stream_of(model, f"http://cam/{name}", turns)
            keeper.begin(name, stream)
            steps(keeper, name, stream, 3)
            keeper.ended(name, stream)
        keeper.close()
    lines = [line.partition(" of ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[2:] == ["yard: goes on from its state", "roof: starts afresh: it is not in the state file"]


def test_a_state_is_written_while_the_camera_runs(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "state"
    keeper, stream = Keeper(path, model, 0.1, 3600.0), stream_of(model, turns=Turns())
    keeper.begin("door", stream)
    steps(keeper, "door", stream, 3)
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert path.exists()
    assert b"secret" not in path.read_bytes()
    keeper.close()


def test_states_that_are_too_old_or_of_something_else(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    assert said(path, model, capsys) == "door: starts afresh: there is no state file yet"
    kept(path, model)
    assert said(path, model, capsys).startswith("door: goes on from its state of ")
    assert "another source of this name" in said(path, model, capsys, address="rtsp://other/")
    other = load(make_bundle(tmp_path / "other", "onnx", "host"), threads=1)
    assert "of another bundle" in said(path, other, capsys)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert "old, --state-max-age is 60" in said(path, model, capsys, 60)
    monkeypatch.setattr(time, "time", lambda: now - 100)
    assert "is from the future" in said(path, model, capsys, 60)


def test_a_camera_that_comes_late_begins_anew(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    kept(path, model)
    keeper, late = Keeper(path, model, 60.0, 3600.0), stream_of(model, turns=Turns(), begin=STOP)
    keeper.begin("door", late)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4000)
    step = next(late.steps())
    monkeypatch.undo()
    keeper.close()
    assert step.tick.gap == "the state that was kept has become too old"
    fresh = next(stream_of(model, turns=Turns(), begin=STOP).steps())
    np.testing.assert_array_equal(step.probabilities, fresh.probabilities)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", bytes(30_000_000)], ids=["empty", "text", "zip", "large"]
)
def test_a_file_that_is_none_is_replaced_when_a_new_one_is_whole(
    content: bytes, tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    assert "is damaged, or is none" in said(path, model, capsys)
    assert path.read_bytes() == content
    kept(path, model)
    assert "goes on" in said(path, model, capsys)


def test_one_process_has_the_file(tmp_path: Path, model: Model) -> None:
    path, link = tmp_path / "state", tmp_path / "link"
    link.symlink_to(path)
    keeper = Keeper(path, model, 60.0, 60.0)
    for name in (path, link):
        with pytest.raises(UsageError, match="another process is using the state file"):
            Keeper(name, model, 60.0, 60.0)
    keeper.close()
    with (tmp_path / "state.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it any more
    left = tmp_path / f".state.{'a' * 16}.tmp"
    left.write_bytes(b"half")  # as a power cut leaves it
    Keeper(path, model, 60.0, 60.0).close()
    assert not left.exists()


def test_names_that_cannot_be_written(tmp_path: Path, model: Model) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    for path, hint in ((tmp_path, "a folder"), (tmp_path / "pipe", "no file")):
        with pytest.raises(UsageError, match=hint):
            Keeper(path, model, 60.0, 60.0)
    with pytest.raises(OutputError, match="cannot make the folder"):
        Keeper(tmp_path / "file" / "state", model, 60.0, 60.0)


def test_a_disk_that_takes_no_more(tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "on" / "state"
    kept(path, model)
    before = path.read_bytes()
    keeper, stream = Keeper(path, model, 60.0, 3600.0), stream_of(model, turns=Turns())
    keeper.begin("door", stream)
    steps(keeper, "door", stream, 3)
    (tmp_path / "on").rename(tmp_path / "off")
    keeper.ended("door", stream)
    keeper.close()
    assert "warning: states are not kept: cannot write" in capsys.readouterr().err
    assert (tmp_path / "off" / "state").read_bytes() == before


def test_a_run_keeps_and_takes_up_its_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    from tests.data.network_camera import network_camera

    bundle = make_bundle(tmp_path / "toy", "openvino", "graph", "internal")
    with network_camera(100.0) as address:
        for said in ("starts afresh: there is no state file yet", "goes on from its state of"):
            call = ["run", str(bundle), "--source", address, "--source-name", "door", "--frames", "2"]
            assert main([*call, "--state-file", str(tmp_path / "state")]) == 0
            assert f"door: {said}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_a_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    from tests.data.network_camera import network_camera
    from tests.runtimes.test_run import _start

    bundle, path = make_bundle(tmp_path / "toy", "onnx"), tmp_path / "state"
    with network_camera(100.0) as address:
        call = ["--state-file", str(path), "--state-seconds", "0.1"]
        for number in range(4):
            with _start(bundle, address, *call) as process:
                assert process.stdout is not None
                for _ in range(5 + number):
                    process.stdout.readline()
                process.kill()
            assert process.returncode == -signal.SIGKILL
            if path.exists():
                assert main(["run", str(bundle), "--source", address, "--frames", "1", "--state-file", str(path)]) == 0
                assert "goes on from its state of" in capsys.readouterr().err
    assert path.exists()
    assert {item.name for item in tmp_path.iterdir()} == {"toy", "state", "state.lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    """A state file, changed by the test."""
    path = tmp_path_factory.mktemp("damaged") / "state"
    kept(path, model)
    return path


@settings(bounded, max_examples=40)
@given(data=st.data())
def test_damaged_state_files(data: st.DataObject, model: Model, whole: Path) -> None:
    content = whole.read_bytes()
    arrays = npz_of(content)
    about = json.loads(arrays["about"].tobytes())
    about["sources"][0]["stepped_at"] = 1.0
    text = as_json(data.draw(changed_json(about))).encode()
    other = {**arrays, "about": np.frombuffer(text, np.uint8)}
    ways = changed_bytes(content), st.just(npz(other)), changed_arrays(arrays).map(npz)
    whole.write_bytes(data.draw(st.one_of(*ways)))
    try:
        keeper, stream = Keeper(whole, model, 3600.0, math.inf), stream_of(model, turns=Turns())
        keeper.begin("door", stream)
        model.state_values(stream.state)
        keeper.close()
    finally:
        whole.write_bytes(content)
