"""A cell that rounds its products' inputs as the plan says, against the formula written out in NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.calibration.simulate import simulate
from lcr_edge.model.step_cell import StepCell
from tests.export import made

PICO, NAME = "lcr_pico", "layers.0.rg"


def _linear(plan: Plan, **how: bool) -> torch.nn.Linear:
    return simulate(StepCell(made.checkpoint(PICO).model).eval(), plan, **how).linears()[NAME]


def _x(linear: torch.nn.Linear) -> torch.Tensor:
    random = np.random.default_rng(3)
    rows = random.normal(size=(17, linear.in_features)) * random.uniform(0.1, 4, size=(17, 1))
    return torch.from_numpy(rows.astype(np.float32))


def _plan(mode: str, activations: str = "u8", **more: object) -> Plan:
    plan = Plan(mode, activations, (NAME,), {NAME: (-3.0, 5.0)}, outputs={NAME: (-0.5, 0.25)})
    return dataclasses.replace(plan, **more)  # type: ignore[arg-type]


def _on_grid(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale)


def _expected(linear: torch.nn.Linear, x: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return torch.nn.functional.linear(torch.from_numpy(x.astype(np.float32)), linear.weight, linear.bias)


def test_static_rounds_to_the_plans_grid_and_clips() -> None:
    linear = _linear(_plan("static"))
    x = _x(linear)
    wanted = _on_grid(x.numpy().astype(np.float64), np.array(-3.0), np.array(5.0))
    assert wanted.min() >= -3.02
    assert wanted.max() <= 5.0
    assert x.max() > 5.02
    torch.testing.assert_close(linear(x), _expected(linear, wanted))


def test_symmetric_activations_leave_the_lowest_step_unused() -> None:
    linear = _linear(_plan("static", "s8"))
    x = _x(linear)
    wanted = np.clip(np.rint(x.numpy() / (5 / 127)), -127, 127) * (5 / 127)
    torch.testing.assert_close(linear(x), _expected(linear, wanted))


@pytest.mark.parametrize("per_row", [False, True])
def test_dynamic_finds_the_range_of_the_step_or_of_each_token(per_row: bool) -> None:
    linear = _linear(_plan("dynamic"), per_row=per_row)
    x = _x(linear)
    exact = x.numpy().astype(np.float64)
    axis = 1 if per_row else None
    wanted = _on_grid(exact, exact.min(axis=axis, keepdims=True), exact.max(axis=axis, keepdims=True))
    torch.testing.assert_close(linear(x), _expected(linear, wanted))


def test_outputs_are_rounded_where_the_engine_does_that() -> None:
    linear = _linear(_plan("static"), outputs=True)
    x = _x(linear)
    inner = _expected(linear, _on_grid(x.numpy().astype(np.float64), np.array(-3.0), np.array(5.0)))
    wanted = _on_grid(inner.numpy().astype(np.float64), np.array(-0.5), np.array(0.25))
    torch.testing.assert_close(linear(x), torch.from_numpy(wanted.astype(np.float32)))


@pytest.mark.parametrize(
    "plan", [_plan("weight-only"), _plan("static", float_layers=(NAME,)), _plan("static", layers=())]
)
def test_products_in_float_are_left_alone(plan: Plan) -> None:
    linear = _linear(plan)
    x = _x(linear)
    assert torch.equal(linear(x), _expected(linear, x.numpy()))
