"""Bundles that step several streams in a call: each stream has the answers that it would have alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.contract import LOGITS, MAX_BATCH, STATES_OUT
from lcr_edge.errors import BundleError, FrameError, LcrError, StateError, UsageError
from lcr_edge.runtimes import Model, State, load
from lcr_edge.runtimes.rows import Rows
from lcr_edge.runtimes.selftest import selftest
from lcr_edge.runtimes.state import Array
from lcr_edge.tolerances import PROMISES
from tests.runtimes.toy import CONFIG, clip, make_bundle, reference_step, reseal

BATCH = 3
KINDS = [(target, edges) for target in ("onnx", "openvino") for edges in ("graph", "host")]
Run = Callable[[Mapping[str, Array]], "dict[str, Array]"]


@pytest.fixture(params=KINDS, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    target, edges = request.param
    return load(make_bundle(tmp_path / "bundle", target, edges, batch=BATCH), threads=1)


@pytest.fixture
def onnx_model(tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", "onnx", batch=BATCH), threads=1)


def watched(model: Model, run: Callable[[Run, Mapping[str, Array]], dict[str, Array]]) -> None:
    """Let ``run`` stand before the engine's own."""
    assert isinstance(model.engine, Rows)
    inner: Any = model.engine.inner
    own = inner.run
    inner.run = lambda feeds: run(own, feeds)


@pytest.mark.parametrize("streams", [1, BATCH, 2 * BATCH + 1])
def test_streams_in_one_call_follow_the_equations(model: Model, streams: int) -> None:
    cameras = [np.roll(clip(), number, axis=0) for number in range(streams)]
    states = [model.initial_state() for _ in cameras]
    expected = [(state.h, state.c) for state in states]
    for t in range(len(cameras[0])):
        before, given = [state.copy() for state in states], states
        logits, states = model.step_many([camera[t] for camera in cameras], states)
        assert logits.shape == (streams, CONFIG.classes)
        assert logits.dtype == np.float32
        for number, camera in enumerate(cameras):
            wanted, *after = reference_step(camera[t], model.bundle.edges, *expected[number])
            expected[number] = (after[0], after[1])
            found = (logits[number], states[number].h, states[number].c)
            for one, other in zip(found, (wanted, *after)):
                assert one.shape == other.shape
                assert np.abs(one - other).max() <= (PROMISES["fp32"].stream_abs or 0.0)
            np.testing.assert_array_equal(given[number].h, before[number].h)  # only read


def test_a_stream_has_the_same_bits_in_any_company(model: Model) -> None:
    frames = clip()
    states, alone = [model.initial_state()], []
    for frame in frames:
        logits, state = model.step(frame, states[-1])
        alone.append((logits, state))
        states.append(state)
    for first in range(len(frames)):
        chosen = [(first + row) % len(frames) for row in range(BATCH)]
        found, after = model.step_many([frames[t] for t in chosen], [states[t] for t in chosen])
        for row, t in enumerate(chosen):
            np.testing.assert_array_equal(found[row], alone[t][0])
            np.testing.assert_array_equal(after[row].h, alone[t][1].h)
            np.testing.assert_array_equal(after[row].c, alone[t][1].c)
    streams = [model.open_stream() for _ in range(2)]
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(streams[0].step(frame), alone[t][0])
        streams[1].step(frames[-1 - t])
        np.testing.assert_array_equal(streams[0].state().c, alone[t][1].c)


def test_any_bundle_can_step_many(tmp_path: Path) -> None:
    one = load(make_bundle(tmp_path / "one", "onnx"), threads=1)
    frames = clip()
    logits, states = one.step_many(frames, [one.initial_state() for _ in frames])
    for row, frame in enumerate(frames):
        wanted, state = one.step(frame, one.initial_state())
        np.testing.assert_array_equal(logits[row], wanted)
        np.testing.assert_array_equal(states[row].c, state.c)
    logits, states = one.step_many([], [])
    assert logits.shape == (0, CONFIG.classes)
    assert states == []


