"""The streams of a run, followed to their ends: one in the main thread, or several in threads of their own."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Mapping
from typing import Callable

from lcr_edge.errors import LcrError, OutputError
from lcr_edge.runtimes.live.observers import Observer
from lcr_edge.runtimes.live.stream import Stream

_JOIN_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def follow(
    streams: Mapping[str, Stream], observer: Observer, frames: int | None, interrupts: Interrupts | None = None
) -> LcrError | None:
    """Step the streams to their ends, to ``frames`` steps each, or until a KeyboardInterrupt; tell the observer.

    interrupts: is told to let further signals pass when the end is under way. Each stream has a thread, also a single
    one: a signal, which the main thread hears, must not come between two observers.

    Returns the first failure of a source, if there was one; the others went on. Raises OutputError if an observer does.
    """
    failures: list[LcrError] = []

    def follow_one(name: str, stream: Stream) -> None:
        stream.left_out = functools.partial(observer.left_out, name)
        try:
            for step in stream.steps():
                observer.step(name, step)
                observer.events(name, step.events)
                if stream.totals.steps == frames:
                    break
        except OutputError:  # an observer's: not about this source
            raise
        except LcrError as error:
            observer.events(name, stream.end())
            failures.append(error)
            observer.failed(name, error)
        else:
            observer.events(name, stream.end())  # now, and not only when the others are over too

    _in_threads(streams, follow_one, interrupts)
    return failures[0] if failures else None


def _in_threads(
    streams: Mapping[str, Stream], follow_one: Callable[[str, Stream], None], interrupts: Interrupts | None
) -> None:
    fatal: list[BaseException] = []  # what ends all of them: the output cannot be written
    running = set(streams)
    over = threading.Event()

    def run(name: str, stream: Stream) -> None:
        try:
            follow_one(name, stream)
        except BaseException as error:  # raised again by the main thread
            fatal.append(error)
        running.discard(name)
        if fatal or not running:
            over.set()

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in streams.items()]
    with contextlib.suppress(KeyboardInterrupt):
        for thread in threads:
            thread.start()
        # Not by join: one that a signal interrupts may take the thread for ended. A wait without a limit is deaf.
        while not over.wait(0.1):
            pass
    if interrupts is not None:
        interrupts.ignore()
    for stream in streams.values():
        stream.stop()
    for thread in threads:
        if thread.ident is not None:  # started
            thread.join(_JOIN_S)
    if fatal:
        raise fatal[0]


class Interrupts:
    """While it is entered, SIGTERM raises KeyboardInterrupt as SIGINT does. Only the main thread hears signals."""

    def __enter__(self) -> Interrupts:
        self._main = threading.current_thread() is threading.main_thread()
        self._before = [signal.getsignal(number) for number in _SIGNALS]
        if self._main:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def ignore(self) -> None:
        """Let further signals pass."""
        if self._main:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in zip(_SIGNALS, self._before):
                signal.signal(number, handler)
