"""Fits camera frames of any size to the network's frame size, with the same two functions in training and on device.

Which of the two a network uses is decided when it is trained (``lcr-edge train --fit``). Its checkpoint and the
manifests of its bundles carry the name, and everything that reads frames for it follows: training, calibration,
``evaluate``, ``verify`` and ``Model.fit`` on the device.

Torch-free. OpenCV does the resizing if it is installed, otherwise a numpy version that agrees within one grey level.
"""

from __future__ import annotations

import functools
import importlib
import operator
from types import ModuleType
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import FrameError, UsageError

Frame = npt.NDArray[np.uint8]
Fit = Callable[[Frame, int, int], Frame]


def letterbox(frame: Frame, height: int, width: int) -> Frame:
    """The whole frame, aspect ratio kept, centred on black.

    frame: uint8 [h, w, 3] of any size, RGB or BGR (channels are left alone). Returns a new uint8
    [height, width, 3]. If the number of free rows or columns is odd, the extra one is at the bottom or right.
    Raises FrameError for another dtype or layout, UsageError for a size below 1.
    """
    height, width = _check(frame, height, width)
    scale = min(height / frame.shape[0], width / frame.shape[1])
    inner_height = min(height, max(1, round(frame.shape[0] * scale)))
    inner_width = min(width, max(1, round(frame.shape[1] * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    out = np.zeros((height, width, 3), np.uint8)
    out[top : top + inner_height, left : left + inner_width] = _resize(frame, inner_height, inner_width)
    return out


def center_crop(frame: Frame, height: int, width: int) -> Frame:
    """The largest centred part of the frame with the wanted aspect ratio, resized: no black, edges cut off.

    Arguments, result and errors as :func:`letterbox`.
    """
    height, width = _check(frame, height, width)
    scale = max(height / frame.shape[0], width / frame.shape[1])
    cut_height = min(frame.shape[0], max(1, round(height / scale)))
    cut_width = min(frame.shape[1], max(1, round(width / scale)))
    top, left = (frame.shape[0] - cut_height) // 2, (frame.shape[1] - cut_width) // 2
    return _resize(frame[top : top + cut_height, left : left + cut_width], height, width)


# By the name in checkpoints and manifests; those without a name are letterboxed.
FITS: dict[str, Fit] = {"letterbox": letterbox, "crop": center_crop}
DEFAULT_FIT = "letterbox"


def _check(frame: Any, height: int, width: int) -> tuple[int, int]:
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"a frame must be a numpy array, got {type(frame).__name__}; convert it with numpy.asarray")
    if frame.dtype != np.uint8:
        raise FrameError(
            f"a frame must be uint8 in 0..255, got {frame.dtype}; scale it and convert with .astype('uint8')"
        )
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameError(
            f"a frame must have shape [height, width, 3], got {list(frame.shape)}; "
            "put the channels last and keep three of them"
        )
    sizes = []
    for name, value in (("height", height), ("width", width)):
        try:
            size = operator.index(value)
        except TypeError:
            raise UsageError(f"{name} must be a whole number of pixels, got {value!r}") from None
        if size < 1:
            raise UsageError(f"{name} must be at least 1 pixel, got {size}")
        sizes.append(size)
    return sizes[0], sizes[1]


def _resize(frame: Frame, height: int, width: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame.copy()
    cv2 = _opencv()
    if cv2 is None:
        return _resize_numpy(frame, height, width)
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Frame = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=method)
    return resized


@functools.cache
def _opencv() -> ModuleType | None:
    try:
        return importlib.import_module("cv2")
    except ImportError:
        return None


def _resize_numpy(frame: Frame, height: int, width: int) -> Frame:
    """Separable resize: rows, then columns, one small matrix each."""
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    weights = _area_weights if shrinks else _linear_weights
    rows, columns = weights(frame.shape[0], height), weights(frame.shape[1], width)
    # [out_h, h] @ [h, w * 3], then [out_w, w] @ [out_h, w, 3]: both are matrix products, no Python loop over pixels.
    tall = (rows @ frame.reshape(frame.shape[0], -1).astype(np.float32)).reshape(height, frame.shape[1], 3)
    return np.asarray(np.clip(np.rint(columns @ tall), 0, 255), np.uint8)


@functools.lru_cache(maxsize=32)
def _area_weights(size_in: int, size_out: int) -> npt.NDArray[np.float32]:
    """[size_out, size_in]: share of each input pixel in each output pixel's interval; rows sum to 1."""
    bounds = np.arange(size_out + 1) * (size_in / size_out)
    left, right = bounds[:-1, None], bounds[1:, None]
    pixel = np.arange(size_in)[None, :]
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


@functools.lru_cache(maxsize=32)
def _linear_weights(size_in: int, size_out: int) -> npt.NDArray[np.float32]:
    """[size_out, size_in]: linear interpolation between pixel centres, the border pixel repeated outside."""
    centre = np.clip((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)[:, None]
    weights = np.clip(1 - np.abs(centre - np.arange(size_in)[None, :]), 0, None)
    return np.asarray(weights, np.float32)
