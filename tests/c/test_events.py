"""The events that C finds are those of Python: the same classes, times and confidences."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcr_edge.runtimes.live.events import EventFinder, EventRules
from tests.c.image_library import Event, Rules, address, guarded, library, unguarded
from tests.fuzz.damage import bounded

F32 = npt.NDArray[np.float32]
LABELS = ("wave", "push", "swipe", "No gesture")
# number, label, start, end or None, confidence, cut
Found = tuple[int, int, float, "float | None", float, bool]
STEP_S = 0.125


class Stream:
    """A stream of the C library with the rules of a Python one."""

    def __init__(self, rules: EventRules) -> None:
        enters = np.asarray([rules.enters.get(label, 0.0) for label in LABELS])
        ignore = np.asarray([label in rules.ignore for label in LABELS], np.uint8)
        given = Rules(rules.enter, rules.leave, rules.min_s, rules.pause_s, address(enters), address(ignore))
        self._memory = guarded(library().lcr_events_size(len(LABELS)))
        started = library().lcr_events_start(address(self._memory), len(LABELS), ctypes.byref(given))
        assert started == self._memory.ctypes.data
        enters[:], ignore[:] = math.nan, 255  # not needed any more

    def add(self, time_s: float, probabilities: F32) -> list[Found]:
        events = (Event * 2)()
        row = np.ascontiguousarray(probabilities)
        count = library().lcr_events_step(self._place, ctypes.c_double(time_s), address(row), events)
        return [plain(event) for event in events[:count]]

    def cut(self) -> list[Found]:
        event = Event()
        count = library().lcr_events_cut(self._place, ctypes.byref(event))
        return [plain(event)] * int(count)

    @property
    def busy(self) -> bool:
        return bool(library().lcr_events_busy(self._place))

    @property
    def _place(self) -> ctypes.c_void_p:
        unguarded(self._memory)
        return address(self._memory)


def plain(event: Event) -> Found:
    end_s = event.end_s if event.ended else None
    assert event.ended or event.end_s == 0
    return event.number, event.label, event.start_s, end_s, event.confidence, bool(event.cut)


def expected(events: list[Any]) -> list[Found]:
    return [
        (event.number, LABELS.index(event.label), event.start_s, event.end_s, event.confidence, event.cut)
        for event in events
    ]


def compare(rules: EventRules, times: npt.NDArray[Any], rows: F32, cuts: npt.NDArray[Any] | None = None) -> int:
    """Step through both; everything must be equal after every step. Returns how many things happened."""
    mine, theirs, count = Stream(rules), EventFinder(LABELS, rules), 0
    for number, (time_s, row) in enumerate(zip(times.tolist(), rows)):
        if cuts is not None and cuts[number]:
            assert mine.cut() == expected(theirs.cut()), number
        got = mine.add(time_s, row)
        assert got == expected(theirs.add(time_s, row)), (number, time_s)
        assert mine.busy == theirs.busy
        count += len(got)
    assert mine.cut() == expected(theirs.cut())
    assert mine.busy == theirs.busy
    return count


def stream(rng: np.random.Generator, steps: int, restless: float) -> F32:
    """Probabilities of a random walk of logits, float32 [steps, classes]."""
    logits = np.cumsum(rng.normal(0, restless, (steps, len(LABELS))), axis=0)
    logits -= logits.mean(axis=1, keepdims=True)
    logits = 4 * np.sin(logits)
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


RULES = {
    "usual": EventRules(),
    "lively": EventRules(enter=0.5, leave=0.3, min_s=0.25, pause_s=0.5),
    "at once": EventRules(enter=0.4, leave=0.4, min_s=0.0, pause_s=0.0, ignore=()),
    "long pauses": EventRules(enter=0.5, leave=0.2, min_s=0.125, pause_s=5.0, ignore=()),
    "each its own": EventRules(enter=0.6, leave=0.4, min_s=0.2, enters={"wave": 0.3, "swipe": 0.9}),
    # 0.1875 * 0.1 / 0.4 is above 0.046875, which a float can be; in another order it is not.
    "order of rounding": EventRules(enter=0.4, leave=0.1, min_s=0.2, ignore=(), enters={"wave": 0.1875}),
    "some ignored": EventRules(enter=0.4, leave=0.3, min_s=0.2, ignore=("wave", "push")),
}


@pytest.mark.parametrize("name", RULES)
def test_random_streams(name: str, rng: np.random.Generator) -> None:
    happened = 0
    for restless in (0.1, 0.4, 1.5):
        rows = stream(rng, 1500, restless)
        steady = np.arange(len(rows)) * STEP_S
        happened += compare(RULES[name], steady, rows)
        uneven = np.cumsum(rng.uniform(0.001, 0.4, len(rows)))
        happened += compare(RULES[name], uneven, rows, rng.random(len(rows)) < 0.01)
    assert happened > 50


@pytest.mark.parametrize("name", RULES)
def test_probabilities_on_the_thresholds(name: str, rng: np.random.Generator) -> None:
    """Values on a threshold, one float above and one below it, and durations that are just reached or just not."""
    rules = RULES[name]
    exact = {value for label in LABELS for value in rules.thresholds(label)}
    near: list[np.float32] = [np.float32(0), np.float32(1)]
    for value in exact:
        here = np.float32(value)
        near += [here, np.nextafter(here, np.float32(0)), np.nextafter(here, np.float32(1))]
    rows = rng.choice(np.asarray(near, np.float32), (3000, len(LABELS))).repeat(3, axis=0)
    assert compare(rules, np.arange(len(rows)) * STEP_S, rows) > 50
    assert compare(rules, np.cumsum(rng.choice([0.1, rules.min_s or 0.1], len(rows))), rows) > 50


@bounded
@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.53, 0.8, 0.8000001, 1.0]), min_size=4, max_size=4)),
    enter=st.sampled_from([0.5, 0.8, 1.0]),
    share=st.sampled_from([0.1, 0.6, 2 / 3, 1.0]),
    min_s=st.sampled_from([0.0, 0.1, 0.125, 0.25, 1.0]),
    pause_s=st.sampled_from([0.0, 0.125, 0.3, 1.0]),
    cuts=st.sets(st.integers(0, 30)),
)
def test_any_rules(
    rows: list[list[float]], enter: float, share: float, min_s: float, pause_s: float, cuts: set[int]
) -> None:
    rules = EventRules(enter=enter, leave=enter * share, min_s=min_s, pause_s=pause_s)
    values = np.asarray(rows, np.float32).reshape(-1, len(LABELS))
    marks = np.asarray([number in cuts for number in range(len(rows))], bool)
    compare(rules, np.arange(len(rows)) * STEP_S, values, marks)


def test_not_a_number_neither_begins_nor_ends_anything() -> None:
    rows = np.zeros((12, len(LABELS)), np.float32)
    rows[2:9, 0] = 0.9
    rows[[1, 4, 5, 8]] = np.nan
    assert compare(RULES["lively"], np.arange(12) * STEP_S, rows) == 2


def test_a_copy_of_the_memory_goes_on_by_itself(rng: np.random.Generator) -> None:
    rows = stream(rng, 400, 0.4)
    first, finder = Stream(RULES["lively"]), EventFinder(LABELS, RULES["lively"])
    for number in range(200):
        first.add(number * STEP_S, rows[number])
        finder.add(number * STEP_S, rows[number])
    second = Stream(RULES["usual"])
    second._memory[:] = first._memory
    for row in rows[:50]:
        first.add(100.0, row)
    for number in range(200, 400):
        assert second.add(number * STEP_S, rows[number]) == expected(finder.add(number * STEP_S, rows[number]))


def test_the_usual_rules() -> None:
    rules, usual = library().lcr_usual_rules(), EventRules()
    assert (rules.enter, rules.leave, rules.min_s, rules.pause_s) == (
        usual.enter,
        usual.leave,
        usual.min_s,
        usual.pause_s,
    )
    assert rules.enters is None
    assert rules.ignore is None
    memory = guarded(library().lcr_events_size(1))
    assert library().lcr_events_start(address(memory), 1, None) == memory.ctypes.data
    events = (Event * 2)()
    row = np.ones(1, np.float32)
    counts = [library().lcr_events_step(address(memory), ctypes.c_double(t), address(row), events) for t in (0, 0.375)]
    assert counts == [0, 1]
    unguarded(memory)


def test_rules_that_cannot_be() -> None:
    memory = guarded(1 << 10)

    def start(classes: int = 2, own: float = 0.5, wrong: tuple[str, float] | None = None) -> int | None:
        rules = library().lcr_usual_rules()
        enters = np.asarray([0.0, own])
        rules.enters = address(enters)
        if wrong is not None:
            setattr(rules, *wrong)
        result: int | None = library().lcr_events_start(address(memory), classes, ctypes.byref(rules))
        return result

    assert start() == memory.ctypes.data
    memory[:] = 0
    assert library().lcr_events_start(None, 2, None) is None
    for classes in (0, -1, 65537):
        assert start(classes=classes) is None
        assert library().lcr_events_size(classes) == 0
    for name, values in {
        "enter": (0.0, -0.1, 1.01, math.nan, math.inf, 0.5),
        "leave": (0.0, -0.1, 0.81, math.nan),
        "min_s": (-0.1, math.nan, math.inf),
        "pause_s": (-0.1, math.nan, math.inf),
    }.items():
        for value in values:
            assert start(wrong=(name, value)) is None, (name, value)
    for value in (-0.1, 1.1, math.nan):
        assert start(own=value) is None
    assert not memory.any()


def test_probabilities(rng: np.random.Generator) -> None:
    for scale in (0.1, 5, 80):
        logits = rng.normal(0, scale, 27).astype(np.float32)
        exact = np.exp(logits.astype(np.float64) - logits.max())
        exact /= exact.sum()
        result = np.empty_like(logits)
        library().lcr_probabilities(address(logits), 27, address(result))
        assert np.abs(result - exact).max() < 1e-6
        library().lcr_probabilities(address(logits), 27, address(logits))
        assert np.array_equal(logits, result)
