"""The int8 OpenVINO step: the float model as read from ONNX, with a plan's layers quantised.

- static: FakeQuantize on the input of a MatMul, Convert and Multiply after its int8 weight. OpenVINO's low precision
  transformations fuse that into one integer product when the model is compiled. nncf's quantize writes the same
  pattern but finds the ranges itself; here they come from the plan.
- dynamic and weight-only: Convert and Multiply after the int8 weight, nothing else. The CPU device keeps such weights
  compressed. The property DYNAMIC_QUANTIZATION_GROUP_SIZE decides whether it quantises the inputs on the fly; it is in
  the bundle's runtime_hints: 0 for weight-only. Without it the device chooses dynamic.
- layers of a static or dynamic plan that compute in float: Convert and Divide after the int8 weight. The property
  applies to the whole model, so compressed weights would still multiply int8 inputs. A Divide is not recognised as a
  compressed weight, and the device turns it into floats when it loads the model.

The model is also made smaller: nodes that do nothing are removed, equal constants are stored once, a decay table that
is another one with the tokens reversed is computed from it, and inner names become numbers. The results of the parts
that stay float are bit-identical.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES, Plan
from lcr_edge.errors import LcrError, UsageError, how_to_install
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.files import write_atomically
from lcr_edge.runtimes.libraries import openvino
from lcr_edge.runtimes.openvino_engine import core

ov, ops, passes = openvino(), openvino("openvino.opset13"), openvino("openvino.passes")
F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

# Ends the name of a weight, after that of its layer.
WEIGHT = ".weight"
# Smaller tables are not worth a Gather.
_MIRROR_BYTES = 4096
_TOKEN_AXIS = -2
_TINY = float(np.finfo(np.float32).tiny)
# FakeQuantize levels and the quantised values at its two ends, by activations.
_LEVELS = {"u8": (256, 0, 255), "s8": (255, -127, 127)}


def quantise(model: Any, plan: Plan) -> Any:
    """An int8 copy of the float32 step ``model``, of either edge mode, with its inputs and outputs.

    model: explicit states, weights as constants named after their layers, as the ONNX reader makes it; not modified.
    The same model and plan give the same result. Raises UsageError for an unknown mode, layers that the model lacks,
    and, in static mode, layers without a usable range.
    """
    if plan.mode not in QUANT_MODES:
        raise UsageError(f"unknown quant: {plan.mode!r}; choose one of {', '.join(QUANT_MODES)}")
    if plan.activations not in ACTIVATIONS:
        raise UsageError(f"unknown int8 activations: {plan.activations!r}; choose one of {', '.join(ACTIVATIONS)}")
    result: Any = model.clone()
    layers = _layers(result)
    unknown = sorted(set(plan.layers) - set(layers))
    if unknown:
        raise UsageError(f"the model has no layer {', '.join(unknown)}; choose from {', '.join(layers)}")
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(result)  # before the int8 weights are added, which it would turn back into float
    _drop_idle(result)
    for name in plan.layers:
        product = layers[name]
        mode = plan.mode_of(name)
        weight = product.input_value(1).get_node().data
        product.input(1).replace_source_output((_compressed if mode == plan.mode else _unfolding)(weight, name))
        if mode == "static":
            product.input(0).replace_source_output(_rounded(product.input_value(0), plan, name))
    _share_constants(result)
    _share_mirrored(result)
    _rename(result)
    result.validate_nodes_and_infer_types()
    return result


def save(model: Any, path: Path) -> None:
    """Write ``path`` (.xml, without indentation) and the .bin file beside it, then read them back as a check.

    The same model gives the same bytes. Each file is written to a temporary name and renamed. Raises OutputError, and
    LcrError if OpenVINO reads back a different model.
    """
    with tempfile.TemporaryDirectory(prefix=".lcr_edge_", dir=path.parent) as folder:
        raw = Path(folder, path.name)
        ov.save_model(model, str(raw), compress_to_fp16=False)
        tree = ElementTree.fromstring(raw.read_bytes())
        for element in tree.iter():
            element.tail = None
            element.text = (element.text or "").strip() or None
        write_atomically(path.with_suffix(".bin"), raw.with_suffix(".bin").read_bytes())
    write_atomically(path, b'<?xml version="1.0"?>' + ElementTree.tostring(tree, encoding="utf-8"))
    if _signature(core().read_model(str(path))) != _signature(model):
        raise LcrError(
            f"OpenVINO reads {path} as a different model; install the tested version: {how_to_install('export')}"
        )


def _layers(model: Any) -> dict[str, Any]:
    """The MatMuls of linear layers, by the layers' names in ``StepCell``."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = node.input_value(1).get_node()
        name = weight.get_friendly_name()
        if weight.get_type_name() != "Constant" or not name.endswith(WEIGHT):
            continue
        if node.get_attributes() != {"transpose_a": False, "transpose_b": True}:
            raise LcrError(f"MatMul of {name} is not the product of a linear layer: export again")
        # HostEdgeCell holds the StepCell as "cell".
        found[name[: -len(WEIGHT)].removeprefix("cell.")] = node
    return found


