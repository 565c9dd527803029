"""Measures a bundle against the float PyTorch cell: one step at a time and with its own state fed back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import ParityError, StateError, UsageError
from lcr_edge.export.verify.phases import EVERYTHING, Mode
from lcr_edge.export.verify.reference import Step, steps
from lcr_edge.export.verify.report import Report
from lcr_edge.runtimes.api import Model, State
from lcr_edge.runtimes.checks import ONE_STEP, STREAM, Check, max_error, promised, relative_error, same_class
from lcr_edge.runtimes.tallies import Floats
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR

# First frame of each phase: the state is zero, then filling, then full; then a stream.
PHASES = (0, 1, 4, 50)


def measure(model: Model, reference: LCR, frames: Iterable[npt.NDArray[np.uint8]], clip: str) -> Report:
    """Step bundle and reference side by side; ``clip`` names the frames in the report.

    The growth of the error is not judged here: one stream cannot tell it from a change of scene (see ``streams``).
    Does not raise on a missed promise. Raises BundleError for a precision without a promise, FrameError, UsageError
    for too few frames, and ParityError where a state is NaN before there are enough frames to judge.
    """
    promise = promised(model)
    one_step, stream = Mode(PHASES, promise.settled), Mode(PHASES, promise.settled)
    own = before = model.initial_state()
    unchanged: set[str] = set()
    unread: set[str] = set(STATE_NAMES)
    broken: list[str] = []
    count = 0
    model.reset()
    for step in steps(reference, frames):
        wanted = (step.logits, step.state_h, step.state_c)
        try:
            logits, after = model.step(step.frame, before)
            stepped = model.state_values(after)
            own_logits, own = model.step(step.frame, own)
            streaming = model.state_values(own)
        except StateError as error:  # NaN or Inf, which no promise allows
            broken.append(f"the bundle's own state cannot be fed back from frame {count} on: {error}")
            break
        one_step.add(count, (logits, *stepped), wanted)
        # Where the engine can keep the states, its own feedback is what a device runs.
        internal = model.bundle.state_mode == "internal"
        streamed = model.step_stream(step.frame) if internal else own_logits
        stream.add(count, (streamed, *streaming), wanted)
        if internal:
            stream.add_logits(count, own_logits, step.logits)
        unchanged |= {
            name
            for name, now, then in zip(STATE_NAMES, (after.h, after.c), (before.h, before.c))
            if np.array_equal(now, then)
        }
        if unread and count:
            unread -= _read_states(model, step, before, (logits, after))
        before = model.state_of(step.state_h, step.state_c)
        count += 1
    if count <= promise.settled and broken:
        raise ParityError(f"{model.manifest['name']}: {broken[0]}")
    if count <= promise.settled:
        raise UsageError(f"measuring {model.bundle.precision} takes at least {promise.settled + 1} frames, got {count}")
    missed = [f"{name} did not change in a step: it is not computed" for name in sorted(unchanged)]
    missed += [f"{name} fed to a step makes no difference: it is not read" for name in sorted(unread) if count > 1]
    return Report(
        bundle=str(model.manifest["name"]),
        engine=model.engine.name,
        precision=model.bundle.precision,
        clip=clip,
        frames=count,
        promise=promise,
        one_step=one_step.lines(),
        stream=stream.lines(),
        one_step_curve=one_step.curve(),
        stream_curve=stream.curve(),
        checks=tuple(_checks(promise, one_step, stream)),
        broken=(*missed, *broken),
    )


def _checks(promise: Promise, one_step: Mode, stream: Mode) -> Iterable[Check]:
    whole = one_step.lines()[EVERYTHING], stream.lines()[EVERYTHING]
    for mode, line, allowed in zip((ONE_STEP, STREAM), whole, (promise.step_abs, promise.stream_abs)):
        if allowed is not None:
            yield from (max_error(mode, name, tally, allowed) for name, tally in line.tensors.items())
    if promise.step_relative is not None:
        for name, tally in one_step.judged().tensors.items():
            yield relative_error(ONE_STEP, name, tally, promise.step_relative, promise.settled)
    judged = stream.judged()
    yield same_class(STREAM, judged.agreed, judged.frames, promise)


def _read_states(model: Model, step: Step, before: State, found: tuple[Floats, State]) -> set[str]:
    """Names of the states that the model reads: setting them to zero changes the step."""
    zeros = model.initial_state()
    read = set()
    for name, blind in zip(STATE_NAMES, (State(zeros.h, before.c), State(before.h, zeros.c))):
        logits, after = model.step(step.frame, blind)
        same = (logits, after.h, after.c), (found[0], found[1].h, found[1].c)
        if not all(np.array_equal(a, b) for a, b in zip(*same)):
            read.add(name)
    return read
