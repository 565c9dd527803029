"""The floor on TFLite: FULLY_CONNECTED and BATCH_MATMUL, in a file that ai-edge-litert's own schema writes."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from lcr_edge.runtimes.speed.floor import Array, Floor, Work, factors
from lcr_edge.runtimes.tflite_engine import find_interpreter

_VERSIONS = {"FULLY_CONNECTED": 9, "BATCH_MATMUL": 4}


def build(work: Work, threads: int | None) -> Floor:
    """The products as a model. int8 weights are multiplied by floats that the engine rounds first.

    Raises ImportError (tflite-runtime has no schema) and the interpreter's errors.
    """
    interpreter_class, _, _ = find_interpreter()
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    flatbuffers: Any = importlib.import_module("flatbuffers")
    inputs, constants, pairs = factors(work)
    # The engine takes floats where int8 is meant for the products alone.
    inputs = {name: array.astype(np.float32) if array.dtype == np.uint8 else array for name, array in inputs.items()}
    graph = _Graph(schema)
    places = {name: graph.tensor(name, array.shape) for name, array in inputs.items()}
    results = []
    for (item, _), (first, second) in zip(work, pairs):
        shape = (item.batch, item.rows, item.columns) if item.batch else (item.rows, item.columns)
        results.append(graph.tensor(f"{item.name}.y", shape))
        if second in constants:
            weights = graph.constant(second, np.ascontiguousarray(constants[second].T))
            graph.operator("FULLY_CONNECTED", [places[first], weights, -1], results[-1])
        else:
            graph.operator("BATCH_MATMUL", [places[first], places[second]], results[-1])
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.model(list(places.values()), results).Pack(builder), b"TFL3")
    interpreter = interpreter_class(model_content=bytes(builder.Output()), num_threads=threads)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], inputs[details["name"]])
    made = {details["name"]: details["index"] for details in interpreter.get_output_details()}
    return Floor(interpreter.invoke, lambda: [interpreter.get_tensor(made[f"{item.name}.y"]) for item, _ in work])


class _Graph:
    """Tensors, operators and buffers of a model with one graph."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]  # the first one is empty, for what has no content
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}

    def tensor(self, name: str, shape: tuple[int, ...], kind: str = "FLOAT32", content: int = 0) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), content
        tensor.type = getattr(self._schema.TensorType, kind)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, array: Array) -> int:
        """Weights [columns, inner]; int8 ones have a scale for each column."""
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._buffers.append(buffer)
        place = self.tensor(name, array.shape, array.dtype.name.upper(), len(self._buffers) - 1)
        if array.dtype == np.int8:
            scales = self._schema.QuantizationParametersT()
            scales.scale, scales.zeroPoint = [1 / 127] * len(array), [0] * len(array)
            scales.quantizedDimension = 0
            self._tensors[place].quantization = scales
        return place

    def operator(self, kind: str, inputs: list[int], output: int) -> None:
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault(kind, len(self._codes))
        operator.inputs, operator.outputs = inputs, [output]
        if kind == "FULLY_CONNECTED":
            operator.builtinOptionsType = self._schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = self._schema.FullyConnectedOptionsT()
            operator.builtinOptions.asymmetricQuantizeInputs = True
        else:
            operator.builtinOptionsType = self._schema.BuiltinOptions.BatchMatMulOptions
            operator.builtinOptions = self._schema.BatchMatMulOptionsT()
        self._operators.append(operator)

    def model(self, inputs: list[int], outputs: list[int]) -> Any:
        graph = self._schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self._tensors, self._operators, inputs, outputs
        graph.name = "floor"
        model = self._schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], self._buffers, []
        for kind in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), _VERSIONS[kind]
            model.operatorCodes.append(code)
        return model
