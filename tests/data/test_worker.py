"""Processes that read or draw clips end with the one that they do it for, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data import made

DRAWING = """
from lcr_edge.data.rendered.clips import each_clip
for _ in each_clip(10**5, 0, size=32, frames=4, workers=2):
    print("working", flush=True)
"""
READING = """
import sys
from lcr_edge.data.batches import Plan, batches
from lcr_edge.data.sets import open_set
data = open_set(f"folder:{sys.argv[1]}", split="train", size=(32, 32), fps=8.0, frames=16, cache=None)
for _ in batches(data, Plan(batch=2, frames=16, fps=8.0, size=(32, 32), seed=0, steps=10**5), 0, 10**5, workers=2):
    print("working", flush=True)
"""


def workers_of(parent: int) -> list[Path]:
    """The spawned workers of a process, as their folders in /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(words["PPid"]) == parent and b"spawn_main" in (status.parent / "cmdline").read_bytes():
                found.append(status.parent)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("moment", ["starting", "working"])
@pytest.mark.parametrize("program", [DRAWING, READING], ids=["drawing", "reading"])
def test_workers_end_with_a_killed_parent(program: str, moment: str, tmp_path: Path) -> None:
    made.make_folder(tmp_path / "data", classes=2, clips=3)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        if moment == "working":
            parent.stdout.readline()
        while len(workers := workers_of(parent.pid)) < 2:
            assert parent.poll() is None
            time.sleep(0.005)
        parent.kill()
    until = time.monotonic() + 120
    while left := [folder for folder in workers if folder.exists()]:
        assert time.monotonic() < until, f"{len(left)} workers live on"
        time.sleep(0.05)
