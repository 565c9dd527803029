"""The rules of a step, tried on a bundle's runtime: a step is a function of a frame and a state, and nothing else.

What goes into the engine and comes out of it is recorded on the way, so that the code around the engine is seen too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import EDGE, FRAME, LOGITS, STATES_IN, STATES_OUT
from lcr_edge.edges.host import host_edges
from lcr_edge.runtimes.api import Engine, Model, State
from lcr_edge.runtimes.checks import Check, differences

Array = npt.NDArray[Any]
Answer = tuple[Array, Array, Array]
_FRAMES = 4
_BLOCK = 8  # pixels: blocks of one colour have edges, and other ones in every frame


def rules_of_the_step(model: Model) -> Iterator[Check]:
    """One check for each rule. Raises StateError for a state with NaN or Inf."""
    frames = list(_frames(model.frame_shape))
    yield _zero(model)
    yield from _boundary(model, frames)
    yield _kept(model, frames)
    first = _stream(model, frames)
    _stream(model, frames[::-1])
    again = _stream(model, frames)
    yield differences(
        "steps repeated from a zero state",
        _unlike(first, again),
        "the same frames from a zero state give other answers after other frames: something is kept between streams",
    )
    yield _apart(model, frames, first)
    yield _reset(model, frames)
    if model.bundle.state_mode == "explicit":  # else the stream's own errors are compared with the reference
        yield _streamed(model, frames, first)


def _frames(shape: tuple[int, int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames that differ in every part, in colour from left to right and from top to bottom."""
    random = np.random.default_rng(0)
    height, width, _ = shape
    for _ in range(_FRAMES):
        blocks = random.integers(0, 256, (-(-height // _BLOCK), -(-width // _BLOCK), 3), np.uint8)
        yield np.ascontiguousarray(blocks.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[:height, :width])


def _zero(model: Model) -> Check:
    values = model.state_values(model.initial_state())
    count = sum(int(np.count_nonzero(part)) for part in values)
    return differences("initial state", count, "a stream does not start from a state of zeros", f"{count} values")


class _Recorder:
    """An engine that keeps what it was given and what it gave."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._engine = engine
        self.given: dict[str, Array] = {}
        self.gave: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.given = {name: value.copy() for name, value in feeds.items()}
        results = self._engine.run(feeds)
        self.gave = {name: value.copy() for name, value in results.items()}
        return results


def _boundary(model: Model, frames: list[npt.NDArray[np.uint8]]) -> Iterator[Check]:
    """The engine gets the frame, its edges and the state as they are, and the caller gets its answer."""
    engine = model.engine
    recorder = _Recorder(engine)
    model.engine = recorder
    wrong: dict[str, int] = dict.fromkeys(("frame", "edges", "state", "answer"), 0)
    try:
        state = model.initial_state()
        for frame in frames:
            seen, before = frame.copy(), state.copy()
            logits, after = model.step(frame, state)
            given, gave = recorder.given, recorder.gave
            wrong["frame"] += differing_values(given[FRAME][0], seen) + differing_values(frame, seen)
            if model.bundle.edges == "host":
                wrong["edges"] += differing_values(given[EDGE][0], host_edges(seen))
            pairs = [(given[STATES_IN[0]], before.h), (given[STATES_IN[1]], before.c)]
            pairs += [(state.h, before.h), (state.c, before.c)]
            wrong["state"] += sum(differing_values(found, want) for found, want in pairs)
            answers = zip((after.h, after.c), (gave[name] for name in STATES_OUT))
            wrong["answer"] += sum(differing_values(found, want) for found, want in answers)
            if model.bundle.io == "float":
                wrong["answer"] += differing_values(logits, gave[LOGITS][0])
            state = after.copy()
    finally:
        model.engine = engine
    for name, text in (
        ("frame", "the engine does not get the frame as it was given, or the frame was changed"),
        ("edges", "the engine does not get the frame's own edges"),
        ("state", "the engine does not get the state as it was given, or the state was changed"),
        ("answer", "the caller does not get the engine's own answer"),
    ):
        yield differences(f"{name} at the engine", wrong[name], text, f"{wrong[name]} values")


def _kept(model: Model, frames: list[npt.NDArray[np.uint8]]) -> Check:
    """Results belong to the caller: a later step must not overwrite them."""
    state, count = model.initial_state(), 0
    held: list[tuple[Answer, Answer]] = []
    for frame in frames:
        logits, state = model.step(frame, state)
        answer = logits, state.h, state.c
        held.append((answer, (logits.copy(), state.h.copy(), state.c.copy())))
        state = state.copy()
    for answer, copies in held:
        count += sum(not np.array_equal(now, then) for now, then in zip(answer, copies))
    return differences(
        "results overwritten",
        count,
        "a step overwrites the results of an earlier one: they share a buffer",
        f"{count} arrays",
    )


def _stream(model: Model, frames: list[npt.NDArray[np.uint8]]) -> list[Answer]:
    state, answers = model.initial_state(), []
    for frame in frames:
        logits, state = model.step(frame, state)
        answers.append(_copied(logits, state))
        state = state.copy()
    return answers


def _apart(model: Model, frames: list[npt.NDArray[np.uint8]], alone: list[Answer]) -> Check:
    """A second stream, of the same frames backwards, step by step beside the first."""
    state, other = model.initial_state(), model.initial_state()
    answers = []
    for frame, beside in zip(frames, reversed(frames)):
        logits, state = model.step(frame, state)
        answers.append(_copied(logits, state))
        state = state.copy()
        other = model.step(beside, other)[1].copy()
    return differences(
        "two streams beside each other", _unlike(answers, alone), "a stream depends on another one that runs beside it"
    )


def _reset(model: Model, frames: list[npt.NDArray[np.uint8]]) -> Check:
    """``step_stream`` after ``reset``, with another stream's steps before it."""
    model.reset()
    first = [model.step_stream(frame).copy() for frame in frames]
    for frame in frames[::-1]:
        model.step_stream(frame)
    model.reset()
    again = [model.step_stream(frame).copy() for frame in frames]
    model.reset()
    count = sum(not np.array_equal(one, other) for one, other in zip(first, again))
    return differences("reset", count, "after reset() a stream goes on from its old state", f"{count} frames")


def _streamed(model: Model, frames: list[npt.NDArray[np.uint8]], stepped: list[Answer]) -> Check:
    """``open_stream`` beside ``step``, whose states are copied."""
    stream = model.open_stream()
    count = sum(not np.array_equal(stream.step(frame), logits) for frame, (logits, _, _) in zip(frames, stepped))
    return differences("open_stream", count, "a stream of its own gives other logits than step", f"{count} frames")


def _copied(logits: Array, state: State) -> Answer:
    return logits.copy(), state.h.copy(), state.c.copy()


def _unlike(answers: list[Answer], others: list[Answer]) -> int:
    return sum(not np.array_equal(a, b) for one, other in zip(answers, others) for a, b in zip(one, other))


def differing_values(found: Array, wanted: Array) -> int:
    """How many values differ; all of them where the shapes do."""
    return int((found != wanted).sum()) if found.shape == wanted.shape else int(wanted.size)
