"""Timed frames from a file, a camera or a stream, read by OpenCV."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from lcr_edge.errors import MissingExtraError, VideoError
from lcr_edge.frames import Frame
from lcr_edge.gstreamer import PREFIX, cannot_open, check_built_in, check_elements, pipeline_of


@dataclass(frozen=True)
class TimedFrame:
    """A source frame.

    frame: uint8 [h, w, 3] RGB. time_s: seconds on the source's clock. index: 0-based number in the source. cut: why
    nothing connects it with the frame before, None where something does. pause_s: of a source that drops frames, the
    longest time between two that arrived, since the frame that was taken before this one; None: nothing was dropped.
    """

    frame: Frame
    time_s: float
    index: int
    cut: str | None = None
    pause_s: float | None = None


def opencv(purpose: str) -> Any:
    """OpenCV, silent: its messages and FFmpeg's would appear between the lines of the output; our errors say it once.

    Raises MissingExtraError, which names the purpose.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", purpose) from error
    with contextlib.suppress(AttributeError):
        if hasattr(cv2.utils, "logging"):
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        else:  # Debian's OpenCV 4.6
            cv2.setLogLevel(0)
    return cv2


class VideoSource:
    """An opened source. Iterate over it once for its frames; close it or use ``with``.

    source: a path, a camera ("0" or "/dev/video0"), a URL, or a GStreamer pipeline ("gst:v4l2src ! ..."), which counts
    as live (see ``lcr_edge.gstreamer``). Files are timed by their container's timestamps, or by
    their frame rate if those do not advance; cameras and live streams by the wall clock when a frame arrives. fps:
    frames a second as the source declares them, 0.0 if it does not; of a file an average, of a camera often wrong.
    name: what the source is called for people and in logs, by default as :func:`name_of` says.
    Raises VideoError (missing, empty, corrupt, no such camera), also while iterating, and MissingExtraError.
    """

    def __init__(self, source: str, name: str | None = None) -> None:
        self.source = source
        self.name = name or name_of(source)
        self.seen = 0
        self.ended = False
        self._camera = camera_number(source)
        self._pipeline = pipeline_of(source)
        is_url = self._pipeline is None and "://" in source
        check_source(source)
        self._cv2 = opencv("Reading video")
        if self._pipeline is not None:
            check_built_in(self._cv2)
            check_elements(self._pipeline)
        self._open()
        count = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if math.isfinite(count) and 0 < count < 1e9 else 0
        fps = self._capture.get(self._cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps < 1e4 else 0.0
        self.live = self._camera is not None or self._pipeline is not None or (is_url and not self.frame_count)

    def again(self) -> VideoSource:
        """The same source opened once more."""
        return VideoSource(self.source, self.name)

    def _open(self) -> None:
        try:
            if self._pipeline is not None:
                self._capture = self._cv2.VideoCapture(self._pipeline, self._cv2.CAP_GSTREAMER)
            else:
                self._capture = self._cv2.VideoCapture(self.source if self._camera is None else self._camera)
            opened = bool(self._capture.isOpened())
        except self._cv2.error as error:
            raise VideoError(f"cannot open {self.name}: {error}") from error
        if not opened:
            self._capture.release()
            raise VideoError(cannot_open(self.name) if self._pipeline is not None else self._cannot_open())

    def _cannot_open(self) -> str:
        if self._camera is not None:
            return why_no_camera(f"camera {self._camera}", Path(f"/dev/video{self._camera}"))
        if "://" in self.source:
            return f"cannot open {self.name}; check the address, the network and the password in it"
        return f"{self.name} is not a video that this OpenCV can read: corrupt or another format; re-encode it as MP4"

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the camera or file. Harmless when repeated."""
        self._capture.release()

    def __iter__(self) -> Iterator[TimedFrame]:
        return self._frames(self.live)

    def _frames(self, live: bool) -> Iterator[TimedFrame]:
        clock: Callable[[float], float] = _wall_clock() if live else _file_clock(self.fps, self.name)
        while True:
            try:
                ok, picture = self._capture.read()
                if not ok or picture is None:
                    break
                time_s = clock(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3)
                code = self._cv2.COLOR_GRAY2RGB if picture.ndim == 2 else self._cv2.COLOR_BGR2RGB
                frame = self._cv2.cvtColor(picture, code)
            except self._cv2.error as error:
                raise VideoError(f"{self.name}: frame {self.seen} cannot be decoded: {error}") from error
            self.seen += 1
            yield TimedFrame(frame, time_s, self.seen - 1)
        self.ended = True
        if not self.seen:
            what = "gives no picture; check its cable and permissions" if self.live else "has no frame that decodes"
            raise VideoError(f"{self.name} {what}" + ("" if self.live else ": empty or corrupt; re-encode it"))

    def shortfall(self) -> str | None:
        """A sentence if a file ended well before the number of frames that it declares, else None."""
        if self.live or not self.ended or self.seen >= 0.9 * self.frame_count:
            return None
        return f"{self.name} declares {self.frame_count} frames, {self.seen} could be read: truncated or damaged"


def why_no_camera(name: str, device: Path) -> str:
    """What to say where a camera cannot be opened. device: its file, which only Linux has."""
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        return f"you may not open {device}: sudo usermod -aG video $USER, then log in again"
    return f"there is no {name}, or another program is using it; try another number"


# Values in a query that are not for logs.
_SECRET = re.compile(r"([?&;](?:\w*pass\w*|pwd|\w*token|\w*key|secret|auth)=)[^&;#]*", re.IGNORECASE)

# The same as properties of GStreamer's elements, quoted or not.
_SECRET_PROPERTY = re.compile(
    r"""((?:[\w-]*pass[\w-]*|[\w-]*-pw|[\w-]*token|[\w-]*key|secret)\s*=\s*)(?:"[^"]*"|'[^']*'|\S+)""",
    re.IGNORECASE,
)


