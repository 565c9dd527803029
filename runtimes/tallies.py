"""Errors summed up over frames, so that no frame need be kept: what selftest and verify count with."""

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


@dataclass
class Tally:
    """Errors of one tensor over some frames, summed up so that no frame need be kept."""

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
    """One phase in one mode: a tally per tensor, and how often the class was that of the reference."""

    tensors: dict[str, Tally] = dataclasses.field(default_factory=lambda: {name: Tally() for name in TENSORS})
    frames: int = 0
    agreed: int = 0

    def add(self, found: Triple, wanted: Triple) -> dict[str, float]:
        """Count one frame's (logits, state_h, state_c). Returns the rms error of each tensor."""
        self.frames += 1
        self.agreed += same_class(found, wanted)
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


def same_class(found: Triple, wanted: Triple) -> bool:
    """Whether the largest logit is that of the reference."""
    return bool(found[0].argmax() == wanted[0].argmax())
