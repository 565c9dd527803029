"""Resampling of timed frames (``lcr_edge.video``) to the rate the network was trained at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lcr_edge.errors import UsageError
from lcr_edge.video import TimedFrame, VideoSource

__all__ = ["MAX_GAP_S", "Tick", "TimedFrame", "VideoSource", "resample"]

MAX_GAP_S = 1.0
# Container timestamps are rounded to 1 ms or coarser; a frame early by this much still belongs to its tick.
_ROUNDING_S = 2e-3


@dataclass(frozen=True)
class Tick:
    """One frame for the network.

    gap: why the stream was cut before it, None if it was not. missed: ticks of a live source skipped before it.
    """

    timed: TimedFrame
    gap: str | None = None
    missed: int = 0


def resample(frames: Iterable[TimedFrame], fps: float, *, live: bool = False) -> Iterator[Tick]:
    """The frames for a network trained at ``fps`` frames per second, in order of time.

    There is a tick every 1/fps seconds from the first frame on; each takes the first frame that is not earlier. So a
    faster source is thinned, and a slower one repeats frames if several ticks have passed. A ``live`` source never
    repeats: a device that steps slower than fps would fall further and further behind; missed ticks are counted
    instead. If no frame came for more than MAX_GAP_S, if time runs backwards, if the frames change their size, or if
    the source says so (``TimedFrame.cut``), ticks restart at that frame, and its ``gap`` tells the caller to reset its
    state. Raises UsageError if fps is not positive.
    """
    if not 0 < fps < math.inf:
        raise UsageError(f"fps must be positive, got {fps!r}")
    previous: TimedFrame | None = None
    start, ticks = 0.0, 0
    for timed in frames:
        gap = None if previous is None else _gap(previous, timed)
        if previous is None or gap:
            start, ticks = timed.time_s, 0
        previous = timed
        # Ticks are counted, not summed: a stream that lasts hours must not drift.
        due = math.floor((timed.time_s - start + _ROUNDING_S) * fps) + 1 - ticks
        ticks += due
        if live and due:
            yield Tick(timed, gap, missed=due - 1)
        elif due:
            yield Tick(timed, gap)
            for _ in range(due - 1):
                yield Tick(timed)


def _gap(previous: TimedFrame, timed: TimedFrame) -> str | None:
    """Why the stream is cut between two frames, None if it is not."""
    passed = timed.time_s - previous.time_s
    if timed.cut:
        return timed.cut
    without = passed if timed.pause_s is None else timed.pause_s
    if without > MAX_GAP_S:
        return f"{without:.1f} s without a frame"
    if passed < 0:
        return f"time ran back by {-passed:.3f} s"
    if timed.frame.shape != previous.frame.shape:
        (before, width), (now, wide) = previous.frame.shape[:2], timed.frame.shape[:2]
        return f"frames of {width} x {before} became frames of {wide} x {now}"
    return None
