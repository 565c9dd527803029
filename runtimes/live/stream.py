"""One source stepped through a model, as long as it gives frames: which frames, which state, what happened.

Several streams may share a model, each in a thread of its own with a state of its own. Their steps take turns in the
order in which they were ready (:class:`Turns`), so a fast camera does not crowd out a slow one, and what a stream
computes does not depend on the others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from lcr_edge.runtimes.api import Floats, Model, State
from lcr_edge.runtimes.live.events import Event, EventFinder
from lcr_edge.runtimes.live.sources import LiveSource
from lcr_edge.runtimes.video import Tick, VideoSource, resample

# The final decision covers at most this many of the last steps, so that a camera can run for months.
MAX_KEPT = 1_000


class Turns:
    """A lock that is given in the order of asking."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given, self._served = 0, 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._given = self._given, self._given + 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


@dataclass(frozen=True)
class Step:
    """One step. probabilities: float32 [classes]. latency_ms: of fitting the frame and the step, turns not counted.

    lag_s: how old the frame was when its turn came; None for a file. events: what began and ended.
    """

    tick: Tick
    probabilities: Floats
    latency_ms: float
    lag_s: float | None
    events: tuple[Event, ...]


@dataclass
class Totals:
    """What a stream has seen so far. logits: those since the last reset, ``MAX_KEPT`` at most."""

    logits: deque[Floats] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    steps: int = 0
    resets: int = 0
    missed: int = 0
    largest_lag_s: float = 0.0


class Stream:
    """A source, a state and counts.

    finder: None without events. turns: shared by all streams of one model; None for a stream that has it alone. fps:
    steps a second, as the network was trained. live: the source, if it is one that comes back. state_inside: whether
    the engine keeps the state.
    """

    def __init__(
        self, model: Model, source: VideoSource | LiveSource, finder: EventFinder | None, turns: Turns | None = None
    ) -> None:
        self.model, self.source, self.finder = model, source, finder
        self.totals = Totals()
        self.fps = float(model.manifest["frame"]["train_fps"])
        self.live = source if isinstance(source, LiveSource) else None
        self.state_inside = turns is None and model.bundle.state_mode == "internal"
        self._turns = turns
        self._state = model.initial_state()
        self._stopped = False
        self._asked: deque[str] = deque(maxlen=1)

    @property
    def state(self) -> State:
        """The state after the last step; with ``state_inside``, where the engine keeps it, the first one."""
        return self._state

    def reset(self, reason: str = "reset by hand") -> None:
        """Let the next step start from zeros, as after a gap. From any thread. reason: what is then its tick's gap."""
        self._asked.append(reason)

    def stop(self) -> None:
        """Let :meth:`steps` end, from another thread."""
        self._stopped = True
        if self.live is not None:
            self.live.stop()

    def steps(self) -> Iterator[Step]:
        """Step until the source ends or :meth:`stop` is called. Raises VideoError, SourceLostError and StateError."""
        for tick in resample(self.source, self.fps, live=self.live is not None):
            if self._stopped:
                return
            if self._asked:
                asked = self._asked.popleft()
                tick = replace(tick, gap=tick.gap or asked)
            events = self._cut() if tick.gap else ()
            lag_s, latency_ms, logits = self._step(tick)
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            if self.finder is not None:
                events = (*events, *self.finder.add(tick.timed.time_s, probabilities))
            totals = self.totals
            totals.logits.append(logits)
            totals.steps += 1
            totals.missed += tick.missed
            totals.largest_lag_s = max(totals.largest_lag_s, lag_s or 0.0)
            yield Step(tick, probabilities, latency_ms, lag_s, events)

    def end(self) -> tuple[Event, ...]:
        """The end of the event that lasted to the end, if there was one."""
        return () if self.finder is None else tuple(self.finder.cut())

    def _cut(self) -> tuple[Event, ...]:
        self.totals.resets += 1
        self.totals.logits.clear()
        self._state = self.model.initial_state()
        if self.state_inside:
            self.model.reset()
        return self.end()

    def _step(self, tick: Tick) -> tuple[float | None, float, Floats]:
        """How old the frame was, milliseconds of the step, and the logits."""
        if self.state_inside:  # the model is this stream's alone
            lag_s, begin = self._lag_s(tick), time.perf_counter()
            logits = self.model.step_stream(self.model.fit(tick.timed.frame))
            return lag_s, (time.perf_counter() - begin) * 1e3, logits
        with self._turns or contextlib.nullcontext():
            lag_s, begin = self._lag_s(tick), time.perf_counter()
            logits, self._state = self.model.step(self.model.fit(tick.timed.frame), self._state)
            return lag_s, (time.perf_counter() - begin) * 1e3, logits

    def _lag_s(self, tick: Tick) -> float | None:
        return None if self.live is None else self.live.lag_s(tick.timed)
