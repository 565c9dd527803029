"""What a run tells systemd: that it is ready, alive, ending, and how it goes (the protocol of ``sd_notify``).

The watchdog is fed while every source that is stepped moves on. A source that waits for its camera does: it looks every
tenth of a second whether there is a frame. So a lost camera never restarts the service, but an engine that does not
return, an output that nobody takes or a stopped process does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence

from lcr_edge.errors import LcrError
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick

_STATUS_S = 10.0  # between two lines of STATUS, where no watchdog asks for more
_SEND_S = 1.0
_JOIN_S = 2.0


def notifier() -> Notifier | None:
    """What tells systemd, None where it did not start this process with ``Type=notify``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@") or len(address) < 2:
        return None
    return Notifier(address, _watchdog_s())


class Notifier:
    """An observer of a run that tells a service manager.

    address: of its datagram socket, a path, or "@..." for Linux' abstract names. watchdog_s: it restarts the service
    when it heard nothing for so long; None: it does not.
    """

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_S)
        self._streams: dict[str, Stream] = {}
        self._moved: dict[str, float] = {}
        self._states: dict[str, str] = {}
        self._said = ""
        self._stopping = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell_often, daemon=True)

    def ready(self, streams: Mapping[str, Stream]) -> None:
        """Everything is open, the steps begin."""
        self._streams.update(streams)
        self._moved.update(dict.fromkeys(streams, time.monotonic()))
        self._states.update(dict.fromkeys(streams, "live"))
        self._send("READY=1", self._status())
        self._thread.start()

    def state(self, name: str, state: str, _reason: str) -> None:
        """A camera was lost or is back: in the next status."""
        self._moved[name] = time.monotonic()
        self._states[name] = state

    def failed(self, name: str, _error: LcrError) -> None:
        """A source is over: it need not move any more."""
        self._states[name] = "lost"

    def step(self, name: str, _step: Step) -> None:
        """A source moved."""
        self._moved[name] = time.monotonic()

    def left_out(self, name: str, _tick: Tick) -> None:
        """A source moved."""
        self._moved[name] = time.monotonic()

    def events(self, _name: str, _events: Sequence[Event]) -> None:
        """Nothing."""

    def ended(self, _name: str, _stream: Stream) -> None:
        """The run is ending."""
        self._stop()

    def close(self) -> None:
        """Say that it ends, if it was not said before, and no more."""
        self._stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def stuck(self, seconds: float) -> list[str]:
        """The sources that are stepped and have not moved for so long."""
        now = time.monotonic()
        return [
            name
            for name, stream in self._streams.items()
            if self._states[name] != "lost"
            and not stream.over
            and now - max(self._moved[name], stream.live.waited_at if stream.live is not None else 0.0) > seconds
        ]

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._over.set()
            self._send("STOPPING=1")

    def _tell_often(self) -> None:
        # systemd advises half of the interval. What is stuck for as long is no longer covered.
        half = _STATUS_S if self._watchdog_s is None else self._watchdog_s / 2
        while not self._over.wait(min(half, _STATUS_S)):
            stuck = self.stuck(half)
            fed = [] if self._watchdog_s is None or stuck else ["WATCHDOG=1"]
            # In one line: a name that breaks it would be a message of its own.
            status = " ".join(f"STATUS=stuck: {', '.join(stuck)}".split()) if stuck else self._status()
            self._send(*fed, *([] if status == self._said else [status]))
            self._said = status

    def _status(self) -> str:
        states = list(self._states.values())
        shown = ", ".join(f"{states.count(state)} {state}" for state in ("live", "waiting", "lost") if state in states)
        steps = sum(stream.totals.steps for stream in self._streams.values())
        return f"STATUS={shown}; {steps} steps"

    def _send(self, *lines: str) -> None:
        if lines and self._socket is not None:
            with contextlib.suppress(OSError):  # nobody listens: the run is not worse for it
                self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)


def _watchdog_s() -> float | None:
    """Seconds of the service's watchdog, None where it has none, or where it watches another process."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit() and int(usec) > 0) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6
