"""A program that steps a bundle talks to nobody, starts no process and writes nothing into the home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.toy import MODEL_FILES, make_bundle

_PROGRAM = """
import json, sys, threading, time
told = []
WATCHED = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen", "socket.connect",
           "socket.getaddrinfo", "socket.sendto", "urllib.Request")
sys.addaudithook(lambda event, _: told.append(event) if event in WATCHED else None)
from lcr_edge.runtimes import load
model = load(sys.argv[1], threads=1)
stream = model.open_stream()
import numpy as np
stream.step(np.zeros(model.frame_shape, np.uint8))
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(5)  # what is sent from another thread is sent now
print(json.dumps({"told": told, "engine": model.engine.name, "hidden": "openvino_telemetry" in sys.modules}))
"""


@pytest.mark.parametrize("target", list(MODEL_FILES))
def test_a_step_contacts_nobody(target: str, tmp_path: Path) -> None:
    bundle, home = make_bundle(tmp_path / "bundle", target), tmp_path / "home"
    home.mkdir()
    # Where they believe themselves in a CI job or a test, they keep still anyway.
    still = {"CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}
    here = {name: value for name, value in os.environ.items() if name not in still}
    here.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(bundle)], env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] == []
    assert not found["hidden"]
    assert list(home.iterdir()) == []
