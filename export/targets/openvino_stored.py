"""How an int8 OpenVINO model stores a product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.openvino_int8 import WEIGHT, input_ends
from lcr_edge.export.targets.stored import F32, Stored
from lcr_edge.runtimes.openvino_engine import core


def wanted(name: str, weight: F32, bias: F32 | None, plan: Plan) -> Stored:
    """What the file should have for a prepared product: weight [out, in], bias [out]."""
    steps, scale = quantise_weight(weight)
    # Where a layer of another plan computes in float, the file has the factors that divide.
    scale = scale if plan.mode_of(name) == plan.mode else np.asarray(1 / scale, np.float32)
    return Stored(steps, scale, input_ends(plan, name) if plan.mode_of(name) == "static" else (), bias)


def read(path: Path) -> dict[str, Stored]:
    """The products of a model with int8 weights, by name."""
    model: Any = core().read_model(str(path))
    found = {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "Constant" and name.endswith(WEIGHT) and node.data.dtype == np.int8:
            found[name.removesuffix(WEIGHT)] = _product(node)
    return found


def _product(constant: Any) -> Stored:
    convert = _reader(constant)
    scaled = _reader(convert)
    matmul = _reader(scaled)
    source = matmul.input_value(0).get_node()
    grid: tuple[float, ...] = ()
    if source.get_type_name() == "FakeQuantize":
        ends = [float(source.input_value(index).get_node().data.reshape(-1)[0]) for index in range(1, 5)]
        # Into the grid and out of it by the same ends; otherwise all four, which no prepared product has.
        grid = (*(ends[:2] if ends[:2] == ends[2:] else ends), float(source.get_attributes()["levels"]))
    scale = scaled.input_value(1).get_node().data.reshape(-1)
    return Stored(constant.data.copy(), scale.copy(), grid, _added(matmul))


def _added(matmul: Any) -> F32 | None:
    """The constant that the only reader of a product adds to it."""
    readers = list(matmul.output(0).get_target_inputs())
    node = readers[0].get_node() if len(readers) == 1 else None
    if node is None or node.get_type_name() != "Add":
        return None
    other = node.input_value(1 - readers[0].get_index()).get_node()
    return other.data.reshape(-1).copy() if other.get_type_name() == "Constant" else None


def _reader(node: Any) -> Any:
    (reader,) = node.output(0).get_target_inputs()
    return reader.get_node()
