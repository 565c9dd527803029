"""The int8 TFLite step: the model of ``tflite_convert`` with a plan's layers quantised by ai-edge-quantizer.

What happens to a layer's FULLY_CONNECTED operator, by mode:

- static: it reads, multiplies and writes int8. Its input is quantised with the plan's range, its output with a separate
  range: no TFLite kernel takes int8 in and gives float out. A DEQUANTIZE follows; everything else stays float. The
  layer that writes the logits is still dynamic: 8 bits for the logits cost more accuracy than 8 bits for all other
  outputs together (packaged network, one step: 3.2 % of their standard deviation against 1.1 %).
- dynamic: float in and out, int8 inside; the engine finds a scale for each token at every step, from float. In the
  file the weights have scale 1 and a MUL after the operator applies each channel's scale: tflite-runtime silently uses
  the first channel's scale for all of them. Costs ai-edge-litert about 2 % of a step.
- weight-only: a DEQUANTIZE on the int8 weight, float arithmetic.

Weights are on a symmetric grid per output channel: w = q * scale, scale = max|w| / 127, q in -127..127. Activations
"u8" are int8 in the file: the plan's grid, including its zero point, shifted down by 128.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES, SMALLEST_RANGE, Plan
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.export.targets.tflite_file import (
    array,
    builtin,
    new_constant,
    new_operator,
    new_tensor,
    read,
    restore_names,
    schema_of,
    signature_tensors,
    text,
    write,
)

F32 = npt.NDArray[np.float32]
Ranges = Mapping[str, "tuple[float, float]"]

# A bias is int32 in steps of input scale * weight scale; beyond this it would leave no room for the sum.
_BIAS_STEPS = 2.0**30
# Parts of a tensor's name that identify the layer: the modules it was traced through, each CLASS_ATTRIBUTE.
_LINEAR = re.compile(r"torch\.nn\.modules\.linear\.Linear_(\w+)")
_LAYER = re.compile(r"\._LayerCell_(\d+)/")
_EMBED = re.compile(r"\._PatchCell_embed/")


def quantise(path: Path, plan: Plan, outputs: Ranges | None = None) -> bytes:
    """The int8 form of the float32 model at ``path``, as the bytes of a .tflite file; the same input, the same bytes.

    outputs: (smallest, largest) value of each layer's output, bias included, for static mode; the plan's by default.
    Values outside are clipped; the logits need none. Signature, names and dtypes of inputs and outputs stay the same.
    Raises UsageError for an unknown mode, layers that the model lacks and ranges that are missing or not numbers,
    LcrError for a file that is not a float32 step model.
    """
    if plan.mode not in QUANT_MODES:
        raise UsageError(f"unknown quant: {plan.mode!r}; choose one of {', '.join(QUANT_MODES)}")
    if plan.activations not in ACTIVATIONS:
        raise UsageError(f"unknown int8 activations: {plan.activations!r}; choose one of {', '.join(ACTIVATIONS)}")
    model = read(path.read_bytes())
    layers = name_layers(model)
    unknown = sorted(set(plan.layers) - set(layers))
    if unknown:
        raise UsageError(f"the model has no layer {', '.join(unknown)}; choose from {', '.join(layers)}")
    chosen = {name: layers[name] for name in layers if name in plan.layers}
    if not chosen:
        return write(model)
    statistics: dict[str, Any] = {}
    modes = {name: plan.mode_of(name) for name in chosen}
    if plan.mode == "static":
        results = {index for _, index in signature_tensors(model)}
        for name, operator in chosen.items():
            if modes[name] == "static" and operator.outputs[0] in results:
                modes[name] = "dynamic"
        static = {name: operator for name, operator in chosen.items() if modes[name] == "static"}
        _separate_inputs(model, static, plan)
        statistics = _statistics(model, static, plan, plan.outputs if outputs is None else outputs)
    tensors = model.subgraphs[0].tensors
    recipe = _recipe(plan, {text(tensors[chosen[name].outputs[0]]): mode for name, mode in modes.items()})
    # Its inner names derive from the names given here, which are short.
    result = restore_names(read(run_quantizer(write(model), recipe, statistics)), signature_tensors(model))
    _scale_behind(result, {f"{name}.weight" for name, mode in modes.items() if mode == "dynamic"})
    return write(result)


def name_layers(model: Any) -> dict[str, Any]:
    """FULLY_CONNECTED operators by the layers' names in ``StepCell``, in the order of a step. Renames tensors.

    The input, weight, bias and output of a layer become NAME.in, NAME.weight, NAME.bias and NAME, other tensors
    numbers; the signature's tensors keep their names. Raises LcrError if a name is found twice.
    """
    graph, kept = model.subgraphs[0], {index for _, index in signature_tensors(model)}
    schema = schema_of()
    layers: dict[str, Any] = {}
    for operator in graph.operators:
        if builtin(model, operator) != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        name = _layer_name(text(graph.tensors[operator.inputs[1]]))
        if name is None:
            continue
        if name in layers:
            raise LcrError(f"layer {name} was found twice in the TFLite model: export it again")
        weight = graph.tensors[operator.inputs[1]]
        if weight.type != schema.TensorType.FLOAT32 or model.buffers[weight.buffer].data is None:
            raise LcrError(f"the weight of layer {name} is not a float32 constant: quantise the fp32 model")
        layers[name] = operator
    if not layers:
        raise LcrError("no linear layer of a step was found in the TFLite model: export it again")
    names = {index: str(index) for index in range(len(graph.tensors))}
    for name, operator in layers.items():
        parts = (*operator.inputs, operator.outputs[0])
        endings = (".in", ".weight", ".bias")[: len(operator.inputs)]
        names.update(zip(parts, [*(name + ending for ending in endings), name]))
    for index, tensor in enumerate(graph.tensors):
        if index not in kept:
            tensor.name = names[index].encode()
    return layers


def run_quantizer(content: bytes, recipe: Any, statistics: Mapping[str, Any]) -> bytes:
    """Run ai-edge-quantizer on a model. statistics: {tensor name: {"min": array, "max": array}}, or none."""
    quantizer = importlib.import_module("ai_edge_quantizer.quantizer")
    runner = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe())
    result = runner.quantize(statistics or None, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def usable_range(ranges: Ranges, layer: str, what: str) -> tuple[float, float]:
    """A layer's range, float64, non-empty and containing zero. Raises UsageError."""
    if layer not in ranges:
        raise UsageError(f"there is no range for the {what} of layer {layer}: calibrate again")
    low, high = (float(value) for value in ranges[layer])
    if not (np.isfinite([low, high]).all() and low <= high):
        ends = f"({low}, {high})"
        raise UsageError(f"the range of the {what} of layer {layer} is {ends}, not a range of numbers: calibrate again")
    return min(low, 0.0), max(high, 0.0, min(low, 0.0) + SMALLEST_RANGE)


