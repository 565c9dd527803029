"""What is summed up while a bundle is stepped beside the reference: lines of a table, and errors frame by frame."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.contract import LOGITS
from lcr_edge.runtimes.tallies import TENSORS, Line, Phases, Triple, classes_agree
from lcr_edge.tolerances import EARLY, LATE

Array = npt.NDArray[np.float64]
POINTS = 200


class Mode(Phases):
    """Phases with a curve, which shows every frame."""

    def __init__(self, starts: tuple[int, ...], settled: int) -> None:
        super().__init__(starts, settled)
        self._curve = Curve(64)

    def add(self, frame: int, found: Triple, wanted: Triple) -> dict[str, float]:
        """As :meth:`Phases.add`."""
        rms = super().add(frame, found, wanted)
        self._curve.add(frame, rms, classes_agree(found, wanted))
        return rms

    def curve(self) -> Curve:
        """The errors frame by frame, with the deviations of the reference over all frames that were added."""
        tensors = self.everything().tensors
        return self._curve.with_deviation({name: tally.deviation for name, tally in tensors.items() if tally.count})


def table_of(title: str, lines: dict[str, Line]) -> list[str]:
    """Lines of text: a header and one row per phase."""
    header = "".join(f"{name:>22}" for name in TENSORS)
    rows = [f"{title:>9} {'frames':8}{header}{'top-1':>9}"]
    for phase, line in lines.items():
        cells = "".join(f"{t.max_abs:12.2e}{t.relative:10.1e}" for t in line.tensors.values())
        rows.append(f"{'':9} {phase:8}{cells}{line.top1:9.2%}")
    return rows


class Curve:
    """One mode over the frames of one or several streams.

    squared: sum of squared rms errors of each tensor, float64 [n]; agreed: sum of frames with the reference's class,
    float64 [n]; streams: how many streams had that frame, float64 [n]. deviation: standard deviation of each of the
    reference's tensors, for relative figures; NaN until :meth:`with_deviation` sets it.
    """

    def __init__(self, frames: int) -> None:
        self.squared: dict[str, Array] = {name: np.zeros(frames) for name in TENSORS}
        self.agreed: Array = np.zeros(frames)
        self.streams: Array = np.zeros(frames)
        self.deviation: dict[str, float] = dict.fromkeys(TENSORS, math.nan)

    def add(self, frame: int, rms: dict[str, float], agreed: bool) -> None:
        """Count one frame of one stream; the curve grows as needed."""
        if frame >= len(self.streams):
            room = max(frame + 1, 2 * len(self.streams))
            self.squared = {name: _grown(values, room) for name, values in self.squared.items()}
            self.agreed, self.streams = _grown(self.agreed, room), _grown(self.streams, room)
        for name, value in rms.items():
            self.squared[name][frame] += value * value
        self.agreed[frame] += agreed
        self.streams[frame] += 1

    def with_deviation(self, deviation: dict[str, float]) -> Curve:
        """This curve, no copy of its arrays, with other deviations: of the tensors that are named, NaN for others."""
        curve = copy.copy(self)
        curve.deviation = {name: deviation.get(name, math.nan) for name in TENSORS}
        return curve

    @property
    def length(self) -> int:
        """Frames of the longest stream."""
        return int(np.count_nonzero(self.streams))

    def rms(self, tensor: str) -> Array:
        """rms error by frame, over the streams, float64 [length]."""
        return np.asarray(np.sqrt(self.squared[tensor][: self.length] / self.streams[: self.length]), np.float64)

    def top1(self) -> Array:
        """Share of the streams with the reference's class, by frame, float64 [length]."""
        return np.asarray(self.agreed[: self.length] / self.streams[: self.length], np.float64)

    def window(self, tensor: str, span: tuple[int, int]) -> float | None:
        """rms error over the frames span[0] <= t < span[1] of all streams; None where none is that long."""
        if self.length < span[1]:
            return None
        part = slice(*span)
        return math.sqrt(float(self.squared[tensor][part].sum() / self.streams[part].sum()))

    def drift(self) -> tuple[float | None, float | None]:
        """rms logit error in the windows EARLY and LATE; None, None for streams that are too short."""
        late = self.window(LOGITS, LATE)
        return (None, None) if late is None else (self.window(LOGITS, EARLY), late)

    def thinned(self, points: int = POINTS) -> dict[str, Any]:
        """At most ``points`` points: frame (first of each), rms and rms_over_std per tensor, top1.

        A point is the root mean square, for top1 the mean, of its frames.
        """
        length = self.length
        starts = np.unique(np.linspace(0, length, min(points, length), endpoint=False).astype(np.int64))
        streams = np.add.reduceat(self.streams[:length], starts)

        def mean(values: Array) -> Array:
            return np.asarray(np.add.reduceat(values[:length], starts) / streams, np.float64)

        rms = {name: np.sqrt(mean(values)) for name, values in self.squared.items()}
        return {
            "frame": starts.tolist(),
            "rms": {name: _short(values) for name, values in rms.items()},
            "rms_over_std": {name: _short(values / max(self.deviation[name], 1e-30)) for name, values in rms.items()},
            "top1": _short(mean(self.agreed)),
        }


def _grown(values: Array, room: int) -> Array:
    return np.concatenate([values, np.zeros(room - len(values))])


def _short(values: Array) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
