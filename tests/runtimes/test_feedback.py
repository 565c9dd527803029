"""Streams whose states stay with the engine give what ``step`` gives, bit by bit, and share a model."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.errors import FrameError, StateError
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.feedback import KeptStates
from tests.runtimes.toy import KINDS, clip, make_bundle

EVERY = [(*kind, precision) for kind in KINDS for precision in ("fp32", "fp16", "int8")]
# OpenVINO's own state variables hold float32 states only in the toy.
EVERY = [kind for kind in EVERY if kind[2] == "explicit" or kind[3] == "fp32"]


@pytest.fixture(params=EVERY, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", *request.param), threads=1)


@pytest.fixture
def onnx_model(tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)


def test_two_streams_beside_each_other_equal_step(model: Model) -> None:
    frames = clip()
    cameras, streams = (frames, frames[::-1]), (model.open_stream(), model.open_stream())
    states, given = [model.initial_state() for _ in cameras], []
    for t in range(len(frames)):
        for number, (camera, stream) in enumerate(zip(cameras, streams)):
            logits, states[number] = model.step(camera[t], states[number])
            found = stream.step(camera[t])
            np.testing.assert_array_equal(found, logits)
            given.append((found, logits))
            kept = stream.state()
            np.testing.assert_array_equal(kept.h, states[number].h)
            np.testing.assert_array_equal(kept.c, states[number].c)
            assert kept.h.dtype == states[number].h.dtype
            kept.h[...] = 1  # the caller's
    for found, logits in given:  # nor was any answer changed later
        np.testing.assert_array_equal(found, logits)
    streams[0].reset()
    np.testing.assert_array_equal(streams[0].step(frames[0]), model.step(frames[0], model.initial_state())[0])


def test_a_stream_goes_on_from_a_state(model: Model) -> None:
    first, second, _, other, *_ = clip()
    _, state = model.step(first, model.initial_state())
    before, stream = state.copy(), model.open_stream()
    stream.step(other)
    stream.restore(state)
    expected, after = model.step(second, state)
    np.testing.assert_array_equal(stream.step(second), expected)
    np.testing.assert_array_equal(stream.state().c, after.c)
    np.testing.assert_array_equal(state.h, before.h)
    np.testing.assert_array_equal(state.c, before.c)
    frame = second[::-1]  # not contiguous, and only read
    kept = second.copy()
    stream.restore(before)
    np.testing.assert_array_equal(stream.step(frame), model.step(frame.copy(), before)[0])
    np.testing.assert_array_equal(second, kept)


def test_threads_share_a_model(model: Model) -> None:
    frames = clip()
    wrong: list[int] = []
    done: list[int] = []
    expected, state = [], model.initial_state()
    for frame in frames:
        logits, state = model.step(frame, state)
        expected.append(logits)

    def camera() -> None:
        stream = model.open_stream()
        for _ in range(10):
            stream.reset()
            wrong.extend(t for t, frame in enumerate(frames) if not np.array_equal(stream.step(frame), expected[t]))
        done.append(1)

    threads = [threading.Thread(target=camera) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3
    assert not wrong


def test_a_lost_stream_says_so_until_it_is_reset(onnx_model: Model) -> None:
    frame = clip(1)[0]
    stream = onnx_model.open_stream()
    expected = stream.step(frame)
    stream.engine.read()[1][0, 0, 0] = np.nan
    for _ in range(2):
        with pytest.raises(StateError, match="state c contains NaN"):
            stream.step(frame)
    stream.reset()
    np.testing.assert_array_equal(stream.step(frame), expected)


def test_a_lost_stream_of_a_model_that_keeps_its_state_says_so(tmp_path: Path) -> None:
    model = load(make_bundle(tmp_path / "toy", "openvino", "graph", "internal"), threads=1)
    stream, frame = model.open_stream(), clip(1)[0]
    stream.step(frame)
    h, c = stream.engine.read()
    stream.engine.write(np.full_like(h, np.nan), c)
    with pytest.raises(StateError, match="reset"):
        stream.step(frame)
    stream.reset()
    assert np.isfinite(stream.step(frame)).all()


def test_wrong_input_leaves_a_stream_as_it_was(onnx_model: Model) -> None:
    first, second = clip(2)
    stream = onnx_model.open_stream()
    stream.step(first)
    before = stream.state()
    with pytest.raises(FrameError, match="fit"):
        stream.step(np.zeros((64, 64, 3), np.uint8))
    broken = before.copy()
    broken.h = broken.h[:1]
    with pytest.raises(StateError, match="this model's is"):
        stream.restore(broken)
    np.testing.assert_array_equal(stream.step(second), onnx_model.step(second, before)[0])


def test_an_engine_without_buffers_of_its_own(model: Model) -> None:
    plain = KeptStates(model.engine)
    start, stream = model.initial_state(), model.open_stream()
    plain.write(start.h, start.c)
    for frame in clip():
        plain.give(*model.look_at(frame))
        plain.compute()
        np.testing.assert_array_equal(model.logits_of(plain.take()), stream.step(frame))
    np.testing.assert_array_equal(plain.read()[0], stream.state().h)
