"""Every target, precision, edge mode and config against the float PyTorch cell, on real engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.data.labels import JESTER
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.export.verify.decisions import measure_clips
from lcr_edge.export.verify.measure import FRAMES, measure_all
from lcr_edge.export.verify.streams import measure_streams
from lcr_edge.runtimes import load
from lcr_edge.tolerances import LATE, PROMISES
from tests.clips import real_clip, square_clip
from tests.export import made

SHORT = 40
VIDEO = 120
PER_CLASS = 2
STREAMS = 3
_FEW = "lcr_nano"
_LARGE = "lcr_tiny"


def _with(precision: str) -> list[str]:
    return [name for name, row in TARGETS.items() if precision in row.precisions]


def _cases() -> list[object]:
    cases: list[tuple[str, str, str, str, str, int]] = []
    for target, row in TARGETS.items():
        for precision in row.precisions:
            frames = FRAMES if precision != "int8" else SHORT
            for state_mode in row.state_modes:
                cases.append(("lcr_pico", target, precision, "host", state_mode, frames))
            cases.append((made.SMALL, target, precision, "graph", "explicit", frames))
        cases.append((_FEW, target, "fp32", "host", "explicit", SHORT))
        if "fp16" in row.precisions:
            cases.append((_FEW, target, "fp16", "host", "explicit", SHORT))
        cases.append((_LARGE, target, "fp32", "host", "explicit", 8))
        cases.append((made.PACKAGED, target, "fp32", "host", "explicit", SHORT))
    quick = ("lcr_pico", "fp32", "host", "explicit")
    return [pytest.param(*case, marks=[] if (case[0], *case[2:5]) == quick else [pytest.mark.slow]) for case in cases]


@pytest.mark.parametrize(("config", "target", "precision", "edges", "state_mode", "frames"), _cases())
def test_a_bundle_keeps_its_promise(
    config: str, target: str, precision: str, edges: str, state_mode: str, frames: int
) -> None:
    _need(config)
    model = load(made.bundle(config, target, precision, edges, state_mode), threads=1)
    found = made.rollout(config, frames)
    report = measure_all(model, made.checkpoint(config), frames=frames, rollout=found, decisions=False)
    # The largest of 27 random numbers is hardly larger than the next: of random weights int8 can promise no decisions.
    random = precision == "int8" and config != made.PACKAGED
    assert not [check for check in report.checks if not check.met and not (random and check.kind == "share")]
    assert report.broken == ()
    assert report.frames == frames
    # A report that measured nothing would pass as well: the reference moves, and rounding leaves some error.
    assert report.stream["all"].tensors["state_c"].max_abs > 0
    assert report.stream["all"].tensors["state_c"].squared > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("config", ["lcr_pico", made.PACKAGED])
def test_a_bundle_keeps_its_promise_on_real_video(config: str, target: str) -> None:
    _need(config)
    frames = FRAMES if config == "lcr_pico" else 120
    model, clip = load(made.bundle(config, target), threads=1), str(real_clip("bikes.mp4"))
    found = made.rollout(config, frames, clip)
    report = measure_all(model, made.checkpoint(config), clip=clip, frames=frames, rollout=found)
    assert report.failures == ()
    assert report.clip == "bikes.mp4"


@pytest.mark.slow
@pytest.mark.parametrize("target", _with("int8"))
def test_int8_decides_like_float_on_real_video_on_streams_and_clips(target: str, tmp_path: Path) -> None:
    """All that int8 promises, of a network that knows something; fewer frames, streams and clips than at an export.

    The clip is square: calibration never saw black bars.
    """
    _need(made.PACKAGED)
    model = load(made.bundle(made.PACKAGED, target, "int8"), threads=1)
    checkpoint, clip = made.checkpoint(made.PACKAGED), str(square_clip("bikes.mp4", tmp_path))
    report = dataclasses.replace(
        measure_all(model, checkpoint, clip=clip, frames=VIDEO, decisions=False),
        streams=measure_streams(model, checkpoint, frames=LATE[1], streams=STREAMS, per_class=PER_CLASS),
        clips=measure_clips(model, checkpoint, per_class=PER_CLASS),
    )
    assert report.failures == ()
    assert all(check.met for check in report.every_check)
    kinds = {check.kind: check.measured for check in report.every_check}
    assert set(kinds) == {"ratio", "share", "points", "differences"}
    assert report.clips is not None
    assert report.clips.clips == PER_CLASS * len(JESTER)
    assert report.stream["all"].tensors["state_c"].max_abs > (PROMISES["fp32"].stream_abs or 0)


@pytest.mark.slow
def test_a_model_of_integers_keeps_its_promise_and_its_state_is_fed_back_as_it_is() -> None:
    whole = made.bundle("lcr_pico", "tflite", "int8", quant="static", state_precision="int8", io="int8")
    model = load(whole, threads=1)
    report = measure_all(model, made.checkpoint("lcr_pico"), frames=SHORT, decisions=False)
    assert not [check for check in report.checks if not check.met and check.kind != "share"]
    assert report.broken == ()
    frame = np.random.default_rng(5).integers(0, 256, model.frame_shape, dtype=np.uint8)
    _, state = model.step(frame, model.initial_state())
    assert state.h.dtype == state.c.dtype == np.int8
    again = model.state_of(*model.state_values(state))
    np.testing.assert_array_equal(again.h, state.h)
    np.testing.assert_array_equal(again.c, state.c)


@pytest.mark.parametrize("edges", ["host", pytest.param("graph", marks=pytest.mark.slow)])
def test_targets_agree_with_each_other(edges: str) -> None:
    both = 2 * (PROMISES["fp32"].step_abs or 0.0)  # each may be off to its own side
    network = made.SMALL if edges == "graph" else "lcr_pico"
    models = [load(made.bundle(network, target, edges=edges), threads=1) for target in TARGETS]
    rng = np.random.default_rng(3)
    states = [model.initial_state() for model in models]
    for _ in range(5):
        frame = rng.integers(0, 256, models[0].frame_shape, dtype=np.uint8)
        stepped = [model.step(frame, state) for model, state in zip(models, states)]
        states = [state for _, state in stepped]
        for logits, state in stepped[1:]:
            np.testing.assert_allclose(logits, stepped[0][0], atol=both)
            np.testing.assert_allclose(state.c, stepped[0][1].c, atol=both)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_stateful_model_equals_the_explicit_one_exactly(precision: str) -> None:
    explicit = load(made.bundle("lcr_pico", "openvino", precision), threads=1)
    internal = load(made.bundle("lcr_pico", "openvino", precision, state_mode="internal"), threads=1)
    rng = np.random.default_rng(4)
    state, twin = explicit.initial_state(), internal.initial_state()
    for number in range(12):
        if number == 6:
            internal.reset()
            state, twin = explicit.initial_state(), internal.initial_state()
        frame = rng.integers(0, 256, explicit.frame_shape, dtype=np.uint8)
        logits, state = explicit.step(frame, state)
        twin_logits, twin = internal.step(frame, twin)
        np.testing.assert_array_equal(internal.step_stream(frame), logits)
        np.testing.assert_array_equal(twin_logits, logits)
        np.testing.assert_array_equal(twin.h, state.h)
        np.testing.assert_array_equal(twin.c, state.c)


@pytest.mark.slow
@pytest.mark.parametrize("target", _with("fp16"))
def test_half_precision_is_smaller(target: str) -> None:
    sizes = [_model_bytes(made.bundle("lcr_pico", target, precision), target) for precision in ("fp32", "fp16")]
    # Halved are the matrices; decay tables, norms and the graph itself stay.
    assert 0.4 * sizes[0] < sizes[1] < 0.75 * sizes[0]


def _model_bytes(folder: Path, target: str) -> int:
    return sum((folder / name).stat().st_size for name in TARGETS[target].files if not name.endswith(".xml"))


def _need(config: str) -> None:
    if config == made.PACKAGED and not PACKAGED_FILE.is_file():
        pytest.skip("no packaged checkpoint in this tree yet: lcr-edge train makes one")
