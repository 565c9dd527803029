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
from lcr_edge.errors import BundleError
from lcr_edge.export.verify.measure import save_golden
from tests.clips import real_clip, square_clip
from tests.export import made

PYTHON = os.environ.get("LCR_TFLITE_RUNTIME_PYTHON", "")
ROOT = Path(__file__).resolve().parents[2]


needs_tflite_runtime = pytest.mark.skipif(
    not PYTHON, reason="LCR_TFLITE_RUNTIME_PYTHON is not set (make test sets it on Python 3.11)"
)


@pytest.mark.slow
@needs_tflite_runtime
@pytest.mark.parametrize(
    ("config", "frames", "precision", "quant"),
    [
        ("lcr_pico", 500, "fp32", "static"),
        (made.PACKAGED, 200, "fp32", "static"),
        (made.PACKAGED, 60, "int8", "dynamic"),
    ],
)
def test_a_real_video_without_torch(config: str, frames: int, precision: str, quant: str, tmp_path: Path) -> None:
    if config == made.PACKAGED and not PACKAGED_FILE.is_file():
        pytest.skip("no packaged checkpoint in this tree yet: lcr-edge train makes one")
    bundle = made.bundle(config, "tflite", precision, quant=quant)
    golden, report = tmp_path / "golden.npz", tmp_path / "report.json"
    # Calibration never saw black bars: a square clip needs none.
    clip = square_clip("bikes.mp4", tmp_path) if precision == "int8" else real_clip("bikes.mp4")
    save_golden(golden, bundle, clip=str(clip), frames=frames)
    command = [PYTHON, "-m", "lcr_edge", "selftest", str(bundle), "--golden", str(golden), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["engine"].startswith("tflite-runtime 2.14")
    assert result["frames"] == frames
    assert result["passed"] is True


@pytest.mark.slow
@needs_tflite_runtime
def test_operators_that_it_lacks_are_an_error_and_no_traceback() -> None:
    """It has no kernel that turns int8 into int16, as a model of integers needs."""
    bundle = made.bundle("lcr_pico", "tflite", "int8", quant="static", state_precision="int8", io="int8")
    command = [PYTHON, "-m", "lcr_edge", "selftest", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == BundleError.exit_code
    assert "error: tflite-runtime 2.14" in done.stderr
    assert "Traceback" not in done.stderr
