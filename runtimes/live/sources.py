"""A camera or stream that may fail: the newest frame counts, and it is opened again when it is lost.

A thread reads each connection and keeps one frame, the newest, so a network that steps more slowly than the camera
never falls behind; frames that it did not take are dropped. Frames are timed when they arrive, by one clock that runs
through all connections and that nobody can set.

A connection is over when it ends, fails, or gives no frame for some seconds. The next one is tried after a short wait,
and each further one after twice the wait before, until one of them lasts (see :class:`Patience`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from lcr_edge.errors import LcrError, SourceLostError, VideoError
from lcr_edge.runtimes.live.memory import give_back
from lcr_edge.video import TimedFrame, VideoSource, may_be_live, name_of

_LOOK_S = 0.1  # between two looks at signals and at the clock while no frame comes
_JOIN_S = 2.0

# Called with "live" or "waiting", and with what happened, for people; the source is not named in it.
Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Patience:
    """How long to wait for a source, in seconds.

    stall_s: without a frame, and a connection is given up. open_s: the same for its first frame, because a network
    camera may take its time. first_wait_s: before the second connection; longest_wait_s: before any. steady_s: a
    connection that lasted so long was a good one, and the next wait is the first again. retry_s: without a frame, and
    the source is lost for good; ``inf``: never, 0: at once.
    """

    retry_s: float = 60.0
    stall_s: float = 5.0
    open_s: float = 20.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    steady_s: float = 10.0


class Awaited:
    """A camera or stream that :class:`LiveSource` is to open: one that does not answer is waited for from the start.

    source: its address, which can be wrong without anyone noticing. name: as of a VideoSource.
    """

    live = True

    def __init__(self, source: str, name: str | None = None) -> None:
        self.source, self.name = source, name or name_of(source)

    @staticmethod
    def can_be(source: str) -> bool:
        """Whether an address is one of a camera, a URL or a pipeline."""
        return may_be_live(source)

    def again(self) -> VideoSource:
        """The source, opened. Raises VideoError."""
        return VideoSource(self.source, self.name)

    def close(self) -> None:
        """Nothing: it was not opened."""


class LiveSource:
    """The frames of a live source, over any number of connections. Iterate over it once; close it or use ``with``.

    source: the first connection, opened by the caller, so that a wrong address is an error and not awaited; or one
    that is to be opened here, and awaited.
    say: is told when the source is lost, and when it is back.

    name: the source's, for people and logs. address: as it was given, with its password.
    from_file: whether it is a file that is played. seen: frames that arrived,
    those that were dropped included. connections: so many gave frames. waited_at: when the iteration last looked for a
    frame, by ``time.monotonic``; it does so all the time. While iterating, the first frame of a further connection has
    its ``cut``. Raises SourceLostError.
    """

    def __init__(self, source: VideoSource | Awaited, patience: Patience | None = None, say: Say | None = None) -> None:
        self.name, self.address = source.name, source.source
        self.connections = 0
        self._patience, self._say = patience or Patience(), say or _say_nothing
        self._stopped = threading.Event()
        self._begin = self.waited_at = time.monotonic()
        self._before = 0  # frames of connections that are over
        self._again = source.again
        self.from_file = not may_be_live(self.address)
        self._awaited = not isinstance(source, VideoSource)
        first = (lambda: source) if isinstance(source, VideoSource) else self._again
        self._connection = _Connection(first, self._begin)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the source. One that hangs is left to its thread: to release it then would crash."""
        self._connection.leave()
        self._connection.join(_JOIN_S)

    def stop(self) -> None:
        """Let the iteration end, from another thread or a signal's handler, as if the source had."""
        self._stopped.set()

    @property
    def seen(self) -> int:
        """Frames that arrived so far."""
        return self._before + self._connection.seen

    def lag_s(self, timed: TimedFrame) -> float:
        """Seconds since a frame arrived."""
        return time.monotonic() - self._begin - timed.time_s

    def __iter__(self) -> Iterator[TimedFrame]:
        patience = self._patience
        wait_s, lost_at = patience.first_wait_s, self._begin
        cut: str | None = None
        while True:
            opened, first = time.monotonic(), True
            while not isinstance(found := self._next(), str):
                if found is None:
                    return
                if first:
                    first = False
                    self.connections += 1
                    if cut is not None or self._awaited:
                        what = "back" if self.connections > 1 else "opened"
                        self._say("live", f"{what} after {time.monotonic() - lost_at:.1f} s")
                yield TimedFrame(found.frame, found.time_s, self._before + found.index, cut, found.pause_s)
                cut = None
            if not first:  # there were frames
                lost_at = time.monotonic()
                if lost_at - opened > patience.steady_s:
                    wait_s = patience.first_wait_s
            spent = time.monotonic() - lost_at
            if self._connection.is_a_film:
                raise SourceLostError(f"{self.name} is a video file, not a stream: leave --wait-for-sources out for it")
            if spent >= patience.retry_s:
                raise SourceLostError(
                    f"{self.name} is lost: {found}"
                    + (f"; it did not come back within {spent:.0f} s, see --retry" if patience.retry_s else "")
                )
            now_s = min(wait_s, patience.retry_s - spent)  # the last try is at the limit
            self._say("waiting", f"{found}; opened again in {now_s:.1f} s")
            if self._wait(now_s):
                return
            wait_s = min(2 * wait_s, patience.longest_wait_s)
            self._before = self.seen
            give_back()
            self._connection = _Connection(self._again, self._begin)
            cut = "the source was opened again"

    def _wait(self, seconds: float) -> bool:
        """Wait; True at once after :meth:`stop`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.waited_at = time.monotonic()
            if self._stopped.wait(min(left, _LOOK_S)):
                return True
        return self._stopped.is_set()

    def _next(self) -> TimedFrame | str | None:
        """The newest frame that was not taken yet, or why there will be none; None after :meth:`stop`."""
        while not self._stopped.is_set():
            self.waited_at = time.monotonic()
            found = self._connection.newest(_LOOK_S)
            if found is not None:
                return found
            silent = self._connection.silent_s()
            if silent > (self._patience.stall_s if self._connection.seen else self._patience.open_s):
                self._connection.leave()
                return f"no frame for {silent:.0f} s"
        return None


def _say_nothing(_state: str, _sentence: str) -> None:
    pass


class _Connection:
    """One opening of a source and the thread that reads it. begin: where times start, of ``time.monotonic``."""

    def __init__(self, open_source: Callable[[], VideoSource], begin: float) -> None:
        self.seen = 0
        self.is_a_film = False
        self._open, self._begin = open_source, begin
        self._changed = threading.Condition()
        self._newest: TimedFrame | None = None
        self._over: str | None = None
        self._left = False
        self._pause = 0.0
        self._last = time.monotonic()
        # A daemon: a read that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def newest(self, wait_s: float) -> TimedFrame | str | None:
        """A frame not taken before; why there is none any more; None after ``wait_s`` without either."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._over is not None, wait_s)
            taken, self._newest = self._newest, None
            if taken is not None:
                self._pause = 0.0
            return self._over if taken is None else taken

    def silent_s(self) -> float:
        """Seconds since the last frame arrived, or since the connection was begun."""
        return time.monotonic() - self._last

    def leave(self) -> None:
        """Let the thread end after the frame that it waits for."""
        self._left = True

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    def _read(self) -> None:
        try:
            # Released where it is read: by another thread, a read under way would crash.
            with self._open() as source:
                self.is_a_film = not source.live
                if self.is_a_film:
                    raise VideoError(f"{source.name} is a video file")
                for timed in source:
                    before, self._last = self._last, time.monotonic()
                    with self._changed:
                        # Of all frames since the one that was taken last: none of them may be seen by the network.
                        self._pause = max(self._pause, self._last - before) if self.seen else 0.0
                        self.seen += 1
                        time_s = self._last - self._begin
                        self._newest = TimedFrame(timed.frame, time_s, timed.index, pause_s=self._pause)
                        self._changed.notify()
                    if self._left:
                        return
            over = "it gives no more frames"
        except LcrError as error:
            over = str(error)
        except Exception as error:  # whatever it is, the source is over, and the thread has no caller
            over = f"it cannot be read ({type(error).__name__}: {error})"
        with self._changed:
            self._over = over
            self._changed.notify()
