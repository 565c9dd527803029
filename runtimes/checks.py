"""How selftest and verify judge a bundle: the promises of lcr_edge.tolerances, and whether its states are used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import BundleError
from lcr_edge.frames import Frame
from lcr_edge.runtimes.api import Floats, Model, State
from lcr_edge.runtimes.tallies import Phases, Tally
from lcr_edge.tolerances import EARLY, LATE, PROMISES, ROUNDING_OFF, Promise, promise_of

ONE_STEP, STREAM = "one step", "stream"


@dataclass(frozen=True)
class Check:
    """One promised figure.

    kind: "error", "ratio", "share", "points" or "differences"; for a share the promise is a minimum, for the others a
    maximum, and no difference is ever allowed. met:
    None if it could not be judged. remark: why it could not, or else the margin by which it was missed or met.
    allowed: what also meets the promise where the figure alone would be too strict, otherwise empty. sentence: says
    what was missed.
    """

    name: str
    kind: str
    promised: float
    measured: float | None
    met: bool | None
    remark: str
    sentence: str = ""
    allowed: str = ""

    def shown(self, figure: float) -> str:
        """A figure of this kind as text."""
        return _FORMATS[self.kind](figure)

    def bound(self) -> str:
        """The promise as text, with what else meets it: "1.00e-05 at most"; "98.00%, or one frame of 46"."""
        if self.kind == "differences":
            return "none"
        most = "" if self.kind == "share" else " at most"
        return f"{self.shown(self.promised)}{most}{', or ' if self.allowed else ''}{self.allowed}"

    def line(self) -> str:
        """One line for people."""
        verdict = {True: "met", False: "MISSED", None: "-"}[self.met]
        shown = "" if self.measured is None else self.shown(self.measured)
        remark = f"; {self.remark}" if self.remark else ""
        return f"{verdict:7}{self.name:50}{shown:>12}  (promised {self.bound()}{remark})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values, except that NaN and Inf are kept as floats."""
        return {
            "name": self.name,
            "kind": self.kind,
            "promised": self.promised,
            "allowed": self.allowed,
            "measured": self.measured,
            "met": self.met,
            "remark": self.remark,
        }


_FORMATS: dict[str, Callable[[float], str]] = {
    "error": "{:.2e}".format,
    "ratio": "{:.3f}".format,
    "share": "{:.2%}".format,
    "points": "{:+.2f}".format,
    "differences": "{:.0f}".format,
}


def promised(model: Model) -> Promise:
    """What the bundle promises. Raises BundleError for a precision that this lcr_edge does not know."""
    coarse = getattr(model.engine, "coarse_activations", False)
    promise = promise_of(model.bundle.precision, model.bundle.state_precision, coarse_activations=coarse)
    if promise is None:
        raise BundleError(
            f"this lcr_edge has no promise for precision {model.bundle.precision!r} ({', '.join(PROMISES)}): upgrade it"
        )
    return promise


def failures_of(checks: Sequence[Check]) -> tuple[str, ...]:
    """The sentences of the missed checks."""
    return tuple(check.sentence for check in checks if check.met is False)


def mode_checks(promise: Promise, one_step: Phases, stream: Phases) -> Iterator[Check]:
    """A promise's checks in both modes of stepping: from the reference's states, and with its own fed back."""
    for mode, phases, allowed in ((ONE_STEP, one_step, promise.step_abs), (STREAM, stream, promise.stream_abs)):
        if allowed is not None:
            yield from (max_error(mode, name, tally, allowed) for name, tally in phases.everything().tensors.items())
    if promise.step_relative is not None:
        for name, tally in one_step.judged().tensors.items():
            yield relative_error(ONE_STEP, name, tally, promise.step_relative, promise.settled)
    judged = stream.judged()
    yield same_class(STREAM, judged.agreed, judged.frames, promise)


