"""The int8 step in C: to the bit what the NumPy reference computes, with every instruction set that is there."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.calibration.prepare import Prepared, prepare
from lcr_edge.export.int8.layers import in_float
from lcr_edge.export.targets.c_convert import weights_of
from lcr_edge.export.verify.clips import stream
from lcr_edge.model.step_cell import StepCell
from tests.c.int8_reference import Int8Reference
from tests.c.step_library import OK, Options, step
from tests.export import made

CASES = (("static", "u8"), ("static", "s8"), ("dynamic", "u8"), ("weight-only", "u8"))


def _prepared(name: str, quant: str, activations: str) -> Prepared:
    cell = StepCell(made.checkpoint(name).model)
    return prepare(cell, made.samples(name), quant, activations, in_float(tuple(cell.linears()), quant))


@pytest.fixture(scope="module")
def few() -> Any:
    return list(stream(None, made.checkpoint("lcr_pico"), 4))


@pytest.mark.slow
@pytest.mark.parametrize(("quant", "activations"), CASES)
@pytest.mark.parametrize("plain", [0, 1])
def test_equal_to_the_reference(c: Any, few: Any, quant: str, activations: str, plain: int, tmp_path: Path) -> None:
    found = _prepared("lcr_pico", quant, activations)
    network = made.checkpoint("lcr_pico")
    path, model = tmp_path / "weights", ctypes.c_void_p()
    path.write_bytes(weights_of(found.cell, network.labels, network.fit, found.plan))
    assert c.lcr_open(str(path).encode(), ctypes.byref(Options(1, plain)), ctypes.byref(model)) == OK
    reference = Int8Reference(found.cell, found.plan)
    state = np.zeros((2, *network.config.state_shape), np.float32)
    for frame in few:
        after, logits = np.empty_like(state), np.empty(network.config.classes, np.float32)
        assert step(c, model, frame, state, after, logits) == OK
        wanted, h, cell_state = reference.step(frame, *state)
        assert np.array_equal(after[0], h)
        assert np.array_equal(after[1], cell_state)
        assert np.array_equal(logits, wanted)
        state = after
    c.lcr_close(model)
