"""Measures a bundle against the float PyTorch cell: one step at a time and with its own state fed back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.rollout import Step, steps
from lcr_edge.contract import LOGITS, STATE_NAMES
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.api import Model, State
from lcr_edge.tolerances import PROMISES

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR

TENSORS = (LOGITS, *STATE_NAMES)
# First frame of each phase: the state is zero, then filling, then full; then a stream.
PHASES = ((0, "0"), (1, "1-3"), (4, "4-49"), (50, "50-"))
_EVERYTHING = "all"


@dataclass
class Tally:
    """Errors of one tensor over some frames, summed up so that no frame need be kept."""

    max_abs: float = 0.0
    squared_error: float = 0.0
    total: float = 0.0
    squared: float = 0.0
    count: int = 0

    def add(self, found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> None:
        exact = reference.astype(np.float64)
        error = np.abs(found - exact)
        # numpy's maximum keeps a NaN, Python's may drop it.
        self.max_abs = float(np.maximum(self.max_abs, error.max()))
        self.squared_error += float((error * error).sum())
        self.total += float(exact.sum())
        self.squared += float((exact * exact).sum())
        self.count += exact.size

    @property
    def relative(self) -> float:
        """rms error / standard deviation of the reference."""
        variance = self.squared / self.count - (self.total / self.count) ** 2
        return math.sqrt(self.squared_error / self.count) / max(math.sqrt(max(variance, 0.0)), 1e-30)


@dataclass
class Line:
    """One phase in one mode: a tally per tensor, and how often the class was that of the reference."""

    tensors: dict[str, Tally] = dataclasses.field(default_factory=lambda: {name: Tally() for name in TENSORS})
    frames: int = 0
    agreed: int = 0

    def add(self, logits: npt.NDArray[np.float32], state: State, reference: Step) -> None:
        found = (logits, state.h, state.c)
        wanted = (reference.logits, reference.state_h, reference.state_c)
        for tally, have, want in zip(self.tensors.values(), found, wanted):
            tally.add(have, want)
        self.frames += 1
        self.agreed += int(logits.argmax() == reference.logits.argmax())

    @property
    def top1(self) -> float:
        return self.agreed / self.frames

    def to_dict(self) -> dict[str, Any]:
        errors = {
            name: {"max_abs": tally.max_abs, "rms_over_std": tally.relative} for name, tally in self.tensors.items()
        }
        return {"frames": self.frames, "top1": self.top1, **errors}


@dataclass(frozen=True)
class Report:
    """What was measured. one_step, stream: a :class:`Line` per phase and one for "all" frames, from the reference's
    state and from the bundle's own. failures: one sentence per missed promise; empty means passed."""

    bundle: str
    engine: str
    precision: str
    clip: str
    frames: int
    one_step: dict[str, Line]
    stream: dict[str, Line]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN and Inf, which JSON lacks, become strings."""
        values = {
            "passed": self.passed,
            "failures": list(self.failures),
            "bundle": self.bundle,
            "engine": self.engine,
            "precision": self.precision,
            "promise": dataclasses.asdict(PROMISES[self.precision]),
            "clip": self.clip,
            "frames": self.frames,
            "one_step": {phase: line.to_dict() for phase, line in self.one_step.items()},
            "stream": {phase: line.to_dict() for phase, line in self.stream.items()},
        }
        finite: dict[str, Any] = _finite(values)
        return finite

    def table(self) -> str:
        """The report for people: max abs error and rms error / std per phase and tensor, and agreement of the class."""
        lines = [f"{self.bundle} on {self.engine}, {self.frames} frames of {self.clip}"]
        header = "".join(f"{name:>22}" for name in TENSORS)
        for title, mode in (("one step", self.one_step), ("stream", self.stream)):
            lines.append(f"{title:>9} {'frames':8}{header}{'top-1':>9}")
            for phase, line in mode.items():
                cells = "".join(f"{t.max_abs:12.2e}{t.relative:10.1e}" for t in line.tensors.values())
                lines.append(f"{'':9} {phase:8}{cells}{line.top1:9.2%}")
        promise = PROMISES[self.precision]
        lines.append(
            f"columns: max abs error, rms error / std; promised for {self.precision}: {promise.step_abs:.0e} "
            f"after one step, {promise.stream_abs:.0e} in a stream, top-1 {promise.top1:.1%}"
        )
        return "\n".join(lines)


def measure(model: Model, reference: LCR, frames: Iterable[npt.NDArray[np.uint8]], clip: str) -> Report:
    """Step bundle and reference side by side; ``clip`` names the frames in the report.

    Does not raise on a missed promise. Raises BundleError for a precision without a promise and FrameError.
    """
    promise = PROMISES.get(model.bundle.precision)
    if promise is None:
        raise BundleError(f"no promise for precision {model.bundle.precision!r}: upgrade lcr-edge")
    one_step: dict[str, Line] = {}
    stream: dict[str, Line] = {}
    own = before = model.initial_state()
    unchanged: set[str] = set()
    unread: set[str] = set(STATE_NAMES)
    count = 0
    model.reset()
    for step in steps(reference, frames):
        phase = next(name for first, name in reversed(PHASES) if count >= first)
        logits, after = model.step(step.frame, before)
        own_logits, own = model.step(step.frame, own)
        streamed = model.step_stream(step.frame) if model.bundle.state_mode == "internal" else own_logits
        for name in (phase, _EVERYTHING):
            one_step.setdefault(name, Line()).add(logits, after, step)
            stream.setdefault(name, Line()).add(own_logits, own, step)
            if streamed is not own_logits:
                stream[name].tensors[LOGITS].add(streamed, step.logits)
        unchanged |= {
            name
            for name, now, then in zip(STATE_NAMES, (after.h, after.c), (before.h, before.c))
            if np.array_equal(now, then)
        }
        if unread and count:
            unread -= _read_states(model, step, before, (logits, after))
        before = State(step.state_h, step.state_c)
        count += 1
    if count == 0:
        raise ValueError("measuring needs at least one frame")
    for lines in (one_step, stream):
        lines[_EVERYTHING] = lines.pop(_EVERYTHING)  # last in the table
    failures = [f"{name} did not change in a step: it is not computed" for name in sorted(unchanged)]
    failures += [f"{name} fed to a step makes no difference: it is not read" for name in sorted(unread) if count > 1]
    failures += _missed(one_step[_EVERYTHING], promise.step_abs, "one step", None)
    failures += _missed(stream[_EVERYTHING], promise.stream_abs, "stream", promise.top1)
    return Report(
        bundle=str(model.manifest["name"]),
        engine=model.engine.name,
        precision=model.bundle.precision,
        clip=clip,
        frames=count,
        one_step=one_step,
        stream=stream,
        failures=tuple(failures),
    )


def _read_states(model: Model, step: Step, before: State, found: tuple[npt.NDArray[np.float32], State]) -> set[str]:
    """Names of the states whose zeroing changes the step: those that the model reads."""
    zeros = np.zeros_like(before.h)
    read = set()
    for name, blind in zip(STATE_NAMES, (State(zeros, before.c), State(before.h, zeros))):
        logits, after = model.step(step.frame, blind)
        same = (logits, after.h, after.c), (found[0], found[1].h, found[1].c)
        if not all(np.array_equal(a, b) for a, b in zip(*same)):
            read.add(name)
    return read


def _missed(line: Line, allowed: float, mode: str, top1: float | None) -> list[str]:
    # "not <=" also catches NaN.
    found = [
        f"{mode}: {name} is off by {tally.max_abs:.2e}, promised {allowed:.0e} ({tally.max_abs / allowed:.1f} times)"
        for name, tally in line.tensors.items()
        if not tally.max_abs <= allowed
    ]
    if top1 is not None and not line.top1 >= top1:
        found.append(f"{mode}: the class is the reference's in {line.top1:.2%} of the frames, promised {top1:.1%}")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
