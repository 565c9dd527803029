"""The camera program in C: on files it finds the events of lcr-edge run, and what is wrong is a sentence."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.runtimes.live.events import EventRules
from lcr_edge.runtimes.video import TimedFrame
from tests.c.camera_program import (
    FPS,
    GSTREAMER,
    SOURCES,
    STRICT,
    U8,
    assert_same,
    build,
    bundle,
    expected,
    has,
    ppm,
    program,
    read_events,
    run,
)
from tests.clips import real_clip

cv2: Any = pytest.importorskip("cv2")

pytestmark = pytest.mark.slow
# So low that films without gestures have events too.
LOW = ("--enter", "0.2", "--leave", "0.1", "--min-seconds", "0.1", "--pause-seconds", "0.25", "--ignore", "No gesture")
LOW_RULES = EventRules(0.2, 0.1, 0.1, 0.25, ("No gesture",))


@functools.cache
def gestures(size: int = 112) -> U8:
    """Three gestures, at 12 frames a second."""
    from tests.data.made import gesture

    names = ("Swiping Left", "Thumb Up", "Stop Sign")
    return np.concatenate([gesture(name, 0, "heldout", size, 36) for name in names])


def timed(frames: Sequence[U8] | U8, times: Sequence[float]) -> Iterator[TimedFrame]:
    for number, (frame, time_s) in enumerate(zip(frames, times)):
        yield TimedFrame(np.asarray(frame), time_s, number)


def on_pictures(frames: Sequence[U8] | U8, times: Sequence[float], *arguments: str) -> Any:
    return run("-", *arguments, stdin=b"".join(ppm(np.asarray(one), at) for one, at in zip(frames, times)))


def by_lcr_edge(video: Path, *arguments: str) -> tuple[list[Any], list[Any]]:
    """The events of lcr-edge run, and those of the program for the same file."""
    import lcr_edge

    environment = {**os.environ, "PYTHONPATH": str(Path(lcr_edge.__file__).parents[1])}
    command = [sys.executable, "-m", "lcr_edge", "run", str(bundle()), "--source", str(video), "--events"]
    done = subprocess.run(
        [*command, "--json", "-", *arguments], capture_output=True, text=True, check=True, env=environment
    )
    wanted = [one for one in read_events(done.stdout) if "event" in one]
    pictures = subprocess.run(
        [sys.executable, str(SOURCES / "pictures.py"), str(video)], capture_output=True, check=True, env=environment
    )
    said = run("-", *arguments, stdin=pictures.stdout)
    assert said.code == 0, said.errors
    return said.events, wanted


# The packaged network sees no gesture in them, and says so: with another class ignored, that is an event too.
@pytest.mark.parametrize(
    ("clip", "arguments", "count"),
    [
        ("bikes.mp4", LOW, 2),
        ("bikes.mp4", ("--enter", "0.9", "--leave", "0.9", "--ignore", "Thumb Up"), 4),
        ("carphone_distorted.mp4", ("--enter", "0.9", "--leave", "0.9", "--ignore", "Thumb Up"), 2),
        ("bigbuckbunny.mp4", ("--ignore", "Thumb Up"), 2),
    ],
)
def test_a_film_gives_the_events_of_lcr_edge_run(clip: str, arguments: tuple[str, ...], count: int) -> None:
    found, wanted = by_lcr_edge(real_clip(clip), *arguments)
    assert len(wanted) >= count
    assert_same(found, wanted)


@pytest.mark.parametrize("fps", [5.0, 8.0, 12.0, 29.97])
def test_gestures_give_the_events_of_lcr_edge_run(fps: float, tmp_path: Path) -> None:
    from tests.data.made import write_video

    found, wanted = by_lcr_edge(write_video(tmp_path / "gestures.mp4", gestures(), fps=fps))
    assert wanted or fps > 20
    assert_same(found, wanted)
    assert {one["label"] for one in wanted} >= {"Swiping Left", "Thumb Up"} or fps != 12.0


def test_gaps_and_times_that_run_back_cut_the_stream() -> None:
    frames = list(gestures())
    times = [number / 12 for number in range(len(frames))]
    times = times[:20] + [at + 1.5 for at in times[20:60]] + [at + 0.5 for at in times[60:]]
    frames[90:] = [np.ascontiguousarray(frame[:, 16:-16]) for frame in frames[90:]]
    said = on_pictures(frames, times)
    wanted = expected(timed(frames, times))
    assert any(one["cut"] for one in wanted)
    assert_same(said.events, wanted)
    resets = [line for line in said.errors.splitlines() if line.startswith("state reset")]
    assert [line.partition(": ")[2] for line in resets] == [
        "1.6 s without a frame",
        "time ran back by 0.917 s",
        "frames of 112 x 112 became frames of 80 x 112",
    ]
    assert "108 frames seen" in said.errors
    assert "3 resets" in said.errors


def test_events_do_not_depend_on_how_the_bytes_arrive(tmp_path: Path) -> None:
    frames, times = gestures()[:36], [number / 12 for number in range(36)]
    whole = b"".join(ppm(frame, at) for frame, at in zip(frames, times))
    (tmp_path / "pictures").write_bytes(whole)
    from_file = run(str(tmp_path / "pictures"))
    assert from_file.events == on_pictures(frames, times).events
    # Without times, with --fps; another header.
    bare = b"".join(b"P6 112\t112\n# a comment\n255 " + frame.tobytes() for frame in frames)
    assert_same(run("-", "--fps", "12", stdin=bare).events, expected(timed(frames, times)))
    command = [str(program()), str(bundle() / "model.bin"), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        for start in range(0, len(whole), 30011):
            running.stdin.write(whole[start : start + 30011])
            running.stdin.flush()
        out, _ = running.communicate(timeout=100)
    assert read_events(out.decode()) == from_file.events


def test_gray_pictures_and_steps() -> None:
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in gestures()[:36]]
    times = [number / FPS for number in range(36)]
    colour = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in gray]
    assert_same(on_pictures(gray, times, *LOW).events, expected(timed(colour, times), LOW_RULES))
    assert "7 stepped" in on_pictures(gray, times, "--frames", "7").errors


def test_rules_of_events() -> None:
    frames, times = gestures(), [number / 12 for number in range(108)]
    everything = on_pictures(frames, times).events
    assert {one["label"] for one in everything} >= {"Swiping Left", "Thumb Up"}
    without = on_pictures(frames, times, "--ignore", "Thumb Up", "--enters", "Swiping Left=0.999", "--leave", "0.4")
    rules = EventRules(leave=0.4, ignore=("Thumb Up",), enters={"Swiping Left": 0.999})
    assert_same(without.events, expected(timed(frames, times), rules))
    assert without.events != everything
    half = on_pictures(frames, times, "--enter", "0.5")
    assert_same(half.events, expected(timed(frames, times), EventRules(0.5, 0.5 * 0.53 / 0.8)))


PICTURE = ppm(np.zeros((8, 10, 3), np.uint8), 0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "stdin is empty"),
        (b"\x00\x00\x00\x18ftypmp42", "picture 0 is neither PPM"),
        (PICTURE + b"GIF89a", "picture 1 is neither PPM"),
        (PICTURE[:40], "picture 0 is cut off"),
        (PICTURE + PICTURE[:9], "picture 1 is cut off"),
        (PICTURE + b"P", "picture 1 is cut off"),
        (b"P6\n10 x\n255\n", "no width, height and largest level"),
        (b"P6\n99999999999999 8\n255\n", "no width, height and largest level"),
        (b"P6\n0 8\n255\n", "empty or more than 8192"),
        (b"P6\n10 8193\n255\n", "empty or more than 8192"),
        (b"P6\n10 8\n65535\n", "not 8 bits"),
        (b"P6\n# time_s soon\n10 8\n255\n", "a time that is none"),
        (b"P6\n# time_s inf\n10 8\n255\n", "a time that is none"),
        (b"P6\n# time_s 1e999\n10 8\n255\n", "a time that is none"),
        (b"P6\n10 8\n255\n" + bytes(240), "give --fps, or write # time_s SECONDS"),
    ],
)
def test_damaged_pictures(content: bytes, message: str) -> None:
    said = run("-", stdin=content)
    assert said.code == 2
    assert message in said.errors
    assert said.errors.startswith("error: ")


def test_what_lasts_when_pictures_break_off_is_ended() -> None:
    frames, times = gestures()[:20], [number / 12 for number in range(20)]
    content = b"".join(ppm(frame, at) for frame, at in zip(frames, times))
    said = run("-", stdin=content + b"P6\n# time_s 1.7\n112 112\n255\nxyz")
    assert (said.code, said.events[-1]["event"], said.events[-1]["cut"]) == (2, "end", True)
    assert_same(said.events, expected(timed(frames, times)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a model and a source"),
        (["{model}"], "give a model and a source"),
        (["{model}", "-", "more"], "more is one argument too many"),
        (["{model}", "-", "--speed", "1"], "--speed is no option"),
        (["{model}", "-", "--fps"], "--fps is no option, or its value is missing"),
        (["{model}", "-", "--fps", "0"], "--fps 0: it is out of range"),
        (["{model}", "-", "--fps", "nan"], "--fps nan: it is out of range"),
        (["{model}", "-", "--size", "640"], "--size 640"),
        (["{model}", "-", "--size", "640x0"], "--size 640x0"),
        (["{model}", "-", "--frames", "1.5"], "--frames 1.5"),
        (["{model}", "-", "--enter", "1.5"], "--enter 1.5"),
        (["{model}", "-", "--leave", "0.9"], "--leave is 0.9, above --enter"),
        (["{model}", "-", "--ignore", "Flying"], "--ignore Flying: the network has no such class"),
        (["{model}", "-", "--enters", "Thumb Up"], "--enters Thumb Up: give a class"),
        (["{model}", "-", "--enters", "Thumb Up=2"], "--enters Thumb Up=2: give a class"),
        (["{model}", "none.ppm"], "cannot open none.ppm: No such file"),
        (["{model}", "/"], "/ is a folder"),
        (["{model}", "gst:"], "gst:"),
        (["{model}", "/dev/video77"], "/dev/video77: cannot open it (No such file or directory): v4l2-ctl"),
        (["{model}", "77"], "/dev/video77: cannot open it"),
        (["{model}", "/dev/null"], "/dev/null: cannot ask what it is"),
        (["none.bin", "-"], "none.bin: "),
        (["{manifest}", "-"], "this is not a file of lcr_edge"),
    ],
)
def test_what_the_caller_can_mend(arguments: list[str], message: str) -> None:
    places = {"model": bundle() / "model.bin", "manifest": bundle() / "manifest.json"}
    words = [word.format(**places) for word in arguments]
    done = subprocess.run([str(program()), *words], input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_help() -> None:
    done = subprocess.run([str(program()), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "lcr_camera MODEL SOURCE" in done.stdout


def test_an_output_that_is_full() -> None:
    frames, times = gestures()[:36], [number / 12 for number in range(36)]
    content = b"".join(ppm(frame, at) for frame, at in zip(frames, times))
    command = [str(program()), str(bundle() / "model.bin"), "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, input=content, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().count("cannot write to stdout: No space left on device") == 1


def lasting(**variables: str) -> subprocess.Popen[bytes]:
    """The program after an event has begun, with its stdin open."""
    command = [str(program()), str(bundle() / "model.bin"), "-"]
    running = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},
    )
    assert running.stdin is not None
    assert running.stdout is not None
    for number, frame in enumerate(gestures()[:20]):
        running.stdin.write(ppm(frame, number / 12))
    running.stdin.flush()
    assert b'"start"' in running.stdout.readline()
    return running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_order(number: int) -> None:
    with lasting() as running:
        running.send_signal(number)
        out, errors = running.communicate(timeout=100)
    assert running.returncode == 0
    (end,) = read_events(out.decode())
    assert (end["event"], end["cut"]) == ("end", True)
    assert b"1 event, on" in errors


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract: bool, tmp_path: Path) -> None:
    """READY=1, WATCHDOG=1 also while no frame comes, STOPPING=1."""
    name = f"@lcr_edge_{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(100)
        with lasting(NOTIFY_SOCKET=name, WATCHDOG_USEC="100000") as running:
            assert manager.recv(1000) == b"READY=1"
            heard = [manager.recv(1000) for _ in range(3)]
            running.communicate(timeout=100)
        assert running.returncode == 0
        assert all(one.startswith(b"WATCHDOG=1\nSTATUS=") for one in heard)
        while (last := manager.recv(1000)) != b"STOPPING=1":
            assert last.startswith(b"WATCHDOG=1")
        with lasting(NOTIFY_SOCKET=name, WATCHDOG_USEC="100000", WATCHDOG_PID="1") as running:
            running.communicate(timeout=100)
        assert [manager.recv(1000) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]  # the dog of another process


@pytest.mark.parametrize("parts", ["yes", "no"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_have_nothing_to_say(compiler: str, parts: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    if parts == "yes" and not (has("libjpeg") and has(*GSTREAMER)):
        pytest.skip("apt-get install libjpeg-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev")
    build(tmp_path, f"CC={compiler}", f"CFLAGS=-O0 {STRICT}", f"JPEG={parts}", f"GSTREAMER={parts}")
    if parts == "no" and compiler == "gcc":
        camera = [str(tmp_path / "made" / "lcr_camera"), str(bundle() / "model.bin")]
        for words, message in (
            (["gst:videotestsrc"], "built without GStreamer; apt-get install libgstreamer"),
            (["/dev/video9", "--format", "mjpeg"], "cannot open it"),
        ):
            done = subprocess.run([*camera, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert message in done.stderr


def test_sanitizers_have_nothing_to_say(tmp_path: Path) -> None:
    """Pictures of changing sizes, and some that break off, in a program that watches its memory."""
    flags = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    words = [str(build(tmp_path, f"CFLAGS={flags}", "GSTREAMER=no")), str(bundle() / "model.bin"), "-"]
    whole = b"".join(
        ppm(np.ascontiguousarray(frame[: 20 + 9 * number, : 112 - 7 * number]), number / 12)
        for number, frame in enumerate(gestures()[:10])
    )
    for size, code in ((len(whole), 0), (len(whole) - 1, 2), (len(whole) // 2, 2), (3, 2), (0, 2)):
        done = subprocess.run(words, input=whole[:size], capture_output=True, check=False)
        assert done.returncode == code, done.stderr.decode()


@pytest.mark.parametrize("machine", ["aarch64-linux-gnu", "arm-linux-gnueabihf"])
def test_other_processors(machine: str, tmp_path: Path) -> None:
    if shutil.which(f"{machine}-gcc") is None:
        pytest.skip(f"{machine}-gcc is not installed: apt-get install gcc-{machine}")
    tools = f"CC={machine}-gcc", f"AR={machine}-ar", f"PKG_CONFIG={machine}-pkg-config"
    built = build(tmp_path, *tools, f"CFLAGS=-O0 {STRICT}")
    assert built.read_bytes()[18:20] == {"aarch64-linux-gnu": b"\xb7\x00", "arm-linux-gnueabihf": b"\x28\x00"}[machine]


def test_cmake_builds_it_too(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    fast = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-O0"]
    for command in (
        ["cmake", "-S", str(SOURCES), "-B", str(tmp_path), f"-DLCR_EDGE_BUNDLE={bundle()}", *fast],
        ["cmake", "--build", str(tmp_path)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    words = [str(tmp_path / "lcr_camera"), str(bundle() / "model.bin"), "-"]
    said = subprocess.run(words, input=PICTURE, capture_output=True, check=False)
    assert said.returncode == 0
    assert b"1 frames seen, 1 stepped" in said.stderr
