"""``run --idle``: what wakes it and what does not, how long it may sleep, and what is told about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import UsageError
from lcr_edge.frames import letterbox
from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.idle import BLOCK, IdleGate, IdleRules, block_means, change
from lcr_edge.runtimes.live.stream import Stream
from lcr_edge.video import TimedFrame
from tests.clips import frames as clip_frames
from tests.clips import real_clip
from tests.runtimes.toy import make_bundle

Frame = npt.NDArray[np.uint8]
PERIOD_S = 0.125
RULES = IdleRules(settle_s=0.5, idle_s=2.0)


def scene() -> Frame:
    """A picture with contours of all strengths."""
    rows, columns = np.mgrid[:112, :112]
    shades = 60 + 60 * np.sin(rows / 9) + 50 * np.cos(columns / 5) + 0.5 * columns
    return np.repeat(np.clip(shades, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def seen(picture: Frame, rng: np.random.Generator, noise: float, gain: float = 1.0) -> Frame:
    """The picture as a sensor sees it, with noise of this deviation in grey levels."""
    exact = picture * gain + noise * rng.standard_normal(picture.shape)
    return np.clip(np.rint(exact), 0, 255).astype(np.uint8)


def stepped(frames: list[Frame], rules: IdleRules = RULES) -> list[int]:
    """The numbers of the frames that are stepped."""
    gate = IdleGate(rules, PERIOD_S)
    return [k for k, frame in enumerate(frames) if not gate.skips(k * PERIOD_S, frame, busy=False)]


def test_blocks_are_means_of_grey_levels() -> None:
    picture = np.zeros((10, 9, 3), np.uint8)
    picture[:BLOCK, BLOCK : 2 * BLOCK] = (200, 100, 50)
    picture[8:] = 255  # beyond the last block
    assert block_means(picture) == pytest.approx(np.array([[0, 0.299 * 200 + 0.587 * 100 + 0.114 * 50], [0, 0]]))


def test_gain_is_no_change_and_a_hand_is() -> None:
    still = block_means(scene())
    assert change(still, still) == 0.0
    assert change(still, block_means((scene() * 0.9).astype(np.uint8))) < 2.0
    bars = scene()  # as of a wide film: most blocks are black
    bars[:36] = bars[-36:] = 0
    assert change(block_means(bars), block_means((bars * 0.9).astype(np.uint8))) < 2.0
    assert change(block_means(0 * bars), still) > 100.0
    hand = scene()
    hand[50:56, 50:56] += 40
    assert change(still, block_means(hand)) > 10.0


@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
def test_noise_and_flicker_do_not_wake_it(noise: float) -> None:
    rng = np.random.default_rng(0)
    frames = [seen(scene(), rng, noise, 1 + 0.03 * np.sin(k)) for k in range(200)]
    # The first ones, until it has settled; then one in two seconds.
    assert stepped(frames) == [0, 1, 2, 3, *range(19, 200, 16)]


def test_the_first_frame_that_differs_is_stepped() -> None:
    rng = np.random.default_rng(0)
    frames = [seen(scene(), rng, 4.0) for _ in range(60)]
    for frame in frames[42:45]:  # something small, for three frames
        frame[70:78, 20:28] = 255
    numbers = stepped(frames)
    assert 41 not in numbers
    # Until half a second after it has gone again.
    assert [number for number in numbers if number > 40] == [42, 43, 44, 45, 46, 47, 48]


def test_a_change_of_the_light_in_one_frame_wakes_it_once() -> None:
    frames = [scene()] * 40 + [scene()[::-1].copy()] * 40
    assert [number for number in stepped(frames) if 36 <= number < 58] == [40, 41, 42, 43]


def test_no_step_is_left_out_while_something_may_be_an_event() -> None:
    gate = IdleGate(RULES, PERIOD_S)
    skipped = [gate.skips(k * PERIOD_S, scene(), busy=10 <= k < 30) for k in range(50)]
    assert [k for k, skips in enumerate(skipped) if not skips] == [0, 1, 2, 3, *range(10, 30), 45]
    gate.reset()
    assert not gate.skips(0.0, scene(), busy=False)  # after a cut, whatever the time


@pytest.mark.parametrize("idle_s", [0.0, 0.1, 0.125])
def test_a_longest_time_of_a_frame_leaves_nothing_out(idle_s: float) -> None:
    assert stepped([scene()] * 20, IdleRules(idle_s=idle_s, settle_s=0.0)) == list(range(20))


class Made:
    """Frames that were made, 8 a second."""

    def __init__(self, frames: list[Frame]) -> None:
        self.frames, self.seen = frames, len(frames)

    def __iter__(self) -> Iterator[TimedFrame]:
        return (TimedFrame(frame, k * PERIOD_S, k) for k, frame in enumerate(self.frames))


def test_a_stream_keeps_its_state_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    model = load(make_bundle(tmp_path / "bundle", "onnx", edges="host"), threads=1)
    height, width, _ = model.frame_shape
    still = [letterbox(scene(), height, width)] * 40
    frames = [*still, *[255 - still[0]] * 3, *still]
    stream = Stream(model, Made(frames), None, None, IdleGate(RULES, PERIOD_S))
    left_out: list[int] = []
    stream.left_out = lambda tick: left_out.append(tick.timed.index)
    steps = list(stream.steps())
    numbers = [step.tick.timed.index for step in steps]
    assert sorted([*numbers, *left_out]) == list(range(len(frames)))
    assert numbers == stepped(frames)
    assert [step.skipped for step in steps] == [b - a - 1 for a, b in zip([-1, *numbers], numbers)]
    assert stream.totals.steps + stream.totals.skipped == len(frames)
    # What the network says is what it says of these frames alone.
    state = model.initial_state()
    for number, logits in zip(numbers, stream.totals.logits):
        expected, state = model.step(frames[number], state)
        assert np.array_equal(expected, logits)


def test_an_event_of_a_still_scene_ends_in_time(tmp_path: Path) -> None:
    model = load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)
    frames = [np.full(model.frame_shape, 40, np.uint8)] * 60
    finder = EventFinder(model.labels, EventRules(enter=0.2, leave=0.1, min_s=1.0))
    stream = Stream(model, Made(frames), finder, None, IdleGate(RULES, PERIOD_S))
    steps = list(stream.steps())
    (start,) = (event for step in steps for event in step.events)
    assert start.end_s is None
    assert stream.totals.skipped == 0  # it lasts
    (end,) = stream.end()
    assert end.end_s == 59 * PERIOD_S


def write(path: Path, pictures: list[Frame]) -> str:
    cv2: Any = pytest.importorskip("cv2")
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8.0, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return str(path)


def test_the_command_on_a_real_scene_that_stands_and_one_that_moves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    bundle, rng = str(make_bundle(tmp_path / "bundle", "onnx")), np.random.default_rng(0)
    moving = clip_frames(real_clip("carphone_pristine.mp4"), 120)[::4]
    standing = write(tmp_path / "standing.avi", [seen(moving[0], rng, 3.0) for _ in range(40)])
    call = ["run", bundle, "--source", standing, "--source", write(tmp_path / "moving.avi", moving), "--threads", "1"]
    assert main([*call, "--idle", "--idle-seconds", "2", "--json", str(tmp_path / "lines")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text(encoding="utf-8").splitlines()]
    of = [(Path(line["source"]).stem, line) for line in lines]
    steps = {stem: [line for name, line in of if name == stem and "top" in line] for stem in ("standing", "moving")}
    ends = {stem: line["summary"] for stem, line in of if "summary" in line}
    assert [line["frame"] for line in steps["standing"]] == [0, 1, 2, 3, 19, 35]
    assert [line.get("skipped", 0) for line in steps["standing"]] == [0, 0, 0, 0, 15, 15]
    assert ends["standing"]["skipped"] == 34
    assert ends["moving"]["steps"] > 0.9 * len(moving)  # he talks
    assert "34 steps skipped" in capsys.readouterr().out
    assert main(call) == 0
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--idle", "--idle-change", "0"], "--idle-change is 0: give grey levels above 0"),
        (["--idle", "--idle-seconds", "inf"], "--idle-seconds is inf: give 0 or more seconds"),
        (["--idle", "--idle-settle", "-1"], "--idle-settle is -1"),
        (["--idle-seconds", "2"], "--idle-seconds is about what --idle does: add --idle"),
        (["--idle-settle", "2"], "--idle-settle is about"),
    ],
)
def test_options_that_cannot_be(
    options: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tmp_path), "--source", "none.mp4", *options]) == 2
    assert hint in capsys.readouterr().err


def test_rules_are_checked() -> None:
    with pytest.raises(UsageError, match="below 256"):
        IdleRules(change=256)
