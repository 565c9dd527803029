"""Running sums of errors over frames, so that no frame has to be kept; used by both selftest and verify."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import LOGITS, STATE_NAMES

Floats = npt.NDArray[np.float32]
# Logits [classes] and the states after the frame, state_h and state_c [L, N+1, C].
Triple = tuple[Floats, Floats, Floats]
TENSORS = (LOGITS, *STATE_NAMES)
EVERYTHING = "all"  # the name of the line over all frames


@dataclass
class Tally:
    """Errors of one tensor over some frames, as running sums so that no frame has to be kept."""

    max_abs: float = 0.0
    squared_error: float = 0.0
    total: float = 0.0
    squared: float = 0.0
    count: int = 0

    def add(self, found: Floats, reference: Floats) -> float:
        """Count one frame. Returns its rms error."""
        exact = reference.astype(np.float64)
        error = np.abs(found - exact)
        # numpy's maximum keeps a NaN, Python's may drop it.
        self.max_abs = float(np.maximum(self.max_abs, error.max()))
        squared_error = float((error * error).sum())
        self.squared_error += squared_error
        self.total += float(exact.sum())
        self.squared += float((exact * exact).sum())
        self.count += exact.size
        return math.sqrt(squared_error / exact.size)

    def join(self, other: Tally) -> None:
        """Count another tally's frames too."""
        self.max_abs = float(np.maximum(self.max_abs, other.max_abs))
        self.squared_error += other.squared_error
        self.total += other.total
        self.squared += other.squared
        self.count += other.count

    @property
    def deviation(self) -> float:
        """Standard deviation of the reference."""
        return math.sqrt(max(self.squared / self.count - (self.total / self.count) ** 2, 0.0))

    @property
    def relative(self) -> float:
        """rms error / standard deviation of the reference."""
        return math.sqrt(self.squared_error / self.count) / max(self.deviation, 1e-30)


@dataclass
class Line:
    """One phase in one mode: one tally per tensor, and how often the class matched the reference."""

    tensors: dict[str, Tally] = dataclasses.field(default_factory=lambda: {name: Tally() for name in TENSORS})
    frames: int = 0
    agreed: int = 0

    def add(self, found: Triple, wanted: Triple) -> dict[str, float]:
        """Count one frame's (logits, state_h, state_c). Returns the rms error of each tensor."""
        self.frames += 1
        self.agreed += classes_agree(found, wanted)
        return {name: tally.add(have, want) for (name, tally), have, want in zip(self.tensors.items(), found, wanted)}

    def join(self, other: Line) -> None:
        """Count another line's frames too."""
        self.frames += other.frames
        self.agreed += other.agreed
        for name, tally in other.tensors.items():
            self.tensors[name].join(tally)

    @property
    def top1(self) -> float:
        return self.agreed / self.frames

    def to_dict(self) -> dict[str, Any]:
        errors = {
            name: {"max_abs": tally.max_abs, "rms_over_std": tally.relative} for name, tally in self.tensors.items()
        }
        return {"frames": self.frames, "top1": self.top1, **errors}


class Phases:
    """A mode of stepping (one step, or a stream): one :class:`Line` per phase of its streams.

    starts: first frames of the phases, rising from 0. settled: one of them; averages are judged from there on.
    Raises ValueError if no phase starts at ``settled``.
    """

    def __init__(self, starts: tuple[int, ...], settled: int) -> None:
        if settled not in starts:
            raise ValueError(f"no phase starts at frame {settled}: {starts}")
        self._phases = [(first, _span(first, end)) for first, end in zip(starts, (*starts[1:], None))]
        self._settled = settled
        self._lines: dict[int, Line] = {}

    def add(self, frame: int, found: Triple, wanted: Triple) -> dict[str, float]:
        """Count frame number ``frame`` of its stream. Returns the rms error of each tensor."""
        return self._lines.setdefault(self._phase(frame), Line()).add(found, wanted)

    def add_logits(self, frame: int, found: Floats, wanted: Floats) -> None:
        """Count further logits for a frame already added: they say nothing about the states."""
        self._lines[self._phase(frame)].tensors[LOGITS].add(found, wanted)

    def judged(self) -> Line:
        """The line over the frames that averages count: those from ``settled`` on."""
        return self._joined(self._settled)

    def everything(self) -> Line:
        """The line over all frames."""
        return self._joined(0)

    def lines(self) -> dict[str, Line]:
        """Phase -> line, in order; then the judged frames if those are not all; then all frames."""
        named = {name: self._lines[first] for first, name in self._phases if first in self._lines}
        if self._settled:
            named[f"from {self._settled}"] = self.judged()
        named[EVERYTHING] = self.everything()
        return {name: line for name, line in named.items() if line.frames}

    def _phase(self, frame: int) -> int:
        return next(first for first, _ in reversed(self._phases) if frame >= first)

    def _joined(self, first: int) -> Line:
        line = Line()
        for start, part in self._lines.items():
            if start >= first:
                line.join(part)
        return line


def _span(first: int, end: int | None) -> str:
    if end is None:
        return f"{first}-"
    return str(first) if end == first + 1 else f"{first}-{end - 1}"


def classes_agree(found: Triple, wanted: Triple) -> bool:
    """Whether the largest logit is the same one as in the reference."""
    return bool(found[0].argmax() == wanted[0].argmax())
