"""Canny edges with an Otsu threshold on the host: OpenCV if it is installed, else numpy, identical pixel for pixel.

    gray = (9798 R + 19235 G + 3735 B + 16384) >> 15        (OpenCV's RGB to gray)
    high = Otsu's threshold of gray, low = floor(high / 2)
    edge = Canny(gray, low, high), aperture 3, magnitude |gx| + |gy|

Otsu's threshold (Otsu 1979) is the first level t with the largest between-class variance. It is found here from exact
integer sums, not by ``cv2.threshold``: that rounds along its loop, so on a histogram with a gap, where a whole range of
levels ties, its choice depends on rounding noise. Otherwise both are equal.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import FrameError, MissingExtraError

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

GRAY_WEIGHTS = (9798, 19235, 3735)  # of 2**15
GRAY_SHIFT = 15
TAN_22 = 13573  # tan(22.5 degrees) * 2**15, rounded as OpenCV does


def host_edges(frame: U8) -> U8:
    """The edge map of one frame: uint8 [H, W, 3] RGB to uint8 [H, W] in {0, 1}. Raises FrameError for other input."""
    return cv2_edges(frame) if _cv2_installed() else numpy_edges(frame)


def cv2_edges(frame: U8) -> U8:
    """:func:`host_edges` with OpenCV. Raises MissingExtraError without it, FrameError for other input."""
    _check(frame)
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", "cv2_edges") from error
    gray: Any = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    high = otsu_threshold(cv2.calcHist([gray], [0], None, [256], [0, 256]).reshape(-1))
    edges: Any = cv2.Canny(gray, high // 2, high)
    return np.asarray(edges, dtype=np.uint8) & np.uint8(1)  # OpenCV marks an edge by 255


def numpy_edges(frame: U8) -> U8:
    """:func:`host_edges` with numpy alone. Raises FrameError for other input."""
    _check(frame)
    gray = _gray(frame)
    high = otsu_threshold(np.bincount(gray.reshape(-1), minlength=256))
    gx, gy = _sobel(gray)
    weak, strong = _thin(gx, gy, high // 2, high)
    return _hysteresis(strong, weak).astype(np.uint8)


def otsu_threshold(histogram: npt.NDArray[Any]) -> int:
    """Otsu's threshold in [0, 255]: the first level with the largest between-class variance.

    histogram: counts of the 256 gray levels, whole numbers of any dtype, [256]. With n1 pixels of sum s1 at or below
    level t, n2 pixels above, n and s in all, the variance is (n s1 - n1 s)^2 / (n^2 n1 n2); n^2 does not matter. The
    sums are integers, so that levels which tie in a gap of the histogram tie here too.
    """
    counts = np.asarray(histogram, dtype=np.int64)
    n1 = np.cumsum(counts)
    s1 = np.cumsum(counts * np.arange(256, dtype=np.int64))
    n, s = n1[-1], s1[-1]
    moment = (n * s1 - n1 * s).astype(np.float64)
    pairs = np.maximum(n1 * (n - n1), 1).astype(np.float64)  # an empty class has moment 0
    return int(np.argmax(moment * moment / pairs))


@functools.lru_cache(maxsize=1)
def _cv2_installed() -> bool:
    return importlib.util.find_spec("cv2") is not None


def _check(frame: U8) -> None:
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame must be a numpy array uint8 [H, W, 3] RGB, got {type(frame).__name__}")
    if frame.dtype != np.uint8:
        raise FrameError(f"frame must be uint8 with values 0..255, got {frame.dtype}; convert it first")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameError(
            f"frame must have shape [H, W, 3] (RGB, colour last), got {list(frame.shape)}; "
            "drop an alpha channel, move the colour axis to the end, or repeat a gray image three times"
        )


def _gray(frame: U8) -> U8:
    """RGB uint8 [H, W, 3] to luma uint8 [H, W]."""
    red, green, blue = (frame[..., i].astype(np.int32) for i in range(3))
    luma = GRAY_WEIGHTS[0] * red + GRAY_WEIGHTS[1] * green + GRAY_WEIGHTS[2] * blue
    return ((luma + (1 << (GRAY_SHIFT - 1))) >> GRAY_SHIFT).astype(np.uint8)


def _sobel(gray: U8) -> tuple[I32, I32]:
    """Horizontal and vertical 3x3 Sobel derivatives, int32 [H, W], the border pixels repeated."""
    padded = np.pad(gray.astype(np.int32), 1, mode="edge")
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return down[:, 2:] - down[:, :-2], across[2:] - across[:-2]


def _thin(gx: I32, gy: I32, low: int, high: int) -> tuple[Mask, Mask]:
    """Local maxima of the magnitude across the edge: (above ``low``, above ``high``), bool [H, W] each.

    A maximum must exceed its neighbour to the left or above, and reach that to the right or below; on a diagonal it
    must exceed both. OpenCV breaks ties that way.
    """
    x, y = np.abs(gx), np.abs(gy)
    magnitude = x + y
    near = np.pad(magnitude, 1)
    height, width = magnitude.shape

    def neighbour(dy: int, dx: int) -> I32:
        return near[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    slope = x * TAN_22
    flat = (y << 15) < slope
    steep = (y << 15) > slope + (x << 16)
    falling = (gx ^ gy) >= 0
    across = (magnitude > neighbour(0, -1)) & (magnitude >= neighbour(0, 1))
    along = (magnitude > neighbour(-1, 0)) & (magnitude >= neighbour(1, 0))
    main = (magnitude > neighbour(-1, -1)) & (magnitude > neighbour(1, 1))
    anti = (magnitude > neighbour(-1, 1)) & (magnitude > neighbour(1, -1))
    peak = np.where(flat, across, np.where(steep, along, np.where(falling, main, anti)))
    weak = peak & (magnitude > low)
    return weak, weak & (magnitude > high)


def _hysteresis(strong: Mask, weak: Mask) -> Mask:
    """All weak pixels that an 8-connected path of weak pixels joins to a strong one. bool [H, W].

    Only the pixels reached last can reach more, so each round looks only at their neighbours. The rounds end when
    nothing new is reached, after at most H * W rounds.
    """
    height, width = weak.shape
    stride = width + 2
    free = np.pad(weak & ~strong, 1).reshape(-1)  # a border, so that a flat offset never wraps to the next row
    reached = np.pad(strong, 1).reshape(-1)
    offsets = np.array([dy * stride + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    front: I64 = np.flatnonzero(reached)
    while front.size:
        around = (front[:, None] + offsets).reshape(-1)
        around = around[free[around]]
        free[around] = False
        reached[around] = True
        front = np.unique(around)
    return reached.reshape(height + 2, stride)[1:-1, 1:-1]
