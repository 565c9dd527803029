"""An integer-only TFLite step for NPUs and microcontrollers: ``--io int8``.

Frame and edges are uint8, states and logits int8. A state has the same grid as input and as output, so that feeding it
back is a copy. Weights are int8 per output channel; between the products the values are int16 (with int64 biases) or
int8.

The float model has to be made with small chunks of tokens, ``StepCell(model, chunk=INTEGER_CHUNK)``, so that its
factors fit a grid.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.quant_plan import SMALLEST_RANGE
from lcr_edge.contract import EDGE, FRAME, LOGITS, STATE_NAMES
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.export.targets.tflite_file import (
    Grid,
    array,
    builtin,
    new_operator,
    new_tensor,
    read,
    restore_names,
    schema_of,
    signature_tensors,
    text,
    write,
)
from lcr_edge.export.targets.tflite_int8 import Ranges, name_layers, run_quantizer

INNER = ("int16", "int8")
# Step sizes of the input bytes, exact on either grid: 1 in int8, powers of two in int16.
_BYTES = {"int8": {FRAME: 1.0, EDGE: 1.0}, "int16": {FRAME: 2.0**-7, EDGE: 2.0**-14}}
_SIGNATURE = "serving_default"

Feeds = Iterable[Mapping[str, npt.NDArray[Any]]]


def quantise_full(
    path: Path, feeds: Feeds, states: Ranges | None = None, inner: str = INNER[0]
) -> tuple[bytes, dict[str, Grid]]:
    """The integer form of the float32 model at ``path``: .tflite bytes, and (scale, zero point) of logits and states.

    feeds: inputs of single steps by tensor name, from streams that have run for a while; all ranges come from them.
    states: (smallest, largest) value for "state_h" and "state_c" if the feeds' own ranges are not wanted. inner: one of
    INNER. The same input gives the same bytes. Raises UsageError for an unknown inner, no feeds, or ranges that are not
    numbers, and LcrError if a float tensor would remain.
    """
    if inner not in INNER:
        raise UsageError(f"unknown integers inside: {inner!r}; choose one of {', '.join(INNER)}")
    floats = [{name: np.asarray(value, np.float32) for name, value in feed.items()} for feed in feeds]
    if not floats:
        raise UsageError("an integer-only model needs calibration samples: give at least one")
    model = read(path.read_bytes())
    name_layers(model)
    _float_inputs(model)
    if inner == "int16":
        _split_squares(model)
    before, content = signature_tensors(model), write(model)
    model = read(content)
    statistics = _calibrate(content, floats, _recipe(inner))
    grids = _tie(model, statistics, states or {}, inner)
    _clip_selected(model, statistics)
    result = restore_names(read(run_quantizer(content, _recipe(inner), statistics)), before)
    _set_tables(result, model, inner)
    _set_boundary(result, grids)
    _check(result)
    return write(result), {name: grid for name, grid in grids.items() if name not in (FRAME, EDGE)}


def _float_inputs(model: Any) -> None:
    """Make frame and edges float32 inputs and drop the CASTs: the quantiser does not support bytes."""
    schema = schema_of()
    graph, kept = model.subgraphs[0], []
    for operator in graph.operators:
        if builtin(model, operator) != schema.BuiltinOperator.CAST:
            kept.append(operator)
            continue
        source, cast = operator.inputs[0], operator.outputs[0]
        for reader in graph.operators:
            reader.inputs = [source if index == cast else index for index in reader.inputs]
    graph.operators = kept
    for tensor in graph.tensors:
        if tensor.type == schema.TensorType.UINT8:
            tensor.type = schema.TensorType.FLOAT32


def _split_squares(model: Any) -> None:
    """Replace SQUARED_DIFFERENCE, which has no int16 kernel, by SUB and MUL."""
    schema = schema_of()
    graph, operators = model.subgraphs[0], []
    for operator in graph.operators:
        if builtin(model, operator) != schema.BuiltinOperator.SQUARED_DIFFERENCE:
            operators.append(operator)
            continue
        shape = list(graph.tensors[operator.outputs[0]].shape)
        difference = new_tensor(model, f"{operator.outputs[0]}.difference", shape, schema.TensorType.FLOAT32)
        operators.append(new_operator(model, "Sub", list(operator.inputs), [difference]))
        operators.append(new_operator(model, "Mul", [difference, difference], list(operator.outputs)))
    graph.operators = operators


def _recipe(inner: str) -> Any:
    manager, qtyping = (importlib.import_module(f"ai_edge_quantizer.{name}") for name in ("recipe_manager", "qtyping"))
    recipe, bits = manager.RecipeManager(), int(inner.removeprefix("int"))
    recipe.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=bits,
        weight_num_bits=8,
    )
    return recipe


def _calibrate(content: bytes, feeds: list[dict[str, npt.NDArray[np.float32]]], recipe: Any) -> dict[str, Any]:
    """Smallest and largest value of every tensor over all feeds, in the quantiser's format."""
    calibrator, statistics = (
        importlib.import_module(f"ai_edge_quantizer.{name}") for name in ("calibrator", "utils.qsv_utils")
    )
    runner = calibrator.Calibrator(bytearray(content), num_threads=1, qsv_update_func=statistics.min_max_update)
    runner.calibrate({_SIGNATURE: feeds}, recipe)
    found: dict[str, Any] = runner.get_model_qsvs()
    return found


