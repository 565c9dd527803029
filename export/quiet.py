"""Silences third-party converters: their output is held back and shown only if they fail."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lcr_edge.runtimes import Model, load

_SHOWN = 4000  # characters of a failed converter's output


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, logging and everything written to file descriptors 1 and 2, C++ logs included.

    If the body raises, the end of what was held back goes to stderr. Only one thread at a time may use it.
    """
    previous_level = logging.root.manager.disable
    with tempfile.TemporaryFile() as held, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        _flush()
        saved = os.dup(1), os.dup(2)
        failed = False
        try:
            os.dup2(held.fileno(), 1)
            os.dup2(held.fileno(), 2)
            with _interrupts_kept(), contextlib.redirect_stdout(None), _python_stderr_to(2):
                yield
        except Exception:
            failed = True
            raise
        finally:
            _flush()
            for descriptor, original in enumerate(saved, start=1):
                os.dup2(original, descriptor)
                os.close(original)
            logging.disable(previous_level)
            if failed:
                held.seek(0)
                print(held.read().decode(errors="replace")[-_SHOWN:], file=sys.stderr)


def load_ready(folder: Path, threads: int) -> Model:
    """Load a bundle and step it once, silently: some engines set up and print messages at their first step.

    Raises what ``runtimes.load`` raises.
    """
    with quiet():
        model = load(folder, threads=threads)
        model.step(np.zeros(model.frame_shape, np.uint8), model.initial_state())
    return model


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Keep Ctrl-C a KeyboardInterrupt even if third-party code turns it into another error or swallows it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def interrupt(number: int, _: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if seen:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if seen:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _python_stderr_to(descriptor: int) -> Iterator[None]:
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace") as out, contextlib.redirect_stderr(out):
        yield


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
