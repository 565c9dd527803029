"""Several streams in one call of an engine: what bundles of ``export --batch N`` are for.

Each stream sees an engine of its own. A call takes as long for one stream as for N, so it waits until it is full, or
until every thread that was in both calls before asks again: cameras fall into step with each other. It begins a
frame's time after the call before at the latest, so a camera that is slow or gone does not hold up the others. First
come, first served. A single thread never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lcr_edge.contract import EDGE, FRAME, LOGITS, input_specs, output_specs
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.feedback import buffer
from lcr_edge.runtimes.state import Array

if TYPE_CHECKING:
    from lcr_edge.runtimes.api import Engine

Feeds = Mapping[str, Array]
# A call begins so many frames' times after the one before, or earlier: cameras are not quite regular.
_LATEST = 1.1
# These have a leading axis for one stream too.
_LED = (FRAME, EDGE, LOGITS)


class _Ask:
    """One stream's step, asked for and perhaps answered."""

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self.thread = threading.get_ident()
        self.answer: dict[str, Array] | None = None
        self.error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.answer is not None or self.error is not None


class Rows:
    """An engine whose model steps ``batch`` streams in a call, as the engine of a single stream. Threads may share it.

    inner: the engine itself. inputs, outputs: of one stream, as without ``--batch``. rhythm_s: from a call to the
    next, at most.
    """

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        self.inner, self.name, self.batch = engine, engine.name, bundle.batch
        self.inputs = input_specs(bundle.config, bundle.edges, state_precision=bundle.state_precision)
        self.outputs = output_specs(bundle.config, state_precision=bundle.state_precision)
        self.coarse_activations = getattr(engine, "coarse_activations", False)
        # Rows that nobody asked for keep what they had: their answers are dropped.
        self._feeds = {spec.name: buffer(spec) for spec in engine.inputs}
        self.rhythm_s = _LATEST / float(bundle.manifest["frame"]["train_fps"])
        self._changed = threading.Condition()
        self._waiting: list[_Ask] = []
        self._last, self._before = 0.0, set[int]()  # when the call before began, and its threads
        self._expected: set[int] = set()
        self._busy = False

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One step of one stream, perhaps in a call with others. As ``Engine.run``."""
        return self.run_rows([feeds])[0]

    def run_rows(self, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
        """One step each of several streams, any number, in their order."""
        mine = [_Ask(given) for given in feeds]
        with self._changed:
            self._waiting += mine
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy or all(ask.over for ask in mine))
                if all(ask.over for ask in mine):
                    break
                self._busy = True
            try:
                self._serve(self._gather())
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        answers = []
        for ask in mine:
            if ask.error is not None:
                raise ask.error
            assert ask.answer is not None
            answers.append(ask.answer)
        return answers

    def _gather(self) -> list[_Ask]:
        """Wait for those who are likely to come, and take the asks of the next call."""
        with self._changed:
            while len(self._waiting) < self.batch and not self._expected <= {ask.thread for ask in self._waiting}:
                left = self._last + self.rhythm_s - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            group, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            threads = {ask.thread for ask in group}
            self._last, self._before, self._expected = time.monotonic(), threads, self._before & threads
        return group

    def _serve(self, group: Sequence[_Ask]) -> None:
        try:
            for row, ask in enumerate(group):
                for name, array in ask.feeds.items():
                    np.copyto(self._feeds[name][row], array[0] if name in _LED else array, casting="no")
            results = self.inner.run(self._feeds)
        except BaseException as error:
            for ask in group:
                ask.error = error
            if not isinstance(error, Exception):  # Ctrl-C belongs to this thread
                raise
            return
        for row, ask in enumerate(group):
            # Copies, so that one stream's state does not keep those of all others in memory.
            ask.answer = {
                name: (array[row : row + 1] if name in _LED else array[row]).copy() for name, array in results.items()
            }
