"""Who is told what happens in a run: the output, and whatever else looks on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from lcr_edge.errors import LcrError
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick


class Observer(Protocol):
    """Is told about every source of a run, ``name`` being what the run calls it.

    Of one source the calls come one after another, in the order in which things happened; several sources call from
    threads of their own, at the same time. A call returns soon: whoever writes to a network does so in a thread of its
    own. An OutputError that it raises ends the run.
    """

    def state(self, name: str, state: str, reason: str) -> None:
        """A live source was lost ("waiting"), or is back ("live"). reason: for people."""

    def failed(self, name: str, error: LcrError) -> None:
        """A source is over, before its end."""

    def step(self, name: str, step: Step) -> None:
        """A step was made. Its events follow in :meth:`events`."""

    def left_out(self, name: str, tick: Tick) -> None:
        """The idle gate left the step of this frame out."""

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Events began or ended."""

    def ended(self, name: str, stream: Stream) -> None:
        """The last about a source, whether it failed or not."""

    def close(self) -> None:
        """The run is over. Called once, in the end, also after an error."""


class Observers:
    """Tells several observers, in their order. It is one itself."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = tuple(observers)

    def state(self, name: str, state: str, reason: str) -> None:
        for observer in self._all:
            observer.state(name, state, reason)

    def failed(self, name: str, error: LcrError) -> None:
        for observer in self._all:
            observer.failed(name, error)

    def step(self, name: str, step: Step) -> None:
        for observer in self._all:
            observer.step(name, step)

    def left_out(self, name: str, tick: Tick) -> None:
        for observer in self._all:
            observer.left_out(name, tick)

    def events(self, name: str, events: Sequence[Event]) -> None:
        if events:
            for observer in self._all:
                observer.events(name, events)

    def ended(self, name: str, stream: Stream) -> None:
        for observer in self._all:
            observer.ended(name, stream)

    def close(self) -> None:
        for observer in self._all:
            observer.close()
