"""Events out of the class probabilities of a stream: what began when, what it was, and when it ended.

A class becomes an event when its probability has been ``enter`` or more, and then ``leave`` or more, for ``min_s``
seconds; the event began where that did. It ends with the last step before the probability is below ``leave``. Two
thresholds keep a probability that trembles around one of them from making many events of one. For ``pause_s`` seconds
after its end the same class cannot begin again. There is one event at a time: the one that is running stays until its
own probability falls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lcr_edge.errors import UsageError
from lcr_edge.runtimes.state import Floats

# Of the gestures of Jester these two say that there is none.
BACKGROUND = ("No gesture", "Doing other things")


@dataclass(frozen=True)
class EventRules:
    """When a class is an event. enter, leave: probabilities in (0, 1], leave at most enter. min_s, pause_s: seconds.

    ignore: labels that are never events. enters: ``enter`` of single labels; their ``leave`` keeps its share of it.
    Raises UsageError.
    """

    # As tune-events chose them for lcr_nano, see docs/events.md.
    enter: float = 0.8
    leave: float = 0.53
    min_s: float = 0.375
    pause_s: float = 1.0
    ignore: tuple[str, ...] = BACKGROUND
    enters: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("enter", self.enter), ("leave", self.leave), *self.enters.items()):
            if not 0 < value <= 1:
                raise UsageError(f"{name} is {value:g}: give a probability above 0 and at most 1")
        if self.leave > self.enter:
            raise UsageError(f"leave is {self.leave:g}, above enter, {self.enter:g}: give a smaller one")
        for name, value in (("min-seconds", self.min_s), ("pause-seconds", self.pause_s)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value:g}: give 0 or more")

    def check_labels(self, labels: Iterable[str]) -> None:
        """Raise UsageError for a label in ``ignore`` or ``enters`` that the network lacks, unless it is a default."""
        known = set(labels)
        for name in (*self.ignore, *self.enters):
            if name not in known and name not in BACKGROUND:
                raise UsageError(f"the network has no class {name!r}; it has {', '.join(sorted(known))}")

    def __str__(self) -> str:
        own = "".join(f"; {label} from {enter:g}" for label, enter in sorted(self.enters.items()))
        lasting = f"for {self.min_s:g} s, pause {self.pause_s:g} s"
        return f"from {self.enter:g} down to {self.leave:g}, {lasting}{own}"

    def thresholds(self, label: str) -> tuple[float, float]:
        """(enter, leave) of a label."""
        enter = self.enters.get(label, self.enter)
        return enter, enter * self.leave / self.enter


@dataclass(frozen=True)
class Event:
    """Something that was seen. number: counts events from 1. start_s: time of its first step.

    end_s: time of its last step; None while it lasts. confidence: the largest probability so far. cut: whether the
    stream was cut while it lasted, so that its end is not known.
    """

    number: int
    label: str
    start_s: float
    end_s: float | None
    confidence: float
    cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        end_s = None if self.end_s is None else round(self.end_s, 4)
        times = {"start_s": round(self.start_s, 4), "end_s": end_s}
        kind = "start" if self.end_s is None else "end"
        confidence = round(self.confidence, 6)
        return {
            "event": kind,
            "number": self.number,
            "label": self.label,
            **times,
            "confidence": confidence,
            "cut": self.cut,
        }


@dataclass
class _Candidate:
    """A class whose probability is high. start_s, last_s: its first and last step. event: once it is one."""

    label: int
    start_s: float
    last_s: float
    confidence: float
    event: Event | None = None


class EventFinder:
    """Finds the events of one stream, step by step. count: so many began. Raises UsageError for an unknown label."""

    def __init__(self, labels: Sequence[str], rules: EventRules | None = None) -> None:
        self.rules = rules or EventRules()
        self.rules.check_labels(labels)
        self._labels = tuple(labels)
        pairs = [self.rules.thresholds(label) for label in labels]
        never = np.isin(np.asarray(labels, dtype=object), list(self.rules.ignore))
        self._enter = np.where(never, np.inf, [enter for enter, _ in pairs])
        self._leave = np.asarray([leave for _, leave in pairs])
        self._candidate: _Candidate | None = None
        self._ended: dict[int, float] = {}
        self.count = 0

    def add(self, time_s: float, probabilities: Floats) -> list[Event]:
        """Take a step's probabilities [classes]. Returns the end of an event, the start of one, both or nothing.

        time_s: seconds, later than that of the step before.
        """
        happened = []
        running = self._candidate
        if running is not None and probabilities[running.label] < self._leave[running.label]:
            happened += self._end(cut=False)
            running = None
        if running is None:
            running = self._candidate = self._begin(time_s, probabilities)
        if running is not None:
            running.last_s = time_s
            running.confidence = max(running.confidence, float(probabilities[running.label]))
            if running.event is None and time_s - running.start_s >= self.rules.min_s:
                self.count += 1
                label = self._labels[running.label]
                running.event = Event(self.count, label, running.start_s, None, running.confidence)
                happened.append(running.event)
        return happened

    @property
    def busy(self) -> bool:
        """Whether an event lasts, or something may become one: the next step counts."""
        return self._candidate is not None

    def cut(self) -> list[Event]:
        """The stream was cut, or is over: returns the end of the event that lasted, if there was one."""
        happened = self._end(cut=True)
        self._ended.clear()
        return happened

    def _begin(self, time_s: float, probabilities: Floats) -> _Candidate | None:
        above = [
            int(label)
            for label in np.flatnonzero(probabilities >= self._enter)
            if time_s - self._ended.get(int(label), -math.inf) >= self.rules.pause_s
        ]
        if not above:
            return None
        best = max(above, key=lambda label: float(probabilities[label]))
        return _Candidate(best, time_s, time_s, float(probabilities[best]))

    def _end(self, *, cut: bool) -> list[Event]:
        ended, self._candidate = self._candidate, None
        if ended is None or ended.event is None:
            return []
        self._ended[ended.label] = ended.last_s
        return [replace(ended.event, end_s=ended.last_s, confidence=ended.confidence, cut=cut)]
