"""TFLite files as objects of their schema: read, changed in place, written."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from lcr_edge.errors import LcrError

Grid = tuple[float, int]


def read(content: bytes) -> Any:
    """The model as objects of the TFLite schema. Raises LcrError."""
    tools = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
    if content[4:8] != b"TFL3":
        raise LcrError("this is not a TFLite model: export the float model again")
    model = tools.read_model_from_bytearray(bytearray(content))
    if len(model.subgraphs) != 1 or len(model.signatureDefs or ()) != 1:
        raise LcrError("this TFLite model has several subgraphs or signatures, but a step has one: export it again")
    return model


def write(model: Any) -> bytes:
    """The bytes of a model, without metadata, unused tensors and buffers, or duplicate buffers."""
    tools = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
    schema = schema_of()
    model.metadata = model.metadataBuffer = None
    _drop_tensors(model)
    buffers: list[Any] = [schema.BufferT()]  # the first is empty, for tensors that are computed
    place: dict[bytes, int] = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        content = b"" if data is None else np.asarray(data, np.uint8).tobytes()
        if content and content not in place:
            place[content] = len(buffers)
            buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        tensor.buffer = place[content] if content else 0
    model.buffers = buffers
    return bytes(tools.convert_object_to_bytearray(model))


def _drop_tensors(model: Any) -> None:
    """Drop the tensors that no operator and no signature names, in place."""
    graph, ends = model.subgraphs[0], [*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs]
    used = {*graph.inputs, *graph.outputs, *(entry.tensorIndex for entry in ends)}
    used.update(index for entry in graph.operators for index in (*entry.inputs, *entry.outputs))
    kept = [index for index in range(len(graph.tensors)) if index in used]
    now = {-1: -1, **{index: place for place, index in enumerate(kept)}}
    graph.tensors = [graph.tensors[index] for index in kept]
    for holder in (graph, *graph.operators):
        holder.inputs = [now[index] for index in holder.inputs]
        holder.outputs = [now[index] for index in holder.outputs]
    for entry in ends:
        entry.tensorIndex = now[entry.tensorIndex]


def signature_tensors(model: Any) -> list[tuple[str, int]]:
    """(tensor name, index) of the signature's inputs and outputs, in its order."""
    signature, tensors = model.signatureDefs[0], model.subgraphs[0].tensors
    maps = [*signature.inputs, *signature.outputs]
    return [(text(tensors[entry.tensorIndex]), int(entry.tensorIndex)) for entry in maps]


def restore_names(model: Any, before: list[tuple[str, int]]) -> Any:
    """Restore the names of the signature's tensors: a quantiser that adds an operator after an output renames it."""
    tensors, taken = model.subgraphs[0].tensors, {name.encode() for name, _ in before}
    now = [index for _, index in signature_tensors(model)]
    for index, tensor in enumerate(tensors):
        if tensor.name in taken and index not in now:
            tensor.name = f"{index}.inner".encode()
    for (name, _), index in zip(before, now):
        tensors[index].name = name.encode()
    return model


def builtin(model: Any, operator: Any) -> int:
    """The operator's number in the schema's BuiltinOperator."""
    tools = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
    return int(tools.get_builtin_code_from_operator_code(model.operatorCodes[operator.opcodeIndex]))


def text(tensor: Any) -> str:
    """The tensor's name."""
    return str(tensor.name.decode())


def array(model: Any, index: int) -> npt.NDArray[np.float32]:
    """Values of a float32 constant."""
    tensor = model.subgraphs[0].tensors[index]
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    return data.view(np.float32).reshape([int(size) for size in tensor.shape])


def new_tensor(model: Any, name: str, shape: list[int], kind: int, grid: Grid | None = None) -> int:
    """Index of a new tensor that is computed. grid: scale and zero point for integers."""
    schema = schema_of()
    quantised = None if grid is None else schema.QuantizationParametersT(scale=[grid[0]], zeroPoint=[grid[1]])
    tensors = model.subgraphs[0].tensors
    # A buffer of its own: the first one may not be empty.
    model.buffers.append(schema.BufferT())
    tensors.append(schema.TensorT(shape, kind, len(model.buffers) - 1, name.encode(), quantised))
    return len(tensors) - 1


def new_constant(model: Any, name: str, values: npt.NDArray[np.float32]) -> int:
    """Index of a new float32 constant."""
    index = new_tensor(model, name, list(values.shape), schema_of().TensorType.FLOAT32)
    model.buffers[model.subgraphs[0].tensors[index].buffer].data = values.reshape(-1).view(np.uint8)
    return index


def new_operator(model: Any, name: str, inputs: list[int], outputs: list[int]) -> Any:
    """A builtin operator with default options, by the schema's name ("Mul"), not yet in a graph."""
    schema = schema_of()
    kind, options = getattr(schema.BuiltinOptions, f"{name}Options"), getattr(schema, f"{name}OptionsT")()
    return schema.OperatorT(
        code_of(model, getattr(schema.BuiltinOperator, name.upper())), inputs, outputs, kind, options
    )


def code_of(model: Any, kind: int) -> int:
    """Index of a builtin operator in the model's table, to which it is added if needed."""
    schema = schema_of()
    for place in range(len(model.operatorCodes)):
        if builtin(model, schema.OperatorT(place)) == kind:
            return place
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=kind, version=1, builtinCode=kind))
    return len(model.operatorCodes) - 1


def schema_of() -> Any:
    """The classes and numbers of the TFLite schema."""
    return importlib.import_module("ai_edge_litert.schema_py_generated")
