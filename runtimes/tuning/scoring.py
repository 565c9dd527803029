"""How events are matched with what really happened, and what is counted then. The one place where that is defined.

An event e and a truth t match if they have the same label and overlap, where an event may come a little late:

    label_e = label_t,   start_e <= end_t + SLACK_S,   end_e >= start_t

Events are taken in the order of their starts, and each takes the earliest truth that it matches and that no event
before it took. So each truth counts once, and a second event of the same thing is a false alarm. With TP events that
took a truth, FP that did not, and FN truths that were not taken:

    precision = TP / (TP + FP),   recall = TP / (TP + FN),   F1 = 2 TP / (2 TP + FP + FN)

The delay of an event that took a truth is the time from the truth's start to the moment when the event's start was
told, which is ``min_s`` or more after the event's own start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# A network that has seen all of a gesture may decide just after its end.
SLACK_S = 0.5
_Z = 1.959964  # of the normal distribution, for intervals of 95 %


@dataclass(frozen=True)
class Truth:
    """Something that happened. label: a class. start_s, end_s: seconds in its stream, start_s < end_s."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Told:
    """An event that was found. start_s, end_s: its first and last step. told_s: the step at which it became one."""

    label: str
    start_s: float
    end_s: float
    told_s: float


@dataclass
class Counts:
    """hits, false_alarms, misses: TP, FP and FN. delays: seconds, one for each hit. seconds: of all streams."""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    delays: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def precision(self) -> float | None:
        """None without events."""
        return _share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float | None:
        """None without truths."""
        return _share(self.hits, self.hits + self.misses)

    @property
    def f1(self) -> float | None:
        """None where neither events nor truths are."""
        return _share(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def delay_s(self) -> float | None:
        """The median delay; None without hits."""
        ordered, count = sorted(self.delays), len(self.delays)
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2 if count else None

    @property
    def false_alarms_per_hour(self) -> float | None:
        """None where the streams have no length."""
        return self.false_alarms * 3600 / self.seconds if self.seconds else None

    def add(self, other: Counts) -> None:
        """Count the other's too."""
        self.hits += other.hits
        self.false_alarms += other.false_alarms
        self.misses += other.misses
        self.delays += other.delays
        self.seconds += other.seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the 95 % intervals of precision and recall."""
        found = self.hits + self.false_alarms
        return {
            "truths": self.hits + self.misses,
            "events": found,
            "hits": self.hits,
            "false_alarms": self.false_alarms,
            "misses": self.misses,
            "precision": _rounded(self.precision),
            "precision_95": [round(end, 4) for end in wilson(self.hits, found)],
            "recall": _rounded(self.recall),
            "recall_95": [round(end, 4) for end in wilson(self.hits, self.hits + self.misses)],
            "f1": _rounded(self.f1),
            "delay_s": _rounded(self.delay_s),
            "false_alarms_per_hour": _rounded(self.false_alarms_per_hour),
            "seconds": round(self.seconds, 3),
        }


def match(events: Iterable[Told], truths: Sequence[Truth], slack_s: float = SLACK_S) -> list[tuple[Told, Truth | None]]:
    """Each event of one stream, in the order of their starts, with the truth that it took; None: a false alarm."""
    free = sorted(truths, key=lambda truth: truth.start_s)
    pairs: list[tuple[Told, Truth | None]] = []
    for event in sorted(events, key=lambda event: event.start_s):
        taken = next(
            (
                truth
                for truth in free
                if truth.label == event.label
                and event.start_s <= truth.end_s + slack_s
                and event.end_s >= truth.start_s
            ),
            None,
        )
        if taken is not None:
            free.remove(taken)
        pairs.append((event, taken))
    return pairs


def count(events: Iterable[Told], truths: Sequence[Truth], seconds: float) -> dict[str, Counts]:
    """The counts of one stream by label, of those labels that were told or true. seconds: the stream's length."""
    counts: dict[str, Counts] = {}
    for truth in truths:
        counts.setdefault(truth.label, Counts(seconds=seconds)).misses += 1
    for event, taken in match(events, truths):
        own = counts.setdefault(event.label, Counts(seconds=seconds))
        if taken is None:
            own.false_alarms += 1
        else:
            own.hits += 1
            own.misses -= 1
            own.delays.append(event.told_s - taken.start_s)
    return counts


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927); (0, 1) for a share of nothing.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = hits / n
    """
    if not of:
        return 0.0, 1.0
    share, square = hits / of, _Z * _Z / of
    middle, half = share + square / 2, _Z * math.sqrt(share * (1 - share) / of + square / (4 * of))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def _share(part: int, of: int) -> float | None:
    return part / of if of else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
