"""The int8 ONNX step: the float model of ``onnx_convert`` with a plan's layers quantised and the rest unchanged.

What each mode writes was chosen by timing it and by looking at the graph that onnxruntime makes of it:

- static: QuantizeLinear and DequantizeLinear on the input of a Gemm, DequantizeLinear on its int8 weight, nothing on
  its output. onnxruntime fuses that into one integer kernel (QGemm), but only if the weight has a zero point, although
  zero is the default, and if the bias, if there is one, is int32. So the bias goes into a float Add after it: TensorRT
  does not support int32 biases, and a channel of small weights cannot overflow it. The Add costs lcr_nano 2 %.
- dynamic: onnxruntime's own quantize_dynamic, which transposes weights and turns every Gemm into a MatMul and an Add.
- weight-only: Cast and Mul after the int8 weight. They are folded when a session loads, so steps cost as much as in
  float; a DequantizeLinear in their place would run at every step.

Weights are on a symmetric grid per output channel: w = q * scale, scale = max|w| / 127, q in -127..127.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from lcr_edge.calibration.quant_plan import QUANT_MODES, Plan
from lcr_edge.errors import LcrError, UsageError, how_to_install
from lcr_edge.runtimes.libraries import onnxruntime

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

_TINY = float(np.finfo(np.float32).tiny)
# A Gemm with these attributes is x W^T + b; absent ones have other defaults.
_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
_GEMM_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


def quantise(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """A checked int8 copy of the float32 step ``model``, of either edge mode, with its inputs, outputs and opset.

    The same model and plan give the same bytes. Tensor names stay; notes on where nodes came from are dropped. Raises
    UsageError for an unknown mode, layers that the model lacks, and, in static mode, layers without a usable range.
    """
    if plan.mode not in QUANT_MODES:
        raise UsageError(f"unknown quant: {plan.mode!r}; choose one of {', '.join(QUANT_MODES)}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    layers = _layers(result.graph)
    unknown = sorted(set(plan.layers) - set(layers))
    if unknown:
        raise UsageError(f"the model has no layer {', '.join(unknown)}; choose from {', '.join(layers)}")
    chosen = {layers[name].output[0]: name for name in plan.layers}
    dynamic = {output: name for output, name in chosen.items() if plan.mode_of(name) == "dynamic"}
    _rewrite(result.graph, {output: name for output, name in chosen.items() if output not in dynamic}, plan)
    if dynamic:
        result = _dynamic(result, dynamic)
    _compact(result)
    onnx.checker.check_model(result, full_check=True)
    return result


def quantise_weight(weight: F32) -> tuple[I8, F32]:
    """float32 [out, in] to int8 [out, in] in -127..127 and scales, float32 [out], above 0. Zeros stay zeros."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale = np.where(scale < _TINY, 1.0, scale).astype(np.float32)
    q = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
    return q, scale


def _layers(graph: onnx.GraphProto) -> dict[str, NodeProto]:
    """The Gemms of linear layers, by the layers' names in ``StepCell``."""
    tensors = {tensor.name for tensor in graph.initializer}
    found: dict[str, NodeProto] = {}
    for node in graph.node:
        if node.op_type != "Gemm" or node.input[1] not in tensors or not node.input[1].endswith(".weight"):
            continue
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if {**_GEMM_DEFAULTS, **given} != _GEMM:
            raise LcrError(f"Gemm {node.name} has attributes {given}, not those of a linear layer: export again")
        # HostEdgeCell holds the StepCell as "cell".
        found[str(node.input[1]).removesuffix(".weight").removeprefix("cell.")] = node
    return found


