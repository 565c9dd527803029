"""Measures a bundle against the float PyTorch cell: one step at a time and with its own state fed back."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.rollout import Step, steps
from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import ParityError, StateError, UsageError
from lcr_edge.export.modes import EVERYTHING, Curve, Line, Mode, table_of
from lcr_edge.runtimes import judge
from lcr_edge.runtimes.api import Model, State
from lcr_edge.runtimes.judge import ONE_STEP, STREAM, Check, Floats
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.export.decisions import Clips
    from lcr_edge.export.streams import Streams
    from lcr_edge.model.network import LCR

# First frame of each phase: the state is zero, then filling, then full; then a stream.
PHASES = (0, 1, 4, 50)
# What to try when int8 misses.
_ADVICE = (
    "calibrate with clips of the device's own scenes (lcr-edge export --calibration-data), leave the layers that cost "
    "most in float (--keep-float auto), or let the engine find the ranges at every step (--quant dynamic)"
)


@dataclass(frozen=True)
class Report:
    """What was measured. one_step, stream: a :class:`Line` per phase and one for "all" frames, from the reference's
    state and from the bundle's own; the curves are the same frame by frame. checks: each promise. broken: what no
    bundle may do at all. streams, video, clips: long rendered streams, streams of the video that was given, decisions
    on rendered clips, where these were measured. sensitivity: (layer or kind of layers, what quantising it alone costs:
    rms error / std in a stream), the costliest first, of int8 where that was measured. passed: nothing missed."""

    bundle: str
    engine: str
    precision: str
    clip: str
    frames: int
    promise: Promise
    one_step: dict[str, Line]
    stream: dict[str, Line]
    one_step_curve: Curve
    stream_curve: Curve
    checks: tuple[Check, ...]
    broken: tuple[str, ...]
    streams: Streams | None = None
    video: Streams | None = None
    clips: Clips | None = None
    sensitivity: tuple[tuple[str, float], ...] = ()

    @property
    def _parts(self) -> tuple[Streams | Clips, ...]:
        return tuple(part for part in (self.streams, self.video, self.clips) if part is not None)

    @property
    def every_check(self) -> tuple[Check, ...]:
        """Of both modes, the streams and the clips."""
        return (*self.checks, *itertools.chain(*(part.checks for part in self._parts)))

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per missed promise; empty means passed."""
        broken = itertools.chain(*(part.broken for part in self._parts))
        return (*self.broken, *broken, *judge.failures_of(self.every_check))

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def complaint(self) -> str:
        """All failures in one sentence, and for int8 what to try."""
        advice = f". Try: {_ADVICE}" if self.precision == "int8" and not self.broken else ""
        return "; ".join(self.failures) + advice

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN and Inf, which JSON lacks, become strings. Curves have at most ``curves.POINTS`` points."""
        values = {
            "passed": self.passed,
            "failures": list(self.failures),
            "bundle": self.bundle,
            "engine": self.engine,
            "precision": self.precision,
            "promise": dataclasses.asdict(self.promise),
            "checks": [check.to_dict() for check in self.every_check],
            "clip": self.clip,
            "frames": self.frames,
            "one_step": {phase: line.to_dict() for phase, line in self.one_step.items()},
            "stream": {phase: line.to_dict() for phase, line in self.stream.items()},
            "curves": {"one_step": self.one_step_curve.thinned(), "stream": self.stream_curve.thinned()},
            "streams": None if self.streams is None else self.streams.to_dict(),
            "video": None if self.video is None else self.video.to_dict(),
            "clips": None if self.clips is None else self.clips.to_dict(),
            "sensitivity": [list(row) for row in self.sensitivity],
        }
        finite: dict[str, Any] = _finite(values)
        return finite

    def to_json(self) -> bytes:
        """:meth:`to_dict` as the text of a file; lists of numbers stay on one line."""
        text = json.dumps(self.to_dict(), indent=2)
        return (
            re.sub(r"\[[-+0-9.eE,\s]*\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"
        ).encode()

    def table(self) -> str:
        """The report for people: max abs error and rms error / std per phase and tensor, agreement of the class, and
        each promise with what was measured."""
        parts = [f"{self.bundle} on {self.engine}, {self.frames} frames of {self.clip}"]
        parts += table_of(ONE_STEP, self.one_step) + table_of(STREAM, self.stream)
        parts.append("columns: max abs error, rms error / std")
        parts += [part.table() for part in self._parts]
        return "\n".join([*parts, *(check.line() for check in self.every_check)])


def measure(model: Model, reference: LCR, frames: Iterable[npt.NDArray[np.uint8]], clip: str) -> Report:
    """Step bundle and reference side by side; ``clip`` names the frames in the report.

    The growth of the error is not judged: one stream cannot tell it from a change of scene (``export.streams``). Does
    not raise on a missed promise. Raises BundleError for a precision without one, FrameError, UsageError for too few
    frames, ParityError where a state is NaN before there are enough.
    """
    promise = judge.promised(model)
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
        one_step_curve=one_step.curve,
        stream_curve=stream.curve,
        checks=tuple(_checks(promise, one_step, stream)),
        broken=(*missed, *broken),
    )


def _checks(promise: Promise, one_step: Mode, stream: Mode) -> Iterable[Check]:
    whole = one_step.lines()[EVERYTHING], stream.lines()[EVERYTHING]
    for mode, line, allowed in zip((ONE_STEP, STREAM), whole, (promise.step_abs, promise.stream_abs)):
        if allowed is not None:
            yield from (judge.max_error(mode, name, tally, allowed) for name, tally in line.tensors.items())
    if promise.step_relative is not None:
        for name, tally in one_step.judged().tensors.items():
            yield judge.relative_error(ONE_STEP, name, tally, promise.step_relative, promise.settled)
    judged = stream.judged()
    yield judge.same_class(STREAM, judged.agreed, judged.frames, promise)


def _read_states(model: Model, step: Step, before: State, found: tuple[Floats, State]) -> set[str]:
    """Names of the states whose zeroing changes the step: those that the model reads."""
    zeros = model.initial_state()
    read = set()
    for name, blind in zip(STATE_NAMES, (State(zeros.h, before.c), State(before.h, zeros.c))):
        logits, after = model.step(step.frame, blind)
        same = (logits, after.h, after.c), (found[0], found[1].h, found[1].c)
        if not all(np.array_equal(a, b) for a, b in zip(*same)):
            read.add(name)
    return read


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
