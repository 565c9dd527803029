"""Decisions beside the float network's: agreement, accuracy, drift, and what happens when a bundle goes wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from lcr_edge.checkpoint import PACKAGED, Checkpoint
from lcr_edge.data.labels import JESTER
from lcr_edge.export.verify.clips import own_clips, rendered_streams, video_streams
from lcr_edge.export.verify.decisions import measure_clips, why_not
from lcr_edge.export.verify.phases import POINTS, Curve
from lcr_edge.export.verify.reference import steps
from lcr_edge.export.verify.streams import Streams, measure_streams, measure_video
from lcr_edge.runtimes import Model, State, clip_decision
from lcr_edge.runtimes import checks as judge
from lcr_edge.tolerances import EARLY, LATE, LEARNT, PROMISES
from tests.clips import real_clip
from tests.export import made
from tests.export.targets.rounded import rounded

INT8 = PROMISES["int8"]
CLIP = 16


class Growing(Model):
    """A real model, with an error of the logits that grows with every step."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.bundle, model.engine)
        self._steps = 0

    def step(self, frame: Any, state: State) -> tuple[Any, State]:
        logits, after = super().step(frame, state)
        self._steps += 1
        logits[0] += np.float32(1e-2 * self._steps)
        return logits, after


class Failing(Model):
    """A real model whose state is NaN after some steps."""

    def __init__(self, model: Model, good: int) -> None:
        super().__init__(model.bundle, model.engine)
        self._left = good

    def step(self, frame: Any, state: State) -> tuple[Any, State]:
        logits, after = super().step(frame, state)
        self._left -= 1
        return logits, after if self._left >= 0 else State(after.h * np.float32(np.nan), after.c)


def _anonymous(checkpoint: Checkpoint, labels: tuple[str, ...]) -> Checkpoint:
    return dataclasses.replace(checkpoint, labels=labels, training={})


@pytest.mark.slow
def test_clips_are_decided_as_a_device_decides_them() -> None:
    checkpoint, model = made.checkpoint("lcr_pico"), rounded("lcr_pico", 3)
    found = measure_clips(model, checkpoint, per_class=1)
    clips, _ = own_clips(checkpoint, 1, 1, False)
    counts = np.zeros((27, 27), np.int64)
    for clip in clips:
        state, logits = model.initial_state(), []
        for frame in clip:
            row, state = model.step(frame, state)
            logits.append(row)
        with torch.no_grad():
            float_logits = checkpoint.model(torch.from_numpy(clip.copy())[None])[0][0].numpy()
        counts[clip_decision(float_logits), clip_decision(np.stack(logits))] += 1
    assert found.confusion == counts.tolist()
    assert found.clips == len(JESTER) == counts.sum()
    assert found.agreement == np.trace(counts) / len(clips)
    assert sum(count for _, _, count in found.changed()) == len(clips) - np.trace(counts) > 0
    assert [count for _, _, count in found.changed()] == sorted((c for *_, c in found.changed()), reverse=True)


def test_accuracy_is_left_out_where_it_means_nothing() -> None:
    checkpoint = made.checkpoint("lcr_pico")
    assert "random" in why_not(checkpoint)
    assert "27 of the 27" in why_not(_anonymous(checkpoint, tuple(f"sign {i}" for i in range(27))))
    nobody = _anonymous(checkpoint, JESTER)
    assert why_not(nobody) == ""
    found = measure_clips(rounded("lcr_pico"), nobody, per_class=1)
    assert found.float_top1 is not None
    assert found.float_top1 < LEARNT
    assert "float itself is right on" in found.note
    assert found.checks == ()
    unnamed = measure_clips(rounded("lcr_pico"), checkpoint, per_class=1)
    assert unnamed.float_top1 is None
    assert "random" in unnamed.table()


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED.is_file(), reason="no packaged checkpoint in this tree yet")
def test_lost_accuracy_is_a_miss() -> None:
    checkpoint = made.checkpoint(made.PACKAGED)
    right = measure_clips(rounded(made.PACKAGED), checkpoint, per_class=1)
    assert right.float_top1 is not None
    assert right.float_top1 >= LEARNT
    assert [check.met for check in right.checks] == [True]
    pushed = measure_clips(rounded(made.PACKAGED, push=4), checkpoint, per_class=1)
    assert np.array(pushed.confusion)[:, 4].sum() == pushed.clips
    assert pushed.bundle_top1 == pytest.approx(100 / 27)
    assert [check.met for check in pushed.checks] == [False]
    (sentence,) = judge.failures_of(pushed.checks)
    assert "points below float's" in sentence