def max_error(mode: str, tensor: str, tally: Tally, promised: float) -> Check:
    """The largest absolute error of a tensor."""
    measured = tally.max_abs
    met, times = _at_most(measured, promised)
    sentence = f"{mode}: {tensor} is off by {measured:.2e}, promised {promised:.0e} ({times})"
    return Check(f"{mode}: {tensor}, max abs error", "error", promised, measured, met, times, sentence)


def relative_error(mode: str, tensor: str, tally: Tally, promised: float, settled: int) -> Check:
    """rms error / standard deviation of a tensor, over a tally that starts at frame ``settled``."""
    measured = tally.relative
    met, times = _at_most(measured, promised)
    sentence = (
        f"{mode}: {tensor} is off by {measured:.3f} of its standard deviation (rms from frame {settled} on), promised "
        f"{promised:.2f} ({times})"
    )
    name = f"{mode}: {tensor}, rms error / std" + (f" from frame {settled}" if settled else "")
    return Check(name, "ratio", promised, measured, met, times, sentence)


def same_class(mode: str, agreed: int, frames: int, promise: Promise) -> Check:
    """Share of the frames (from ``promise.settled`` on) whose class matches the reference's."""
    share = agreed / frames
    met = share >= promise.top1 or frames - agreed <= promise.flips
    # In a clip this short, the frames that may differ are a larger share than the promise allows.
    short = (frames - promise.flips) / frames < promise.top1
    allowed = _frames_of(promise.flips, frames) if short and promise.flips else ""
    since = f" from frame {promise.settled} on" if promise.settled else ""
    points = 100 * (promise.top1 - share)
    remark = f"{points:.2f} points below" if not met else f"{frames - agreed} of {frames} frames differ"
    sentence = (
        f"{mode}: the class matches the reference in {share:.2%} of the frames{since}, promised {promise.top1:.1%}"
        f"{', or all but ' if allowed else ''}{allowed} ({frames - agreed} of {frames} frames differ)"
    )
    return Check(f"{mode}: same class{since}", "share", promise.top1, share, met, remark, sentence, allowed)


def _frames_of(few: int, frames: int) -> str:
    return f"{'one frame' if few == 1 else f'{few} frames'} of {frames}"


def differences(what: str, count: int | None, sentence: str, found: str = "") -> Check:
    """How often something differs that must be the same. count: None if it could not be judged, then ``found`` says
    why; otherwise it says what differs."""
    met = None if count is None else count == 0
    why = f"identity: {sentence}" + (f" ({found})" if found else "")
    return Check(f"identity: {what}", "differences", 0.0, count, met, "" if met else found, why)


def rounding_off(measured: float, where: str) -> Check:
    """How far int8 answers are from the planned ones, in units of the planned rounding; ``where`` it is farthest."""
    met, times = _at_most(measured, ROUNDING_OFF)
    sentence = (
        f"int8 rounding: {where} is {measured:.2f} times as far from what was planned as the planned rounding is from "
        f"float, promised {ROUNDING_OFF} at most: the model file or the engine does not compute what was prepared"
    )
    name = "int8 rounding: off the planned one / planned one"
    return Check(name, "ratio", ROUNDING_OFF, measured, met, f"{times}, {where}", sentence)


def rows_off(tensor: str, measured: float, streams: int, promised: float) -> Check:
    """How far the answers of streams that share a call are from those of the same steps one by one."""
    met, times = _at_most(measured, promised)
    sentence = (
        f"streams in one call: {tensor} is off by {measured:.1e} of its standard deviation from the same steps one by "
        f"one, promised {promised:.0e} ({times}): the streams change each other's answers"
    )
    name = f"{streams} streams in one call: off from one by one, rms / std"
    return Check(name, "error", promised, measured, met, f"{times}, {tensor}", sentence)


