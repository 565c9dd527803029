"""The floor on OpenVINO, built from its operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from lcr_edge.runtimes.libraries import openvino
from lcr_edge.runtimes.openvino_engine import LOW_PRECISION, core, saturates
from lcr_edge.runtimes.speed.floor import Floor, Work, factors


def build(work: Work, threads: int | None) -> Floor:
    """The products as a model. Raises ImportError and OpenVINO's errors."""
    ov, ops = openvino(), openvino("openvino.opset13")
    inputs, constants, pairs = factors(work)
    parameters, quantised = {}, {}
    for name, array in inputs.items():
        kind = np.float32 if array.dtype == np.uint8 else array.dtype
        parameters[name] = ops.parameter(list(array.shape), kind, name)
        if array.dtype == np.uint8:
            # OpenVINO looks for int8 products only in models that round somewhere. Once for each input is the least.
            ends = (np.float32(0), np.float32(255)) * 2
            quantised[name] = ops.fake_quantize(parameters[name], *ends, 256)
    results = []
    for (_, integer), (first, second) in zip(work, pairs):
        if integer:
            stored = ops.convert(ops.constant(np.ascontiguousarray(constants[second].T)), np.float32)
            results.append(ops.matmul(quantised[first], ops.multiply(stored, np.float32(1 / 127)), False, True))
        elif second in constants:
            results.append(ops.matmul(parameters[first], ops.constant(constants[second]), False, False))
        else:
            results.append(ops.matmul(parameters[first], parameters[second], False, False))
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if any(integer for _, integer in work) and saturates():
        properties[LOW_PRECISION] = False  # as the engine does
    model = ov.Model(results, list(parameters.values()), "floor")
    request = core().compile_model(model, "CPU", properties).create_infer_request()
    for index, array in enumerate(inputs.values()):
        request.set_input_tensor(index, ov.Tensor(array.astype(np.float32)))

    def compute() -> object:
        # infer() would make a view of each result.
        request.start_async()
        return request.wait()

    return Floor(compute, lambda: [np.array(request.get_output_tensor(index).data) for index in range(len(results))])
