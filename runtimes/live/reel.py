"""The last seconds of one source in memory, and the recordings of its events that are under way."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import OutputError
from lcr_edge.frames import Frame
from lcr_edge.runtimes.live.archive import Archive
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.footage import Footage, shrunk
from lcr_edge.runtimes.video import MAX_GAP_S
from lcr_edge.video import opencv

RING_BYTES = 32_000_000  # of JPEG pictures of one source
_QUALITY = 90


@dataclass(frozen=True)
class Window:
    """What belongs to a recording, in seconds. known: so long after its start an event is known."""

    before: float
    after: float
    longest: float
    known: float


@dataclass
class Tally:
    """recorded: videos. failed: events without one. missing: frames that were left out."""

    recorded: int = 0
    failed: int = 0
    missing: int = 0
    _stopped: bool = False

    def lost(self, why: str) -> None:
        """An event is not recorded. Said when it begins, not for each."""
        self.failed += 1
        if not self._stopped:
            print(f"warning: recording stopped: {why}", file=sys.stderr, flush=True)
        self._stopped = True

    def kept(self) -> None:
        """An event was recorded."""
        self.recorded += 1
        if self._stopped:
            print("recording goes on", file=sys.stderr, flush=True)
        self._stopped = False


@dataclass
class _Recording:
    """A video that is being written. until: the last time that belongs to it. cut: the stream was."""

    footage: Footage
    event: Event
    began_at: float
    until: float
    cut: bool = False
    frames_since_cut: int = 0


@dataclass
class Reel:
    """A source's ring of (time, JPEG), and its recordings. Used by one thread. fps: steps a second.

    about: what the JSON files say beside the event.
    """

    name: str
    archive: Archive
    window: Window
    fps: float
    tally: Tally
    about: dict[str, Any]
    _ring: deque[tuple[float, npt.NDArray[np.uint8]]] = field(default_factory=deque)
    _ring_bytes: int = 0
    _recordings: list[_Recording] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cv2 = opencv("--record")

    def frame(self, time_s: float, frame: Frame) -> None:
        """Take the frame of a step, uint8 [h, w, 3] RGB."""
        picture = self._cv2.cvtColor(shrunk(frame), self._cv2.COLOR_RGB2BGR)
        self._keep(time_s, picture)
        for one in list(self._recordings):
            if one.cut:  # the end of its event follows this frame
                one.frames_since_cut += 1
                if one.frames_since_cut > 1:
                    self._finish(one)
            elif time_s > one.until:
                self._finish(one)
            elif self._add(one, time_s, picture) and self._is_full(one):
                self._finish(one)  # while there is space to do so

    def event(self, event: Event, at: float) -> None:
        """An event began or ended. at: when, in seconds since 1970, it was known."""
        if event.end_s is None:
            self._begin(event, at)
        for one in self._recordings:
            if event.end_s is not None and one.event.number == event.number:
                one.event, one.until = event, min(one.until, event.end_s + self.window.after)
                if one.cut:
                    self._finish(one)
                return

    def cut(self) -> None:
        """The stream was cut: nothing of what follows belongs to a recording. The end of an event may follow."""
        self._ring.clear()
        self._ring_bytes = 0
        for one in list(self._recordings):
            one.cut = True
            if one.event.end_s is not None:
                self._finish(one)

    def finish(self) -> None:
        """Finish all recordings: the source is gone for some time, or for good."""
        self.cut()
        for one in list(self._recordings):
            self._finish(one)

    def discard(self) -> None:
        """Give up all recordings."""
        for one in self._recordings:
            one.footage.discard()
            self.tally.failed += 1
        self._recordings.clear()

    def _keep(self, time_s: float, picture: Frame) -> None:
        done, packed = self._cv2.imencode(".jpg", picture, [self._cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            return
        self._ring.append((time_s, packed))
        self._ring_bytes += packed.nbytes
        # An event is known late: after its shortest time, and by a step that may come late itself.
        oldest = time_s - self.window.before - self.window.known - MAX_GAP_S
        while self._ring[0][0] < oldest or (self._ring_bytes > RING_BYTES and len(self._ring) > 1):
            self._ring_bytes -= self._ring.popleft()[1].nbytes

    def _begin(self, event: Event, at: float) -> None:
        before = [(time_s, packed) for time_s, packed in self._ring if time_s >= event.start_s - self.window.before]
        if not before:
            self.tally.lost("the disk is too slow, no frame was left to record")
            return
        self.archive.keep_quota()  # which may have been lowered, and so makes space
        if not self.archive.has_space():
            self.tally.lost(f"the disk of {self.archive.folder} is full")
            return
        height, width = self._cv2.imdecode(before[0][1], self._cv2.IMREAD_COLOR).shape[:2]
        began_at = at - (before[-1][0] - event.start_s)
        path = self.archive.folder / f"{self.archive.new_name(began_at, self.name, event.label)}.mp4"
        try:
            footage = Footage(path, self.fps, (width, height))
        except OutputError as error:
            self.tally.lost(str(error))
            return
        one = _Recording(footage, event, began_at, before[0][0] + self.window.longest)
        self._recordings.append(one)
        for time_s, packed in before:  # one by one: all of them would take a lot of memory
            if time_s > one.until or not self._add(one, time_s, self._cv2.imdecode(packed, self._cv2.IMREAD_COLOR)):
                break

    def _add(self, one: _Recording, time_s: float, picture: Frame) -> bool:
        try:
            one.footage.add(time_s, picture)
        except self._cv2.error as error:
            self._drop(one, f"a frame cannot be written: {error}")
            return False
        return True

    def _is_full(self, one: _Recording) -> bool:
        """Whether the disk has become so full that a recording has to end; looked at about once a second."""
        return one.footage.frames % max(1, round(self.fps)) == 0 and not self.archive.has_space()

    def _finish(self, one: _Recording) -> None:
        self._recordings.remove(one)
        begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(one.began_at))
        times = {"video_start_s": round(one.footage.start_s or 0.0, 4), "video_end_s": round(one.footage.end_s, 4)}
        try:
            one.footage.finish(
                {"source": self.name, "began": f"{begin}Z", "event": one.event.to_dict(), **times, **self.about}
            )
        except OutputError as error:
            self.tally.lost(str(error))
            return
        self.tally.kept()
        self.archive.keep_quota()

    def _drop(self, one: _Recording, why: str) -> None:
        self._recordings.remove(one)
        one.footage.discard()
        self.tally.lost(why)
