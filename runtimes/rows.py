"""Several streams in one call of an engine: what bundles of ``export --batch N`` are for.

Each stream sees an engine of its own. A call takes as long for one stream as for N, so it waits until it is full or all
streams that are running have asked; they are running if they asked within the last frame and a half. A call begins when
the first that asked has waited for half a frame, at the latest: so cameras share calls whatever their phase, and one
that is slow or gone delays the others by no more than that, and only for a moment. First come, first served.
``Model.step`` and ``step_many`` never wait for others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lcr_edge.contract import EDGE, FRAME, LOGITS, input_specs, output_specs
from lcr_edge.errors import LcrError
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.feedback import KeptStates, buffer
from lcr_edge.runtimes.state import Array

if TYPE_CHECKING:
    from lcr_edge.runtimes.api import Engine

Feeds = Mapping[str, Array]
# In frames: who asked so long ago is still running, and how long the first one waits for the others.
_RUNNING, _PATIENCE = 1.5, 0.5
# These have a leading axis for one stream too.
_LED = (FRAME, EDGE, LOGITS)


class _Ask:
    """A step that a stream asked for; None is nobody's, and waits for nobody. begun: when its call began."""

    def __init__(self, feeds: Feeds, stream: int | None) -> None:
        self.feeds, self.stream = feeds, stream
        self.thread, self.asked = threading.get_ident(), time.monotonic()
        self.begun = self.asked
        self.answer: dict[str, Array] | None = None
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.answer is not None or self.error is not None


class Rows:
    """An engine whose model steps ``batch`` streams in a call, as the engine of a single stream. Threads may share it.

    inner: the engine itself. inputs, outputs: of one stream, as without ``--batch``. frame_s: seconds from a frame to
    the next, as the network was trained.
    """

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        self.inner, self.name, self.batch = engine, engine.name, bundle.batch
        self.inputs = input_specs(bundle.config, bundle.edges, state_precision=bundle.state_precision)
        self.outputs = output_specs(bundle.config, state_precision=bundle.state_precision)
        self.coarse_activations = getattr(engine, "coarse_activations", False)
        self.frame_s = 1 / float(bundle.manifest["frame"]["train_fps"])
        # Rows that nobody asked for keep what they had: their answers are dropped.
        self._feeds = {spec.name: buffer(spec) for spec in engine.inputs}
        self._changed = threading.Condition()
        self._waiting: list[_Ask] = []
        self._served: list[_Ask] = []  # by the call that is under way
        self._running: dict[int, _Ask] = {}  # each stream's last
        self._busy = False

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One step of one stream, perhaps in a call with others. As ``Engine.run``."""
        return self.run_rows([feeds])[0]

    def run_rows(self, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
        """One step each of several streams, any number, in their order."""
        return [_answer(ask) for ask in self._step([_Ask(given, None) for given in feeds])]

    def open_stream(self) -> RowStream:
        """A stream that others may share calls with."""
        return RowStream(self)

    def step_stream(self, feeds: Feeds, stream: int) -> tuple[dict[str, Array], float]:
        """One step of a stream, and the seconds that it waited for its call. stream: a number of its own."""
        (ask,) = self._step([_Ask(feeds, stream)])
        return _answer(ask), ask.begun - ask.asked

    def _step(self, mine: list[_Ask]) -> list[_Ask]:
        try:
            with self._changed:
                self._waiting += mine
                self._running.update((ask.stream, ask) for ask in mine if ask.stream is not None)
                self._changed.notify_all()
            while not all(ask.over for ask in mine):
                self._call(mine)
        except BaseException:
            with self._changed:
                self._waiting = [ask for ask in self._waiting if ask not in mine]
            raise
        return mine

    def _call(self, mine: list[_Ask]) -> None:
        """Wait for the call under way, and make the next one if there is still something of mine to do."""
        leading = False
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy or all(ask.over for ask in mine))
                if all(ask.over for ask in mine):
                    return
                self._busy = leading = True
                self._gather()
            self._serve()
        finally:
            if leading:
                with self._changed:
                    # After Ctrl-C in this thread: others go on.
                    self._waiting[:0] = [ask for ask in self._served if not ask.over]
                    self._served, self._busy = [], False
                    self._changed.notify_all()

    def _gather(self) -> None:
        """Wait for those who are likely to come, and take who is served. The lock is held, but for the waiting."""
        while len(self._waiting) < self.batch:
            now = time.monotonic()
            left = min(ask.asked for ask in self._waiting) + _PATIENCE * self.frame_s - now
            if left <= 0 or not self._others_run(now):
                break
            self._changed.wait(left)
        self._served, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]

    def _others_run(self, now: float) -> bool:
        """Whether a stream may soon ask that does not wait yet. One whose thread waits here cannot."""
        here, threads = {ask.stream for ask in self._waiting}, {ask.thread for ask in self._waiting}
        if None in here:
            return False
        for stream, last in [*self._running.items()]:
            if stream not in here:
                if now - last.asked > _RUNNING * self.frame_s:
                    del self._running[stream]
                elif last.thread not in threads:
                    return True
        return False

    def _serve(self) -> None:
        begun = time.monotonic()
        try:
            for row, ask in enumerate(self._served):
                ask.begun = begun
                for name, array in ask.feeds.items():
                    np.copyto(self._feeds[name][row], array[0] if name in _LED else array, casting="no")
            results = self.inner.run(self._feeds)
        except Exception as error:
            for ask in self._served:
                ask.error = error
            return
        for row, ask in enumerate(self._served):
            # Copies, so that one stream's state does not keep those of all others in memory.
            ask.answer = {
                name: (array[row : row + 1] if name in _LED else array[row]).copy() for name, array in results.items()
            }


def _answer(ask: _Ask) -> dict[str, Array]:
    if ask.error is not None:
        # An exception of its own for each: they may be raised in several threads.
        raise LcrError(f"the engine failed: {ask.error}") from ask.error
    assert ask.answer is not None
    return ask.answer


class RowStream(KeptStates):
    """One stream of an engine whose calls streams share. waited_s: what the last step waited for its call."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self._rows = rows
        self.waited_s = 0.0

    def compute(self) -> None:
        """See ``EngineStream``."""
        self._results, self.waited_s = self._rows.step_stream(self._feeds, id(self))
