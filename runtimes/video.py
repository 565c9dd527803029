"""Timed frames from a file, camera or stream (OpenCV), and resampling to the rate the network was trained at."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from lcr_edge.errors import MissingExtraError, UsageError, VideoError
from lcr_edge.frames import Frame

MAX_GAP_S = 1.0
# Container timestamps are rounded to 1 ms or coarser; a frame early by this much still belongs to its tick.
_ROUNDING_S = 2e-3


@dataclass(frozen=True)
class TimedFrame:
    """A source frame: uint8 [h, w, 3] RGB, seconds on the source's clock, 0-based number in the source."""

    frame: Frame
    time_s: float
    index: int


@dataclass(frozen=True)
class Tick:
    """One frame for the network.

    gap: why the stream was cut before it, None if it was not. missed: ticks of a live source skipped before it.
    """

    timed: TimedFrame
    gap: str | None = None
    missed: int = 0


class VideoSource:
    """An opened source. Iterate over it once for its frames; close it or use ``with``.

    source: a path, a camera number ("0") or a URL. Files are timed by their container's timestamps, or by their frame
    rate if those do not advance; cameras and live streams by the wall clock when a frame arrives.
    Raises VideoError (missing, empty, corrupt, no such camera), also while iterating, and MissingExtraError.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.seen = 0
        self.ended = False
        self._is_camera = source.isdigit()
        is_url = "://" in source
        if not self._is_camera and not is_url:
            _check_file(Path(source))
        # FFmpeg's own messages would appear between the lines of the output; the error below says it once.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            raise MissingExtraError("opencv-python-headless", "video", "Reading video") from error
        with contextlib.suppress(AttributeError):
            self._cv2.utils.logging.setLogLevel(self._cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._capture = self._cv2.VideoCapture(int(source) if self._is_camera else source)
            opened = bool(self._capture.isOpened())
        except self._cv2.error as error:
            raise VideoError(f"cannot open {source}: {error}") from error
        if not opened:
            self._capture.release()
            raise VideoError(self._cannot_open(is_url))
        count = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if math.isfinite(count) and 0 < count < 1e9 else 0
        self.live = self._is_camera or (is_url and not self.frame_count)

    def _cannot_open(self, is_url: bool) -> str:
        if self._is_camera:
            return f"there is no camera {self.source}, or another program is using it; try another number"
        if is_url:
            return f"cannot open {self.source}; check the address, the network and the password in it"
        return f"{self.source} is not a video that this OpenCV can read: corrupt or another format; re-encode it as MP4"

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the camera or file. Harmless when repeated."""
        self._capture.release()

    def __iter__(self) -> Iterator[TimedFrame]:
        fps = self._capture.get(self._cv2.CAP_PROP_FPS)
        fps = fps if math.isfinite(fps) and 0 < fps < 1e4 else 0.0
        clock: Callable[[float], float] = _wall_clock() if self.live else _file_clock(fps, self.source)
        while True:
            try:
                ok, picture = self._capture.read()
            except self._cv2.error as error:
                raise VideoError(f"{self.source}: frame {self.seen} cannot be decoded: {error}") from error
            if not ok or picture is None:
                break
            time_s = clock(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3)
            code = self._cv2.COLOR_GRAY2RGB if picture.ndim == 2 else self._cv2.COLOR_BGR2RGB
            self.seen += 1
            yield TimedFrame(self._cv2.cvtColor(picture, code), time_s, self.seen - 1)
        self.ended = True
        if not self.seen:
            what = "gives no picture; check its cable and permissions" if self.live else "has no frame that decodes"
            raise VideoError(f"{self.source} {what}" + ("" if self.live else ": empty or corrupt; re-encode it"))

    def shortfall(self) -> str | None:
        """A sentence if a file ended well before the number of frames that it declares, else None."""
        if self.live or not self.ended or self.seen >= 0.9 * self.frame_count:
            return None
        return f"{self.source} declares {self.frame_count} frames, {self.seen} could be read: truncated or damaged"


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise VideoError(f"{path} {what}; give a video file, a camera number or a URL")
        if path.stat().st_size == 0:
            raise VideoError(f"{path} is empty (0 bytes); record or copy it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror}; check its name and permissions") from error


def _wall_clock() -> Callable[[float], float]:
    start: list[float] = []

    def now(_: float) -> float:
        start[:] = start or [time.monotonic()]
        return time.monotonic() - start[0]

    return now


def _file_clock(fps: float, source: str) -> Callable[[float], float]:
    """Seconds of each frame in turn: the container's, or by ``fps`` if those have not advanced at the second frame."""
    index = 0
    first = 0.0
    counting = False

    def at(container_s: float) -> float:
        nonlocal index, first, counting
        if index == 0:
            first = container_s if math.isfinite(container_s) else 0.0
        elif index == 1 and not container_s > first:
            if not fps:
                raise VideoError(f"{source} has neither timestamps nor a frame rate; re-encode it as MP4")
            counting = True
        index += 1
        return (index - 1) / fps if counting else container_s - first

    return at


def resample(frames: Iterable[TimedFrame], fps: float, *, live: bool = False) -> Iterator[Tick]:
    """The frames for a network trained at ``fps`` frames per second, in order of time.

    There is a tick every 1/fps seconds from the first frame on; each takes the first frame that is not earlier. So a
    faster source is thinned, and a slower one repeats frames if several ticks have passed. A ``live`` source never
    repeats: a device that steps slower than fps would fall further and further behind; missed ticks are counted
    instead. If time jumps by more than MAX_GAP_S or runs backwards, ticks restart at that frame, and its ``gap`` tells
    the caller to reset its state. Raises UsageError if fps is not positive.
    """
    if not 0 < fps < math.inf:
        raise UsageError(f"fps must be positive, got {fps!r}")
    previous: float | None = None
    start, ticks = 0.0, 0
    for timed in frames:
        gap = None
        if previous is not None and timed.time_s - previous > MAX_GAP_S:
            gap = f"{timed.time_s - previous:.1f} s without a frame"
        elif previous is not None and timed.time_s < previous:
            gap = f"time ran back by {previous - timed.time_s:.3f} s"
        if previous is None or gap:
            start, ticks = timed.time_s, 0
        previous = timed.time_s
        # Ticks are counted, not summed: a stream that lasts hours must not drift.
        due = math.floor((timed.time_s - start + _ROUNDING_S) * fps) + 1 - ticks
        ticks += due
        if live and due:
            yield Tick(timed, gap, missed=due - 1)
        elif due:
            yield Tick(timed, gap)
            for _ in range(due - 1):
                yield Tick(timed)
