"""The step cell as one ONNX file: opset 18, static shapes, tensor names and order of the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from lcr_edge.contract import output_specs
from lcr_edge.errors import LcrError, how_to_install
from lcr_edge.export.targets import onnx_int8
from lcr_edge.export.targets.job import Converted, Job

OPSET = 18
# Where a node came from in the network; the exporter's other metadata contains paths on this machine.
_KEPT_METADATA = "pkg.torch.onnx.name_scopes"


def convert(job: Job) -> Converted:
    """Write model.onnx. With fp16, matrices are stored in half precision and cast when a session loads."""
    model = build(job)
    if job.request.precision == "fp16":
        _halve(model.graph)
        onnx.checker.check_model(model, full_check=True)
    if job.plan is not None:
        model = onnx_int8.quantise(model, job.plan)
    job.path.write_bytes(model.SerializeToString(deterministic=True))
    return Converted(sorted({node.op_type for node in model.graph.node}))


def build(job: Job) -> onnx.ModelProto:
    """The checked float32 model in memory; traced once for each source, edge mode and state precision."""
    return onnx.load_from_string(job.source.once("onnx", job.request, lambda: _trace(job).SerializeToString()))


def _trace(job: Job) -> onnx.ModelProto:
    inputs = job.example_inputs()
    outputs = [spec.name for spec in output_specs(job.request.config)]
    program: Any = torch.onnx.export(
        job.step(),
        (),
        kwargs=inputs,
        dynamo=True,
        external_data=False,
        input_names=list(inputs),
        output_names=outputs,
        opset_version=OPSET,
        verbose=False,
    )
    model: onnx.ModelProto = program.model_proto
    versions = {entry.domain: entry.version for entry in model.opset_import}
    found = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    # The exporter only warns if it cannot do what was asked.
    if versions != {"": OPSET} or found != (list(inputs), outputs):
        raise LcrError(
            f"torch.onnx.export wrote opsets {versions} and tensors {found}, expected opset {OPSET} and "
            f"{(list(inputs), outputs)}; install the tested versions: {how_to_install('export')}"
        )
    for node in model.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == _KEPT_METADATA]
        del node.metadata_props[:]
        for value in scopes:
            node.metadata_props.add(key=_KEPT_METADATA, value=value)
        node.doc_string = ""
    for key in ("metadata_props", "value_info"):
        del getattr(model.graph, key)[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _halve(graph: onnx.GraphProto) -> None:
    """Store the matrices of products as float16 and cast them back; tables, norms, biases stay float32."""
    matrices = {name for node in graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in matrices or not tensor.name.endswith(".weight"):
            continue
        whole = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{whole}.fp16")
        tensor.CopyFrom(half)
        casts.append(onnx.helper.make_node("Cast", [half.name], [whole], f"{whole}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
