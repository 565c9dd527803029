"""Events out of class probabilities: by hand, by chance, and of the packaged network on gestures that it should see."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcr_edge.cli import main
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.live.events import Event, EventFinder, EventRules
from tests.clips import real_clip
from tests.fuzz.damage import bounded
from tests.runtimes.toy import make_bundle

LABELS = ("wave", "push", "No gesture")
STEP_S = 0.125
RULES = EventRules(enter=0.6, leave=0.4, min_s=0.25, pause_s=0.5)


def found(waves: list[float], pushes: list[float] | None = None, rules: EventRules = RULES) -> list[Event]:
    """Events of a stream with these probabilities, a step every 0.125 s from 0 on, and its end."""
    finder = EventFinder(LABELS, rules)
    events = []
    for step, (wave, push) in enumerate(zip(waves, pushes or [0.0] * len(waves))):
        row = np.asarray([wave, push, max(0.0, 1 - wave - push)], np.float32)
        events += finder.add(step * STEP_S, row)
    return events + finder.cut()


def spans(events: list[Event]) -> list[tuple[str, float, float | None]]:
    return [(event.label, event.start_s, event.end_s) for event in events]


def test_an_event_begins_and_ends() -> None:
    start, end = found([0.1, 0.7, 0.9, 0.8, 0.1, 0.1])
    assert (start.label, start.start_s, start.end_s, start.number) == ("wave", 0.125, None, 1)
    assert start.confidence == pytest.approx(0.9)  # of its steps up to then
    assert (end.label, end.start_s, end.end_s, end.number, end.cut) == ("wave", 0.125, 0.375, 1, False)
    assert end.confidence == pytest.approx(0.9)


def test_two_thresholds_make_one_event_of_a_trembling_class() -> None:
    assert spans(found([0.7, 0.5, 0.7, 0.45, 0.65, 0.5, 0.3])) == [("wave", 0.0, None), ("wave", 0.0, 0.625)]
    assert found([0.5] * 8) == []  # never above the upper one


def test_what_is_too_short_does_not_count() -> None:
    assert found([0.7, 0.7, 0.1, 0.1]) == []
    assert len(found([0.7, 0.7, 0.7, 0.1])) == 2
    assert len(found([0.7], rules=EventRules(enter=0.6, min_s=0.0))) == 2


def test_a_pause_after_an_event_is_of_its_class_alone() -> None:
    high, low = [0.9] * 3, [0.0] * 3
    waves = [*high, 0.0, *high, *low]
    assert len(found(waves)) == 2  # 0.25 s after its end is within the pause
    pushes = [*low, 0.0, *high, *low]
    assert [event.label for event in found([*high, 0.0, *low, *low], pushes)] == ["wave", "wave", "push", "push"]
    assert len(found([*high, *[0.0] * 4, *high])) == 4


def test_a_cut_ends_what_lasted_and_forgets_the_pause() -> None:
    finder = EventFinder(LABELS, RULES)
    row = np.asarray([0.9, 0.1, 0.0], np.float32)
    assert [len(finder.add(step * STEP_S, row)) for step in range(4)] == [0, 0, 1, 0]
    (end,) = finder.cut()
    assert (end.end_s, end.cut) == (3 * STEP_S, True)
    assert finder.cut() == []
    assert sum(len(finder.add(step * STEP_S, row)) for step in range(4, 8)) == 1
    assert finder.count == 2


def test_labels_that_are_never_events_and_thresholds_of_their_own() -> None:
    quiet = EventRules(ignore=("wave",), min_s=0.0)
    assert found([0.9] * 4, rules=quiet) == []
    finder = EventFinder(LABELS, quiet)
    assert finder.add(0.0, np.asarray([0.0, 0.0, 1.0], np.float32)) != []  # the default is replaced
    strict = EventRules(enters={"wave": 0.95}, min_s=0.0)
    assert strict.thresholds("wave") == pytest.approx((0.95, 0.95 * EventRules.leave / EventRules.enter))
    assert found([0.9] * 4, rules=strict) == []


@bounded
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), max_size=60),
    st.floats(0.05, 1), st.floats(0.01, 1), st.sampled_from([0.0, 0.125, 0.3]), st.sampled_from([0.0, 0.125, 0.5]),
)  # fmt: skip
def test_events_never_overlap_and_always_end(
    rows: list[list[float]], enter: float, share: float, min_s: float, pause_s: float
) -> None:
    rules = EventRules(enter, enter * share, min_s, pause_s, ignore=("No gesture",))
    finder = EventFinder(LABELS, rules)
    events = [
        event for step, row in enumerate(rows) for event in finder.add(step * STEP_S, np.asarray(row, np.float32))
    ]
    events += finder.cut()
    starts, ends = events[::2], events[1::2]
    assert len(starts) == len(ends) == finder.count
    assert [event.number for event in starts] == [event.number for event in ends] == list(range(1, finder.count + 1))
    last = dict.fromkeys(LABELS, -math.inf)
    before = -math.inf
    for start, end in zip(starts, ends):
        assert start.end_s is None
        assert end.end_s is not None
        assert (start.label, start.start_s) == (end.label, end.start_s)
        assert start.label != "No gesture"
        assert before < start.start_s <= end.end_s - min_s + 1e-9
        assert start.start_s - last[start.label] >= pause_s
        assert end.confidence >= start.confidence >= np.float32(enter)
        last[start.label] = before = end.end_s


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"enter": 0.0}, "enter is 0: give a probability"),
        ({"enter": math.nan}, "enter is nan"),
        ({"leave": 1.5}, "leave is 1.5"),
        ({"enter": 0.3, "leave": 0.4}, "leave is 0.4, above enter, 0.3"),
        ({"min_s": -1.0}, "min-seconds is -1"),
        ({"pause_s": math.inf}, "pause-seconds is inf"),
        ({"enters": {"wave": 2.0}}, "wave is 2"),
    ],
)
def test_rules_that_cannot_be(values: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        EventRules(**values)  # type: ignore[arg-type]


def test_an_unknown_label() -> None:
    with pytest.raises(UsageError, match="no class 'wavee'; it has No gesture, push, wave"):
        EventFinder(LABELS, EventRules(ignore=("wavee",)))
    EventFinder(("a", "b"))  # the defaults may be missing


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    bundle, clip = make_bundle(tmp_path / "bundle", "onnx"), str(real_clip("bikes.mp4"))
    # The toy network hardly decides anything: its classes are events from a low threshold on.
    call = ["run", str(bundle), "--source", clip, "--frames", "40", "--events", "--enter", "0.34", "--leave", "0.1"]
    assert main([*call, "--json", str(tmp_path / "lines")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    events = [line for line in lines if "event" in line]
    assert [event["event"] for event in events] == ["start", "end"]
    assert events[1]["cut"] is True  # by the end of the run
    assert events[1]["end_s"] == [line["time_s"] for line in lines if "top" in line][-1]
    assert lines[-1]["summary"]["events"] == 1
    out = capsys.readouterr().out
    assert f"{events[0]['label']} begins" in out
    assert f"{events[0]['label']} ends after" in out
    assert ", 1 event, on" in out
    assert " frame " not in out
    assert main([*call, "--ignore", events[0]["label"], "--ignore", "up"]) == 2
    assert "the network has no class 'up'" in capsys.readouterr().err
    assert main(["run", str(bundle), "--source", clip, "--min-seconds", "1"]) == 2
    assert "--min-seconds is about events: add --events" in capsys.readouterr().err
