"""The floor on onnxruntime: a model of MatMul and MatMulInteger, written in ONNX's format without the onnx package."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lcr_edge.runtimes.libraries import onnxruntime
from lcr_edge.runtimes.onnx_engine import session_settings
from lcr_edge.runtimes.speed.floor import Array, Floor, Work, factors

_IR_VERSION, _OPSET = 8, 17
# TensorProto.DataType
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}


def build(work: Work, threads: int | None) -> Floor:
    """The products as a model. Raises ImportError and onnxruntime's errors."""
    ort = onnxruntime()
    inputs, constants, pairs = factors(work)
    results: dict[str, Array] = {}
    nodes = []
    for (item, integer), (first, second) in zip(work, pairs):
        shape = (item.batch, item.rows, item.columns) if item.batch else (item.rows, item.columns)
        results[f"{item.name}.y"] = np.zeros(shape, np.int32 if integer else np.float32)
        factors_of = [first, second]
        if integer:
            # Zero points. Without them, onnxruntime 1.19 ends the process where session.x64quantprecision makes weights
            # unsigned.
            for factor in (first, second):
                zero = f"{item.name}.{factor}.zero"
                constants[zero] = np.zeros((), {**inputs, **constants}[factor].dtype)
                factors_of.append(zero)
        nodes.append(_node("MatMulInteger" if integer else "MatMul", factors_of, f"{item.name}.y"))
    session = ort.InferenceSession(_model(nodes, constants, inputs, results), session_settings(ort, threads))
    binding = session.io_binding()
    for arrays, bind in ((inputs, binding.bind_input), (results, binding.bind_output)):
        for name, array in arrays.items():
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def compute(_alive: object = inputs) -> object:  # as long as the binding that reads them, like the results
        return session.run_with_iobinding(binding)

    return Floor(compute, lambda: list(results.values()))


def _model(
    nodes: Iterable[bytes], constants: dict[str, Array], inputs: dict[str, Array], results: dict[str, Array]
) -> bytes:
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"floor")
    graph += b"".join(_field(5, _tensor(name, array)) for name, array in constants.items())
    graph += b"".join(_field(11, _value(name, array)) for name, array in inputs.items())
    graph += b"".join(_field(12, _value(name, array)) for name, array in results.items())
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, _number(2, _OPSET))


def _node(kind: str, inputs: Iterable[str], output: str) -> bytes:
    return b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode()) + _field(4, kind.encode())


def _tensor(name: str, array: Array) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, _TYPES[array.dtype.name]) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, array: Array) -> bytes:
    shape = b"".join(_field(1, _number(1, size)) for size in array.shape)
    kind = _number(1, _TYPES[array.dtype.name]) + _field(2, shape)
    return _field(1, name.encode()) + _field(2, _field(1, kind))


def _number(field: int, value: int) -> bytes:
    """A field of protobuf's wire format that holds a whole number."""
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