def _tie(model: Any, statistics: dict[str, Any], states: Ranges, inner: str) -> dict[str, Grid]:
    """Set the statistics of all tensors at the boundary, and return their 8-bit grids by name."""
    signature, tensors = model.signatureDefs[0], model.subgraphs[0].tensors
    names = {entry.name.decode(): text(tensors[entry.tensorIndex]) for entry in (*signature.inputs, *signature.outputs)}
    half = 2.0**15 - 1
    grids: dict[str, Grid] = {}
    for name in (FRAME, EDGE):
        if name in names:
            grids[name] = (1.0, 0)
            step = _BYTES[inner][name]
            _set(statistics, names[name], (0.0, 255.0) if inner == "int8" else (-half * step, half * step))
    for state in STATE_NAMES:
        pair = [f"{state}_in", f"{state}_out"]
        ends = states.get(state) or _hull([statistics[names[name]] for name in pair])
        grids.update(dict.fromkeys(pair, _grid(state, *ends)))
        for name in pair:
            _set(statistics, names[name], ends)
    grids[LOGITS] = _grid(LOGITS, *_hull([statistics[names[LOGITS]]]))
    return grids


def _hull(statistics: list[Any]) -> tuple[float, float]:
    return min(float(np.min(one["min"])) for one in statistics), max(float(np.max(one["max"])) for one in statistics)


def _grid(name: str, low: float, high: float) -> Grid:
    """Scale and zero point, in -128..127, of a range, which is widened to contain zero."""
    if not (np.isfinite([low, high]).all() and low <= high):
        raise UsageError(f"the range of {name} is ({low}, {high}), not a range of numbers: calibrate again")
    low, high = min(low, 0.0), max(high, 0.0, min(low, 0.0) + SMALLEST_RANGE)
    scale = (high - low) / 255
    return float(np.float32(scale)), round(-low / scale) - 128


def _set(statistics: dict[str, Any], name: str, ends: tuple[float, float]) -> None:
    shape = np.shape(statistics[name]["min"])
    statistics[name] = {"min": np.full(shape, ends[0]), "max": np.full(shape, ends[1])}


def _clip_selected(model: Any, statistics: dict[str, Any]) -> None:
    """Give a SELECT_V2's sources the range of its result: the unwanted triangle of a WKV score saturates."""
    kinds, graph = schema_of().BuiltinOperator, model.subgraphs[0]
    bounds: dict[int, tuple[float, float]] = {}
    # From the end: a selection may read another one, or a reshaped product.
    for operator in reversed(graph.operators):
        kind, result = builtin(model, operator), operator.outputs[0]
        if kind == kinds.SELECT_V2:
            bounds.setdefault(result, _hull([statistics[text(graph.tensors[result])]]))
            sources = operator.inputs[1:]
        else:
            sources = operator.inputs[:1] if kind == kinds.RESHAPE and result in bounds else []
        for source in sources:
            bounds[source] = bounds[result]
            _set(statistics, text(graph.tensors[source]), bounds[result])


