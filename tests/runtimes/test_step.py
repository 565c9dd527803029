"""load, State and step on every engine, against the toy's equations in numpy."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.errors import FrameError, MissingExtraError, OutputError, StateError, UsageError, how_to_install
from lcr_edge.runtimes import Model, State, clip_decision, load
from lcr_edge.tolerances import PROMISES
from tests.runtimes.toy import CONFIG, KINDS, LABELS, clip, make_bundle, reference_step

PROMISE = PROMISES["fp32"]


@pytest.fixture(params=KINDS, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", *request.param), threads=1)


@pytest.fixture
def onnx_model(tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)


def test_a_stream_follows_the_equations(model: Model) -> None:
    assert model.labels == LABELS
    assert model.frame_shape == CONFIG.frame_shape
    assert model.manifest["target"] == model.bundle.target
    state = model.initial_state()
    assert state.h.dtype == state.c.dtype == np.float32
    assert not state.h.any()
    assert not state.c.any()
    h, c = state.h, state.c
    for frame in clip():
        logits, state = model.step(frame, state)
        expected, h, c = reference_step(frame, model.bundle.edges, h, c)
        assert logits.shape == (CONFIG.classes,)
        assert logits.dtype == state.h.dtype == state.c.dtype == np.float32
        assert np.abs(logits - expected).max() <= PROMISE.stream_abs
        assert np.abs(state.h - h).max() <= PROMISE.stream_abs
        assert np.abs(state.c - c).max() <= PROMISE.stream_abs


def test_results_belong_to_the_caller(model: Model) -> None:
    first, second = clip(2)
    start = model.initial_state()
    logits, state = model.step(first, start)
    kept_logits, kept = logits.copy(), state.copy()
    frame = second.copy()
    _, later = model.step(frame, state)
    assert not start.h.any()
    assert not start.c.any()
    assert np.array_equal(frame, second)
    for now, before in ((logits, kept_logits), (state.h, kept.h), (state.c, kept.c)):
        assert np.array_equal(now, before)
    for array in (logits, state.h, state.c):
        array[...] = np.nan  # writable, and the next step does not care
    again_logits, again = model.step(second, kept)
    assert np.array_equal(again.h, later.h)
    assert np.isfinite(again_logits).all()


def test_streams_do_not_see_each_other(model: Model) -> None:
    frames = clip()
    cameras = [frames, frames[::-1]]
    alone = []
    for camera in cameras:
        state, rows = model.initial_state(), []
        for frame in camera:
            logits, state = model.step(frame, state)
            rows.append(logits)
        alone.append(np.stack(rows))
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    states = [model.initial_state() for _ in cameras]
    for t in range(len(frames)):
        for i, camera in enumerate(cameras):
            logits, states[i] = model.step(camera[t], states[i])
            assert np.array_equal(logits, alone[i][t])


def test_one_model_serves_several_threads(model: Model) -> None:
    frames = clip()
    expected, state = [], model.initial_state()
    for frame in frames:
        logits, state = model.step(frame, state)
        expected.append(logits)
    wrong: list[int] = []
    done: list[int] = []

    def camera() -> None:
        for _ in range(20):
            state = model.initial_state()
            for t, frame in enumerate(frames):
                logits, state = model.step(frame, state)
                if not np.array_equal(logits, expected[t]):
                    wrong.append(t)
        done.append(1)

    threads = [threading.Thread(target=camera) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3
    assert not wrong


def test_step_stream_equals_step_and_is_separate(model: Model) -> None:
    frames = clip()
    state = model.initial_state()
    for frame in frames:
        logits, state = model.step(frame, state)
        np.testing.assert_array_equal(model.step_stream(frame), logits)
        model.step(frames[0], model.initial_state())  # must not disturb the stream
    first, _ = model.step(frames[0], model.initial_state())
    assert np.abs(model.step_stream(frames[0]) - first).max() > 1e-3
    model.reset()
    np.testing.assert_array_equal(model.step_stream(frames[0]), first)


def test_a_saved_state_resumes_the_stream(model: Model, tmp_path: Path) -> None:
    first, second = clip(2)
    _, state = model.step(first, model.initial_state())
    state.save(tmp_path / "camera.state")
    loaded = State.load(tmp_path / "camera.state")
    assert np.array_equal(loaded.h, state.h)
    assert np.array_equal(loaded.c, state.c)
    assert np.array_equal(model.step(second, loaded)[0], model.step(second, state)[0])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["camera.state"]


def test_a_view_of_a_larger_picture_steps_as_its_copy(model: Model) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    view = picture[::2, ::-2]
    state = model.initial_state()
    assert np.array_equal(model.step(view, state)[0], model.step(view.copy(), state)[0])


@pytest.mark.parametrize(
    ("frame", "hint"),
    [
        (np.zeros((3, 32, 48), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((1, 32, 48, 3), np.uint8), "frame[0]"),
        (np.zeros((32, 48), np.uint8), "grey"),
        (np.zeros((32, 48, 4), np.uint8), "[..., :3]"),
        (np.zeros((48, 32, 3), np.uint8), "model.fit(frame)"),
        (np.zeros((480, 640, 3), np.uint8), "model.fit(frame)"),
        (np.zeros((32, 48, 3), np.float32), "* 255"),
        (np.zeros((32, 48, 3), np.int8), "0..255"),
        (np.zeros((0, 48, 3), np.uint8), "model.fit"),
        ([[0]], "asarray"),
        (None, "asarray"),
    ],
)
def test_frames_that_do_not_fit(onnx_model: Model, frame: Any, hint: str) -> None:
    with pytest.raises(FrameError) as caught:
        onnx_model.step(frame, onnx_model.initial_state())
    assert hint in str(caught.value)
    assert "uint8 [32, 48, 3] RGB" in str(caught.value)
    with pytest.raises(FrameError):
        onnx_model.step_stream(frame)


def _with(value: float, index: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    array = np.zeros(CONFIG.state_shape, np.float32)
    array.flat[index] = value
    return array


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((1, 2, 3), np.float32), "[2, 7, 32]"),
        (np.zeros((1, *CONFIG.state_shape), np.float32), "[2, 7, 32]"),
        (np.zeros(CONFIG.state_shape, np.float64), "float64"),
        (np.zeros(CONFIG.state_shape, np.float16), "float16"),
        (_with(np.nan), "NaN"),
        (_with(np.nan, -1), "NaN"),
        (_with(np.inf, 5), "Inf"),
        (_with(-np.inf, 5), "Inf"),
        (None, "initial_state"),
    ],
)
@pytest.mark.parametrize("which", ["h", "c"])
def test_states_that_do_not_fit(model: Model, which: str, array: Any, hint: str) -> None:
    state = model.initial_state()
    setattr(state, which, array)
    with pytest.raises(StateError, match="initial_state") as caught:
        model.step(clip(1)[0], state)
    assert hint in str(caught.value)
    model.step(clip(1)[0], model.initial_state())  # the model is still usable


def test_large_finite_states_are_no_nan(onnx_model: Model) -> None:
    state = onnx_model.initial_state()
    state.c += np.float32(3e38)  # their float32 sum is Inf, they are not
    logits, _ = onnx_model.step(clip(1)[0], state)
    assert np.isfinite(logits).all()


def test_state_files_that_cannot_be_used(tmp_path: Path) -> None:
    zeros = np.zeros(CONFIG.state_shape, np.float32)
    whole = tmp_path / "whole"
    State(zeros, zeros).save(whole)
    (tmp_path / "garbage").write_bytes(b"\x00" * 100)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "truncated").write_bytes(whole.read_bytes()[:-40])
    for name, arrays in {
        "no_c": {"h": zeros, "contract_version": np.int64(1)},
        "future": {"h": zeros, "c": zeros, "contract_version": np.int64(7)},
        "pickle": {"h": np.array([{}], object), "c": zeros, "contract_version": np.int64(1)},
    }.items():
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    np.save(tmp_path / "bare.npy", zeros)
    for name in ("garbage", "empty", "truncated", "no_c", "future", "pickle", "bare.npy", "missing", "."):
        with pytest.raises(StateError, match="initial_state"):
            State.load(tmp_path / name)


def test_a_state_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    zeros = np.zeros(CONFIG.state_shape, np.float32)
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "missing" / "state"):
        with pytest.raises(OutputError, match="cannot write"):
            State(zeros, zeros).save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_disk_that_fills_up_leaves_the_old_state(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    old = State(np.ones(CONFIG.state_shape, np.float32), np.ones(CONFIG.state_shape, np.float32))
    old.save(tmp_path / "state")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the write stops midway, as on a full disk
    try:
        with pytest.raises(OutputError, match="free some space"):
            State(old.h * 2, old.c * 2).save(tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert np.array_equal(State.load(tmp_path / "state").h, old.h)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"threads": 0}, "at least 1"),
        ({"threads": True}, "at least 1"),
        ({"threads": 1.5}, "at least 1"),
        ({"precision_hint": "f64"}, "f32, bf16, f16"),
        ({"precision_hint": "bf16"}, "for OpenVINO"),
        ({"providers": "CPUExecutionProvider"}, "['CPUExecutionProvider']"),
        ({"providers": ["WarpExecutionProvider"]}, "CPUExecutionProvider"),
    ],
)
def test_options_that_no_engine_knows(tmp_path: Path, options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(make_bundle(tmp_path / "bundle", "onnx"), **options)
    assert hint in str(caught.value)


def test_options_that_fit(tmp_path: Path) -> None:
    frame = clip(1)[0]
    model = load(make_bundle(tmp_path / "onnx", "onnx"), providers=["CPUExecutionProvider"], threads=2)
    expected, _ = model.step(frame, model.initial_state())
    bundle = make_bundle(tmp_path / "openvino", "openvino")
    for hint in ("f32", "bf16"):
        model = load(bundle, precision_hint=hint)
        logits, _ = model.step(frame, model.initial_state())
        assert np.abs(logits - expected).max() <= (PROMISE.step_abs if hint == "f32" else 0.5)
    with pytest.raises(UsageError, match="for onnxruntime"):
        load(bundle, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("target", "blocked"),
    [
        ("onnx", ("onnxruntime",)),
        ("openvino", ("openvino",)),
        (
            "tflite",
            ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"),
        ),
    ],
)
def test_a_missing_engine_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, blocked: tuple[str, ...]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", target)
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        load(bundle)
    assert how_to_install(target) in str(caught.value)


def test_clip_decision_averages_the_second_half() -> None:
    logits = np.array([[9, 0, 0], [9, 0, 0], [0, 1, 0], [0, 0, 3], [0, 2.5, 0]], np.float32)
    assert clip_decision(logits) == 1  # steps 2..4: mean 0, 1.17, 1
    assert clip_decision(logits[:2]) == 0
    assert clip_decision(logits[3:4]) == 2
    for shape in ((0, 3), (3,), (3, 0), (1, 1, 3)):
        with pytest.raises(UsageError, match="T >= 1"):
            clip_decision(np.zeros(shape, np.float32))
