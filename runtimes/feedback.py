"""A stream whose states stay with the engine: what one step gives is what the next one reads, without a copy between.

:meth:`Model.step` gives and takes states that belong to the caller, so they are copied on their way. A stream that
nobody looks into does not need that. :class:`ModelStream` steps one, on buffers that the engine reads and writes in
place where it can (:class:`EngineStream`); any number of streams share a model. The results are those of ``step``, bit
by bit.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lcr_edge.contract import EDGE, FRAME, LOGITS, STATES_IN, STATES_OUT, TensorSpec
from lcr_edge.errors import StateError
from lcr_edge.runtimes.state import Array, Floats, State

if TYPE_CHECKING:
    from lcr_edge.runtimes.api import Engine, Model

_ALIGNED = 64  # bytes: a cache line, and the widest vector register


class EngineStream(Protocol):
    """One stream's states and the steps between them. The three parts of a step are called in turn, under a lock.

    inside: whether the model itself keeps the states, so that reading them costs a copy.
    """

    inside: bool

    def give(self, frame: Array, edge: Array | None) -> None:
        """Copy uint8 [H, W, 3] and, for a model that takes edges, uint8 [H, W] to where the engine reads them."""

    def compute(self) -> None:
        """Run the engine, and nothing else."""

    def take(self) -> Array:
        """The logits of the step, [1, classes], in an array of the caller's. The next step starts from its states."""

    def read(self) -> tuple[Array, Array]:
        """h and c [L, N+1, C] from which the next step starts: perhaps the engine's own arrays, so not to be kept."""

    def write(self, h: Array, c: Array) -> None:
        """Let the next step start from copies of h and c."""


class ModelStream:
    """One stream of a model; see :meth:`Model.open_stream`. Threads may share the model; give each its own stream."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # Streams that share calls must not keep each other out; each guards its own states.
        self._lock = model.lock if model.batch == 1 else threading.Lock()
        start = model.initial_state()
        opener = getattr(model.engine, "open_stream", None)
        self.engine: EngineStream = KeptStates(model.engine) if opener is None else opener()
        with self._lock:
            self.engine.write(start.h, start.c)

    def step(self, frame: Array) -> Floats:
        """One frame, uint8 [H, W, 3] RGB, which is only read: new logits, float32 [classes].

        Raises FrameError, and StateError once the states are NaN or Inf; :meth:`reset` gets over that.
        """
        pixels, edge = self._model.look_at(frame)
        engine = self.engine
        with self._lock:
            if not engine.inside:
                self._model.states.check_finite(engine.read())
            engine.give(pixels, edge)
            engine.compute()
            logits = engine.take()
            # To read states that the model keeps is slow; where they are not finite, the logits are not.
            if engine.inside and not np.isfinite(logits).all():
                raise StateError("the state inside the model contains NaN or Inf; this stream is lost: use reset()")
        return self._model.logits_of(logits)

    @property
    def waited_s(self) -> float:
        """Seconds that the last step waited for a call that streams share; 0 where they do not."""
        return float(getattr(self.engine, "waited_s", 0.0))

    def reset(self) -> None:
        """Start again from zero states, as after a cut, a gap or a new scene."""
        self.restore(self._model.initial_state())

    def state(self) -> State:
        """A copy of the state after the last step, which :meth:`Model.step` takes too."""
        with self._lock:
            h, c = self.engine.read()
            return State(h.copy(), c.copy())

    def restore(self, state: State) -> None:
        """Go on from a state of this model, which is only read. Raises StateError."""
        self._model.states.check(state)
        with self._lock:
            self.engine.write(state.h, state.c)


class KeptStates:
    """The stream of an engine that has no buffers of its own for one: each step's results are given to the next."""

    inside = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feeds: dict[str, Array] = {}
        self._results: Mapping[str, Array] = {}

    def give(self, frame: Array, edge: Array | None) -> None:
        """See :class:`EngineStream`."""
        self._feeds[FRAME] = frame[None]
        if edge is not None:
            self._feeds[EDGE] = edge[None]

    def compute(self) -> None:
        """See :class:`EngineStream`."""
        self._results = self._engine.run(self._feeds)

    def take(self) -> Array:
        """See :class:`EngineStream`."""
        self._feeds.update(zip(STATES_IN, (self._results[name] for name in STATES_OUT)))
        return self._results[LOGITS]

    def read(self) -> tuple[Array, Array]:
        """See :class:`EngineStream`."""
        h, c = (self._feeds[name] for name in STATES_IN)
        return h, c

    def write(self, h: Array, c: Array) -> None:
        """See :class:`EngineStream`."""
        self._feeds.update(zip(STATES_IN, (np.array(h, order="C"), np.array(c, order="C"))))


class TwoStates(abc.ABC):
    """Buffers of a stream with two pairs of states: a step reads one pair and writes the other, in turn.

    arrays: for each turn, 0 and 1, what every input and output is bound to. Engines bind these once.
    """

    inside = False

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        made = {spec.name: buffer(spec) for spec in (*inputs, *outputs)}
        swapped = {**dict(zip(STATES_IN, STATES_OUT)), **dict(zip(STATES_OUT, STATES_IN))}
        self.arrays: tuple[dict[str, Array], dict[str, Array]] = (
            made,
            {name: made[swapped.get(name, name)] for name in made},
        )
        self.turn = 0
        self._frame, self._edge, self._logits = made[FRAME][0], made.get(EDGE), made[LOGITS]

    def give(self, frame: Array, edge: Array | None) -> None:
        """See :class:`EngineStream`."""
        np.copyto(self._frame, frame)
        if edge is not None and self._edge is not None:
            np.copyto(self._edge[0], edge)

    @abc.abstractmethod
    def compute(self) -> None:
        """See :class:`EngineStream`."""

    def take(self) -> Array:
        """See :class:`EngineStream`."""
        self.turn = 1 - self.turn
        return self._logits.copy()

    def read(self) -> tuple[Array, Array]:
        """See :class:`EngineStream`."""
        h, c = (self.arrays[self.turn][name] for name in STATES_IN)
        return h, c

    def write(self, h: Array, c: Array) -> None:
        """See :class:`EngineStream`."""
        for mine, given in zip(self.read(), (h, c)):
            np.copyto(mine, given, casting="no")


def buffer(spec: TensorSpec) -> Array:
    """Zeros for a tensor, at an address that engines' vector instructions like."""
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    memory = np.zeros(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    array: Array = memory[start : start + size].view(dtype).reshape(spec.shape)
    return array
