"""Load a bundle and step it once, in a process of its own, because an engine may end it.

An engine built for instructions that the processor lacks is killed by SIGILL, one that takes too much memory by
SIGKILL; neither can be caught. So ``lcr-edge doctor BUNDLE`` starts a Python that calls
:func:`main`, and reads what it prints.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import lcr_edge
from lcr_edge.errors import LcrError
from lcr_edge.runtimes.api import load
from lcr_edge.runtimes.checks import failures_of
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.provider import golden_step, seconds_of_a_step

TIMEOUT_S = 600.0  # a small board's first load from an SD card, with a lot to spare
_MARK = "lcr_edge trial: "
_SIGNALS = {
    "SIGILL": "the engine uses an instruction that this processor does not have",
    "SIGKILL": "the system ended it, most likely for want of memory",
    "SIGSEGV": "the engine crashed",
    "SIGBUS": "the engine crashed; a file may be damaged, or the storage full",
    "SIGABRT": "the engine gave up",
}


@dataclass(frozen=True)
class Trial:
    """What came of it. error: why it could not be loaded or stepped, else empty; killed: the signal that ended it.

    engine: its name and version. load_s: seconds to load. step_ms: a step, the median of five. peak_bytes: the most
    memory that the process had. off: of each promise that the first step missed, one sentence.
    """

    error: str = ""
    killed: str = ""
    engine: str = ""
    load_s: float = 0.0
    step_ms: float = 0.0
    peak_bytes: int = 0
    off: tuple[str, ...] = ()


def try_out(bundle: str | os.PathLike[str], timeout_s: float = TIMEOUT_S) -> Trial:
    """Load a bundle in a process of its own and step it. Does not raise: what goes wrong is in the result."""
    # The process has to find this very copy of lcr_edge, and the caller's packages.
    path = [str(Path(lcr_edge.__file__).resolve().parents[1]), *filter(None, sys.path)]
    call = [sys.executable, "-c", "from lcr_edge.runtimes.trial import main; main()", os.fspath(bundle)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    try:
        done = subprocess.run(
            call,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(f"it made no step within {timeout_s:.0f} s")
    except OSError as error:
        return Trial(f"no process can be started ({error.strerror}): free some memory")
    return outcome(done)


def outcome(done: subprocess.CompletedProcess[str]) -> Trial:
    """What a process that ended tells: its own line, or how it was ended."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Trial(f"{_SIGNALS.get(name, 'it was ended')} ({name})", name)
    told = [line[len(_MARK) :] for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not told:
        return Trial(f"it ended with exit code {done.returncode}: {_last_line(done.stderr)}")
    found = json.loads(told[-1])
    return Trial(**{**found, "off": tuple(found["off"])})


def main() -> None:
    """Of the process: print the result as one line."""
    try:
        result = _tried(sys.argv[1])
    except LcrError as error:
        result = Trial(str(error))
    print(_MARK + json.dumps(asdict(result)), flush=True)


def _tried(bundle: str) -> Trial:
    begin = time.perf_counter()
    model = load(bundle)
    load_s = time.perf_counter() - begin
    golden = read_golden(model.bundle)
    off = failures_of(golden_step(model, golden))
    step_ms = 1e3 * seconds_of_a_step(model, golden)
    peak = _peak()
    return Trial("", "", model.engine.name, load_s, step_ms, peak, off)


def _peak() -> int:
    """Bytes of memory that this program held at most. The last resort is getrusage: it counts what the parent held."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    # Linux counts in units of 1024 bytes.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