def test_a_better_bundle_is_no_miss() -> None:
    assert judge.points_lost(97.0, 98.0, 540, 0.5).met is True
    assert judge.points_lost(98.0, 98.0 - 0.6, 540, 0.5).met is False
    assert judge.points_lost(98.0, math.nan, 540, 0.5).met is False


def _by_hand(model: Model, checkpoint: Checkpoint, lengths: list[int]) -> tuple[float, float]:
    """Drift and share of the same class after the settled frame, from streams one after the other."""
    clips, _ = own_clips(checkpoint, 1, 1, False)
    early, late, same = [], [], []
    for source in rendered_streams(clips, lengths):
        state = model.initial_state()
        for t, step in enumerate(steps(checkpoint.model, map(np.copy, source))):
            logits, state = model.step(step.frame, state)
            error = float(((logits.astype(np.float64) - step.logits) ** 2).mean())
            early += [error] if EARLY[0] <= t < EARLY[1] else []
            late += [error] if LATE[0] <= t < LATE[1] else []
            same += [logits.argmax() == step.logits.argmax()] if t >= INT8.settled else []
    return math.sqrt(np.mean(late) / np.mean(early)), float(np.mean(same))


@pytest.mark.slow
def test_streams_are_pooled() -> None:
    checkpoint, model = made.checkpoint("lcr_pico"), rounded("lcr_pico", 4)
    long = LATE[1] + 30
    found = measure_streams(model, checkpoint, frames=long, streams=2, per_class=1)
    assert _drift(found).met is True
    drift, same = _by_hand(model, checkpoint, [long, LATE[1]])
    assert found.to_dict()["drift"] == pytest.approx(drift, rel=1e-3)
    assert found.lines[f"from {INT8.settled}"].top1 == pytest.approx(same)
    assert [line.frames for line in found.lines.values()][:5] == [2, 6, 92, 900, 30]
    curve = found.to_dict()["curve"]
    assert len(curve["frame"]) == POINTS == len(curve["rms"]["logits"]) == len(curve["top1"])
    assert curve["frame"][0] == 0
    assert found.streams == 2
    assert "2 streams" in found.table()


def _drift(found: Streams) -> judge.Check:
    return next(check for check in found.checks if "logit error" in check.name)


@pytest.mark.slow
def test_an_error_that_grows_is_a_miss() -> None:
    checkpoint, model = made.checkpoint("lcr_pico"), rounded("lcr_pico")
    growing = measure_streams(Growing(model), checkpoint, frames=LATE[1], streams=1, per_class=1)
    assert _drift(growing).met is False
    assert "grows" in _drift(growing).sentence


@pytest.mark.slow
def test_short_streams_are_not_judged_for_growth() -> None:
    found = measure_streams(rounded("lcr_pico"), made.checkpoint("lcr_pico"), frames=LATE[1] - 1, per_class=1)
    assert found.streams == 1
    assert _drift(found).met is None
    assert found.to_dict()["drift"] is None
    assert "not judged" in _drift(found).line()


def test_a_state_that_breaks_is_a_failure_and_no_crash() -> None:
    checkpoint, model = made.checkpoint("lcr_pico"), rounded("lcr_pico")
    streams = measure_streams(Failing(model, 10), checkpoint, frames=20, per_class=1)
    assert streams.lines["all"].frames == 10
    (sentence,) = streams.broken
    assert "from frame 10 on" in sentence
    clips = measure_clips(Failing(model, 10), checkpoint, per_class=1)
    assert clips.broken == (f"clips: {clips.clips} of {clips.clips} end in logits that are not finite",)
    assert clips.agreement == 0


