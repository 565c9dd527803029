"""Resident memory of a process that runs one bundle and nothing else: a fresh one, so that engines do not add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lcr_edge
from lcr_edge.runtimes.speed.machine import read_text

_STEPS = 40
_STATUS = Path("/proc/self/status")
_LIMIT_S = 120.0


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory. base: Python, numpy and lcr_edge. loaded: with the bundle. stepped: after 40 steps."""

    base: int
    loaded: int
    stepped: int


def measure(folder: str | os.PathLike[str], threads: int | None, provider: str = "cpu") -> tuple[Memory | None, str]:
    """Load and step a bundle in a process of its own. None and the reason where that cannot be measured."""
    if resident() is None:
        return None, "this system has no /proc/self/status"
    # The process has to find this lcr_edge, which may be a checkout on this process's path only.
    path = os.pathsep.join([str(Path(lcr_edge.__file__).resolve().parents[1]), *filter(None, sys.path)])
    command = [sys.executable, "-m", "lcr_edge.runtimes.speed.memory", os.fspath(folder), str(threads or 0), provider]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        return Memory(**json.loads(done.stdout.splitlines()[-1])), ""
    except subprocess.TimeoutExpired:
        return None, f"the process took more than {_LIMIT_S:.0f} s"
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError) as error:
        return None, f"the process failed ({type(error).__name__})"


def resident() -> int | None:
    """Bytes of resident memory of this process; None if the system does not tell."""
    for line in (read_text(_STATUS) or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def main(folder: str, threads: int, provider: str) -> None:
    """Print one line of JSON: the fields of :class:`Memory`."""
    from lcr_edge.runtimes.golden import read_golden
    from lcr_edge.runtimes.provider import load_on

    base = resident()
    model = load_on(folder, provider, threads or None)
    loaded = resident()
    frames = read_golden(model.bundle).frames
    for step in range(_STEPS):
        model.step_stream(frames[step % len(frames)])
    print(json.dumps({"base": base, "loaded": loaded, "stepped": resident()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
