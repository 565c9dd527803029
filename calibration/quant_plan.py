"""What an int8 export quantises and with which ranges: made once from calibration samples, read by every converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# static: weights and activations in int8, ranges fixed by calibration. dynamic: the engine finds the range of an
# activation at every step. weight-only: int8 in the file, float arithmetic.
QUANT_MODES = ("static", "dynamic", "weight-only")
# u8: asymmetric, zero always exact. s8: symmetric, zero point 0, as TensorRT wants it.
ACTIVATIONS = ("u8", "s8")
# An empty range has no scale.
SMALLEST_RANGE = 1e-6


@dataclass(frozen=True)
class Plan:
    """Which linear layers of the step cell become int8, and how.

    mode: one of QUANT_MODES. activations: one of ACTIVATIONS, for static mode. layers: names relative to
    ``model.step_cell.StepCell`` ("layers.0.rg", "classify"), whose weights become int8; others stay as they are.
    float_layers: those among them that still compute in float, as in weight-only mode. ranges: (smallest, largest)
    value of a layer's input that its scale has to cover, for static mode; values outside are clipped. outputs: the
    same for its output, bias included, for engines that quantise that too.
    """

    mode: str
    activations: str
    layers: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    float_layers: tuple[str, ...] = ()
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def mode_of(self, layer: str) -> str:
        """How one layer is quantised: the plan's mode, or weight-only."""
        return "weight-only" if layer in self.float_layers else self.mode

    def scale(self, layer: str) -> tuple[float, int]:
        """Scale and zero point of the layer's input: q = round(x / scale) + zero_point, in 0..255 or -127..127."""
        low, high = self.ranges[layer]
        if self.activations == "s8":
            return max(abs(low), abs(high), SMALLEST_RANGE) / 127.0, 0
        return grid_of(low, high)


def grid_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of 256 steps that cover the values from ``low`` to ``high``, and zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0, min(low, 0.0) + SMALLEST_RANGE)
    scale = (high - low) / 255.0
    return scale, round(-low / scale)