def _rewrite(graph: onnx.GraphProto, chosen: dict[str, str], plan: Plan) -> None:
    """Static and weight-only: replace each chosen Gemm by its quantised form."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in chosen:
            name = chosen[node.output[0]]
            quantised = quantise_weight(numpy_helper.to_array(weights[node.input[1]]).astype(np.float32, copy=False))
            if plan.mode_of(name) == "static":
                nodes += _static(graph, node, quantised, _input_grid(plan, name))
            else:
                nodes += _weight_only(graph, node, quantised)
        else:
            nodes.append(node)
    _replace(graph.node, nodes)


def _static(graph: onnx.GraphProto, node: NodeProto, weight: tuple[I8, F32], grid: list[Any]) -> Iterator[NodeProto]:
    whole, (q, scale) = node.input[1], weight
    x = _constants(graph, f"{whole}.x_", scale=grid[0], zero=grid[1])
    w = _constants(graph, f"{whole}.", int8=q, scale=scale, zero=np.zeros_like(scale, np.int8))
    steps, x_out, w_out = f"{whole}.x_int8", f"{whole}.x", f"{whole}.float"
    yield helper.make_node("QuantizeLinear", [node.input[0], *x], [steps], steps)
    yield helper.make_node("DequantizeLinear", [steps, *x], [x_out], x_out)
    yield helper.make_node("DequantizeLinear", w, [w_out], w_out, axis=0)
    if len(node.input) < 3:
        yield helper.make_node("Gemm", [x_out, w_out], node.output, node.name, transB=1)
        return
    product = f"{whole}.product"
    yield helper.make_node("Gemm", [x_out, w_out], [product], node.name, transB=1)
    yield helper.make_node("Add", [product, node.input[2]], node.output, f"{node.name}.bias")


def _weight_only(graph: onnx.GraphProto, node: NodeProto, weight: tuple[I8, F32]) -> Iterator[NodeProto]:
    whole, (q, scale) = node.input[1], weight
    int8, factor = _constants(graph, f"{whole}.", int8=q, scale=scale[:, None])
    steps, w_out = f"{whole}.steps", f"{whole}.float"
    yield helper.make_node("Cast", [int8], [steps], steps, to=onnx.TensorProto.FLOAT)
    yield helper.make_node("Mul", [steps, factor], [w_out], w_out)
    yield helper.make_node("Gemm", [node.input[0], w_out, *node.input[2:]], node.output, node.name, transB=1)


def _dynamic(model: onnx.ModelProto, chosen: dict[str, str]) -> onnx.ModelProto:
    quantization: Any = onnxruntime("onnxruntime.quantization")
    # It first turns every Gemm into a MatMul with this name and an Add.
    products = [f"{node.name}_MatMul" for node in model.graph.node if node.output[0] in chosen]
    # Without this mark it logs advice to run a preprocessing that would store tables twice.
    quantization.quant_utils.add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(prefix="lcr_edge_") as folder:
        path = Path(folder, "model.onnx")
        int8 = quantization.QuantType.QInt8
        quantization.quantize_dynamic(model, path, per_channel=True, weight_type=int8, nodes_to_quantize=products)
        result = onnx.load(path)
    if sum(node.op_type == "MatMulInteger" for node in result.graph.node) != len(chosen):
        raise LcrError(
            f"quantize_dynamic did not quantise every layer; install the tested version: {how_to_install('export')}"
        )
    return result


def _input_grid(plan: Plan, layer: str) -> list[Any]:
    """Scale and zero point of a layer's input, as scalars of the dtypes that QuantizeLinear needs."""
    if layer not in plan.ranges:
        raise UsageError(f"the plan has no range for the input of layer {layer}: calibrate again")
    low, high = plan.ranges[layer]
    if not (np.isfinite([low, high]).all() and low <= high):
        raise UsageError(f"the range of layer {layer} is ({low}, {high}), not a range of numbers: calibrate again")
    dtype = np.uint8 if plan.activations == "u8" else np.int8
    scale, zero = plan.scale(layer)
    return [np.asarray(scale, np.float32), np.asarray(zero, dtype)]


def _constants(graph: onnx.GraphProto, prefix: str, **arrays: npt.NDArray[Any]) -> list[str]:
    graph.initializer.extend(numpy_helper.from_array(array, prefix + name) for name, array in arrays.items())
    return [prefix + name for name in arrays]


def _compact(model: onnx.ModelProto) -> None:
    """Drop notes and inferable shapes; keep one copy of each constant, and none that is not read."""
    graph = model.graph
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    graph.ClearField("value_info")
    model.ClearField("metadata_props")
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    kept_as: dict[str, str] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        # Not zero points: "session.x64quantprecision" makes weights unsigned when a session loads and fails on one that
        # two weights share. CPUs with AVX2 but no VNNI need it because their sums of two int8 products saturate.
        if array.dtype in (np.int8, np.uint8):
            continue
        kept_as[tensor.name] = first.setdefault((array.dtype.str, array.shape, array.tobytes()), tensor.name)
    for node in graph.node:
        node.input[:] = [kept_as.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input}
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])


def _replace(field: Any, entries: list[Any]) -> None:
    """Set a repeated protobuf field. The entries may be its own, so they are copied before it is cleared."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)