@pytest.mark.parametrize(("early", "late", "met"), [(1.0, 1.5, True), (1.0, 1.51, False), (0.0, 1e-9, False)])
def test_the_drift_that_is_allowed(early: float, late: float, met: bool) -> None:
    scale = (INT8.drift or 0) / 1.5
    assert judge.drift("streams", early, late * scale, INT8, 3).met is met
    assert judge.drift("streams", 0.0, 0.0, INT8, 3).met is True


@pytest.mark.parametrize(("share", "met"), [(0.99, True), (1.01, False)])
def test_growth_counts_where_the_late_error_is_large_enough_to_matter(share: float, met: bool) -> None:
    deviation = 7.0
    late = share * INT8.drift_counts * (INT8.step_relative or 0) * deviation
    found = judge.drift("streams", late / 10, late, INT8, 8, deviation)
    assert found.measured == pytest.approx(10)
    assert found.met is met
    assert "or late errors up to 0.050" in found.bound()
    assert f"{late / deviation:.3f} of the deviation" in found.line()
    assert judge.drift("streams", late / 10, late, INT8, 8).met is False  # of a deviation that is not known


def test_every_stream_shows_other_clips() -> None:
    clips = np.zeros((40, CLIP, 2, 2, 3), np.uint8)
    clips[..., 0, 0, 0] = np.arange(40)[:, None]
    clips[..., 0, 0, 1] = np.arange(CLIP)
    lengths = [100, 60, 60, 60]
    streams = [np.stack(list(stream)) for stream in rendered_streams(clips, lengths)]
    assert [len(stream) for stream in streams] == lengths
    assert [stream[0, 0, 0, 1] for stream in streams] == [0, 4, 8, 12]
    shown = [set(stream[:, 0, 0, 0].tolist()) for stream in streams]
    assert len(set.union(*shown)) == sum(map(len, shown))
    for stream in streams:
        place = stream[:, 0, 0, 1].astype(int)
        np.testing.assert_array_equal(np.diff(place) % CLIP, 1)


@pytest.mark.slow
def test_a_video_is_played_from_several_places() -> None:
    checkpoint = made.checkpoint("lcr_pico")
    video = str(real_clip("bikes.mp4"))
    streams = [list(stream) for stream in video_streams(video, checkpoint.config, checkpoint.fit, [40, 40])]
    # 40 frames are read: the way forward and back has 78 places, and the second stream starts in its middle.
    np.testing.assert_array_equal(streams[1][0], streams[0][39])
    np.testing.assert_array_equal(streams[1][1], streams[0][38])
    found = measure_video(rounded("lcr_pico"), checkpoint, video, streams=2)
    assert found.frames == LATE[1]
    assert found.data == "bikes.mp4"
    assert [check.kind for check in found.checks] == ["ratio"]


def test_a_curve_is_thinned_by_root_mean_squares() -> None:
    curve = Curve(1)
    values = np.random.default_rng(2).random(3 * POINTS)
    for frame, value in enumerate(values):
        curve.add(frame, dict.fromkeys(curve.squared, value), frame % 2 == 0)
        curve.add(frame, dict.fromkeys(curve.squared, value), False)
    thinned = curve.with_deviation(dict.fromkeys(curve.squared, 2.0)).thinned()
    wanted = np.sqrt((values.reshape(POINTS, 3) ** 2).mean(axis=1))
    np.testing.assert_allclose(thinned["rms"]["logits"], wanted, rtol=1e-3)
    np.testing.assert_allclose(thinned["rms_over_std"]["state_c"], wanted / 2, rtol=1e-3)
    assert thinned["frame"][:3] == [0, 3, 6]
    np.testing.assert_allclose(thinned["top1"][:2], [1 / 3, 1 / 6], rtol=1e-3)
    np.testing.assert_allclose(curve.rms("state_h"), values)
