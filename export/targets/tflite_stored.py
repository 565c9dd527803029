"""How an int8 TFLite file stores a product."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.stored import F32, Stored
from lcr_edge.export.targets.tflite_file import array, builtin, schema_of, text
from lcr_edge.export.targets.tflite_file import read as read_model
from lcr_edge.export.targets.tflite_int8 import usable_range, weight_ends

_WEIGHT = ".weight"
_LAST = "classify"  # writes the logits, and is dynamic where the others are static


def wanted(name: str, weight: F32, bias: F32 | None, plan: Plan) -> Stored:
    """What the file should have for a prepared product: weight [out, in], bias [out]."""
    steps, scale = quantise_weight(weight)
    mode = plan.mode_of(name)
    if mode == "static" and name != _LAST:
        largest = weight_ends(weight, bias, usable_range(plan.ranges, name, "input"), plan.activations)
        if (largest[:, 0] > np.abs(weight).max(axis=1)).any():
            scale = (largest[:, 0] / np.float32(127)).astype(np.float32)
            steps = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
        results = dataclasses.replace(plan, ranges=plan.outputs)
        return Stored(steps, scale, (*_grid(plan, name), *_grid(results, name)))
    if mode != "weight-only" and bias is not None:
        bias = (bias / scale).astype(np.float32)  # added before the scale is applied
    return Stored(steps, scale, (), bias)


def _grid(plan: Plan, name: str) -> tuple[float, float]:
    """Scale and zero point; "u8" is int8 in the file."""
    scale, zero = plan.scale(name)
    return float(np.float32(scale)), float(zero - 128 if plan.activations == "u8" else zero)


def read(path: Path) -> dict[str, Stored]:
    """The products of a file with int8 weights, by name."""
    model, schema = read_model(path.read_bytes()), schema_of()
    graph = model.subgraphs[0]
    tensors = graph.tensors
    made_by = {operator.outputs[0]: operator for operator in graph.operators}
    found = {}
    for operator in graph.operators:
        if builtin(model, operator) != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        source = made_by.get(operator.inputs[1])  # a DEQUANTIZE where the arithmetic is in float
        index = operator.inputs[1] if source is None else source.inputs[0]
        if tensors[index].type == schema.TensorType.INT8 and text(tensors[index]).endswith(_WEIGHT):
            found[text(tensors[index]).removesuffix(_WEIGHT)] = _product(model, operator, index)
    return found


def _product(model: Any, operator: Any, index: int) -> Stored:
    schema, graph = schema_of(), model.subgraphs[0]
    kinds = schema.TensorType
    x, weight = graph.tensors[operator.inputs[0]], graph.tensors[index]
    data = np.asarray(model.buffers[weight.buffer].data, np.uint8).view(np.int8)
    steps = data.reshape([int(size) for size in weight.shape])
    scale = np.asarray(weight.quantization.scale, np.float32)
    bias = None
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        place = graph.tensors[operator.inputs[2]]
        bias = array(model, operator.inputs[2]) if place.type == kinds.FLOAT32 else None
    grid: tuple[float, ...] = ()
    if x.type == kinds.INT8:
        result = graph.tensors[operator.outputs[0]].quantization
        grid = tuple(float(v) for part in (x.quantization, result) for v in (part.scale[0], part.zeroPoint[0]))
    elif index == operator.inputs[1]:
        # Dynamic: one scale of 1 in the tensor, those of the channels in a MUL behind.
        (behind,) = (entry for entry in graph.operators if operator.outputs[0] in entry.inputs)
        scale = array(model, behind.inputs[1]) * scale[0]
    return Stored(steps, scale, grid, bias)
