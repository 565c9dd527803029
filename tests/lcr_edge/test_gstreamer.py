"""GStreamer pipelines as sources. Where this Python's OpenCV is built without GStreamer, as pip's wheels are, the
system's Python is tried, whose OpenCV comes from Debian."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.errors import VideoError
from lcr_edge.gstreamer import check_built_in, pipeline_of
from lcr_edge.video import VideoSource, name_of

cv2 = pytest.importorskip("cv2")
ROOT = Path(__file__).resolve().parents[2]
_TEST = "videotestsrc num-buffers=4 pattern=red ! video/x-raw,width=320,height=240"
_PROGRAM = """
import json, sys
from lcr_edge.errors import VideoError
from lcr_edge.video import VideoSource
for source in sys.argv[1:]:
    try:
        with VideoSource(source) as opened:
            frames = [timed.frame for timed in opened]
        print(json.dumps([opened.live, len(frames), list(frames[0].shape), frames[0][9, 9].tolist()]))
    except VideoError as error:
        print(json.dumps(str(error)))
"""


@functools.cache
def python() -> str:
    """A Python whose OpenCV has GStreamer with its test source. Skips where there is none."""
    program = (
        "import cv2, sys; c = cv2.VideoCapture('videotestsrc num-buffers=1 ! appsink', cv2.CAP_GSTREAMER);"
        "sys.exit(not c.isOpened())"
    )
    for candidate in (sys.executable, "/usr/bin/python3"):
        if Path(candidate).exists():
            done = subprocess.run([candidate, "-c", program], capture_output=True, check=False, timeout=60)
            if done.returncode == 0:
                return candidate
    pytest.skip("no OpenCV with GStreamer: apt-get install python3-opencv gstreamer1.0-plugins-base")


def opened(*sources: str) -> list[Any]:
    """Live?, number of frames, shape and a pixel of each source, or the error; opened in that Python."""
    done = subprocess.run(
        [python(), "-c", _PROGRAM, *sources],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_pipelines_give_pictures_in_the_right_colours() -> None:
    sources = [_TEST, f"{_TEST},format=NV12 ! appsink sync=false", f"{_TEST},format=BGR ! appsink"]
    for live, count, shape, (red, green, blue) in opened(*(f"gst:{source}" for source in sources)):
        assert (live, count, shape) == (True, 4, [240, 320, 3])
        assert red > 245
        assert max(green, blue) < 10


def test_pipelines_that_cannot_start_say_so() -> None:
    missing, camera = opened("gst:no_such_element ! video/x-raw", "gst:v4l2src device=/dev/video4242")
    # OpenCV would wait for its picture for ever.
    assert missing.startswith("this GStreamer has no element 'no_such_element'")
    assert camera.startswith(
        ("cannot start gst:v4l2src device=/dev/video4242; gst-launch-1.0", "this GStreamer has no")
    )


def test_an_opencv_without_gstreamer_is_told_with_the_way_out() -> None:
    try:
        check_built_in(cv2)
    except VideoError:
        with pytest.raises(VideoError, match=r"built without GStreamer.*apt-get install python3-opencv"):
            VideoSource("gst:videotestsrc")
    else:
        pytest.skip("this OpenCV has GStreamer")


@pytest.mark.parametrize(
    ("source", "pipeline"),
    [
        ("video.mp4", None),
        ("rtsp://camera/gst:", None),
        ("gst:a b=1", "a b=1 ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"),
        ("gst: a ! b !", "a ! b ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"),
        ("gst:a ! appsink sync=false", "a ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false"),
        ("gst:a !appsink", "a ! videoconvert ! video/x-raw,format=BGR ! appsink"),
    ],
)
def test_pixels_are_converted_before_the_sink(source: str, pipeline: str | None) -> None:
    assert pipeline_of(source) == pipeline


@pytest.mark.parametrize("source", ["gst:", "gst: ! ", "gst:appsink"])
def test_a_pipeline_that_is_none(source: str) -> None:
    with pytest.raises(VideoError, match="names no pipeline"):
        VideoSource(source)


def test_passwords_in_pipelines_are_not_shown() -> None:
    source = 'gst:rtspsrc location="rtsp://me:secret1@cam/x?pwd=secret2" user-id=me user-pw="secret 3" ! decodebin'
    shown = name_of(source)
    assert "secret" not in shown
    assert shown.startswith('gst:rtspsrc location="rtsp://me:***@cam/x?pwd=***')
    assert shown.endswith("! decodebin")
    assert "ret" not in name_of("gst:rtspsrc location=rtsp://me:sec!ret@cam/ user-pw=sec!ret ! decodebin")
