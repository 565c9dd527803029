"""The step cell as OpenVINO IR, via ONNX (converting directly from PyTorch loses tensor names and static shapes)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lcr_edge.contract import STATE_DTYPES, STATE_NAMES, input_specs, output_specs
from lcr_edge.errors import LcrError, how_to_install
from lcr_edge.export.targets import onnx_convert, openvino_int8
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.export.targets.request import Request
from lcr_edge.runtimes.libraries import openvino
from lcr_edge.runtimes.openvino_engine import core

ov, ops = openvino(), openvino("openvino.opset13")


def convert(job: Job) -> Converted:
    """Write model.xml and model.bin. state_mode "internal": the states become variables of the model."""
    request = job.request
    onnx_file = job.folder / "from.onnx"
    onnx_file.write_bytes(onnx_convert.build(job).SerializeToString())
    # Not ov.convert_model: it starts a telemetry process.
    model: Any = core().read_model(str(onnx_file))
    onnx_file.unlink()
    _check_names(model, request)
    if job.plan is not None:
        model = openvino_int8.quantise(model, job.plan)
    if request.state_mode == "internal":
        model = _stateful(model, request)
    if request.precision == "fp16":
        _halve(model)
    model.set_friendly_name(request.config.name)
    if job.plan is None:
        ov.save_model(model, str(job.path), compress_to_fp16=False)
    else:
        openvino_int8.save(model, job.path)
    return Converted(sorted({node.get_type_name() for node in model.get_ops()}))


def _halve(model: Any) -> None:
    """Store the matrices of products as float16, each followed by a conversion.

    OpenVINO's own ``compress_to_fp16`` would also convert the decay tables, whose range exceeds float16.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or not node.get_friendly_name().endswith(".weight"):
            continue
        if len(node.get_output_shape(0)) == 2:  # not the scales of norms
            half = ops.constant(node.data.astype(np.float16))
            whole = ops.convert(half, "f32")
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(whole.output(0))


def _check_names(model: Any, request: Request) -> None:
    wanted = [spec.name for spec in (*input_specs(request.config, request.edges), *output_specs(request.config))]
    ports = [*model.inputs, *model.outputs]
    found = [sorted(port.get_names()) for port in ports]
    static = all(port.get_partial_shape().is_static for port in ports)
    if not static or len(wanted) != len(found) or any(name not in names for name, names in zip(wanted, found)):
        raise LcrError(
            f"OpenVINO changed the tensors to {found}, expected {wanted}; install the tested version: "
            f"{how_to_install('export')}"
        )


def _stateful(model: Any, request: Request) -> Any:
    """The same model with ReadValue and Assign in place of the state tensors, with their dtype; zeros at the start of
    a stream."""
    sinks = []
    shape = request.config.state_shape
    for name in STATE_NAMES:
        parameter = model.input(f"{name}_in").get_node()
        start = ops.constant(np.zeros(shape, STATE_DTYPES[request.state_precision]))
        memory = ops.read_value(start, name, start.get_output_element_type(0), ov.Shape(list(shape)))
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(memory.output(0))
        result = model.output(f"{name}_out").get_node()
        sinks.append(ops.assign(result.input_value(0).get_node(), name))
    kept = [parameter for parameter in model.get_parameters() if not _is_state(parameter.output(0))]
    results = [result for result in model.get_results() if not _is_state(result.input_value(0))]
    return ov.Model(results, sinks, kept, request.config.name)


def _is_state(port: Any) -> bool:
    return any(name.startswith(STATE_NAMES) for name in port.get_names())
