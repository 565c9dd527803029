"""The same .tflite files in tflite-runtime 2.14, which was built for numpy 1 and lives in an environment of its own.

``make test`` makes that environment and names its Python in LCR_TFLITE_RUNTIME_PYTHON. It has neither torch nor OpenCV,
so the reference's answers come from a file, as they would on a device.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.cli import main
from tests.clips import real_clip
from tests.export import made

PYTHON = os.environ.get("LCR_TFLITE_RUNTIME_PYTHON", "")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not PYTHON, reason="LCR_TFLITE_RUNTIME_PYTHON is not set (make test sets it on Python 3.11)")
@pytest.mark.parametrize(("config", "frames"), [("lcr_pico", 500), (made.PACKAGED, 200)])
def test_a_real_video_without_torch(config: str, frames: int, tmp_path: Path) -> None:
    if config == made.PACKAGED and not PACKAGED_FILE.is_file():
        pytest.skip("no packaged checkpoint in this tree yet: lcr-edge train makes one")
    bundle, golden, report = made.bundle(config, "tflite"), tmp_path / "golden.npz", tmp_path / "report.json"
    clip = ["--clip", str(real_clip("bikes.mp4")), "--frames", str(frames)]
    assert main(["verify", str(bundle), *clip, "--save-golden", str(golden)]) == 0
    command = [PYTHON, "-m", "lcr_edge", "selftest", str(bundle), "--golden", str(golden), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["engine"].startswith("tflite-runtime 2.14")
    assert result["frames"] == frames
    assert result["passed"] is True
