"""Sources that are GStreamer pipelines: "gst:" and what gst-launch-1.0 takes, up to an appsink or without one.

They are how a Jetson's or a Raspberry Pi's camera is read, and how a video decoder in hardware is used. OpenCV has to
be built with GStreamer; pip's wheels are not, Debian's packages are.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import Any

from lcr_edge.errors import VideoError

PREFIX = "gst:"
# OpenCV takes other layouts of pixels too, but hands out their bytes as they are: NV12 as a grey picture of 3/2 height.
_COLOURS = "! videoconvert ! video/x-raw,format=BGR"
_SINK = re.compile(r"!\s*appsink\b")
_NEWEST = "! appsink drop=true max-buffers=1"


def pipeline_of(source: str) -> str | None:
    """The pipeline that OpenCV is given for a source; None where it is another kind of source.

    Pixels are converted to 8-bit BGR before the appsink, which costs nothing where they are that already. A pipeline
    without an appsink gets one that keeps the newest frame. Raises VideoError for an empty pipeline.
    """
    if not source.startswith(PREFIX):
        return None
    given = source[len(PREFIX) :].strip().strip("!").strip()
    if not given or given.startswith("appsink"):
        raise VideoError(f"{source!r} names no pipeline; write it as for gst-launch-1.0: gst:v4l2src ! videoconvert")
    if _SINK.search(given):
        return _SINK.sub(f"{_COLOURS} ! appsink", given, count=1)
    return f"{given} {_COLOURS} {_NEWEST}"


def check_built_in(cv2: Any) -> None:
    """Raise VideoError, which says where to get another one, for an OpenCV without GStreamer."""
    # Its list of backends names GStreamer in any case: it could be loaded as a plugin, which there is none of.
    found = re.search(r"GStreamer:\s+(\w+)", cv2.getBuildInformation())
    if found is None or found[1] != "YES":
        raise VideoError(
            f"this OpenCV ({cv2.__version__}) is built without GStreamer, as pip's wheels are. Take the system's: "
            "apt-get install python3-opencv gstreamer1.0-plugins-good, then an environment with --system-site-packages "
            "and, in it, pip uninstall opencv-python-headless opencv-python"
        )


def check_elements(pipeline: str) -> None:
    """Raise VideoError, which names it, for an element that this GStreamer does not have.

    OpenCV would leave it out, start the rest and wait for a picture for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libgstreamer-1.0.so.0")
        find = library.gst_element_factory_find
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        library.gst_init(None, None)
        for name in _elements(pipeline):
            if find(name.encode()) is None:
                raise VideoError(
                    f"this GStreamer has no element {name!r}: check its spelling, or install the package that has it "
                    "(apt-get install gstreamer1.0-plugins-good, -bad, -libav or -libcamera)"
                )


def _elements(pipeline: str) -> list[str]:
    """Names of the elements: the first word between two exclamation marks, unless it is a format or a pad."""
    plain = re.sub(r""""[^"]*"|'[^']*'""", "", pipeline)
    words = [part.split()[0] for part in plain.split("!") if part.strip()]
    return [word for word in words if re.fullmatch(r"[A-Za-z][\w-]*", word)]


def cannot_open(name: str) -> str:
    """What to say where OpenCV cannot start a pipeline; GStreamer's reason is in a log of its own."""
    return f"cannot start {name}; gst-launch-1.0 says why: give it this pipeline, with fakesink in place of appsink"
