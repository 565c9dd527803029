"""What the page knows of a run: of each source the last step and its state, and a list of what happened.

The threads that step write here, the server's thread reads. While nobody watches, a step leaves a reference and a time
behind, and nothing is computed.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import numpy as np

from lcr_edge.errors import LcrError, SourceLostError, StateError
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.live.web.pictures import Pictures
from lcr_edge.runtimes.video import Tick

TOP = 5
_LOG = 60  # entries that are kept
_RATE_STEPS, _RATE_S = 64, 5.0  # steps a second are counted over so many steps, of so many seconds, at most


@dataclass
class Entry:
    """Something that happened. number: from 1, of all sources. kind: "event", "reset" or "source". at: when it began,
    in seconds since 1970. text: the class, or the reason. picture: the frame at which an event began, made smaller."""

    number: int
    camera: int
    kind: str
    at: float
    text: str
    more: dict[str, Any] = field(default_factory=dict)
    picture: Callable[[], bytes] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "number": self.number,
            "camera": self.camera,
            "kind": self.kind,
            "at": round(self.at, 3),
            "text": self.text,
            "picture": self.picture is not None,
            **self.more,
        }


@dataclass
class Camera:
    """A source. state: "starting", "live", "waiting", "lost", "failed" or "ended"; reason: why, for people."""

    number: int
    name: str
    state: str = "starting"
    reason: str = ""
    step: Step | None = None
    steps: int = 0
    resets: int = 0
    missed: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_STEPS))

    def steps_a_second(self, now: float) -> float:
        """Over the last seconds; falls when no step comes. now: of ``time.monotonic``."""
        times = [at for at in self.times.copy() if now - at < _RATE_S]
        if len(times) < 2:
            return 0.0
        usual = (times[-1] - times[0]) / (len(times) - 1)
        silent = now - times[-1]
        return (len(times) - 1) / (times[-1] - times[0] + (silent if silent > 2 * usual else 0.0) or math.inf)


class Board:
    """Is told about a run as an :class:`Observer`, and says what the page shows.

    names: of the sources, in their order. labels: of the classes. changed: is called in the threads that step, while
    somebody watches, when there is something new; it must return at once.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[str], changed: Callable[[], None]) -> None:
        self.cameras = [Camera(number, name) for number, name in enumerate(names)]
        self.labels = tuple(labels)
        self.watched = False
        self._of = {camera.name: camera for camera in self.cameras}
        self._streams: dict[int, Stream] = {}
        self._pictures: dict[int, Pictures] = {}
        self._changed = changed
        self._lock = threading.Lock()
        self._log: deque[Entry] = deque(maxlen=_LOG)
        self._version = 0
        self._versions: dict[int, int] = {}  # of the kept entries by number: an event changes when it ends

    def follow(self, streams: Mapping[str, Stream]) -> None:
        """The streams of the run, by name, before their first step."""
        for name, stream in streams.items():
            number = self._of[name].number
            self._streams[number], self._pictures[number] = stream, Pictures(stream.model)

    # What the run tells, in the threads that step.

    def state(self, name: str, state: str, reason: str) -> None:
        """A source was lost, or is back."""
        camera = self._of[name]
        with self._lock:
            again = camera.state == state
            camera.state, camera.reason = state, reason
        if not again:
            self._note(camera, "source", reason, state=state)
        elif self.watched:
            self._changed()

    def failed(self, name: str, error: LcrError) -> None:
        """A source is over."""
        self.state(name, "lost" if isinstance(error, SourceLostError) else "failed", str(error))

    def step(self, name: str, step: Step) -> None:
        """A step was made."""
        camera = self._of[name]
        camera.times.append(time.monotonic())
        camera.steps += 1
        camera.missed += step.tick.missed
        camera.step = step
        if camera.state == "starting":
            camera.state = "live"
        if step.tick.gap:
            camera.resets += 1
            self._note(camera, "reset", step.tick.gap)
        elif self.watched:
            self._changed()

    def left_out(self, name: str, tick: Tick) -> None:
        """A step was left out: its picture is newer."""
        camera = self._of[name]
        camera.missed += tick.missed
        if camera.step is not None:
            camera.step = replace(camera.step, tick=tick)
        if self.watched:
            self._changed()

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Events began or ended."""
        camera = self._of[name]
        for event in events:
            if event.end_s is None:
                self._begin(camera, event)
            else:
                self._end(camera, event)

    def ended(self, name: str, stream: Stream) -> None:
        """The last about a source."""
        camera = self._of[name]
        if camera.state not in ("lost", "failed"):
            self.state(name, "ended", f"the end of {camera.name} after {stream.totals.steps} steps")

    def close(self) -> None:
        """The run is over."""

    # What the page asks for, in the server's thread.

    def reset(self, number: int) -> bool:
        """Ask for a reset of a source's state. False if there is no such source, or it is over."""
        stream = self._streams.get(number)
        if stream is None or self._state(number) in ("lost", "failed", "ended"):
            return False
        stream.reset()
        return True

    def picture(self, number: int, kind: str, before: int | None) -> tuple[int, bytes] | None:
        """The number of a source's newest frame and its JPEG picture, if it is not ``before``. kind: see Pictures."""
        step = self.cameras[number].step
        if step is None or step.tick.timed.index == before:
            return None
        return step.tick.timed.index, self._pictures[number].of(step.tick.timed.frame, kind)

    def forget_pictures(self) -> None:
        """Nobody watches any more."""
        for pictures in self._pictures.values():
            pictures.forget()

    def log_since(self, version: int) -> tuple[int, list[dict[str, Any]]]:
        """The entries that are new or changed since a version (0: all), oldest first; and the version now."""
        with self._lock:
            found = [entry.to_dict() for entry in self._log if self._versions[entry.number] > version]
            return self._version, found

    def thumbnail(self, number: int) -> bytes | None:
        """The JPEG picture of an entry; None where there is none."""
        with self._lock:
            found = next((entry.picture for entry in self._log if entry.number == number), None)
        return None if found is None else found()

    def summary(self, number: int, now: float) -> dict[str, Any]:
        """A source in a few words, for everyone who watches."""
        camera, step = self.cameras[number], self.cameras[number].step
        found: dict[str, Any] = {"state": self._state(number), "reason": camera.reason}
        if step is not None:
            best = int(step.probabilities.argmax())
            found["top"] = [self.labels[best], round(float(step.probabilities[best]), 4)]
            found["fps"] = round(camera.steps_a_second(now), 2)
        return found

    def details(self, number: int) -> dict[str, Any]:
        """The last step of a source, for those who watch this one; empty before the first."""
        camera, step = self.cameras[number], self.cameras[number].step
        if step is None:
            return {}
        best = np.argsort(-step.probabilities, kind="stable")[:TOP]
        stream = self._streams[number]
        height, width = step.tick.timed.frame.shape[:2]
        return {
            "top": [[self.labels[i], round(float(step.probabilities[i]), 4)] for i in best],
            "step_ms": round(step.latency_ms, 2),
            "lag_ms": None if step.lag_s is None else round(step.lag_s * 1e3, 1),
            "norm": _norms(stream),
            "steps": camera.steps,
            "resets": camera.resets,
            "missed": camera.missed,
            "size": [width, height],
            "rate": stream.fps,
        }

    def _state(self, number: int) -> str:
        camera, stream = self.cameras[number], self._streams.get(number)
        # Of several sources a film may be over long before the run, which says so of all in the end.
        over = stream is not None and stream.over
        return "ended" if camera.state == "live" and over else camera.state

    def _note(
        self,
        camera: Camera,
        kind: str,
        text: str,
        at: float | None = None,
        picture: Callable[[], bytes] | None = None,
        **more: Any,
    ) -> None:
        with self._lock:
            self._version += 1
            number = self._log[-1].number + 1 if self._log else 1
            if len(self._log) == _LOG:
                del self._versions[self._log[0].number]
            entry = Entry(number, camera.number, kind, time.time() if at is None else at, text, more, picture)
            self._log.append(entry)
            self._versions[number] = self._version
        if self.watched:
            self._changed()

    def _begin(self, camera: Camera, event: Event) -> None:
        ago, picture = 0.0, None
        if camera.step is not None:
            timed = camera.step.tick.timed
            ago, picture = max(0.0, timed.time_s - event.start_s), self._pictures[camera.number].keep(timed.frame)
        confidence = round(event.confidence, 4)
        self._note(camera, "event", event.label, time.time() - ago, picture, confidence=confidence, event=event.number)

    def _end(self, camera: Camera, event: Event) -> None:
        lasted = {"seconds": round((event.end_s or 0.0) - event.start_s, 2), "cut": event.cut}
        with self._lock:
            for entry in reversed(self._log):
                if entry.kind == "event" and entry.camera == camera.number and entry.more["event"] == event.number:
                    entry.more.update(lasted, confidence=round(event.confidence, 4))
                    self._version += 1
                    self._versions[entry.number] = self._version
                    break
        if self.watched:
            self._changed()


def _norms(stream: Stream) -> list[float] | None:
    """Euclidean norms of the values of h and c; None where they are not finite."""
    try:
        h, c = stream.model.state_values(stream.state)
    except StateError:  # not finite: the next step ends the stream, and says so
        return None
    return [round(float(np.linalg.norm(values)), 4) for values in (h, c)]
