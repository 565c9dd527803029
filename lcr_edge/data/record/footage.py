"""Cut clips out of what a camera sees or a file holds.

A camera's frames are timed when they arrive, because what a camera says about its rate is often wrong: a clip of n
frames gets the rate n / (time from its first frame to the one after its last), so it lasts in the file as long as it
took. A thread of its own reads the camera, so that no frame waits in the driver while a clip is encoded or somebody
is asked, and a camera that hangs does not hang the command.

Of a file the frames from ``start_s`` to ``start_s`` + ``seconds`` are taken, by its own times and at its own rate.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from lcr_edge.data.encode import MAX_FPS
from lcr_edge.errors import VideoError
from lcr_edge.frames import Frame
from lcr_edge.video import TimedFrame, VideoSource

STALL_S = 5.0  # so long without a frame, and a camera counts as gone
WARM_UP_S = 1.0  # before the first clip: cameras set their exposure, and drivers hand out old frames
_WAIT_S = 0.05  # between two looks at signals while no frame comes
_JOIN_S = 2.0
_KEPT = 64  # frames that wait; older ones are dropped
_ROUNDING_S = 2e-3  # times in files are rounded to 1 ms or coarser
_FPS_RANGE = (1.0, min(240.0, MAX_FPS))  # what training takes for a rate

# Called with each frame, and with None while none comes. It may raise, which ends the clip.
Tick = Callable[[Optional[Frame]], None]


class EndOfFileError(Exception):
    """The file has no more frames for a whole clip. at_s: where it ends."""

    def __init__(self, at_s: float) -> None:
        super().__init__(at_s)
        self.at_s = at_s


@dataclass(frozen=True)
class Clip:
    """frames: uint8 [h, w, 3] RGB, all of one size. fps: frames a second. gap_s: the longest time between two."""

    frames: list[Frame]
    fps: float
    gap_s: float


class Camera:
    """A camera or a live stream. max_side: frames are made smaller, so that no side is longer, in pixels."""

    def __init__(self, source: VideoSource, max_side: int) -> None:
        self._source, self._max_side = source, max_side
        self._frames: queue.Queue[TimedFrame | None] = queue.Queue(_KEPT)
        self._fault: VideoError | None = None
        self._closing = False
        self._arrived = time.monotonic()
        # A daemon: a read that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release the camera, unless it hangs: to release it then would crash."""
        self._closing = True
        self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self._source.close()

    def wait(self, seconds: float, tick: Tick) -> None:
        """Let frames pass for so long, then forget all that arrived. Raises VideoError as :meth:`clip`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tick(self._next(tick).frame)
        while self._frames.qsize() > 1:  # the last one may be the end
            self._frames.get_nowait()

    def clip(self, seconds: float, tick: Tick) -> Clip:
        """The frames of the next ``seconds`` s, to the nearest frame.

        Raises VideoError when the camera ends, gives no frame for ``STALL_S`` s, changes the size of its frames or has
        a rate that training cannot use.
        """
        found: list[TimedFrame] = []
        while True:
            timed = self._next(tick)
            tick(timed.frame)
            passed = timed.time_s - found[0].time_s if found else 0.0
            if found and passed >= seconds - 0.5 * passed / len(found):  # nearer to the end than the next one
                break
            found.append(timed)
        return _checked(self._source, found, timed.time_s, len(found) / passed)

    def _read(self) -> None:
        try:
            for timed in self._source:
                self._arrived = time.monotonic()
                self._put(TimedFrame(shrunk(timed.frame, self._max_side), timed.time_s, timed.index))
                if self._closing:
                    return
        except VideoError as error:
            self._fault = error
        self._put(None)

    def _put(self, timed: TimedFrame | None) -> None:
        if self._frames.full():
            with contextlib.suppress(queue.Empty):  # taken meanwhile
                self._frames.get_nowait()
        self._frames.put(timed)

    def _next(self, tick: Tick) -> TimedFrame:
        while True:
            try:
                timed = self._frames.get(timeout=_WAIT_S)
            except queue.Empty:
                tick(None)
                silent = time.monotonic() - self._arrived
                if silent > STALL_S:
                    raise VideoError(
                        f"{self._source.name} has given no frame for {silent:.0f} s; check its cable, its power and "
                        "the network"
                    ) from None
                continue
            if timed is None:
                self._frames.put(None)  # for whoever asks again
                raise self._fault or VideoError(
                    f"{self._source.name} has stopped giving frames; check its cable, its power and the network"
                )
            return timed


class Film:
    """A video file, cut from front to back. max_side: as for a camera."""

    def __init__(self, source: VideoSource, max_side: int) -> None:
        self._source, self._max_side = source, max_side
        self._frames: Iterator[TimedFrame] = iter(source)
        self._ahead: TimedFrame | None = None  # read, and of the next clip
        self._last_s = 0.0

    def close(self) -> None:
        """Release the file."""
        self._source.close()

    def clip(self, start_s: float, seconds: float, tick: Tick) -> Clip:
        """The frames from ``start_s`` on, not before the end of the last clip, for ``seconds`` s.

        Raises EndOfFileError, or VideoError as a camera does.
        """
        found: list[TimedFrame] = []
        end = start_s + seconds
        declared = self._source.fps
        while True:
            timed, self._ahead = self._ahead or next(self._frames, None), None
            if timed is None:
                reach = self._last_s + (1 / declared if declared else 0.0)
                if not found or reach < end - 0.5 * seconds / len(found):
                    raise EndOfFileError(reach)
                break
            last = self._last_s = timed.time_s
            if last >= end - _ROUNDING_S:
                self._ahead = timed
                break
            tick(None)
            if last >= start_s - _ROUNDING_S:
                frame = shrunk(timed.frame, self._max_side)
                tick(frame)
                found.append(TimedFrame(frame, last, timed.index))
        if not found:
            raise VideoError(f"{self._source.name} has no frame from {start_s:.1f} s to {end:.1f} s; re-encode it")
        # Of a file of changing rate the declared one is an average, and wrong for this clip.
        fits = declared and abs(len(found) / declared - seconds) <= 1.5 / declared
        return _checked(self._source, found, end, declared if fits else len(found) / seconds)


def shrunk(frame: Frame, max_side: int) -> Frame:
    """The frame, made smaller where a side is longer than ``max_side`` pixels; the proportions stay."""
    scale = max_side / max(frame.shape[:2])
    if scale >= 1:
        return frame
    import cv2

    height, width = (max(2, round(side * scale / 2) * 2) for side in frame.shape[:2])  # even, as encoders want it
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _checked(source: VideoSource, found: list[TimedFrame], end_s: float, fps: float) -> Clip:
    low, high = _FPS_RANGE
    if not low <= fps <= high:
        raise VideoError(
            f"{source.name} gives {fps:.2f} frames a second, and training reads {low:g} to {high:g}; set it to 30"
        )
    if len({timed.frame.shape for timed in found}) > 1:
        raise VideoError(f"{source.name} changes the size of its frames; set it to one size")
    times = [*(timed.time_s for timed in found), end_s]
    return Clip([timed.frame for timed in found], fps, max(after - before for before, after in zip(times, times[1:])))
