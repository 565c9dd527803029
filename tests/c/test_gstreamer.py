"""The camera program on GStreamer pipelines, which play files, and sources that are live."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.c.camera_program import FPS, GSTREAMER, U8, assert_same, expected, has, run
from tests.c.test_camera import gestures, timed
from tests.c.test_v4l2 import nv12, yuyv

_PACKAGES = "libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-plugins-base"
_ELEMENTS = ("videotestsrc", "rawvideoparse", "videoconvert", "appsink")
_INSPECT = shutil.which("gst-inspect-1.0") or next(
    (str(path) for path in Path("/usr/lib").glob("*/gstreamer1.0/gstreamer-1.0/gst-inspect-1.0")), None
)


def _complete() -> bool:
    """Whether the program is built with GStreamer, and the elements are there, as far as anything can tell."""
    if not has(*GSTREAMER):
        return False
    return _INSPECT is None or all(
        subprocess.run([_INSPECT, name], capture_output=True, check=False).returncode == 0 for name in _ELEMENTS
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _complete(), reason=f"GStreamer is missing: apt-get install {_PACKAGES}"),
]


def played(path: Path, content: bytes, form: str, size: tuple[int, int]) -> str:
    """A pipeline that reads raw frames of a file, 12 a second by their times."""
    path.write_bytes(content)
    shape = f"width={size[1]} height={size[0]} framerate=12/1"
    return f"gst:filesrc location={path} ! rawvideoparse format={form} {shape}"


@pytest.mark.parametrize("form", ["rgb", "bgr"])
@pytest.mark.parametrize("own_sink", [False, True])
def test_a_file_gives_all_its_frames(form: str, own_sink: bool, tmp_path: Path) -> None:
    frames = gestures()
    shown = frames if form == "rgb" else np.ascontiguousarray(frames[..., ::-1])
    pipeline = played(tmp_path / "raw", shown.tobytes(), form, (112, 112))
    said = run(pipeline + (" ! appsink" if own_sink else ""))
    assert said.code == 0, said.errors
    assert f"{len(frames)} frames seen" in said.errors
    wanted = expected(timed(frames, [_ns(number) for number in range(len(frames))]))
    assert {one["label"] for one in wanted} >= {"Swiping Left", "Thumb Up"}
    assert_same(said.events, wanted)


def _ns(number: int) -> float:
    """A time at 12 frames a second, as GStreamer rounds it."""
    return (number * 10**9 // 12) * 1e-9


@pytest.mark.parametrize("form", ["nv12", "yuy2"])
def test_an_appsink_may_take_yuv(form: str, tmp_path: Path) -> None:
    made: list[tuple[bytes, U8]] = [(nv12 if form == "nv12" else yuyv)(frame, _stride(form)) for frame in gestures()]
    pipeline = played(tmp_path / "raw", b"".join(content for content, _ in made), form, (112, 112))
    said = run(f"{pipeline} ! appsink")
    assert said.code == 0, said.errors
    wanted = expected(timed([rgb for _, rgb in made], [_ns(number) for number in range(len(made))]))
    assert wanted
    assert_same(said.events, wanted)


def _stride(form: str) -> int:
    return 112 if form == "nv12" else 224


def test_rows_with_a_rest_behind_them(tmp_path: Path) -> None:
    """RGB rows of 110 pixels are 330 bytes, which GStreamer fills up to 332."""
    frames = np.ascontiguousarray(gestures()[:36, :, 1:-1])
    rows = np.full((36, 112, 332), 77, np.uint8)
    rows[..., :330] = frames.reshape(36, 112, 330)
    said = run(played(tmp_path / "raw", rows.tobytes(), "rgb", (112, 110)))
    wanted = expected(timed(frames, [_ns(number) for number in range(36)]))
    assert wanted
    assert_same(said.events, wanted)


def test_a_gap_in_the_times(tmp_path: Path) -> None:
    """A rate below one frame a second: every frame starts a stream."""
    frames = gestures()[:5]
    pipeline = played(tmp_path / "raw", frames.tobytes(), "rgb", (112, 112)).replace("12/1", "1/2")
    said = run(pipeline)
    assert said.code == 0
    assert "5 stepped, 4 resets" in said.errors
    assert "state reset at 2.000 s: 2.0 s without a frame" in said.errors


def test_a_live_source_ends_by_being_lost() -> None:
    shape = f"video/x-raw,width=160,height=120,framerate={FPS:.0f}/1"
    said = run(f"gst:videotestsrc is-live=true num-buffers=4 ! {shape}")
    assert said.code == 1
    assert "the pipeline gives no more frames" in said.errors
    # Of a live source the newest frame counts; a machine that is busy may see fewer.
    assert " frames seen" in said.errors
    said = run(f"gst:videotestsrc is-live=true ! {shape}", "--frames", "3")
    assert said.code == 0
    assert "3 stepped" in said.errors


@pytest.mark.parametrize(
    ("pipeline", "code", "message"),
    [
        ("gst:", 2, "names no pipeline"),
        ("gst: ! ", 2, "names no pipeline"),
        ("gst:nosuchelement", 2, "nosuchelement"),
        ("gst:videotestsrc pattern=", 2, "write it as for gst-launch-1.0"),
        ("gst:videotestsrc ! fakesink", 2, "write it as for gst-launch-1.0"),
        ("gst:filesrc location=/nonexistent ! rawvideoparse format=rgb width=8 height=8", 2, "the pipeline failed in"),
        ("gst:videotestsrc num-buffers=0", 1, "gives no more frames"),
        ("gst:videotestsrc ! video/x-raw,format=I420 ! appsink", 2, "the pipeline"),
    ],
)
def test_pipelines_that_cannot_be_used(pipeline: str, code: int, message: str) -> None:
    said = run(pipeline, "--patience", "2")
    assert (said.code, said.events) == (code, []), said.errors
    assert message in said.errors
    assert "error: " in said.errors
