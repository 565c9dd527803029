"""What was measured on a bundle, as a table, as JSON, and as sentences about what was missed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcr_edge.export.verify.phases import Curve, table_of
from lcr_edge.export.verify.remedy import Made, remedy
from lcr_edge.runtimes.checks import ONE_STEP, STREAM, Check, failures_of, finite
from lcr_edge.runtimes.tallies import Line
from lcr_edge.tolerances import Promise

if TYPE_CHECKING:
    from lcr_edge.export.verify.decisions import Clips
    from lcr_edge.export.verify.identity import Identity
    from lcr_edge.export.verify.streams import Streams

# The parts of a verification.
MODES, IDENTITY, STREAMS, VIDEO, CLIPS = "modes", "identity", "streams", "video", "clips"


@dataclass(frozen=True)
class Report:
    """What was measured on one bundle.

    one_step, stream: a :class:`Line` for each phase and one for "all" frames, stepped from the reference's state and
    from the bundle's own; the two curves are the same, frame by frame. checks: each promise about them. broken: what
    is wrong whatever the precision. identity: what does not show in errors of logits and states; None where not
    compared. streams, video, clips: long rendered streams, streams of the given video, decisions on rendered clips;
    None where not measured. sensitivity: (layer or kind of layers, what quantising it alone costs: rms error / std in
    a stream), the costliest first; empty where not measured. seconds: that each part (MODES, IDENTITY, STREAMS, VIDEO,
    CLIPS) took; not in :meth:`to_dict`, so that the same bundle gives the same JSON.
    passed: nothing was missed.
    """

    bundle: str
    engine: str
    precision: str
    made: Made
    clip: str
    frames: int
    promise: Promise
    one_step: dict[str, Line]
    stream: dict[str, Line]
    one_step_curve: Curve
    stream_curve: Curve
    checks: tuple[Check, ...]
    broken: tuple[str, ...]
    identity: Identity | None = None
    streams: Streams | None = None
    video: Streams | None = None
    clips: Clips | None = None
    sensitivity: tuple[tuple[str, float], ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def _further(self) -> dict[str, Identity | Streams | Clips]:
        """What was measured beyond the two modes, by part."""
        found = {IDENTITY: self.identity, STREAMS: self.streams, VIDEO: self.video, CLIPS: self.clips}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def parts(self) -> dict[str, tuple[tuple[Check, ...], tuple[str, ...]]]:
        """The checks of each part that was measured, and the sentences about what is broken in it."""
        found = {MODES: (self.checks, self.broken)}
        return {**found, **{name: (part.checks, part.broken) for name, part in self._further.items()}}

    @property
    def every_check(self) -> tuple[Check, ...]:
        """Those of both modes, the streams and the clips."""
        return tuple(itertools.chain(*(checks for checks, _ in self.parts.values())))

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each missed promise; empty means passed."""
        broken = itertools.chain(*(sentences for _, sentences in self.parts.values()))
        return (*broken, *failures_of(self.every_check))

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def complaint(self) -> str:
        """All failures in one sentence, and a second one with what is most likely to help."""
        return ". ".join(text for text in ("; ".join(self.failures), remedy(self)) if text)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN and Inf, which JSON lacks, become strings. Curves have at most ``phases.POINTS`` points."""
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
            "identity": None if self.identity is None else self.identity.to_dict(),
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
        """The report for people: max abs error and rms error / std by phase and tensor, agreement of the class, and
        each promise with what was measured."""
        parts = [f"{self.bundle} on {self.engine}, {self.frames} frames of {self.clip}"]
        parts += table_of(ONE_STEP, self.one_step) + table_of(STREAM, self.stream)
        parts.append("columns: max abs error, rms error / std")
        parts += [part.table() for part in self._further.values()]
        return "\n".join([*parts, *(check.line() for check in self.every_check)])