def test_streams_that_wait_for_a_call_share_the_next(onnx_model: Model) -> None:
    """Held in its first call, the engine finds six others waiting: three of them in the second, three in the third."""
    rows, streams, calls = onnx_model.engine, 7, []
    assert isinstance(rows, Rows)
    held, go = threading.Event(), threading.Event()

    def run(own: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
        calls.append(len(rows._waiting))
        if len(calls) == 1:
            held.set()
            assert go.wait(60)
        return own(feeds)

    cameras = [np.roll(clip(), number, axis=0)[0] for number in range(streams)]
    wanted = [onnx_model.step(frame, onnx_model.initial_state())[0] for frame in cameras]
    watched(onnx_model, run)
    found: list[Any] = [None] * streams

    def step(number: int) -> None:
        found[number] = onnx_model.open_stream().step(cameras[number])

    threads = [threading.Thread(target=step, args=(number,)) for number in range(streams)]
    threads[0].start()
    assert held.wait(60)
    for asked, thread in enumerate(threads[1:], start=1):
        thread.start()
        while len(rows._waiting) < asked:
            time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert calls == [0, 3, 0]
    for number in range(streams):
        np.testing.assert_array_equal(found[number], wanted[number])


class _Camera:
    """A stream in a thread of its own, which steps a frame when it is told to."""

    def __init__(self, model: Model, pool: ThreadPoolExecutor) -> None:
        self.stream, self._pool = model.open_stream(), pool

    def ask(self) -> Future[Any]:
        return self._pool.submit(self.stream.step, clip(1)[0])


@pytest.fixture
def calls(onnx_model: Model) -> list[int]:
    """How many streams each call serves."""
    found: list[int] = []
    rows: Any = onnx_model.engine
    serve = rows._serve

    def counted() -> None:
        found.append(len(rows._served))
        serve()

    rows._serve = counted
    return found


def _gathering(rows: Rows) -> None:
    while not (rows._busy and rows._waiting):
        time.sleep(0.001)


def test_streams_wait_for_those_that_run_and_for_no_others(onnx_model: Model, calls: list[int]) -> None:
    """Whatever their phase; one that is gone is waited for once more at most, and joins again when it comes back."""
    rows: Any = onnx_model.engine
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = _Camera(onnx_model, one), _Camera(onnx_model, other)
        first.ask().result(60)  # nobody else runs
        rows.frame_s = 3600
        for early, late in ((second, first), (first, second), (second, first)):
            waits = early.ask()
            _gathering(rows)
            late.ask().result(60)
            waits.result(60)
            assert early.stream.waited_s >= late.stream.waited_s >= 0
        assert calls == [1, 2, 2, 2]
        rows.frame_s = 0.2
        begin = time.monotonic()
        first.ask().result(60)  # the other does not come
        assert time.monotonic() - begin >= 0.1 - 1e-3
        assert first.stream.waited_s >= 0.1 - 1e-3
        rows._running[id(second.stream.engine)].asked -= 1.5 * 3600  # a frame and a half
        rows.frame_s = 3600
        first.ask().result(60)
        waits = second.ask()
        _gathering(rows)
        first.ask().result(60)
        waits.result(60)
        assert calls == [1, 2, 2, 2, 1, 1, 2]


def test_one_that_has_not_asked_for_long_is_not_waited_for(onnx_model: Model, calls: list[int]) -> None:
    rows: Any = onnx_model.engine
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = _Camera(onnx_model, one), _Camera(onnx_model, other)
        second.ask().result(60)
        rows._running[id(second.stream.engine)].asked -= 1.6 * rows.frame_s
        first.ask().result(60)
        assert first.stream.waited_s < 0.4 * rows.frame_s
        assert set(rows._running) == {id(first.stream.engine)}
    assert calls == [1, 1]


def test_a_thread_that_steps_several_streams_does_not_wait_for_itself(onnx_model: Model, calls: list[int]) -> None:
    rows: Any = onnx_model.engine
    rows.frame_s = 3600
    streams = [onnx_model.open_stream() for _ in range(3)]
    for frame in clip(2):
        for stream in streams:
            stream.step(frame)
    with ThreadPoolExecutor(1) as pool:  # another thread goes on with one of them; step itself never waits
        pool.submit(onnx_model.step, clip(1)[0], onnx_model.initial_state()).result(60)
    assert calls == [1] * 7


def test_an_interrupt_while_others_are_served_leaves_them_alone(onnx_model: Model) -> None:
    """Ctrl-C comes to the thread that makes the call for two; the other gets its answer from the next call."""
    rows = onnx_model.engine
    interrupted: list[threading.Thread] = []
    assert isinstance(rows, Rows)

    def run(own: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not interrupted:
            interrupted.append(threading.current_thread())
            raise KeyboardInterrupt
        return own(feeds)

    frame, state = clip(1)[0], onnx_model.initial_state()
    wanted, _ = onnx_model.step(frame, state)
    watched(onnx_model, run)
    rows._busy = True  # as in a call, until both wait
    outcomes: list[Any] = []

    def step() -> None:
        try:
            outcomes.append(onnx_model.step(frame, state)[0])
        except KeyboardInterrupt:
            outcomes.append("interrupted")

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(rows._waiting) < 2:
        time.sleep(0.001)
    with rows._changed:
        rows._busy = False
        rows._changed.notify_all()
    for thread in threads:
        thread.join()
    (answer,) = (outcome for outcome in outcomes if not isinstance(outcome, str))
    assert len(outcomes) == 2
    np.testing.assert_array_equal(answer, wanted)
    assert rows._waiting == []
    assert not rows._busy


def test_a_failing_call_fails_its_streams_and_no_others(onnx_model: Model) -> None:
    failing = [True]

    def run(own: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if failing.pop():
            raise RuntimeError("out of memory")
        failing.append(False)
        return own(feeds)

    watched(onnx_model, run)
    frames, states = clip(2), [onnx_model.initial_state()] * 2
    with pytest.raises(LcrError, match="the engine failed: out of memory"):
        onnx_model.step_many(frames, states)
    failing.append(False)
    logits, _ = onnx_model.step_many(frames, states)
    np.testing.assert_array_equal(logits[1], onnx_model.step(frames[1], states[1])[0])


def test_what_is_wrong_is_said_before_anything_is_stepped(onnx_model: Model) -> None:
    frames, state = clip(2), onnx_model.initial_state()
    broken = State(np.full_like(state.h, np.nan), state.c)
    with pytest.raises(UsageError, match="a state for each frame, got 2 frames and 1 states"):
        onnx_model.step_many(frames, [state])
    with pytest.raises(FrameError, match="greyscale"):
        onnx_model.step_many([frames[0], frames[1][..., 0]], [state, state])
    with pytest.raises(StateError, match="NaN or Inf"):
        onnx_model.step_many(frames, [state, broken])
    stream = onnx_model.open_stream()
    stream.engine.write(broken.h, broken.c)
    with pytest.raises(StateError, match="NaN or Inf"):
        stream.step(frames[0])


@pytest.mark.parametrize("batch", [0, -1, MAX_BATCH + 1, 2.0, True, "3", None])
def test_a_manifest_names_a_number_of_streams(batch: Any, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx")
    reseal(folder, batch=batch)
    with pytest.raises(BundleError, match="batch must be a whole number from 1 to 64"):
        load(folder)


def test_a_manifest_that_names_another_number_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx", batch=BATCH)
    reseal(folder, batch=1)
    with pytest.raises(BundleError, match="the step contract expects frame uint8"):
        load(folder)
    inside = make_bundle(tmp_path / "inside", "openvino", state_mode="internal")
    reseal(inside, batch=2)
    with pytest.raises(BundleError, match="steps one stream"):
        load(inside)


def _mixed(own: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A little of the first stream in all others."""
    results = own(feeds)
    c = results[STATES_OUT[1]]
    c[1:] += np.float32(1e-4) * c[:1]
    return results


def _turned(own: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every stream gets the logits of another."""
    return {name: np.roll(value, 1, axis=0) if name == LOGITS else value for name, value in own(feeds).items()}


@pytest.mark.parametrize(("fault", "tensor"), [(_mixed, "state_c"), (_turned, "logits")])
def test_selftest_finds_streams_that_change_each_other(
    fault: Callable[[Run, Mapping[str, Array]], dict[str, Array]], tensor: str, onnx_model: Model
) -> None:
    name = "3 streams in one call: off from one by one, rms / std"
    (check,) = (check for check in selftest(onnx_model).checks if check.name == name)
    assert (check.met, check.measured) == (True, 0.0)
    watched(onnx_model, fault)
    report = selftest(onnx_model)
    (check,) = (check for check in report.checks if check.name == name)
    assert check.met is False
    assert f"streams in one call: {tensor} is off by" in " ".join(report.failures)


def test_bench_and_inspect_tell_of_the_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, several = make_bundle(tmp_path / "one", "onnx"), make_bundle(tmp_path / "several", "onnx", batch=BATCH)
    assert main(["bench", str(one), str(several), "--quick", "--rounds", "2", "--json", str(tmp_path / "bench")]) == 0
    assert f"several steps {BATCH} streams in a call: its times are a call's, divided by {BATCH}." in (
        capsys.readouterr().out
    )
    rows = json.loads((tmp_path / "bench").read_text())["bundles"]
    assert [row["streams"] for row in rows] == [1, BATCH]
    for row in rows:
        assert 0 < row["engine_ms"] < row["minimum_ms"] <= row["median_ms"]
        parts = row["engine_ms"] + row["python_ms"]
        assert parts <= row["minimum_ms"] * 1.001  # least times of parts
    assert main(["inspect", str(several)]) == 0
    assert "streams per call           3\n" in capsys.readouterr().out
