"""What the promises of lcr_edge.tolerances say of the errors that were summed up: for selftest and verify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from lcr_edge.errors import BundleError
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.tallies import Tally
from lcr_edge.tolerances import EARLY, LATE, PROMISES, Promise, promise_of

ONE_STEP, STREAM = "one step", "stream"


@dataclass(frozen=True)
class Check:
    """One promised figure. met: None where it could not be judged; then ``remark`` says why, else by how much it was
    missed or kept. sentence: says what was missed. kind: "error", "ratio", "share" (at least; the others at most) or
    "points"."""

    name: str
    kind: str
    promised: float
    measured: float | None
    met: bool | None
    remark: str
    sentence: str = ""

    def shown(self, figure: float) -> str:
        """A figure of this kind as text."""
        return _FORMATS[self.kind](figure)

    def line(self) -> str:
        """One line for people."""
        verdict = {True: "met", False: "MISSED", None: "-"}[self.met]
        least = "least" if self.kind == "share" else "most"
        shown = "" if self.measured is None else self.shown(self.measured)
        promised = f"promised {self.shown(self.promised)} at {least}"
        return f"{verdict:7}{self.name:50}{shown:>12}  {promised}{', ' if self.remark else ''}{self.remark}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values, but for NaN and Inf."""
        return {
            "name": self.name,
            "kind": self.kind,
            "promised": self.promised,
            "measured": self.measured,
            "met": self.met,
            "remark": self.remark,
        }


_FORMATS: dict[str, Callable[[float], str]] = {
    "error": "{:.2e}".format,
    "ratio": "{:.3f}".format,
    "share": "{:.2%}".format,
    "points": "{:+.2f}".format,
}


def promised(model: Model) -> Promise:
    """What the bundle promises. BundleError for a precision that this lcr_edge does not know."""
    promise = promise_of(model.bundle.precision, model.bundle.state_precision)
    if promise is None:
        raise BundleError(
            f"precision {model.bundle.precision!r} has no promise in this lcr_edge ({', '.join(PROMISES)}): upgrade it"
        )
    return promise


def failures_of(checks: Sequence[Check]) -> tuple[str, ...]:
    """The sentences of the missed ones."""
    return tuple(check.sentence for check in checks if check.met is False)


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
    """In how many of the frames (from ``promise.settled`` on) the class is the reference's."""
    share = agreed / frames
    met = share >= promise.top1 or frames - agreed <= promise.flips
    since = f" from frame {promise.settled} on" if promise.settled else ""
    points = 100 * (promise.top1 - share)
    remark = f"{points:.2f} points below" if not met else f"{frames - agreed} of {frames} frames differ"
    sentence = (
        f"{mode}: the class is the reference's in {share:.2%} of the frames{since}, promised {promise.top1:.1%} "
        f"({frames - agreed} of {frames} frames differ)"
    )
    return Check(f"{mode}: same class{since}", "share", promise.top1, share, met, remark, sentence)


def drift(mode: str, early: float | None, late: float | None, promised: float, streams: int) -> Check:
    """Growth of the rms logit error: ``late`` over ``early``; None where no stream was long enough."""
    name = f"{mode}: logit error, frames {LATE[0]}-{LATE[1]} / {EARLY[0]}-{EARLY[1]}"
    if early is None or late is None:
        return Check(name, "ratio", promised, None, None, f"not judged: it takes {LATE[1]} frames")
    measured = 1.0 if early == late == 0 else late / early if early else math.inf
    met, times = _at_most(measured, promised)
    sentence = (
        f"{mode}: the logits' rms error grows {measured:.2f} times from frames {EARLY[0]}-{EARLY[1]} to frames "
        f"{LATE[0]}-{LATE[1]}, promised {promised:.1f} at most"
    )
    return Check(name, "ratio", promised, measured, met, f"{times}, {streams} stream{'s' * (streams > 1)}", sentence)


def points_lost(float_top1: float, bundle_top1: float, clips: int, promised: float) -> Check:
    """Clip top-1 of the float network minus that of the bundle, in percentage points; below zero is no miss."""
    lost = float_top1 - bundle_top1
    sentence = (
        f"clips: top-1 is {bundle_top1:.2f} %, {lost:.2f} points below float's {float_top1:.2f} % on {clips} clips, "
        f"promised {promised} at most"
    )
    remark = f"float {float_top1:.2f} %, bundle {bundle_top1:.2f} %"
    return Check("clips: points of top-1 below float", "points", promised, lost, lost <= promised, remark, sentence)


def _at_most(measured: float, promised: float) -> tuple[bool, str]:
    # "<=" is also false of NaN.
    return measured <= promised, f"{measured / promised:.{1 if measured > promised else 2}f} times"
