"""One source stepped through a model, as long as it gives frames: which frames, which state, what happened.

Several streams may share a model, each in a thread of its own with a state of its own. Their steps take turns in the
order in which they were ready (:class:`Turns`), so a fast camera does not crowd out a slow one, and what a stream
computes does not depend on the others.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Callable, Protocol

import numpy as np

from lcr_edge.frames import Frame
from lcr_edge.runtimes.api import Floats, Model, State
from lcr_edge.runtimes.live.events import Event, EventFinder
from lcr_edge.runtimes.live.idle import IdleGate
from lcr_edge.runtimes.live.sources import LiveSource
from lcr_edge.runtimes.video import Tick, TimedFrame, resample

# The final decision covers at most this many of the last steps, so that a camera can run for months.
MAX_KEPT = 1_000
# To look at a state means to copy it, so it is done now and then.
_LOOK_EVERY = 64


class Frames(Protocol):
    """What a stream steps: a VideoSource, a LiveSource, or any other timed frames. seen: so many were given."""

    @property
    def seen(self) -> int: ...

    def __iter__(self) -> Iterator[TimedFrame]: ...


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
    """One step. probabilities: float32 [classes]. latency_ms: of fitting the frame and the step, without waiting
    for its turn.

    lag_s: how old the frame was when its turn came; None for a file. events: what began and ended. skipped: so many
    steps the idle gate left out since the step before.
    """

    tick: Tick
    probabilities: Floats
    latency_ms: float
    lag_s: float | None
    events: tuple[Event, ...]
    skipped: int = 0


@dataclass
class Totals:
    """What a stream has seen so far. logits: those since the last reset, ``MAX_KEPT`` at most. skipped: steps that the
    idle gate left out; they are not among ``steps``. largest_state: largest |h| or |c|, looked at every 64 steps."""

    logits: deque[Floats] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    steps: int = 0
    resets: int = 0
    missed: int = 0
    skipped: int = 0
    largest_lag_s: float = 0.0
    largest_state: float = 0.0


@dataclass(frozen=True)
class _Seen:
    """A frame of the network's size. seconds: what it took to fit it and to look at it."""

    frame: Frame
    seconds: float


class Stream:
    """A source, a state and counts.

    finder: None without events. turns: shared by all streams of one model; None for a stream that has it alone, and for
    a model that steps several in a call. fps:
    steps a second, as the network was trained. live: the source, if it is one that comes back. gate: says which steps
    are left out because nothing moves; None: none. left_out: is called with each of them. over: whether :meth:`steps`
    has ended.
    """

    def __init__(
        self,
        model: Model,
        source: Frames,
        finder: EventFinder | None,
        turns: Turns | None = None,
        gate: IdleGate | None = None,
    ) -> None:
        self.model, self.source, self.finder, self.gate = model, source, finder, gate
        self.totals = Totals()
        self.fps = float(model.manifest["frame"]["train_fps"])
        self.live = source if isinstance(source, LiveSource) else None
        self._turns = turns
        self._steps = model.open_stream()
        self._stopped = False
        self._resumed_until = math.inf
        self.left_out: Callable[[Tick], None] | None = None
        self.over = False
        self._asked: deque[str] = deque(maxlen=1)

    @property
    def state(self) -> State:
        """A copy of the state after the last step."""
        return self._steps.state()

    def resume(self, state: State, within_s: float = math.inf) -> None:
        """Go on from a state, if the first step is within some seconds. To be called before it. Raises StateError."""
        self._steps.restore(state)
        self._resumed_until = time.monotonic() + within_s

    def reset(self) -> None:
        """Let the next step start from a zero state, from another thread: the stream is cut there."""
        self._asked.append("reset by hand")

    def stop(self) -> None:
        """Let :meth:`steps` end, from another thread."""
        self._stopped = True
        if self.live is not None:
            self.live.stop()

    def steps(self) -> Iterator[Step]:
        """Step until the source ends or :meth:`stop` is called. Raises VideoError, SourceLostError and StateError."""
        skipped = 0
        try:
            for tick in resample(self.source, self.fps, live=self.live is not None):
                if self._stopped:
                    return
                if time.monotonic() > self._resumed_until:
                    tick = replace(tick, gap="the state that was kept has become too old")
                self._resumed_until = math.inf
                if self._asked:
                    asked = self._asked.popleft()
                    tick = replace(tick, gap=tick.gap or asked)
                events = self._cut() if tick.gap else ()
                totals = self.totals
                totals.missed += tick.missed
                seen = self._see(tick)
                if seen is None:
                    skipped += 1
                    totals.skipped += 1
                    if self.left_out is not None:
                        self.left_out(tick)
                    continue
                lag_s, latency_ms, logits = self._step(tick, seen)
                probabilities = np.exp(logits - logits.max())
                probabilities /= probabilities.sum()
                if self.finder is not None:
                    events = (*events, *self.finder.add(tick.timed.time_s, probabilities))
                totals.logits.append(logits)
                totals.steps += 1
                totals.largest_lag_s = max(totals.largest_lag_s, lag_s or 0.0)
                if totals.steps % _LOOK_EVERY == 0:
                    self.look()
                yield Step(tick, probabilities, latency_ms, lag_s, events, skipped)
                skipped = 0
        finally:
            self.over = True

    def look(self) -> float:
        """The largest |h| or |c| of this state and those looked at before. Raises StateError if not finite."""
        largest = max(float(np.abs(part).max()) for part in self.model.state_values(self.state))
        self.totals.largest_state = max(self.totals.largest_state, largest)
        return self.totals.largest_state

    def end(self) -> tuple[Event, ...]:
        """The end of the event that lasted to the end, if there was one."""
        return () if self.finder is None else tuple(self.finder.cut())

    def _cut(self) -> tuple[Event, ...]:
        self.totals.resets += 1
        if self.gate is not None:
            self.gate.reset()
        self.totals.logits.clear()
        self._steps.reset()
        return self.end()

    def _see(self, tick: Tick) -> _Seen | None:
        """The frame as the network takes it; None if the gate leaves its step out."""
        begin = time.perf_counter()
        frame = self.model.fit(tick.timed.frame)
        if self.gate is not None:
            busy = self.finder is not None and self.finder.busy
            if self.gate.skips(tick.timed.time_s, frame, busy=busy):
                return None
        return _Seen(frame, time.perf_counter() - begin)

    def _step(self, tick: Tick, seen: _Seen) -> tuple[float | None, float, Floats]:
        """How old the frame was, milliseconds of fitting it and of the step, and the logits."""
        with self._turns or contextlib.nullcontext():
            lag_s, begin = self._lag_s(tick), time.perf_counter()
            logits = self._steps.step(seen.frame)
            waited_s = self._steps.waited_s
            if lag_s is not None:
                lag_s += waited_s
            return lag_s, (seen.seconds + time.perf_counter() - begin - waited_s) * 1e3, logits

    def _lag_s(self, tick: Tick) -> float | None:
        return None if self.live is None else self.live.lag_s(tick.timed)
