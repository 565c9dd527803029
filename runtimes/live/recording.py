"""``--record DIR``: a video of each event, from some seconds before it to some seconds after it.

The frames are those that were stepped. The last seconds of each source are kept as JPEG pictures in memory; a thread
of its own compresses, records and looks after the folder. When the disk is slower than the cameras that thread falls
behind, and frames that no longer fit in its queue are left out and counted: the steps do not wait. (Those of films
do.)

Each event has a recording of its own, also where the seconds around two events overlap. It ends early where the stream
is cut: what comes after a cut has nothing to do with what came before.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from lcr_edge import options
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.frames import Frame
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.live.archive import Archive
from lcr_edge.runtimes.live.events import Event, EventRules
from lcr_edge.runtimes.live.footage import probe
from lcr_edge.runtimes.live.reel import Reel, Tally, Window
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick, TimedFrame
from lcr_edge.video import opencv

_NUMBERS = (
    options.Number(
        "record-before", "how long before its start", kind=float, low=0, high=30, default=2.0, metavar="SECONDS"
    ),
    options.Number(
        "record-after", "how long after its end", kind=float, low=0, high=600, default=2.0, metavar="SECONDS"
    ),
    options.Number(
        "record-longest", "how long a video may be", kind=float, low=1, high=3600, default=60.0, metavar="SECONDS"
    ),
    options.Number(
        "record-quota", "megabytes of recordings to keep; the oldest go first",
        kind=float, low=1, high=1e9, default=1000.0, metavar="MB",
    ),
)  # fmt: skip
QUEUE_BYTES = 64_000_000  # of frames that wait, of all sources together
_JOIN_S = 20.0


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """``--record`` and its numbers."""
    parser.add_argument("--record", metavar="DIR", help="record a video of each event into a folder")
    for row in _NUMBERS:
        row.add(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for numbers out of range, and without events."""
    options.check_numbers(_NUMBERS, args)
    if args.record is not None and not args.events:
        raise UsageError("--record is about events: add --events")


def recorder(args: argparse.Namespace, model: Model, rules: EventRules | None) -> Recorder | None:
    """What records the events of this run, None without ``--record``. Raises UsageError and OutputError."""
    if args.record is None or rules is None:
        return None
    opencv("--record")
    archive = Archive(Path(args.record), args.record_quota * 1e6)
    try:
        if archive.has_space():  # a service has to start on a full disk too
            probe(archive.folder / f"{archive.new_name(time.time(), 'probe', 'probe')}.mp4")
        window = Window(args.record_before, args.record_after, args.record_longest, rules.min_s)
        return Recorder(archive, window, model)
    except BaseException:
        archive.close()
        raise


class Recorder:
    """An observer that records events. tally: what became of them. queue_bytes: of frames that may wait.

    The archive is this recorder's from now on.
    """

    def __init__(self, archive: Archive, window: Window, model: Model, queue_bytes: int = QUEUE_BYTES) -> None:
        self.tally = Tally()
        self._archive, self._window, self._queue_bytes = archive, window, queue_bytes
        self._fps = float(model.manifest["frame"]["train_fps"])
        files = model.manifest["files"]
        self._bundle = {
            "name": str(model.manifest.get("name", model.bundle.folder.name)),
            "files": {name: str(files[name]["sha256"]) for name in model.bundle.model_files},
        }
        self._reels: dict[str, Reel] = {}
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    # What the streams' threads call. None of it touches the disk.

    def step(self, name: str, step: Step) -> None:
        """Keep the frame of a step, and record it if an event is under way."""
        timed = step.tick.timed
        if step.tick.gap:
            self._put(self._cut, name)
        # A film can wait, a camera cannot.
        self._keep(name, timed, waits=step.lag_s is None)

    def left_out(self, name: str, tick: Tick) -> None:
        """Keep a frame that was not stepped: it may be one of the seconds before an event."""
        self._keep(name, tick.timed, waits=False)

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Begin and end recordings."""
        for event in events:
            self._put(self._event, name, event, time.time())

    def state(self, name: str, state: str, _reason: str) -> None:
        """A lost camera ends its recordings, whether it comes back or not."""
        if state != "live":
            self._put(self._lost, name)

    def failed(self, name: str, _error: LcrError) -> None:
        """As a lost camera; the end of the event, which follows, comes too late."""
        self._put(self._lost, name)

    def ended(self, _name: str, _stream: Stream) -> None:
        """Nothing: :meth:`close` finishes what is open."""

    def close(self) -> None:
        """Finish the recordings, and say how many there are."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            print(f"warning: {self._archive.folder} takes too long: not all is recorded", file=sys.stderr)
        self._archive.close()
        if not self._reels:  # the run did not begin
            return
        tally = self.tally
        said = f"{tally.recorded} recording{'s' * (tally.recorded != 1)} in {self._archive.folder}"
        if tally.failed:
            said += f", {tally.failed} could not be made"
        if tally.missing:
            said += f", {tally.missing} frames left out because the disk was slow"
        print(said, file=sys.stderr, flush=True)

    def _keep(self, name: str, timed: TimedFrame, *, waits: bool) -> None:
        self._put(self._frame, name, timed.time_s, timed.frame, size=timed.frame.nbytes, waits=waits)

    def _put(self, work: Callable[..., None], *what: Any, size: int = 0, waits: bool = False) -> None:
        with self._changed:
            if waits:
                self._changed.wait_for(lambda: self._fits(size))
            elif not self._fits(size):
                self.tally.missing += 1
                return
            self._waiting.append((work, what, size))
            self._waiting_bytes += size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not size or not self._waiting_bytes or self._waiting_bytes + size <= self._queue_bytes

    # What the recording thread does.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._over)
                if not self._waiting:
                    break
                work, what, size = self._waiting.popleft()
            try:
                work(*what)
            except Exception as error:  # whatever it is, the thread has no caller, and the next event may be recorded
                self.tally.lost(f"{type(error).__name__}: {error}")
            del what  # a frame, which would be kept until the next one comes
            with self._changed:
                self._waiting_bytes -= size
                self._changed.notify_all()
        for reel in self._reels.values():
            try:
                reel.finish()
            except Exception as error:
                self.tally.lost(f"{type(error).__name__}: {error}")
                reel.discard()

    def _reel(self, name: str) -> Reel:
        if name not in self._reels:
            about = {"bundle": self._bundle}
            self._reels[name] = Reel(name, self._archive, self._window, self._fps, self.tally, about)
        return self._reels[name]

    def _frame(self, name: str, time_s: float, frame: Frame) -> None:
        self._reel(name).frame(time_s, frame)

    def _event(self, name: str, event: Event, at: float) -> None:
        self._reel(name).event(event, at)

    def _cut(self, name: str) -> None:
        self._reel(name).cut()

    def _lost(self, name: str) -> None:
        self._reel(name).finish()
