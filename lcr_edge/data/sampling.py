"""Which frames of a recorded clip the network sees: by frame rate, length and a place in the clip.

The rule is the device's (``lcr-edge run``): ticks pass every 1/fps seconds, and each takes the first frame that is not
earlier than it. A faster recording is thinned, a slower one repeats frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcr_edge.errors import UsageError

# The device counts a frame that comes this much too early for a tick as being in time: file timestamps are rounded.
ROUNDING_S = 2e-3
_CHOICE = 11  # tag that separates the random choices


class Sample(NamedTuple):
    """What part of a clip to take.

    frames: how many, at least 1. fps: how many a second of recorded time. offset: where the window starts, in [0, 1):
    0 is the earliest place at which it fits into the clip, towards 1 the latest, 0.5 the middle.
    """

    frames: int
    fps: float
    offset: float


def frame_indices(count: int, native_fps: float, sample: Sample) -> NDArray[np.int64]:
    """Indices into a clip of ``count`` frames at ``native_fps`` frames per second: int64 [sample.frames], sorted.

        index_k = start + ceil(k native_fps / fps - 0.002 native_fps),    0.002 s being the device's allowance

    A clip too short for the window starts at its first frame and repeats its last one. Raises UsageError for a
    sample, count or rate out of range.
    """
    if count < 1 or not 0 < native_fps < math.inf:
        raise UsageError(f"a clip needs frames and a frame rate, got {count} frames at {native_fps!r} a second")
    if sample.frames < 1 or not 0 < sample.fps < math.inf or not 0 <= sample.offset < 1:
        raise UsageError(f"a sample needs frames >= 1, fps > 0 and an offset in [0, 1), got {sample}")
    exact = np.arange(sample.frames) * (native_fps / sample.fps) - ROUNDING_S * native_fps
    # Floating point may leave an exact multiple a hair above its integer.
    relative = np.maximum(np.ceil(exact - 1e-9), 0).astype(np.int64)
    slack = count - 1 - int(relative[-1])
    start = math.floor(sample.offset * (slack + 1)) if slack > 0 else 0
    return np.asarray(np.minimum(start + relative, count - 1), np.int64)


def balanced(targets: NDArray[np.int64], seed: int) -> list[int]:
    """Indices of all clips in random order: one clip of each class, then another of each, until none are left.

    targets: class index of each clip, int64 [n].
    """
    random = np.random.default_rng((_CHOICE, seed))
    turn = np.empty(len(targets), np.int64)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        turn[random.permutation(members)] = np.arange(len(members))
    return [int(index) for index in np.lexsort((random.random(len(targets)), turn))]
