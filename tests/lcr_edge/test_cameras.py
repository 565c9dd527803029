"""What is said where a camera cannot be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcr_edge.video import why_no_camera

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import os, sys
from pathlib import Path
from lcr_edge.video import why_no_camera
if os.geteuid() == 0:  # who may open everything
    os.setuid(65534)
print(why_no_camera("camera 0", Path(sys.argv[1])))
"""


def test_a_camera_that_is_for_others_names_the_group(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    device.chmod(0)
    if os.geteuid() == 0:  # nobody may not look into pytest's folders
        device = Path("/etc/shadow")
        if not device.exists():
            pytest.skip("no file that others may not read")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(device)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"you may not open {device}: sudo usermod -aG video $USER, then log in again\n"


def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    assert why_no_camera("camera 3", tmp_path / "video3").startswith("there is no camera 3, or another program")
