"""The camera program on a camera that a script plays: what drivers do, and what they do wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import shared
from tests.c.camera_program import STRICT, U8, Said, assert_same, bundle, expected, has, program, read_events
from tests.c.test_camera import gestures, timed

cv2: Any = pytest.importorskip("cv2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="V4L2 is Linux's"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc: apt-get install gcc"),
]
SIDE = 112  # of a frame; the packaged network's
ERROR_FLAG = 0x40


def fake() -> Path:
    """fake_camera.c, to be loaded before the program."""

    def make(folder: Path) -> None:
        source, made = Path(__file__).parent / "fake_camera.c", folder / "fake.so"
        call = ["gcc", "-std=gnu99", "-O1", *STRICT.split(), "-Wno-pedantic", "-shared", "-fPIC"]
        subprocess.run([*call, str(source), "-ldl", "-o", str(made)], check=True)

    return shared.folder("c_fake_camera", make) / "fake.so"


def play(folder: Path, script: Sequence[str], content: bytes, *arguments: str) -> Said:
    """Run the program on a camera that does what the script says, with these bytes as its frames."""
    (folder / "script").write_text("\n".join([*script, ""]))
    (folder / "frames").write_bytes(content)
    variables = {"FAKE_CAMERA": str(folder / "script"), "FAKE_FRAMES": str(folder / "frames")}
    environment = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    command = [str(program()), str(bundle() / "model.bin"), "9", *arguments]
    preload = {"LD_PRELOAD": str(fake())}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**environment, **preload, **variables}
    )
    return Said(done.returncode, read_events(done.stdout), done.stderr)


def yuyv(frame: U8, stride: int) -> tuple[bytes, U8]:
    """A frame as a camera gives it, in rows of ``stride`` bytes, and as RGB."""
    yuv = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV)
    packed = np.empty((*frame.shape[:2], 2), np.uint8)
    packed[..., 0] = yuv[..., 0]
    packed[:, 0::2, 1], packed[:, 1::2, 1] = yuv[:, 0::2, 1], yuv[:, 0::2, 2]
    rows = np.full((frame.shape[0], stride), 77, np.uint8)
    rows[:, : 2 * frame.shape[1]] = packed.reshape(frame.shape[0], -1)
    return rows.tobytes(), cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_YUY2)


def nv12(frame: U8, stride: int) -> tuple[bytes, U8]:
    """The same with luma in one plane and colours in another."""
    planar = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
    height, width = frame.shape[:2]
    colours = planar[height:].reshape(2, -1)
    both = np.concatenate([planar[:height], colours.T.reshape(height // 2, width)])
    rows = np.full((len(both), stride), 77, np.uint8)
    rows[:, :width] = both
    return rows.tobytes(), cv2.cvtColor(both, cv2.COLOR_YUV2RGB_NV12)


FORMATS = {"YUYV": (yuyv, 2 * SIDE), "NV12": (nv12, SIDE)}


@pytest.mark.parametrize("code", list(FORMATS))
@pytest.mark.parametrize("spare", [0, 32])
def test_formats_and_strides(code: str, spare: int, tmp_path: Path) -> None:
    make, least = FORMATS[code]
    made = [make(frame, least + spare) for frame in gestures()]
    times = [1000 + round(number / 12, 6) for number in range(len(made))]
    script = [f"offer {code} {SIDE} {SIDE} {least + spare if spare else 0}"]
    for number, (at, (content, _)) in enumerate(zip(times, made)):
        script += [f"frame {round(at * 1e6)} {number} {len(content)} 0", "again"]
    said = play(tmp_path, [*script, "stop"], b"".join(content for content, _ in made))
    assert said.code == 0, said.errors
    wanted = expected(timed([rgb for _, rgb in made], [at - times[0] for at in times]), live=True)
    assert wanted
    assert_same(said.events, wanted)
    assert "fake camera: it is stopped" in said.errors


def _script(lines: Sequence[str], offer: str = "") -> list[str]:
    return [offer or f"offer GREY {SIDE} {SIDE} {SIDE}", *lines]


def _gray(count: int) -> bytes:
    return b"".join(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).tobytes() for frame in gestures()[:count])


def _frame(number: int, usec: int, size: int = SIDE * SIDE, flags: int = 0) -> str:
    return f"frame {usec} {number} {size} {flags}"


def test_what_waits_too_long_is_passed_over(tmp_path: Path) -> None:
    """Of frames that arrived together the newest is stepped; numbers that are missing were lost by the driver."""
    lines = [_frame(0, 0), "again", _frame(1, 125_000), _frame(2, 250_000), _frame(6, 375_000), "again", "stop"]
    said = play(tmp_path, _script(lines), _gray(4))
    assert said.code == 0
    assert "4 frames seen, 2 stepped" in said.errors
    assert "3 lost by the driver, 0 damaged" in said.errors
    assert "2 came too late" in said.errors


def test_damaged_frames_are_left_out(tmp_path: Path) -> None:
    size = SIDE * SIDE
    lines = [_frame(0, 0), "again", _frame(1, 125_000, size - 1), _frame(2, 250_000, size, ERROR_FLAG), "again"]
    lines += [_frame(3, 375_000), "again", "stop"]
    content = _gray(1) + bytes(2 * size - 1) + _gray(1)
    said = play(tmp_path, _script(lines), content)
    assert (said.code, "2 frames seen, 2 stepped" in said.errors, "2 damaged" in said.errors) == (0, True, True)


def test_a_gap_resets_the_state(tmp_path: Path) -> None:
    lines = [_frame(0, 0), "again", _frame(1, 125_000), "again", _frame(2, 1_500_000), "again", "stop"]
    said = play(tmp_path, _script(lines), _gray(3))
    assert "state reset at 1.500 s: 1.4 s without a frame" in said.errors
    assert "1 resets" in said.errors


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        (["refuse OPEN EACCES"], 2, "cannot open it (Permission denied): sudo usermod"),
        (["refuse OPEN EBUSY"], 2, "another program is using it"),
        (["caps 1"], 2, "cannot stream into memory"),
        (["caps 4001000"], 2, "gives its planes one by one"),
        (["caps 4000000"], 2, "takes no pictures (Fake"),
        (["refuse S_FMT EBUSY"], 2, "cannot choose the format of its pictures"),
        (["refuse REQBUFS ENOMEM"], 2, "cannot get memory for its pictures"),
        (["buffers 1"], 2, "cannot get memory for its pictures"),
        (["refuse QBUF EIO"], 2, "cannot hand it memory for pictures"),
        (["refuse STREAMON EBUSY"], 2, "cannot start it"),
        ([_frame(0, 0), "again", "fail ENODEV"], 1, "/dev/video9 is gone: check its cable"),
        ([_frame(0, 0), "again", "fail EIO"], 1, "cannot read a picture"),
        ([_frame(0, 0), "silent"], 1, "gave no picture for 0.3 s"),
    ],
)
def test_what_cameras_do_wrong(lines: list[str], code: int, message: str, tmp_path: Path) -> None:
    said = play(tmp_path, _script(lines), _gray(1), "--patience", "0.3")
    assert said.code == code
    assert message in said.errors
    assert "error: " in said.errors


def test_an_event_ends_when_the_camera_goes(tmp_path: Path) -> None:
    made = [yuyv(frame, 2 * SIDE) for frame in gestures()[:20]]
    script = [f"offer YUYV {SIDE} {SIDE} 0"]
    for number, (content, _) in enumerate(made):
        script += [_frame(number, round(number * 1e6 / 12), len(content)), "again"]
    said = play(tmp_path, [*script, "fail ENODEV"], b"".join(content for content, _ in made))
    assert said.code == 1
    assert (said.events[-1]["event"], said.events[-1]["cut"]) == ("end", True)


def test_a_format_that_is_not_read(tmp_path: Path) -> None:
    said = play(tmp_path, _script([], f"offer BA81 {SIDE} {SIDE} 0"), b"")
    assert said.code == 2
    assert "offers BA81, but not a format that this program reads" in said.errors
    said = play(tmp_path, _script([]), b"", "--format", "yuyv")
    assert (said.code, "offers GREY, but not yuyv" in said.errors) == (2, True)


@pytest.mark.skipif(not has("libjpeg"), reason="libjpeg is missing: apt-get install libjpeg-dev")
def test_motion_jpeg(tmp_path: Path) -> None:
    """One of the pictures is no JPEG. Libraries decode a level apart, so steps are counted, not values."""
    pictures = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in gestures()[:6]]
    pictures[3] = b"\xff\xd8 and nothing else"
    script = [f"offer MJPG {SIDE} {SIDE} 0"]
    for number, picture in enumerate(pictures):
        script += [_frame(number, number * 125_000, len(picture)), "again"]
    said = play(tmp_path, [*script, "stop"], b"".join(pictures))
    assert said.code == 0
    assert "6 frames seen, 5 stepped" in said.errors
    assert "1 damaged" in said.errors
