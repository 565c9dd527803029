"""What ``lcr-edge run`` tells other programs: one form of message for webhooks and MQTT.

A message says that an event began or ended, or what became of a source. Its keys are those of the JSON lines, with an
``id`` and the time of day; docs/camera-service.md has the JSON schema. No two messages have the same id, not even after
a restart: it is made of a random number of the run, the source and a count. A receiver that gets a message twice can
drop the second by its id.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.stream import Step

_LONGEST_SLUG = 48


@dataclass(frozen=True)
class Message:
    """One message. content: JSON values, ``id`` and ``source`` among them."""

    id: str
    source: str
    content: dict[str, Any]

    @property
    def is_event(self) -> bool:
        """Whether it is about an event; otherwise it is about a source's state."""
        return "event" in self.content

    def to_json(self) -> bytes:
        """The message as it is sent: ASCII, so that any label and any name of a source can be in it."""
        return json.dumps(self.content, allow_nan=False).encode("ascii")


class Messages:
    """Makes the messages of one run. Of one source the calls come one after another; several may call at a time.

    run: twelve random hexadecimal digits, unless given.
    """

    def __init__(self, run: str | None = None) -> None:
        self.run = secrets.token_hex(6) if run is None else run
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._zero: dict[str, float] = {}  # of a live source: the time of day at second 0 of its clock

    def step(self, source: str, step: Step) -> None:
        """A step was made just now: its frame's age tells how a live source's clock and the time of day go together."""
        if step.lag_s is not None:
            age_s = step.lag_s + step.latency_ms / 1e3
            self._zero[source] = time.time() - age_s - step.tick.timed.time_s

    def event(self, source: str, event: Event) -> Message:
        """An event began or ended."""
        content = event.to_dict()
        lasted = None if event.end_s is None else round(event.end_s - event.start_s, 4)
        times = {"started": self._day(source, event.start_s), "ended": self._day(source, event.end_s)}
        return self._message(source, {**content, "duration_s": lasted, **times})

    def state(self, source: str, state: str, reason: str) -> Message:
        """A source is live, waiting, lost, failed or ended. reason: for people."""
        return self._message(source, {"state": state, "reason": reason})

    def _message(self, source: str, content: dict[str, Any]) -> Message:
        with self._lock:
            self._counts[source] = number = self._counts.get(source, 0) + 1
        name = f"{self.run}-{slug(source)}-{number}"
        now = time_of_day(time.time())
        return Message(name, source, {"id": name, "time": now, "source": source, **content})

    def _day(self, source: str, seconds: float | None) -> str | None:
        zero = self._zero.get(source)
        return None if seconds is None or zero is None else time_of_day(zero + seconds)


def time_of_day(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds, for seconds since 1970: "2026-01-31T12:00:00.250Z"."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def slug(name: str) -> str:
    """Letters a to z, digits and ``_`` for any name, for topics and ids; different for different names.

    "camera 0" and names that need no change stay readable as they are; others end in eight digits of their hash.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_SLUG].strip("_")
    # A plain name that looks like one with a hash gets one too: nobody can choose it to be somebody else's.
    taken = re.search(r"_[0-9a-f]{8}$|^camera_", plain)
    if re.fullmatch(r"camera [0-9]{1,4}", name) or (plain and plain == name and not taken):
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}_{digest}" if plain else f"source_{digest}"
