"""A cell made ready for int8: on its grid, near the float cell, the same each time; and what the products read."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from lcr_edge.calibration.observe import observe, ranges
from lcr_edge.calibration.prepare import Prepared, check_ranges, prepare
from lcr_edge.calibration.quant_plan import QUANT_MODES
from lcr_edge.calibration.rounding import round_to_grid
from lcr_edge.calibration.samples import Samples
from lcr_edge.errors import CalibrationError
from lcr_edge.model.step_cell import StepCell
from tests.export import made

PICO = "lcr_pico"


@functools.cache
def _cell() -> StepCell:
    return StepCell(made.checkpoint(PICO).model).eval()


@functools.cache
def _samples() -> Samples:
    return made.samples(PICO)


def _prepared(mode: str, float_layers: tuple[str, ...] = (), layers: tuple[str, ...] | None = None) -> Prepared:
    return prepare(_cell(), _samples(), mode, "u8", float_layers, layers)


def _step(cell: StepCell, index: int) -> list[torch.Tensor]:
    feeds = [torch.from_numpy(array) for array in _samples().feeds(index).values()]
    with torch.no_grad():
        return list(cell.step(*feeds))


@pytest.mark.parametrize(
    "mode", [*(pytest.param(mode, marks=pytest.mark.slow) for mode in QUANT_MODES[:-1]), QUANT_MODES[-1]]
)
def test_weights_lie_on_their_grid_and_the_step_stays_near(mode: str) -> None:
    before = {name: linear.weight.clone() for name, linear in _cell().linears().items()}
    found = _prepared(mode, float_layers=("classify",))
    for linear in found.cell.linears().values():
        torch.testing.assert_close(round_to_grid(linear.weight), linear.weight)
    names = tuple(before)
    assert found.plan.layers == names
    assert found.plan.float_layers == (("classify",) if mode != "weight-only" else ())
    assert set(found.plan.ranges) == (set(names) - {"classify"} if mode == "static" else set())
    assert set(found.plan.outputs) == (set(names) if mode == "static" else set())
    assert all(torch.equal(linear.weight, before[name]) for name, linear in _cell().linears().items())
    again = _prepared(mode, float_layers=("classify",))
    assert again.plan == found.plan
    assert all(torch.equal(a, b) for a, b in zip(found.cell.state_dict().values(), again.cell.state_dict().values()))


def test_rounding_for_the_inputs_errs_less_than_the_nearest_grid_points() -> None:
    nearest = StepCell(made.checkpoint(PICO).model).eval()
    with torch.no_grad():
        for linear in nearest.linears().values():
            linear.weight.copy_(round_to_grid(linear.weight))
    better = _prepared("dynamic").cell
    errors = []
    for cell in (better, nearest):
        parts = [a - b for index in range(len(_samples())) for a, b in zip(_step(cell, index), _step(_cell(), index))]
        errors.append(sum(float(part.double().square().mean()) for part in parts))
    assert 0 < errors[0] < errors[1]


def test_products_that_are_left_out_stay_themselves() -> None:
    found = _prepared("static", layers=("layers.1.mix_in",))
    assert found.plan.layers == ("layers.1.mix_in",)
    for name, linear in _cell().linears().items():
        assert torch.equal(found.cell.linears()[name].weight, linear.weight) == (name != "layers.1.mix_in")


def test_ranges_hold_all_that_was_read_and_written() -> None:
    seen, wrote = observe(_cell(), _samples()), ranges(_cell(), _samples())[1]
    read: dict[str, list[np.ndarray]] = {name: [] for name in seen}
    handles = [
        linear.register_forward_pre_hook(lambda _, x, name=name: read[name].append(x[0].numpy().copy()))
        for name, linear in _cell().linears().items()
    ]
    try:
        for index in range(len(_samples())):
            _step(_cell(), index)
    finally:
        for handle in handles:
            handle.remove()
    for name, parts in read.items():
        x = np.concatenate(parts)
        np.testing.assert_array_equal(seen[name].low, x.min(axis=0))
        np.testing.assert_array_equal(seen[name].high, x.max(axis=0))
        assert seen[name].range == (x.min(), x.max())
        linear = _cell().linears()[name]
        y = torch.nn.functional.linear(torch.from_numpy(x), linear.weight, linear.bias).detach()
        torch.testing.assert_close(torch.tensor(wrote[name]), torch.stack([y.min(), y.max()]))
        # Rows are rows that were read.
        rows = {row.tobytes() for row in x}
        assert all(row.numpy().tobytes() in rows for row in seen[name].rows[:5])


def test_a_product_that_reads_nan_is_named() -> None:
    state = _samples().state_h.copy()
    state[3, 1] = np.nan
    with pytest.raises(CalibrationError, match=r"layers\.1\.rg receives NaN or Inf"):
        observe(_cell(), dataclasses.replace(_samples(), state_h=state))


@pytest.mark.slow
def test_ranges_that_are_not_those_of_the_samples_are_refused() -> None:
    found = _prepared("static")
    check_ranges(found.cell, found.plan, _samples())
    name = "layers.1.mix_in"
    low, high = found.plan.ranges[name]
    for wrong in ((low / 2, high / 2), (2 * low, high), (low, float("nan"))):
        plan = dataclasses.replace(found.plan, ranges={**found.plan.ranges, name: wrong})
        with pytest.raises(CalibrationError, match=f"for {name}, which reads"):
            check_ranges(found.cell, plan, _samples())
    check_ranges(found.cell, dataclasses.replace(found.plan, ranges={}), _samples())