def drift(
    mode: str, early: float | None, late: float | None, promise: Promise, streams: int, deviation: float = math.nan
) -> Check:
    """Growth of the rms logit error: ``late`` over ``early``, which are None if no stream was long enough.

    deviation: standard deviation of the reference's logits. Late errors that are small beside it may have grown.
    """
    promised, small = promise.drift or 0.0, promise.drift_counts * (promise.step_relative or 0.0)
    name = f"{mode}: logit error, frames {LATE[0]}-{LATE[1]} / {EARLY[0]}-{EARLY[1]}"
    if early is None or late is None:
        return Check(name, "ratio", promised, None, None, f"not judged: needs {LATE[1]} frames")
    measured = 1.0 if early == late == 0 else late / early if early else math.inf
    within, times = _at_most(measured, promised)
    size = late / deviation if deviation > 0 else math.nan
    allowed = f"late errors up to {small:.3f} of the logits' deviation" if small else ""
    sentence = (
        f"{mode}: the logits' rms error grows by a factor of {measured:.2f} from frames {EARLY[0]}-{EARLY[1]} to "
        f"frames {LATE[0]}-{LATE[1]}, where it is {size:.3f} of their standard deviation; promised {promised:.1f} at "
        f"most{', or ' if allowed else ''}{allowed}"
    )
    remark = f"{times}, late error {size:.3f} of the deviation, {streams} stream{'s' * (streams > 1)}"
    return Check(name, "ratio", promised, measured, within or size <= small, remark, sentence, allowed)


def points_lost(float_top1: float, bundle_top1: float, clips: int, promised: float) -> Check:
    """Clip top-1 of the float network minus that of the bundle, in percentage points; a negative one is not a miss."""
    lost = float_top1 - bundle_top1
    sentence = (
        f"clips: top-1 is {bundle_top1:.2f} %, {lost:.2f} points below float's {float_top1:.2f} % on {clips} clips, "
        f"promised {promised} at most"
    )
    remark = f"float {float_top1:.2f} %, bundle {bundle_top1:.2f} %"
    return Check("clips: points of top-1 below float", "points", promised, lost, lost <= promised, remark, sentence)


def _at_most(measured: float, promised: float) -> tuple[bool, str]:
    # "<=" is also false for NaN.
    return measured <= promised, f"{measured / promised:.{1 if measured > promised else 2}f} times"


class StateUse:
    """Whether a model computes both of its states and reads both of them, as every bundle must."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._unchanged: set[str] = set()
        self._unread = set(STATE_NAMES)
        self._steps = 0

    def add(self, frame: Frame, before: State, logits: Floats, after: State) -> None:
        """Record a step: ``model.step(frame, before)`` gave (logits, after). Raises StateError.

        The first step must start from the initial state. From the second on, the step is repeated with one state
        zeroed at a time, until both have been seen to make a difference.
        """
        pairs = zip(STATE_NAMES, (before.h, before.c), (after.h, after.c))
        self._unchanged |= {name for name, then, now in pairs if np.array_equal(then, now)}
        if self._steps:
            self._unread -= {name for name in self._unread if self._is_read(name, frame, before, logits, after)}
        self._steps += 1

    def failures(self) -> list[str]:
        """A sentence for each state that is not used."""
        unread = sorted(self._unread) if self._steps > 1 else []
        return [
            *(f"{name} did not change in a step: it is not computed" for name in sorted(self._unchanged)),
            *(f"feeding {name} to a step makes no difference: the model does not read it" for name in unread),
        ]

    def _is_read(self, name: str, frame: Frame, before: State, logits: Floats, after: State) -> bool:
        zeros = self._model.initial_state()
        blind = State(zeros.h, before.c) if name == STATE_NAMES[0] else State(before.h, zeros.c)
        other_logits, other = self._model.step(frame, blind)
        pairs = ((logits, other_logits), (after.h, other.h), (after.c, other.c))
        return not all(np.array_equal(found, blinded) for found, blinded in pairs)


def finite(value: Any) -> Any:
    """A JSON value whose NaN and Inf, which JSON lacks, become strings, also in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
