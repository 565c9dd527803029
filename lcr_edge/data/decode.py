"""Read recorded clips, video files or folders of JPEG frames, as frames of the network's size. Uses OpenCV.

Frames are picked by index at the file's average rate (``sampling``), read from the start and skipped without being
converted, because seeking in a video is neither exact nor the same in all OpenCV versions. Each is fitted by a function
of ``frames.FITS``, as ``Model.fit`` does on the device.

What a file does not say is decided here:

- No frame rate, or one outside of 1 to 240: ``fallback_fps`` is taken (30, or the data set's documented rate).
- No number of frames: they are counted by reading the file through once.
- Fewer frames than announced: up to two, or 10 %, are put down to rounding in the container, and the last frame is
  repeated for them. More than that is a truncated file.
- A JPEG without its end marker is truncated, though decoders would return a picture, grey from there on.

An unreadable clip raises a VideoError that names the file.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.sampling import Sample, frame_indices
from lcr_edge.errors import MissingExtraError, VideoError
from lcr_edge.frames import DEFAULT_FIT, FITS

# What OpenCV's FFmpeg opens; a file's content decides, not its name.
VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".ogv",
)  # fmt: skip
DEFAULT_FPS = 30.0
_FPS_RANGE = (1.0, 240.0)
_MAX_FRAMES = 1e7  # a larger count in a header is noise
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_PADDING = 1024  # bytes after the end marker that some cameras append

Clip = NDArray[np.uint8]


def read_video(
    path: Path,
    sample: Sample,
    size: tuple[int, int],
    *,
    fit: str = DEFAULT_FIT,
    fallback_fps: float = DEFAULT_FPS,
    span: tuple[float, float] | None = None,
) -> Clip:
    """Frames of a video file: uint8 RGB [sample.frames, height, width, 3], fitted to ``size`` (height, width).

    fit: how, a name of ``frames.FITS``. span: the part of a longer recording that is the clip, start and end in
    seconds; a file that is not at least 2 s longer than it has been cut already and is read whole. Raises VideoError,
    or MissingExtraError without OpenCV.
    """
    cv2 = _opencv()
    with _opened(cv2, path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if _FPS_RANGE[0] <= fps <= _FPS_RANGE[1] else fallback_fps
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        count = int(announced) if 0 < announced < _MAX_FRAMES else _counted(cv2, path)
        first = 0
        if span is not None and count / fps > span[1] - span[0] + 2.0:
            first = min(math.floor(span[0] * fps), count - 1)
            count = max(1, min(count, math.ceil(span[1] * fps)) - first)
        indices = first + frame_indices(count, fps, sample)
        out = np.empty((sample.frames, *size, 3), np.uint8)
        filled = seen = 0
        while filled < len(indices) and _grab(cv2, capture, path, seen):
            seen += 1
            if seen - 1 < indices[filled]:
                continue
            fitted = FITS[fit](_retrieve(cv2, capture, path, seen - 1), *size)
            while filled < len(indices) and indices[filled] == seen - 1:
                out[filled] = fitted
                filled += 1
    if filled < len(indices):
        short = int(indices[-1]) + 1 - seen
        if not filled or short > max(2, 0.1 * count):
            raise VideoError(
                f"{path} announces {first + count} frames, {seen} could be read: truncated or damaged; copy it again"
            )
        out[filled:] = out[filled - 1]
    return out


def read_film(path: Path, most: int) -> tuple[list[Clip], float]:
    """The first frames of a video file, uint8 RGB [h, w, 3] of its own size, at most ``most``; and its frames a second.

    Raises VideoError, or MissingExtraError without OpenCV.
    """
    cv2 = _opencv()
    frames: list[Clip] = []
    with _opened(cv2, path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        while len(frames) < most and _grab(cv2, capture, path, len(frames)):
            frames.append(_retrieve(cv2, capture, path, len(frames)))
    if not frames:
        raise VideoError(f"{path} has no frame that can be decoded: it is empty or corrupt; copy it again")
    return frames, fps if _FPS_RANGE[0] <= fps <= _FPS_RANGE[1] else DEFAULT_FPS


def read_jpegs(folder: Path, sample: Sample, size: tuple[int, int], *, fps: float, fit: str = DEFAULT_FIT) -> Clip:
    """Frames of a folder of ``*.jpg``, in the order of their names, recorded at ``fps``: as :func:`read_video`.

    Raises VideoError for a folder without frames and for a truncated or unreadable frame, or MissingExtraError.
    """
    cv2 = _opencv()
    try:
        with os.scandir(folder) as entries:
            names = sorted(x.name for x in entries if x.name.endswith(".jpg") and not x.name.startswith("."))
    except OSError as error:
        raise VideoError(f"cannot read the frames in {folder}: {error.strerror}") from error
    if not names:
        raise VideoError(f"{folder} has no .jpg frames; unpack it again")
    out = np.empty((sample.frames, *size, 3), np.uint8)
    previous = -1
    for k, index in enumerate(frame_indices(len(names), fps, sample).tolist()):
        out[k] = out[k - 1] if index == previous else FITS[fit](_jpeg(cv2, folder / names[index]), *size)
        previous = index
    return out


def _jpeg(cv2: Any, path: Path) -> Clip:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror}") from error
    if not data.startswith(_JPEG_START) or _JPEG_END not in data[-_JPEG_PADDING:]:
        raise VideoError(f"{path} is not a whole JPEG file ({len(data)} bytes): truncated or damaged; unpack it again")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise VideoError(f"{path} cannot be decoded: {error}") from error
    if picture is None:
        raise VideoError(f"{path} cannot be decoded: damaged; unpack it again")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _opencv() -> Any:
    # FFmpeg's and OpenCV's own lines about damaged files would go to the terminal; VideoError says it once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "train", "Reading video") from error
    with contextlib.suppress(AttributeError):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


@contextlib.contextmanager
def _opened(cv2: Any, path: Path) -> Iterator[Any]:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # OpenCV takes names of characters only
        raise VideoError(f"{str(path)!a} cannot be opened: its name is not UTF-8; rename it") from error
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
            raise VideoError(f"{path} is not a file; move it away")
        if about.st_size == 0:
            raise VideoError(f"{path} is empty (0 bytes); copy it again")
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror}") from error
    # FFmpeg alone where it is built in, with one thread: other backends would take a damaged file with digits in its
    # name for a numbered series of pictures, and what threads make of a damaged frame depends on their timing.
    if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends():
        arguments: tuple[Any, ...] = (str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    else:
        arguments = (str(path),)
    try:
        capture = cv2.VideoCapture(*arguments)
    except cv2.error as error:
        raise VideoError(f"cannot open {path}: {error}") from error
    try:
        if not capture.isOpened():
            raise VideoError(f"{path} is not a video that this OpenCV can read: it is corrupt, or of another format")
        yield capture
    finally:
        capture.release()


def _grab(cv2: Any, capture: Any, path: Path, index: int) -> bool:
    try:
        return bool(capture.grab())
    except cv2.error as error:
        raise VideoError(f"{path}: frame {index} cannot be decoded: {error}") from error


def _retrieve(cv2: Any, capture: Any, path: Path, index: int) -> Clip:
    try:
        ok, picture = capture.retrieve()
    except cv2.error as error:
        raise VideoError(f"{path}: frame {index} cannot be decoded: {error}") from error
    if not ok or picture is None:
        raise VideoError(f"{path}: frame {index} cannot be decoded: damaged; copy it again")
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def _counted(cv2: Any, path: Path) -> int:
    with _opened(cv2, path) as capture:
        count = 0
        while _grab(cv2, capture, path, count):
            count += 1
    if not count:
        raise VideoError(f"{path} has no frame that can be decoded: it is empty or corrupt; copy it again")
    return count
