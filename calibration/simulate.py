"""A prepared cell that rounds as an int8 engine is meant to, in PyTorch: what the plan says, without an engine.

The weights lie on their grid already. Here the inputs of the products are rounded too, x -> s * (clamp(round(x / s) +
z, 0, 255) - z), with scale s and zero point z from the plan (static) or from x itself (dynamic).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lcr_edge.calibration.quant_plan import SMALLEST_RANGE, Plan, grid_of

if TYPE_CHECKING:
    from lcr_edge.model.step_cell import StepCell

_LOGITS = "classify"  # no engine rounds what this product gives


def simulate(cell: StepCell, plan: Plan, *, per_row: bool = False, outputs: bool = False) -> StepCell:
    """A copy of a prepared cell whose products round their inputs by ``plan``; in float32, as the cell.

    per_row: dynamic mode finds a scale for each token, not one for all. outputs: static products round their outputs
    too, except that of the logits, which is dynamic then.
    """
    result = copy.deepcopy(cell)
    for name, linear in result.linears().items():
        mode = plan.mode_of(name) if name in plan.layers else "weight-only"
        if mode == "static" and outputs and name == _LOGITS:
            mode = "dynamic"
        if mode == "static":
            linear.register_forward_pre_hook(_fixed(*plan.scale(name), symmetric=plan.activations == "s8"))
            if outputs:
                linear.register_forward_hook(_result(*grid_of(*plan.outputs[name])))
        elif mode == "dynamic":
            linear.register_forward_pre_hook(_own(per_row))
    return result


def _rounded(x: Tensor, scale: Tensor | float, zero: Tensor | float, symmetric: bool = False) -> Tensor:
    low, high = (-127.0, 127.0) if symmetric else (-zero, 255.0 - zero)
    steps = (x / scale).round()
    return torch.minimum(torch.maximum(steps, _tensor(low, x)), _tensor(high, x)) * scale


def _tensor(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype)


def _fixed(scale: float, zero: int, symmetric: bool) -> Any:
    return lambda _, inputs: (_rounded(inputs[0], scale, zero, symmetric),)


def _result(scale: float, zero: int) -> Any:
    return lambda _, __, y: _rounded(y, scale, zero)


def _own(per_row: bool) -> Any:
    def rounded(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        x = inputs[0]
        low, high = (x.amin(1, keepdim=True), x.amax(1, keepdim=True)) if per_row else (x.min(), x.max())
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low).clamp(min=SMALLEST_RANGE) / 255.0
        return (_rounded(x, scale, (-low / scale).round()),)

    return rounded