def _layer_name(weight: str) -> str | None:
    """The layer of a weight tensor, None if it is not a linear layer's: the edge graph has products too."""
    found = _LINEAR.search(weight)
    if found is None:
        return None
    attribute, layer = found[1], _LAYER.search(weight)
    if layer is not None:
        return f"layers.{layer[1]}.{attribute}"
    return f"embed.parts.{attribute}" if _EMBED.search(weight) else attribute


def _separate_inputs(model: Any, layers: Mapping[str, Any], plan: Plan) -> None:
    """Give layers that read the same tensor with different ranges a copy each: a range belongs to a tensor.

    The keys and values of all layers read one tensor if they come from the edges alone and nothing was equalised.
    """
    ranges: dict[int, tuple[float, float]] = {}
    for name, operator in layers.items():
        wanted = usable_range(plan.ranges, name, "input")
        if ranges.setdefault(operator.inputs[0], wanted) != wanted:
            operator.inputs = [_copied(model, operator, f"{name}.in"), *operator.inputs[1:]]


def _copied(model: Any, reader: Any, name: str) -> int:
    """Index of a new tensor with the values of the reader's input, made by a RESHAPE to the same shape."""
    schema = schema_of()
    graph = model.subgraphs[0]
    # Every step reshapes: the operator is in the model's table.
    like = next(entry for entry in graph.operators if builtin(model, entry) == schema.BuiltinOperator.RESHAPE)
    source = graph.tensors[reader.inputs[0]]
    sizes = np.asarray(source.shape, np.int32)
    model.buffers.append(schema.BufferT(data=sizes.view(np.uint8)))
    graph.tensors += [
        schema.TensorT([len(sizes)], schema.TensorType.INT32, len(model.buffers) - 1, f"{name}.shape".encode()),
        schema.TensorT(list(source.shape), source.type, 0, f"{name}.copy".encode()),
    ]
    shape, copied = len(graph.tensors) - 2, len(graph.tensors) - 1
    options = schema.ReshapeOptionsT(sizes.tolist())
    kind = schema.BuiltinOptions.ReshapeOptions
    operator = schema.OperatorT(like.opcodeIndex, [reader.inputs[0], shape], [copied], kind, options)
    graph.operators.insert(graph.operators.index(reader), operator)
    return copied


