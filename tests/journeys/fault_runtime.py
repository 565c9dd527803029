"""Faults in the code around a step: what the engine is given, what the caller gets back, and what is kept between.

Each is a context in which every bundle that is loaded has the fault; the classes are put right afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import FRAME, LOGITS, STATES_IN, STATES_OUT
from lcr_edge.edges import host
from lcr_edge.frames import FITS, center_crop
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.engines import ENGINES

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
# (the engine's own step, the engine's memory, what it is given) -> what it gives.
Run = Callable[[Callable[[Arrays], Arrays], dict[str, Any], Arrays], Arrays]
LAYER = 1  # whose state is frozen
EVERY = 8  # frames between wrong resets


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def engine_fault(target: str, change: Run) -> Iterator[None]:
    """Every engine of the target steps as ``change`` says."""
    row = ENGINES[target]
    cls = getattr(importlib.import_module(row.module), row.cls)
    whole = cls.run

    def run(self: Any, feeds: Mapping[str, Array]) -> Arrays:
        memory = self.__dict__.setdefault("_fault", {})
        return change(lambda given: whole(self, given), memory, dict(feeds))

    with patched(cls, "run", run):
        yield


def not_fed_back(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
    return step({**feeds, **{name: np.zeros_like(feeds[name]) for name in STATES_IN}})


def swapped_states(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
    h, c = STATES_IN
    return step({**feeds, h: feeds[c], c: feeds[h]})


def frozen_layer(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
    results = step(feeds)
    for name, result in zip(STATES_IN, STATES_OUT):
        results[result] = results[result].copy()
        results[result][LAYER] = feeds[name][LAYER]
    return results


def frame_late(step: Callable[[Arrays], Arrays], memory: dict[str, Any], feeds: Arrays) -> Arrays:
    """The state that the step before was given."""
    given = {name: feeds[name].copy() for name in STATES_IN}
    late = memory.get("late", given)
    memory["late"] = given
    return step({**feeds, **late})


def reset_often(step: Callable[[Arrays], Arrays], memory: dict[str, Any], feeds: Arrays) -> Arrays:
    memory["count"] = memory.get("count", 0) + 1
    return step(feeds) if memory["count"] % EVERY else not_fed_back(step, memory, feeds)


def reused_buffers(step: Callable[[Arrays], Arrays], memory: dict[str, Any], feeds: Arrays) -> Arrays:
    for name, value in step(feeds).items():
        if name not in memory:
            memory[name] = value.copy()
        memory[name][...] = value
    return dict(memory)


def shared_state(step: Callable[[Arrays], Arrays], memory: dict[str, Any], feeds: Arrays) -> Arrays:
    """The engine goes on from its own last state, except at the start of a stream."""
    if memory and any(feeds[name].any() for name in STATES_IN):
        feeds = {**feeds, **memory}
    results = step(feeds)
    memory.update({name: results[result].copy() for name, result in zip(STATES_IN, STATES_OUT)})
    return results


def permuted_logits(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
    results = step(feeds)
    return {**results, LOGITS: np.roll(results[LOGITS], 1, axis=-1)}


def bf16_states(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
    """bfloat16 activations where the caller meets them: both states are rounded to 8 bits of mantissa."""
    results = step(feeds)
    for name in STATES_OUT:
        bits = np.ascontiguousarray(results[name], np.float32).view(np.uint32)
        results[name] = ((bits + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32).astype(results[name].dtype)
    return results


def _of_frame(change: Callable[[Array], Array]) -> Run:
    def run(step: Callable[[Arrays], Arrays], _: dict[str, Any], feeds: Arrays) -> Arrays:
        return step({**feeds, FRAME: np.ascontiguousarray(change(feeds[FRAME]))})

    return run


ENGINE: dict[str, Run] = {
    "state not fed back": not_fed_back,
    "h and c swapped": swapped_states,
    "one layer's state frozen": frozen_layer,
    "state one frame late": frame_late,
    f"state reset every {EVERY} steps": reset_often,
    "output buffer reused between calls": reused_buffers,
    "two streams share a state": shared_state,
    "logits permuted": permuted_logits,
    "bf16 activations (states)": bf16_states,
    "BGR for RGB": _of_frame(lambda frame: frame[..., ::-1]),
    "frame mirrored": _of_frame(lambda frame: frame[:, :, ::-1]),
    "frame transposed": _of_frame(lambda frame: frame.transpose(0, 2, 1, 3)),
    "pixels scaled twice": _of_frame(lambda frame: (frame / 255).round().astype(np.uint8)),
}


def _edges(change: Callable[[Array, dict[str, Any]], Array]) -> contextlib.AbstractContextManager[None]:
    """What the runtime takes for its edges from now on; the reference has its own name for the right function."""
    right, memory = host.host_edges, dict[str, Any]()
    return patched(host, "host_edges", lambda frame, *rest: change(right(frame, *rest), memory))


def _previous(edges: Array, memory: dict[str, Any]) -> Array:
    before: Array = memory.get("before", np.zeros_like(edges))
    memory["before"] = edges
    return before


def _twice(self: Model, frame: Array) -> Array:
    """Letterboxed to half the size first."""
    height, width, _ = self.frame_shape
    fit = FITS[self.bundle.fit]
    return fit(fit(frame, height // 2, width // 2), height, width)


def _started(self: Model) -> Any:
    state = self.states.zero()
    return type(state)(state.h + state.h.dtype.type(1), state.c)


@contextlib.contextmanager
def _permuted_labels() -> Iterator[None]:
    whole = Model.__init__

    def init(self: Model, *given: Any) -> None:
        whole(self, *given)
        self.labels = (*self.labels[1:], self.labels[0])

    with patched(Model, "__init__", init):
        yield


WRAPPER: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "edges off by one pixel": lambda: _edges(lambda edges, _: np.roll(edges, 1, axis=1)),
    "edges inverted": lambda: _edges(lambda edges, _: 1 - edges),
    "edges of the previous frame": lambda: _edges(_previous),
    "crop for letterbox": lambda: patched(Model, "fit", lambda self, frame: center_crop(frame, *self.frame_shape[:2])),
    "frame resized twice": lambda: patched(Model, "fit", _twice),
    "reset that does not reset": lambda: patched(Model, "reset", lambda _: None),
    "a stream does not start from zeros": lambda: patched(Model, "initial_state", _started),
    "labels permuted in the runtime": _permuted_labels,
}


def has_edges(folder: Any) -> bool:
    """Whether the caller of this bundle computes the edges."""
    return read_bundle(folder).edges == "host"
