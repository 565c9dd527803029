"""Weights on their int8 grid: exactly on it, and better than the nearest points where inputs go together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcr_edge.calibration.rounding import LEVELS, grid_scale, round_for_inputs, round_to_grid
from lcr_edge.tolerances import ROUNDING_GAIN


def _weight(rows: int = 12, columns: int = 40) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _correlated(columns: int = 40, rank: int = 5) -> Tensor:
    """Inputs of a few causes and a mean, as neighbouring tokens have: float32 [rows, columns]."""
    draw = torch.Generator().manual_seed(2)
    causes = torch.randn(2000, rank, generator=draw) @ torch.randn(rank, columns, generator=draw)
    return causes + 0.1 * torch.randn(2000, columns, generator=draw) + torch.randn(columns, generator=draw)


def _independent(columns: int = 40) -> Tensor:
    return torch.randn(2000, columns, generator=torch.Generator().manual_seed(3))


def _steps(rounded: Tensor, weight: Tensor) -> Tensor:
    """Whole numbers of grid steps, and an error where they are none."""
    steps = rounded / grid_scale(weight).double()[:, None]
    torch.testing.assert_close(steps, steps.round())
    return steps.round()


def _error(weight: Tensor, rounded: Tensor, inputs: Tensor) -> float:
    return float(((weight - rounded) @ inputs.double().T).square().mean().sqrt())


@pytest.mark.parametrize("inputs", [_correlated(), _independent(), torch.zeros(10, 40)])
def test_results_lie_on_the_grid_of_each_channel(inputs: Tensor) -> None:
    weight = _weight() * torch.logspace(-8, 3, 12, dtype=torch.float64)[:, None]
    rounded = round_for_inputs(weight, inputs)
    assert rounded.dtype == torch.float64
    steps = _steps(rounded, weight)
    assert float(steps.abs().max()) == LEVELS
    # The largest weight of each channel stays there, with its sign: whoever looks at the result finds this very grid.
    largest = weight.abs().argmax(dim=1, keepdim=True)
    assert (steps.gather(1, largest) == LEVELS * weight.gather(1, largest).sign()).all()
    torch.testing.assert_close(grid_scale(rounded), grid_scale(weight))


def test_a_second_rounding_changes_nothing() -> None:
    rounded = round_for_inputs(_weight(), _correlated()).float()
    torch.testing.assert_close(round_to_grid(rounded), rounded)
    assert (_steps(round_to_grid(rounded).double(), rounded) == _steps(rounded.double(), _weight())).all()


def test_errors_cancel_where_inputs_go_together() -> None:
    weight, inputs = _weight(), _correlated()
    nearest, better = round_to_grid(weight), round_for_inputs(weight, inputs)
    assert _error(weight, better, inputs) * ROUNDING_GAIN < _error(weight, nearest, inputs)
    # And on inputs of the same kind that it did not see.
    seen, unseen = inputs[::2], inputs[1::2]
    assert _error(weight, round_for_inputs(weight, seen), unseen) * ROUNDING_GAIN < _error(weight, nearest, unseen)


def test_independent_inputs_leave_nothing_to_gain() -> None:
    """Uncorrelated, of mean zero and one size: the nearest points are the best ones."""
    weight = _weight()
    inputs = torch.cat([torch.eye(40), -torch.eye(40)])
    torch.testing.assert_close(round_for_inputs(weight, inputs), round_to_grid(weight))


def test_channels_and_inputs_of_zeros() -> None:
    weight, inputs = _weight(), _correlated()
    weight[::3] = 0.0
    weight[:, 4] = 0.0
    inputs[:, 7] = 0.0
    rounded = round_for_inputs(weight, inputs)
    assert bool(torch.isfinite(rounded).all())
    assert not rounded[::3].any()
    assert (grid_scale(weight)[::3] == 1).all()
    # An input that is never there takes part in nothing: its weights go to the nearest points, to keep what they mean.
    held = weight.abs().argmax(dim=1) != 7
    torch.testing.assert_close(rounded[held, 7], round_to_grid(weight)[held, 7])


def test_the_same_bits_each_time_and_arguments_let_alone() -> None:
    weight, inputs = _weight(), _correlated()
    kept = weight.clone(), inputs.clone()
    first, second = round_for_inputs(weight, inputs), round_for_inputs(weight, inputs)
    assert torch.equal(first, second)
    assert torch.equal(weight, kept[0])
    assert torch.equal(inputs, kept[1])


def test_float32_weights_are_rounded_as_exactly() -> None:
    weight = _weight().float()
    assert torch.equal(round_for_inputs(weight, _correlated()), round_for_inputs(weight.double(), _correlated()))