def _statistics(model: Any, layers: Mapping[str, Any], plan: Plan, outputs: Ranges) -> dict[str, Any]:
    """What the quantiser would have found by calibration, for the tensors of the layers."""
    tensors, found = model.subgraphs[0].tensors, {}
    for name, operator in layers.items():
        read_range = usable_range(plan.ranges, name, "input")
        for index, ends in (
            (operator.inputs[0], read_range),
            (operator.outputs[0], usable_range(outputs, name, "output")),
        ):
            ones = [1] * len(tensors[index].shape)
            found[text(tensors[index])] = {"min": np.full(ones, ends[0]), "max": np.full(ones, ends[1])}
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        bias = array(model, operator.inputs[2]) if has_bias else None
        largest = weight_ends(array(model, operator.inputs[1]), bias, read_range, plan.activations)
        found[text(tensors[operator.inputs[1]])] = {"min": -largest, "max": largest}
    return found


def weight_ends(weight: F32, bias: F32 | None, read_range: tuple[float, float], activations: str) -> F32:
    """The largest value of each channel's int8 grid in static mode, float32 [out, 1].

    The bias has no scale of its own: a channel with weights near zero would leave it too few steps.
    """
    largest: F32 = np.abs(weight).max(axis=1, keepdims=True)
    if bias is None:
        return largest
    step = (max(-read_range[0], read_range[1]) if activations == "s8" else np.ptp(read_range) / 2) / 127
    needed = 127 * np.abs(bias) / (step * _BIAS_STEPS)
    return np.maximum(largest, needed[:, None].astype(np.float32))


def _scale_behind(model: Any, weights: set[str]) -> None:
    """Move the scales of these weights, by tensor name, from the tensor into a MUL after its operator, in place."""
    graph, operators = model.subgraphs[0], []
    for operator in graph.operators:
        operators.append(operator)
        name = text(graph.tensors[operator.inputs[1]]) if len(operator.inputs) > 1 else ""
        if name not in weights or builtin(model, operator) != schema_of().BuiltinOperator.FULLY_CONNECTED:
            continue
        layer, result = name.removesuffix(".weight"), operator.outputs[0]
        grid = graph.tensors[operator.inputs[1]].quantization
        scale = np.asarray(grid.scale, np.float32)
        grid.scale, grid.zeroPoint, grid.quantizedDimension = [1.0], [0], 0
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = new_constant(model, f"{layer}.bias", array(model, operator.inputs[2]) / scale)
            operator.inputs = [*operator.inputs[:2], bias]
        shape, kind = list(graph.tensors[result].shape), schema_of().TensorType.FLOAT32
        product = new_tensor(model, f"{layer}.product", shape, kind)
        operator.outputs = [product]
        operators.append(new_operator(model, "Mul", [product, new_constant(model, f"{layer}.scale", scale)], [result]))
    graph.operators = operators


def _recipe(plan: Plan, modes: Mapping[str, str]) -> Any:
    """modes: how to quantise the FULLY_CONNECTED operator that writes a tensor, by the tensor's name."""
    manager, qtyping, algorithms = (
        importlib.import_module(f"ai_edge_quantizer.{name}")
        for name in ("recipe_manager", "qtyping", "algorithm_manager")
    )
    recipe, tensor = manager.RecipeManager(), qtyping.TensorQuantizationConfig
    weight = tensor(8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE)
    integer, floats = qtyping.ComputePrecision.INTEGER, qtyping.ComputePrecision.FLOAT
    configs = {
        "static": (tensor(8, symmetric=plan.activations == "s8"), weight, integer, False),
        "dynamic": (None, weight, integer, False),
        "weight-only": (None, weight, floats, True),
    }
    for mode in QUANT_MODES:
        scopes = "|".join(re.escape(name) for name in modes if modes[name] == mode)
        if scopes:
            recipe.add_quantization_config(
                f"^({scopes});$",
                qtyping.TFLOperationName.FULLY_CONNECTED,
                qtyping.OpQuantizationConfig(*configs[mode]),
                algorithms.AlgorithmName.MIN_MAX_UNIFORM_QUANT,
            )
    return recipe
