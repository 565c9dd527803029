"""Write frames as a video file, and read them back: OpenCV does not tell when the disk is full."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcr_edge.errors import OutputError, UsageError
from lcr_edge.files import written_atomically
from lcr_edge.frames import Frame

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# MPEG-4 counts time in ticks of at most 1/65535 s; two decimals of a rate leave an error of 0.3 ms in 2 s at 30 fps.
_DECIMALS = 2
MAX_FPS = 600.0


def write_video(path: Path, frames: Sequence[Frame] | Frame, fps: float, *, new: bool = False) -> None:
    """Write ``path``, .mp4 or .avi, whole or not at all, and check that every frame can be read from it.

    frames: uint8 [h, w, 3] RGB, at least one, all of one size; an array [n, h, w, 3] will do. Of an odd height or width
    the last row or column is lost. fps: frames a second, above 0 and at most ``MAX_FPS``, kept to two decimals. new:
    refuse to replace a file. Raises UsageError for another suffix or rate, OutputError, also where the file is there
    already and must not be.
    """
    if path.suffix not in CODECS:
        raise UsageError(f"the name of the video must end in {' or '.join(CODECS)}, got {path}")
    rate = round(fps, _DECIMALS)
    if not 0 < rate <= MAX_FPS:
        raise UsageError(f"a video can have from 0.01 to {MAX_FPS:g} frames a second, got {fps!r}")
    with written_atomically(path) as temporary:
        _encode(temporary, frames, rate, path)
        if new and os.path.lexists(path):  # as late as can be: the file may have come during the recording
            raise OutputError(f"{path} has appeared meanwhile and is kept; run one recording at a time in a folder")


def _encode(place: Path, frames: Sequence[Frame] | Frame, fps: float, path: Path) -> None:
    import cv2

    height, width = frames[0].shape[:2]
    # An absolute name: FFmpeg would take what stands before a colon for a protocol.
    name, codec = str(place.resolve()), cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer: Any = cv2.VideoWriter(name, codec, fps, (width, height))
    if not writer.isOpened():
        raise OutputError(f"cannot write {path}: OpenCV has no encoder for it here; try a name that ends in .avi")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    found = _count(cv2, name)
    if found != len(frames):
        raise OutputError(
            f"cannot write {path}: {found} of {len(frames)} frames can be read back; free some space, or choose "
            "another folder. A file that was there before is unchanged"
        )


def _count(cv2: Any, name: str) -> int:
    # FFmpeg where it is built in: another backend takes a name with % in it for a series of pictures.
    backends = cv2.videoio_registry.getStreamBackends()
    capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY)
    found = 0
    while capture.read()[0]:
        found += 1
    capture.release()
    return found
