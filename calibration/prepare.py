"""Prepares a step cell for int8 from calibration samples, in the same way for every engine.

1. Equalise: the channels that a product reads get similar sizes, by factors that move into its weights (SmoothQuant,
   arXiv 2211.10438); in float nothing changes.
2. Round the weights to their int8 grid so that errors cancel on the inputs that were seen (``rounding``).
3. Static quantisation: an input's range covers every value seen. Clipping (to the range of least squared error, or
   percentiles) is better on rendered clips and worse on real video, whose values go further.
4. Correct the biases by the mean of the remaining error.

A quantiser that then uses max|w| / 127 as a channel's scale finds the weights on the grid and changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lcr_edge.calibration.observe import Inputs, observe, ranges
from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.rounding import round_for_inputs
from lcr_edge.errors import CalibrationError

if TYPE_CHECKING:
    from lcr_edge.calibration.samples import Samples
    from lcr_edge.model.step_cell import StepCell

# Share of the size difference between channels that moves into the weights; more would leave no room for scenes that
# calibration did not see.
EQUALISE = 0.5
# No channel is scaled, up or down, by more than this relative to the others.
_MOST = 16.0
# Of a planned range: by how much an end of it may differ from what is read afterwards.
_SLACK = 0.1


@dataclass(frozen=True)
class Prepared:
    """cell: float32, with the quantised products' weights on their int8 grid. plan: for the converters."""

    cell: StepCell
    plan: Plan


def prepare(
    cell: StepCell,
    samples: Samples,
    mode: str,
    activations: str,
    float_layers: Collection[str] = (),
    layers: Collection[str] | None = None,
    seen: Mapping[str, Inputs] | None = None,
) -> Prepared:
    """A copy of the cell for int8 and the plan to quantise it by.

    mode, activations, float_layers: see :class:`Plan`. layers: names of products, all by default; the others are left
    unchanged. seen: the result of ``observe(cell, samples)``, if already known. The cell itself is not modified.
    Deterministic. Raises CalibrationError for NaN, naming the product.
    """
    inputs = dict(observe(cell, samples) if seen is None else seen)
    result = copy.deepcopy(cell)
    names = [name for name in result.linears() if layers is None or name in layers]
    computing = [name for name in names if mode != "weight-only" and name not in float_layers]
    planned: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for name in computing:
            scale = _channel_scale(inputs[name], result.linears()[name].weight)
            if result.equalise(name, scale):
                inputs[name] = inputs[name].divided(scale)
        for name in names:
            linear = result.linears()[name]
            exact = linear.weight.double()
            rounded = round_for_inputs(exact, inputs[name].rows)
            if mode == "static" and name in computing:
                planned[name] = inputs[name].range
            missing = (exact - rounded) @ inputs[name].rows.double().mean(dim=0)
            linear.weight.copy_(rounded)
            _add_bias(linear, missing)
    stored = tuple(name for name in names if name in float_layers) if mode != "weight-only" else ()
    outputs = ranges(result, samples)[1] if mode == "static" else {}
    return Prepared(result, Plan(mode, activations, tuple(names), planned, stored, outputs))


def check_ranges(cell: StepCell, plan: Plan, samples: Samples) -> None:
    """Whether the plan's ranges are those of what a prepared cell reads on the samples. Raises CalibrationError.

    The other products' rounded weights move what a product reads a little, so a tenth is allowed.
    """
    if not plan.ranges:
        return
    seen, _ = ranges(cell, samples)
    for name, planned in plan.ranges.items():
        (low, high), slack = seen[name], _SLACK * (planned[1] - planned[0])
        if not (abs(low - planned[0]) <= slack and abs(high - planned[1]) <= slack):
            raise CalibrationError(
                f"the plan has the range {planned[0]:.3g} to {planned[1]:.3g} for {name}, which reads {low:.3g} to "
                f"{high:.3g} on the calibration samples: report it, or leave the layer in float with --keep-float"
            )


def _channel_scale(inputs: Inputs, weight: Tensor) -> Tensor:
    """Factors, float64 [in] with geometric mean 1, that balance the sizes of the inputs and of weight [out, in]."""
    size = torch.maximum(inputs.high, -inputs.low).double().clamp(min=1e-4)
    column = weight.double().abs().amax(dim=0).clamp(min=1e-6)
    scale = size**EQUALISE / column ** (1.0 - EQUALISE)
    return (scale / scale.log().mean().exp()).clamp(1.0 / _MOST, _MOST)


def _add_bias(linear: nn.Linear, value: Tensor) -> None:
    bias: Tensor | None = linear.bias
    if bias is None:
        linear.bias = nn.Parameter(value.to(linear.weight.dtype), requires_grad=False)
    else:
        bias.copy_(bias.double() + value)