def camera_number(source: str) -> int | None:
    """The number of a camera, given as "0" or, on Linux, as "/dev/video0" or a link to it; None for anything else."""
    if source.startswith("/dev/"):
        source = os.path.realpath(source)
    found = re.fullmatch(r"(?:/dev/video)?([0-9]{1,4})", source)
    return None if found is None else int(found[1])


def name_of(source: str) -> str:
    """A source for people and logs: "camera 0", a path, a URL whose password is not shown, or a pipeline likewise."""
    if source.startswith(PREFIX):
        shown = re.sub(r"\w+://[^\s\"']+", lambda found: name_of(found[0]), source)
        return _SECRET_PROPERTY.sub(lambda found: found[1] + "***", shown)
    camera = camera_number(source)
    if camera is not None:
        return f"camera {camera}"
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A slash in a password should be written %2F, and often is not: then the host seems to end within it.
    if "@" in host or ("@" in rest and re.fullmatch(r"[^:]*:(?![0-9]*$).*", host)):
        user, _, place = (
            rest.rpartition("@") if "@" not in host else (*host.rpartition("@")[:2], rest[host.rindex("@") + 1 :])
        )
        rest = f"{user.partition(':')[0]}:***@{place}" if ":" in user else rest
    return f"{scheme}://{_SECRET.sub(lambda found: found[1] + '***', rest)}"


def may_be_live(source: str) -> bool:
    """Whether an address is that of a camera, a URL or a pipeline, not the name of a file."""
    return camera_number(source) is not None or pipeline_of(source) is not None or "://" in source


def check_source(source: str) -> None:
    """Raise VideoError for a file that is missing or cannot be one. Cameras and URLs are not looked for."""
    try:
        source.encode()
    except UnicodeEncodeError:  # OpenCV would crash
        fix = "write its address anew" if "://" in source else "rename the file"
        raise VideoError(f"{name_of(source)!r} is not UTF-8: {fix}") from None
    if not may_be_live(source):
        _check_file(Path(source))


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
            raise VideoError(f"{path} {what}; give a video file, a camera number or a URL")
        if path.stat().st_size == 0:
            raise VideoError(f"{path} is empty (0 bytes); record or copy it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror}; check its name and permissions") from error


_REORDERED_S = 1.0  # a time that runs back by less is one of a frame stored in another order


def _wall_clock() -> Callable[[float], float]:
    start: list[float] = []

    def now(_: float) -> float:
        start[:] = start or [time.monotonic()]
        return time.monotonic() - start[0]

    return now


def _file_clock(fps: float, source: str) -> Callable[[float], float]:
    """Seconds of each frame in turn: the container's, or by ``fps`` if those have not advanced at the second frame."""
    index = 0
    first = last = 0.0
    counting = False

    def at(container_s: float) -> float:
        nonlocal index, first, counting, last
        if index == 0:
            first = container_s if math.isfinite(container_s) else 0.0
        elif index == 1 and not container_s > first:
            if not fps:
                raise VideoError(f"{source} has neither timestamps nor a frame rate; re-encode it as MP4")
            counting = True
        index += 1
        time_s = (index - 1) / fps if counting else container_s - first
        # Where frames are stored in another order than they are shown, OpenCV gives their times as stored.
        last = max(last, time_s) if last - time_s < _REORDERED_S else time_s
        return last

    return at
