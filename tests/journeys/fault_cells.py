"""Faults in the cell, or in the plan, after preparation and before conversion: the export records what they made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.model.step_cell import StepCell

Changed = tuple[StepCell, "Plan | None"]
PRODUCT = "layers.1.mix_in"
# x * (2^k + 1) - (x * (2^k + 1) - x) keeps 24 - k bits of a float32's mantissa.
_BF16, _FP16 = 2.0**16 + 1, 2.0**13 + 1


class _Rounded(nn.Module):
    """A product whose inputs, if asked, and results keep fewer bits."""

    def __init__(self, linear: nn.Linear, split: float, inputs: bool) -> None:
        super().__init__()
        self.linear, self.split, self.inputs = linear, split, inputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self._short(x) if self.inputs else x)
        return self._short(y)

    def _short(self, x: Tensor) -> Tensor:
        wide = x * self.split
        return wide - (wide - x)


class _Skipped(nn.Module):
    """A layer that hands on what it gets, as its output and as both states."""

    def forward(self, x: Tensor, e: Tensor, forget: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return x + 0 * h, x + 0 * c


def _with_products(cell: StepCell, split: float, inputs: bool) -> StepCell:
    for name, linear in cell.linears().items():
        if inputs:
            linear.weight.copy_(linear.weight.bfloat16().float())
        owner, _, short = name.rpartition(".")
        parent = cell.get_submodule(owner)
        setattr(parent, short, _Rounded(linear, split, inputs))
    return cell


def _skip(cell: StepCell, plan: Plan | None) -> Changed:
    cell.layers[2] = _Skipped()
    return cell, plan


def _bf16(cell: StepCell, plan: Plan | None) -> Changed:
    return _with_products(cell, _BF16, True), plan


def _fp16(cell: StepCell, plan: Plan | None) -> Changed:
    return _with_products(cell, _FP16, False), plan


def _off_grid(cell: StepCell, plan: Plan | None) -> Changed:
    """A constant factor of the input's channels moved into the weights, and not taken out again elsewhere."""
    weight = cell.linears()[PRODUCT].weight
    weight.mul_(1 + 0.05 * torch.linspace(-1, 1, weight.shape[1]))
    return cell, plan


def _halved(cell: StepCell, plan: Plan | None) -> Changed:
    assert plan is not None
    low, high = plan.ranges[PRODUCT]
    return cell, dataclasses.replace(plan, ranges={**plan.ranges, PRODUCT: (low / 2, high / 2)})


CELLS: dict[str, Callable[[StepCell, Plan | None], Changed]] = {
    "one layer skipped": _skip,
    "bf16 arithmetic": _bf16,
    "products rounded to fp16": _fp16,
    "weights off their grid": _off_grid,
    "range of one product halved in the plan": _halved,
}
