"""Ctrl-C and SIGTERM in a command that takes long: it ends where nothing is lost, and can go on.

Training finishes the step in progress and saves everything. Recording drops the clip in progress. Torch-free.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Shells report a program that a signal ended by this and the signal's number.
EXIT_CODE = 128
_STDERR = 2
# Seconds. torchrun passes a Ctrl-C on to processes that the terminal has told already.
_SAME = 0.5


class StopRequest:
    """Notes, inside a ``with`` block, that the user or the system wants this process to end.

    ``signal`` is the number of the first SIGINT or SIGTERM, None before. A second one, a moment later, has its usual
    effect. Signals that were ignored before (``nohup``, a job in the background) stay ignored. Only the main thread can
    watch signals; in another one nothing is noted. saying: the line for stderr, what now happens.
    """

    def __init__(self, saying: str = "stopping after this step; once more stops at once") -> None:
        self.signal: int | None = None
        self._saying = f"\n{saying}\n".encode()
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._first = number, time.monotonic()
            # Not print: the handler may run in the middle of another print.
            os.write(_STDERR, self._saying)
        elif time.monotonic() - self._first > _SAME:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def resume_command(prog: str, words: Sequence[str], processes: int = 1) -> str:
    """The command that goes on with the run that ``words``, the arguments as they were typed, began."""
    kept = [word for word in words if word != "--resume"]
    start = prog if processes == 1 else f"torchrun --nproc-per-node {processes} -m lcr_edge {prog.split()[-1]}"
    return shlex.join([*start.split(), *kept, "--resume"])
