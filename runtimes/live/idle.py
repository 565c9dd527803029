"""``--idle``: no steps while nothing moves before the camera.

Nothing moves as long as the picture stays what it was, but for noise and light. The fitted frame is averaged over
blocks of 4 x 4 pixels, which leaves little of a sensor's noise; the averages are compared with those of the still
picture, after one factor for the whole frame has been taken out, so that a camera's gain or a cloud is no movement:

    change = max |(b + 8) - g (r + 8)|,   g = median((b + 8) / (r + 8)) of the blocks with r > 8

with b the averages of this frame's grey levels, r those of the still picture, and 8 grey levels so that dark blocks do
not count for much; a letterbox's bars have no say in g. Above a threshold something moves, and r becomes b at once;
below it r follows b slowly. Comparing edge maps instead was tried (docs/events.md): contours flicker under noise as a
whole, and a threshold that is not woken by them does not see a hand.

The frame that differs is stepped, and so are those of the next ``settle_s`` seconds, for a hand that is held still.
Then steps are left out, but for one every ``idle_s`` seconds, and none while an event lasts or may begin. The state
stays what it was.
"""

from __future__ import annotations

import argparse
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcr_edge.errors import UsageError
from lcr_edge.frames import Frame

Blocks = NDArray[np.float32]

BLOCK = 4  # pixels
_DARK = np.float32(8.0)  # grey levels
_FOLLOWS = np.float32(0.2)  # how much of a still frame goes into the still picture
_LUMA = (0.299, 0.587, 0.114)
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class IdleRules:
    """When steps are left out. change: grey levels, above 0, that something has to differ by to be a movement.
    settle_s: seconds after a movement in which every frame is stepped. idle_s: the longest time without a step.

    Raises UsageError.
    """

    change: float = 7.0
    settle_s: float = 0.5
    idle_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.change < 256:
            raise UsageError(f"--idle-change is {self.change:g}: give grey levels above 0 and below 256")
        for name, value in (("settle", self.settle_s), ("seconds", self.idle_s)):
            if not 0 <= value < math.inf:
                raise UsageError(f"--idle-{name} is {value:g}: give 0 or more seconds")


class IdleGate:
    """Says of each frame of one stream whether its step is left out. period_s: the time between two of them."""

    def __init__(self, rules: IdleRules, period_s: float) -> None:
        self.rules, self._period_s = rules, period_s
        self.reset()

    @property
    def woken_s(self) -> float:
        """The time of the last frame that differed."""
        return self._moved_s

    def reset(self) -> None:
        """The stream was cut: the next frame is stepped."""
        self._still: Blocks | None = None
        self._moved_s = self._stepped_s = 0.0

    def skips(self, time_s: float, frame: Frame, *, busy: bool) -> bool:
        """Whether the step of this frame is left out. Called once for each frame, in order.

        time_s: seconds. frame: uint8 [H, W, 3], fitted to the network, always of the same size. busy: an event lasts,
        or may begin; then it is not.
        """
        blocks = block_means(frame)
        if self._still is None or change(self._still, blocks) > self.rules.change:
            self._still, self._moved_s = blocks, time_s
        else:
            self._still += _FOLLOWS * (blocks - self._still)
        settling = time_s - self._moved_s < self.rules.settle_s or time_s == self._moved_s
        # Not later than idle_s: would the next frame be too late?
        due = time_s + self._period_s - self._stepped_s > self.rules.idle_s + _ROUNDING_S
        if busy or settling or due:
            self._stepped_s = time_s
            return False
        return True


def block_means(frame: Frame) -> Blocks:
    """The mean grey level of each block of 4 x 4 pixels, float32 [H // 4, W // 4]; pixels beyond the last are not seen.

    frame: uint8 [H, W, 3], RGB, 4 pixels or more each way.
    """
    height, width = (side // BLOCK * BLOCK for side in frame.shape[:2])
    rows = frame[:height, :width].astype(np.float32).reshape(height // BLOCK, BLOCK, width * 3).sum(axis=1)
    return np.asarray(rows @ _columns(width), np.float32)


def change(still: Blocks, blocks: Blocks) -> float:
    """By how many grey levels the block that differs most does, as the module's equation says. Both [rows, columns]."""
    lit = still > _DARK
    gain = np.median((blocks[lit] + _DARK) / (still[lit] + _DARK)) if lit.any() else np.float32(1)
    return float(np.abs(blocks + _DARK - gain * (still + _DARK)).max())


@functools.lru_cache(maxsize=8)
def _columns(width: int) -> Blocks:
    """[width * 3, width // 4]: what each value of a row of pixels adds to the mean of its block."""
    weights = np.zeros((width, 3, width // BLOCK), np.float32)
    for column in range(width):
        weights[column, :, column // BLOCK] = np.asarray(_LUMA) / BLOCK**2
    return weights.reshape(width * 3, -1)


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """``--idle`` and its options."""
    parser.add_argument("--idle", action="store_true", help="leave steps out while nothing moves")
    for name, metavar, default, text in (
        ("change", "LEVELS", IdleRules.change, "grey levels by which a part of the picture has to change to wake it"),
        ("settle", "S", IdleRules.settle_s, "go on stepping for so long after a movement"),
        ("seconds", "S", IdleRules.idle_s, "the longest time without a step"),
    ):
        parser.add_argument(f"--idle-{name}", type=float, metavar=metavar, help=f"{text} (default: {default:g})")


def idle_rules(args: argparse.Namespace) -> IdleRules | None:
    """What the options say; None without ``--idle``. Raises UsageError."""
    given = {"change": args.idle_change, "settle_s": args.idle_settle, "idle_s": args.idle_seconds}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.idle:
        option = next(iter(given)).replace("idle_s", "seconds").replace("_s", "")
        raise UsageError(f"--idle-{option} is about what --idle does: add --idle")
    return IdleRules(**given) if args.idle else None
