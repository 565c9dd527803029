"""The camera program of examples/camera_firmware, built once a run, and what it should say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.video import TimedFrame, resample
from tests import shared
from tests.export import made

U8 = npt.NDArray[np.uint8]
SOURCES = Path(__file__).parents[2] / "examples" / "camera_firmware"
STRICT = "-Wall -Wextra -Werror -Wconversion -pedantic"
GSTREAMER = ("gstreamer-1.0", "gstreamer-app-1.0", "gstreamer-video-1.0")
FPS = 8.0  # of the packaged network


def bundle() -> Path:
    """A bundle of the packaged network, which tests must not change."""
    return made.bundle(made.PACKAGED, "c")


def has(*packages: str) -> bool:
    """Whether pkg-config finds these."""
    if shutil.which("pkg-config") is None:
        return False
    return subprocess.run(["pkg-config", "--exists", *packages], check=False).returncode == 0


def build(folder: Path, *variables: str) -> Path:
    """The program, built in a folder with a copy of the bundle. Skips without tools."""
    for tool in ("cc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install gcc make")
    copy = folder / "bundle"
    if not copy.is_dir():
        shutil.copytree(bundle(), copy)
    done = subprocess.run(
        ["make", "-C", str(SOURCES), f"BUNDLE={copy}", f"OUT={folder}/made", *variables],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "made" / "lcr_camera"


def program() -> Path:
    """The program with all parts that this machine can build."""

    def make(folder: Path) -> None:
        build(folder, f"CFLAGS=-O2 {STRICT}")

    return shared.folder("c_camera/program", make) / "made" / "lcr_camera"


@dataclass(frozen=True)
class Said:
    code: int
    events: list[dict[str, Any]]
    errors: str


def run(source: str, *arguments: str, stdin: bytes = b"", variables: dict[str, str] | None = None) -> Said:
    """Run the program to its end on a source."""
    command = [str(program()), str(bundle() / "model.bin"), source, *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    done = subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=300, env={**environment, **(variables or {})}
    )
    return Said(done.returncode, read_events(done.stdout.decode()), done.stderr.decode())


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ppm(picture: U8, time_s: float | None = None) -> bytes:
    """A picture [H, W, 3] or [H, W] as the program reads it."""
    height, width = picture.shape[:2]
    comment = "" if time_s is None else f"# time_s {time_s!r}\n"
    kind = "P6" if picture.ndim == 3 else "P5"
    return f"{kind}\n{comment}{width} {height}\n255\n".encode() + picture.tobytes()


def expected(frames: Iterable[TimedFrame], rules: EventRules | None = None, *, live: bool = False) -> list[Any]:
    """The events that the Python runtime finds, as JSON values."""
    model = load(bundle())
    finder = EventFinder(model.labels, rules)
    state, found = model.initial_state(), []
    for tick in resample(frames, FPS, live=live):
        if tick.gap:
            found += finder.cut()
            state = model.initial_state()
        logits, state = model.step(model.fit(tick.timed.frame), state)
        probabilities = np.exp(logits - logits.max())
        found += finder.add(tick.timed.time_s, probabilities / probabilities.sum())
    found += finder.cut()
    return [event.to_dict() for event in found]


def assert_same(found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> None:
    """The same events: all values equal, confidences to what two sums of float may differ by."""
    assert [list(one) for one in found] == [list(one) for one in wanted]  # names, in their order
    for one, other in zip(found, wanted):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=2e-5)
        assert {**one, "confidence": 0} == {**other, "confidence": 0}
