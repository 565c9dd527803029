"""The step cell as one ONNX file: opset 18, static shapes, tensor names and order of the contract."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lcr_edge.contract import input_specs, output_specs
from lcr_edge.errors import LcrError
from lcr_edge.export.targets import onnx_int8
from lcr_edge.export.targets.request import Converted, Request

if TYPE_CHECKING:
    from lcr_edge.calibration.quant_plan import Plan
    from lcr_edge.calibration.samples import Samples

OPSET = 18
# Where a node came from in the network; everything else that the exporter notes holds paths of this machine.
_KEPT_METADATA = "pkg.torch.onnx.name_scopes"
_cache: weakref.WeakKeyDictionary[nn.Module, bytes] = weakref.WeakKeyDictionary()


def convert(
    cell: nn.Module, request: Request, folder: Path, plan: Plan | None = None, samples: Samples | None = None
) -> Converted:
    """Write model.onnx. cell: as the edge mode wants it, and for int8 as it was prepared with the plan.

    samples: unused here.
    """
    del samples
    model = build(cell, request)
    if plan is not None:
        model = onnx_int8.quantise(model, plan)
    (folder / request.row.files[0]).write_bytes(model.SerializeToString(deterministic=True))
    return Converted(sorted({node.op_type for node in model.graph.node}))


def build(cell: nn.Module, request: Request) -> onnx.ModelProto:
    """The checked model in memory. With fp16, matrices are stored in half precision and cast when a session loads."""
    if cell not in _cache:
        _cache[cell] = _trace(cell, request).SerializeToString()
    model = onnx.load_from_string(_cache[cell])
    if request.precision == "fp16":
        _halve(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def example_inputs(request: Request) -> dict[str, torch.Tensor]:
    """Zeros of what the cell takes, by name, in contract order. Int8 states are made by the converter: floats here."""
    state_precision = "fp32" if request.state_precision == "int8" else request.state_precision
    return {
        spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
        for spec in input_specs(request.config, request.edges, state_precision=state_precision)
    }


def _trace(cell: nn.Module, request: Request) -> onnx.ModelProto:
    inputs = example_inputs(request)
    outputs = [spec.name for spec in output_specs(request.config)]
    program: Any = torch.onnx.export(
        cell,
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
    # The exporter only warns when it cannot keep to what it was asked for.
    if versions != {"": OPSET} or found != (list(inputs), outputs):
        raise LcrError(
            f"torch.onnx.export wrote opsets {versions} and tensors {found}, wanted opset {OPSET} and "
            f"{(list(inputs), outputs)}; install the versions of constraints.txt"
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