def _compressed(weight: F32, layer: str) -> Any:
    """float32 [out, in] as an int8 constant, named after its layer, times one scale per output channel."""
    q, scale = quantise_weight(weight)
    return ops.multiply(_int8(q, layer), ops.constant(scale[:, None])).output(0)


def _unfolding(weight: F32, layer: str) -> Any:
    """The same with a division, which the CPU device does once when it loads the model."""
    q, scale = quantise_weight(weight)
    return ops.divide(_int8(q, layer), ops.constant(1 / scale[:, None])).output(0)


def _int8(q: I8, layer: str) -> Any:
    constant = ops.constant(q)
    constant.set_friendly_name(f"{layer}{WEIGHT}")
    return ops.convert(constant, "f32")


def _rounded(value: Any, plan: Plan, layer: str) -> Any:
    """``value`` rounded to the grid of the layer's input, as floats."""
    low, high, levels = input_ends(plan, layer)
    ends = [ops.constant(np.float32(end)) for end in (low, high)]
    return ops.fake_quantize(value, *ends, *ends, int(levels)).output(0)


def input_ends(plan: Plan, layer: str) -> tuple[float, float, float]:
    """The smallest and the largest value of the grid of a layer's input, as float32 has them, and its levels.

    Raises UsageError for a layer without a usable range.
    """
    if layer not in plan.ranges:
        raise UsageError(f"the plan has no range for the input of layer {layer}: calibrate again")
    low, high = plan.ranges[layer]
    if not (np.isfinite([low, high]).all() and low <= high):
        raise UsageError(f"the range of layer {layer} is ({low}, {high}), not a range of numbers: calibrate again")
    levels, least, most = _LEVELS[plan.activations]
    # A layer that saw nothing but zeros: any scale represents them.
    scale, zero = plan.scale(layer) if max(abs(low), abs(high)) > levels * _TINY else (1.0, 0)
    low, high = (float(np.float32(scale * (end - zero))) for end in (least, most))
    return low, high, float(levels)


def _drop_idle(model: Any) -> None:
    """Remove multiplications by one and additions of zero, which come from ONNX attributes and empty biases."""
    for node in model.get_ordered_ops():
        one = {"Multiply": 1.0, "Add": 0.0}.get(node.get_type_name())
        if one is None or _is_boundary(node):
            continue
        for index in (0, 1):
            other, constant = node.input_value(index), node.input_value(1 - index).get_node()
            idle = constant.get_type_name() == "Constant" and bool((constant.data == one).all())
            if idle and other.get_partial_shape() == node.output(0).get_partial_shape():
                _reconnect(node.output(0), other)
                break


def _constants(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every constant with its values, an array of any dtype and shape, in execution order."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            yield node, node.data


def _share_constants(model: Any) -> None:
    first: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for node, data in _constants(model):
        kept = first.setdefault((str(node.get_element_type()), data.shape, data.tobytes()), node)
        if kept is not node:
            _reconnect(node.output(0), kept.output(0))


def _share_mirrored(model: Any) -> None:
    """Compute a table from another one that has the same rows in reverse order; compiling folds it back."""
    seen: dict[tuple[tuple[int, ...], bytes], Any] = {}
    for node, data in list(_constants(model)):
        if data.dtype != np.float32 or data.ndim < 2 or data.nbytes < _MIRROR_BYTES:
            continue
        other = seen.get((data.shape, np.flip(data, _TOKEN_AXIS).tobytes()))
        if other is None:
            seen[data.shape, data.tobytes()] = node
            continue
        order = ops.constant(np.arange(data.shape[_TOKEN_AXIS], dtype=np.int32)[::-1].copy())
        _reconnect(node.output(0), ops.gather(other, order, ops.constant(np.int32(_TOKEN_AXIS))).output(0))


def _rename(model: Any) -> None:
    """Number the inner nodes, but for int8 weights, by which ``verify`` finds products, and remove tensors' names."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() in ("Parameter", "Result") or _is_boundary(node):
            continue
        if node.get_type_name() != "Constant" or str(node.get_element_type()) != "<Type: 'int8_t'>":
            node.set_friendly_name(str(number))
        for output in node.outputs():
            output.get_tensor().set_names(set())


def _is_boundary(node: Any) -> bool:
    """Whether the node feeds one of the model's results."""
    return any(
        reader.get_node().get_type_name() == "Result" for out in node.outputs() for reader in out.get_target_inputs()
    )


def _reconnect(old: Any, new: Any) -> None:
    for reader in old.get_target_inputs():
        reader.replace_source_output(new)


def _signature(model: Any) -> tuple[list[str], list[tuple[list[str], str, str]]]:
    """Types of all nodes, and names, dtypes and shapes of inputs and outputs."""
    ports = [
        (sorted(port.get_names()), str(port.get_element_type()), str(port.get_partial_shape()))
        for port in (*model.inputs, *model.outputs)
    ]
    return sorted(node.get_type_name() for node in model.get_ops()), ports
