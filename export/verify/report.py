"""What was measured of a bundle, as a table, as JSON, and as sentences about what was missed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcr_edge.export.verify.phases import Curve, table_of
from lcr_edge.runtimes.checks import ONE_STEP, STREAM, Check, failures_of, finite
from lcr_edge.runtimes.tallies import Line
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.export.verify.decisions import Clips
    from lcr_edge.export.verify.streams import Streams

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
        return (*self.broken, *broken, *failures_of(self.every_check))

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
        written: dict[str, Any] = finite(values)
        return written

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
