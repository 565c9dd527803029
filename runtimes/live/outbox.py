"""Messages on their way to one receiver: a bounded queue, and who says what became of them.

A message is dropped when the queue is full (the oldest goes, whole), is delivered when the receiver has confirmed it,
or goes back to its place when a connection was lost. Putting one in never waits.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Callable, Protocol

from lcr_edge.runtimes.live.messages import Message

LIMIT = 10_000
_SAY_AGAIN_S = 60.0


@dataclass(frozen=True)
class Waits:
    """How long a sink waits, in seconds.

    first_s: after the first failure; twice as long after each further one, up to longest_s. answer_s: for a receiver's
    answer to one message. hurry_s: the longest wait between two tries once the run is over.
    """

    first_s: float = 1.0
    longest_s: float = 30.0
    answer_s: float = 10.0
    hurry_s: float = 0.3


USUAL = Waits()


class Sink(Protocol):
    """A receiver of messages outside, with an outbox and a thread of its own."""

    outbox: Outbox

    def send(self, message: Message) -> None:
        """Take a message; never waits for the receiver."""

    def start(self, sources: dict[str, Message]) -> None:
        """Begin to deliver. sources: the first state of each source."""

    def finish(self) -> None:
        """No more messages will come: deliver what is left, and end. Returns at once."""

    def join(self, seconds: float) -> None:
        """Wait for the end, at most so long; then give up."""


class Outbox:
    """Messages for one receiver, in order. name: the receiver's, for people. limit: most messages that may wait.

    delivered, dropped, rejected: how many were confirmed; pushed out of a full queue; refused for good by the receiver.
    """

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.name, self.limit = name, limit
        self.delivered = self.dropped = self.rejected = 0
        self.wake: Callable[[], None] | None = None  # called when a message was put in
        self._changed = threading.Condition()
        self._queue: deque[Message] = deque()
        self._taken: OrderedDict[str, Message] = OrderedDict()
        self._closed = False
        self._said_at = -_SAY_AGAIN_S
        self._said = 0

    def put(self, message: Message) -> None:
        """Add a message; never waits for the receiver."""
        with self._changed:
            self._queue.append(message)
            notice = self._make_room()
            self._changed.notify()
        if self.wake is not None:
            self.wake()
        if notice:
            say(notice)

    def take(self, wait_s: float = 0.0) -> Message | None:
        """The oldest message that was not taken yet, which is then on its way; None when there is none."""
        with self._changed:
            if not self._queue and wait_s:
                self._changed.wait_for(lambda: self._queue or self._closed, wait_s)
            if not self._queue:
                return None
            message = self._queue.popleft()
            self._taken[message.id] = message
            return message

    def delivered_one(self, message: Message) -> None:
        """The receiver has confirmed a message."""
        with self._changed:
            self.delivered += self._taken.pop(message.id, None) is not None

    def rejected_one(self, message: Message) -> None:
        """The receiver will never take a message."""
        with self._changed:
            self.rejected += self._taken.pop(message.id, None) is not None

    def give_back(self) -> None:
        """What was taken and not confirmed waits again, in its place: before the others, in order."""
        with self._changed:
            self._queue.extendleft(reversed(self._taken.values()))
            self._taken.clear()

    @property
    def waiting(self) -> int:
        """Messages that are not confirmed yet, those on their way included."""
        with self._changed:
            return len(self._queue) + len(self._taken)

    def close(self) -> None:
        """No more messages will come: :meth:`take` no longer waits for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self.wake is not None:
            self.wake()

    def _make_room(self) -> str | None:
        """Drop the oldest; what to say about it, once in a while."""
        while len(self._queue) > max(1, self.limit - len(self._taken)):
            self._queue.popleft()
            self.dropped += 1
        now = time.monotonic()
        if self.dropped == self._said or now - self._said_at < _SAY_AGAIN_S:
            return None
        self._said, self._said_at = self.dropped, now
        return f"{self.name}: {self.dropped} messages dropped so far, the oldest: {self.limit} wait already"


class Outage:
    """Says once that a receiver cannot be reached, and why, and once that it can be again.

    One that comes and goes all the time is not worth two lines each time: after "reached again" a minute is quiet.
    """

    def __init__(self, outbox: Outbox, waits: Waits) -> None:
        self._outbox, self._waits = outbox, waits
        self._said: set[str] = set()  # the reasons of this outage that were said
        self._since: float | None = None
        self._wait_s = waits.first_s
        self._quiet_until = 0.0

    def failed(self, reason: str, at_least_s: float = 0.0) -> float:
        """It failed, and why. Returns how many seconds to wait: at_least_s or more, the longest wait at most."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if reason not in self._said and now >= self._quiet_until:
            say(f"{self._outbox.name}: {reason}; messages wait (at most {self._outbox.limit}), and it is tried again")
            self._said.add(reason)
        wait_s = min(max(self._wait_s, at_least_s), self._waits.longest_s)
        self._wait_s = min(2 * self._wait_s, self._waits.longest_s)
        return wait_s

    def over(self) -> None:
        """It works."""
        since, self._since = self._since, None
        self._wait_s = self._waits.first_s
        if since is not None and self._said:
            self._said.clear()
            now = time.monotonic()
            self._quiet_until = now + _SAY_AGAIN_S
            say(f"{self._outbox.name}: reached again after {now - since:.0f} s")


def say(text: str) -> None:
    """One line on stderr, whole, from any thread. One that cannot be written is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: stderr is closed
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
