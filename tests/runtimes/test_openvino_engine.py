"""What is particular to OpenVINO: models come and go in a process that goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.toy import make_bundle

_PROGRAM = """
import gc, os, signal, sys
from lcr_edge.runtimes import load

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first, second = (load(sys.argv[1], threads=1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_models_are_gone_is_handled(tmp_path: Path) -> None:
    """The plugin's own signal stack must not be gone by then: that would be a crash, at Ctrl-C for one."""
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "bundle", "openvino")
    command = [sys.executable, "-c", _PROGRAM, str(bundle)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
