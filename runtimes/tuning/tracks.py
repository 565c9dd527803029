"""What a bundle says about a labelled stream, step by step: kept, so that many thresholds can be tried on it.

The stream is stepped by :class:`~lcr_edge.runtimes.live.stream.Stream`, as ``lcr-edge run`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import numpy as np
from numpy.typing import NDArray

from lcr_edge.errors import UsageError
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.live.events import Event, EventFinder, EventRules
from lcr_edge.runtimes.live.stream import Frames, Stream
from lcr_edge.runtimes.tuning.scoring import Counts, Told, Truth, count


@dataclass(frozen=True)
class Labelled:
    """A stream and what happens in it. open: opens the stream, which is iterated once. truths: in order of time."""

    name: str
    open: Callable[[], Frames]
    truths: tuple[Truth, ...]


@dataclass(frozen=True)
class Track:
    """The steps of a stream. times: seconds, [T]. probabilities: float32 [T, classes]. cuts: indices of the steps
    before which the state was reset. seconds: how long the stream lasted."""

    name: str
    times: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    truths: tuple[Truth, ...]
    cuts: tuple[int, ...]
    seconds: float


def follow(model: Model, labelled: Labelled) -> Track:
    """Step a stream from a new state to its end. Raises VideoError, and UsageError for no frame or late labels."""
    model.reset()
    stream = Stream(model, labelled.open(), None)
    times: list[float] = []
    rows: list[NDArray[np.float32]] = []
    cuts: list[int] = []
    for step in stream.steps():
        if step.tick.gap:
            cuts.append(len(times))
        times.append(step.tick.timed.time_s)
        rows.append(step.probabilities)
    if not times:
        raise UsageError(f"{labelled.name} has no frame; leave it out")
    late = [truth for truth in labelled.truths if truth.start_s > max(times)]
    if late:
        begins = f"{late[0].label!r} at {late[0].start_s:g} s"
        raise UsageError(f"{labelled.name} ends at {max(times):.1f} s, before {begins}: are these the film's labels?")
    # Not the last time less the first: after a cut, times may begin anew.
    seconds = len(times) / stream.fps
    return Track(labelled.name, np.asarray(times), np.stack(rows), labelled.truths, tuple(cuts), seconds)


def events_of(track: Track, labels: Sequence[str], rules: EventRules) -> list[Told]:
    """The events that these rules find in a track. Raises UsageError for rules with an unknown label."""
    finder = EventFinder(labels, rules)
    found: list[Told] = []
    begun: dict[int, float] = {}

    def note(events: Sequence[Event], time_s: float) -> None:
        for event in events:
            if event.end_s is None:
                begun[event.number] = time_s
            else:
                found.append(Told(event.label, event.start_s, event.end_s, begun.pop(event.number)))

    cuts, could = frozenset(track.cuts), _could_begin(track, labels, rules)
    for step, time_s in enumerate(track.times.tolist()):
        if step in cuts:
            note(finder.cut(), time_s)
        if finder.busy or could[step]:  # the others can neither begin nor end anything
            note(finder.add(time_s, track.probabilities[step]), time_s)
    note(finder.cut(), float(track.times[-1]))
    return found


def score(tracks: Sequence[Track], labels: Sequence[str], rules: EventRules) -> tuple[Counts, dict[str, Counts]]:
    """The counts of these rules on these tracks: of all labels together, and of each that was told or true."""
    seconds = sum(track.seconds for track in tracks)
    total = Counts()
    each: dict[str, Counts] = {}
    for track in tracks:
        for label, counts in count(events_of(track, labels, rules), track.truths, 0.0).items():
            total.add(counts)
            each.setdefault(label, Counts(seconds=seconds)).add(counts)
    total.seconds = seconds
    return total, each


def _could_begin(track: Track, labels: Sequence[str], rules: EventRules) -> NDArray[np.bool_]:
    enters = [np.inf if label in rules.ignore else rules.thresholds(label)[0] for label in labels]
    return np.asarray((track.probabilities >= np.asarray(enters)).any(axis=1))
