"""One recording: an MP4 file of an event with JSON beside it; both are there whole, or neither is."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.errors import OutputError
from lcr_edge.files import sync_folder, written_atomically
from lcr_edge.frames import Frame
from lcr_edge.video import opencv

MAX_SIDE = 1280  # pixels; larger frames are made smaller


class Footage:
    """Writes frames to a temporary file, each for as long as it was the newest one, and names it at the end.

    path: of the finished video; its suffix is .mp4. fps: frames of the file a second. size: (width, height), even; a
    frame of another size is made to fit. start_s: the time of the first frame. Raises OutputError, also where this
    OpenCV cannot write MP4.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self._cv2 = opencv("Writing video")
        self.path, self.frames = path, 0
        self.start_s: float | None = None
        self.end_s = 0.0
        self._fps, self._size = fps, size
        self._temporary = path.with_name(f".{path.name}")
        self._last: Frame | None = None
        try:
            os.close(os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        self._writer: Any = self._cv2.VideoWriter(str(self._temporary), self._cv2.CAP_FFMPEG, code, fps, size)
        if not self._writer.isOpened():
            self.discard()
            raise OutputError(f"cannot write {path}: this OpenCV writes no MP4, or the disk is full")

    def add(self, time_s: float, picture: Frame) -> None:
        """Take a frame. picture: uint8 [h, w, 3], in OpenCV's order of colours. time_s: later than the one before."""
        if picture.shape[1::-1] != self._size:
            picture = self._cv2.resize(picture, self._size, interpolation=self._cv2.INTER_AREA)
        if self.start_s is None:
            self.start_s = time_s
        # What came late is shown late: the frame before is repeated for the ticks that passed.
        due = max(self.frames, round((time_s - self.start_s) * self._fps))
        while self.frames < due and self._last is not None:
            self._write(self._last)
        self._write(picture)
        self._last, self.end_s = picture, time_s

    def finish(self, about: dict[str, Any]) -> None:
        """Give the file its name and write ``about`` beside it. Raises OutputError; then neither is there."""
        try:
            self.check()
            record = {**about, "video": self.path.name, "fps": self._fps, "frames": self.frames}
            text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
            with written_atomically(self.path.with_suffix(".json")) as description:
                description.write_text(text, encoding="utf-8")
                with self._temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
            sync_folder(self.path.parent)
        except (OSError, ValueError, self._cv2.error) as error:
            raise OutputError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file. Harmless when repeated."""
        writer = getattr(self, "_writer", None)
        if writer is not None:
            writer.release()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def check(self) -> None:
        """Close the temporary file, and look whether everything is there: OpenCV does not say when a disk is full.

        Raises OSError.
        """
        self._writer.release()
        capture = self._cv2.VideoCapture(str(self._temporary), self._cv2.CAP_FFMPEG)
        try:
            count = int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        finally:
            capture.release()
        if count != self.frames or not self.frames:
            raise OSError(f"{count} of {self.frames} frames arrived; the disk may be full")

    def _write(self, picture: Frame) -> None:
        self._writer.write(picture)
        self.frames += 1


def shrunk(picture: Frame) -> Frame:
    """A frame whose longer side has ``MAX_SIDE`` pixels at most, and whose sides are even, as MP4 wants them."""
    height, width = picture.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    wide, high = (max(2, int(size * scale) // 2 * 2) for size in (width, height))
    if scale == 1.0:
        return np.ascontiguousarray(picture[:high, :wide]) if (high, wide) != (height, width) else picture
    cv2 = opencv("Writing video")
    smaller: Frame = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
    return smaller


def probe(path: Path) -> None:
    """See whether a video can be written to a path; nothing stays there. Raises OutputError."""
    footage = Footage(path, 8.0, (64, 48))
    try:
        for number in range(2):
            footage.add(number / 8, np.zeros((48, 64, 3), np.uint8))
        footage.check()
    except OSError as error:
        raise OutputError(f"cannot write videos to {path.parent}: {error}") from error
    finally:
        footage.discard()