def _set_tables(result: Any, model: Any, inner: str) -> None:
    """Give the tables that a BATCH_MATMUL reads the type of its other operand, and one scale each.

    The kernel ignores all scales of an int8 table but the first, and does not take int8 on the left of int16.
    """
    schema = schema_of()
    graph, floats = result.subgraphs[0], model.subgraphs[0].tensors
    places = {text(tensor): index for index, tensor in enumerate(floats)}
    for operator in graph.operators:
        if builtin(result, operator) != schema.BuiltinOperator.BATCH_MATMUL:
            continue
        for index in operator.inputs:
            tensor = graph.tensors[index]
            if result.buffers[tensor.buffer].data is None:
                continue
            values = array(model, places[text(tensor)])
            scale = max(float(np.abs(values).max()), SMALLEST_RANGE) / np.iinfo(inner).max
            steps = np.rint(values / scale).astype(inner)
            result.buffers.append(schema.BufferT(data=steps.reshape(-1).view(np.uint8)))
            tensor.type, tensor.buffer = getattr(schema.TensorType, inner.upper()), len(result.buffers) - 1
            tensor.quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[0])


def _set_boundary(model: Any, grids: Mapping[str, Grid]) -> None:
    """Put QUANTIZE operators between the contract's 8-bit tensors and those that the quantiser left."""
    schema = schema_of()
    kinds, graph, signature = schema.TensorType, model.subgraphs[0], model.signatureDefs[0]
    for entry in signature.inputs:
        name, inside = entry.name.decode(), entry.tensorIndex
        outer = kinds.UINT8 if name in (FRAME, EDGE) else kinds.INT8
        place = _renamed(model, inside, outer, grids[name])
        if place == inside:
            continue
        chain = [place, inside]
        if outer == kinds.UINT8 and graph.tensors[inside].type != kinds.INT8:
            shape = list(graph.tensors[inside].shape)
            chain.insert(1, new_tensor(model, f"{name}.int8", shape, kinds.INT8, (grids[name][0], -128)))
        graph.operators[:0] = [_quantize(model, *pair) for pair in zip(chain, chain[1:])]
        graph.inputs = [place if index == inside else index for index in graph.inputs]
        entry.tensorIndex = place
    for entry in signature.outputs:
        inside = entry.tensorIndex
        place = _renamed(model, inside, kinds.INT8, grids[entry.name.decode()])
        if place != inside:
            graph.operators.append(_quantize(model, inside, place))
            graph.outputs = [place if index == inside else index for index in graph.outputs]
            entry.tensorIndex = place


def _renamed(model: Any, inside: int, kind: int, grid: Grid) -> int:
    """Index of a tensor of this type and grid, named like the tensor ``inside``: ``inside`` itself if it fits."""
    tensor = model.subgraphs[0].tensors[inside]
    found = tensor.quantization
    if tensor.type == kind and (np.float32(found.scale[0]), int(found.zeroPoint[0])) == (np.float32(grid[0]), grid[1]):
        found.scale = [grid[0]]
        return inside
    name = text(tensor)
    tensor.name = f"{name}.inner".encode()
    return new_tensor(model, name, list(tensor.shape), kind, grid)


def _quantize(model: Any, source: int, result: int) -> Any:
    return new_operator(model, "Quantize", [source], [result])


def _check(model: Any) -> None:
    schema = schema_of()
    graph = model.subgraphs[0]
    used = {index for entry in graph.operators for index in (*entry.inputs, *entry.outputs) if index >= 0}
    floating = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
    floats = [text(graph.tensors[index]) for index in sorted(used) if graph.tensors[index].type in floating]
    if floats:
        raise LcrError(f"not every operator has an integer form; these tensors stay float: {', '.join(floats[:5])}")
