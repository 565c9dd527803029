"""A float TFLite step of lcr_pico and its int8 forms, each made once, and ways to look into them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import Plan
from lcr_edge.config import Config
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets import tflite_file, tflite_int8
from lcr_edge.export.targets.job import Job, Source, convert
from lcr_edge.export.targets.request import Request
from lcr_edge.model.step_cell import INTEGER_CHUNK, HostEdgeCell, StepCell
from tests import shared
from tests.export import made

Array = npt.NDArray[Any]
Ranges = dict[str, tuple[float, float]]
PICO = "lcr_pico"
TYPES = schema.TensorType


@functools.cache
def cell_of(name: str = PICO) -> HostEdgeCell:
    """With the small chunks of a model of integers, which serve as well here: one conversion for all tests."""
    return HostEdgeCell(StepCell(made.checkpoint(name).model, chunk=INTEGER_CHUNK if name == PICO else None)).eval()


def float_path(name: str = PICO, edges: str = "host") -> Path:
    """The float model.tflite, made once a run. That of a bundle, where it is the same."""
    if edges == "host" and name != PICO:
        return made.bundle(name, "tflite") / "model.tflite"

    def make(folder: Path) -> None:
        cell = cell_of(name).cell
        if edges == "graph":
            cell = StepCell(made.checkpoint(name).model)
            # The edges themselves are tested elsewhere; each pass of the real number costs conversion time.
            cell.edge_graph.hysteresis = 1
        with quiet():
            convert(Job(Source(cell), Request(made.checkpoint(name).config, "tflite", edges=edges), folder))

    return shared.folder(f"tflite/{name}-{edges}", make) / "model.tflite"


@functools.cache
def feeds_of(name: str = PICO) -> list[dict[str, Array]]:
    """Random frames, each with the state that the float cell has come to."""
    config: Config = cell_of(name).config
    draw = np.random.default_rng(3)
    h, c = np.zeros((2, *config.state_shape), np.float32)
    feeds = []
    for _ in range(8):
        frame = draw.integers(0, 256, (1, *config.frame_shape), np.uint8)
        edge = draw.integers(0, 2, (1, config.height, config.width), np.uint8)
        feeds.append({"frame": frame, "edge": edge, "state_h_in": h, "state_c_in": c})
        _, h, c = step(cell_of(name), feeds[-1])
    return feeds


def step(cell: HostEdgeCell, feed: Mapping[str, Array]) -> list[Array]:
    with torch.no_grad():
        return [part.numpy() for part in cell(*map(torch.from_numpy, feed.values()))]


@functools.cache
def ranges_of(name: str = PICO) -> tuple[Ranges, Ranges]:
    """What the layers of the float cell read and write over :func:`feeds_of`."""
    read: Ranges = {}
    wrote: Ranges = {}

    def note(found: Ranges, layer: str, x: Tensor) -> None:
        low, high = found.get(layer, (np.inf, -np.inf))
        found[layer] = (min(low, float(x.min())), max(high, float(x.max())))

    def watch(layer: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        note(read, layer, inputs[0])
        note(wrote, layer, output)

    cell = copy.deepcopy(cell_of(name))
    for layer, part in cell.cell.linears().items():
        part.register_forward_hook(functools.partial(watch, layer))
    for feed in feeds_of(name):
        step(cell, feed)
    return read, wrote


def make_plan(mode: str = "static", activations: str = "u8", name: str = PICO, **changes: Any) -> Plan:
    read, wrote = ranges_of(name)
    plan = Plan(mode, activations, tuple(read), read, outputs=wrote)
    return dataclasses.replace(plan, **changes)


def quantised(plan: Plan, path: Path | None = None, outputs: Ranges | None = None) -> bytes:
    with quiet():
        return tflite_int8.quantise(path or float_path(), plan, outputs)


@functools.cache
def usual(mode: str, activations: str) -> bytes:
    return quantised(make_plan(mode, activations))


def run(content: bytes, feeds: list[dict[str, Array]] | None = None) -> list[Array]:
    """Logits and both states after each feed, [n, ...] each."""
    with quiet():
        interpreter = Interpreter(model_content=content, num_threads=1)
        runner = interpreter.get_signature_runner("serving_default")
        results = [runner(**feed) for feed in feeds or feeds_of()]
    return [np.stack([result[key] for result in results]) for key in ("logits", "state_h_out", "state_c_out")]


def relative(found: list[Array], wanted: list[Array]) -> float:
    """Largest rms error over standard deviation, of logits and both states."""
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()) for a, b in zip(found, wanted))


def float_run() -> list[Array]:
    return run(float_path().read_bytes())


@dataclasses.dataclass
class Product:
    """A layer in the file. Grids are (scales, zero points)."""

    types: tuple[int, int, int]  # of what the operator reads, of its weight, of what it writes
    q: Array  # its weight, int8 or float32
    weight: tuple[Array, Array]
    x: tuple[Array, Array] | None  # of its input, where that is int8
    bias: Array | None  # what an int32 one stands for


_read = functools.lru_cache(maxsize=2)(tflite_file.read)


def product(content: bytes, layer: str) -> Product:
    model = _read(content)
    graph = model.subgraphs[0]
    made_by = {operator.outputs[0]: operator for operator in graph.operators}
    kinds = schema.BuiltinOperator
    for operator in graph.operators:
        if tflite_file.builtin(model, operator) != kinds.FULLY_CONNECTED:
            continue
        tensors: list[Any] = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
        x, read, *rest = tensors
        # Where arithmetic is in float, a DEQUANTIZE lies between.
        source = made_by.get(operator.inputs[1])
        weight = read if source is None else graph.tensors[source.inputs[0]]
        if tflite_file.text(weight) != f"{layer}.weight":
            continue
        q = _data(model, weight).view(np.int8 if weight.type == TYPES.INT8 else np.float32).reshape(weight.shape)
        bias = None
        if rest and rest[0] is not None and rest[0].type == TYPES.INT32:
            bias = _data(model, rest[0]).view(np.int32) * _grid(rest[0])[0]
        types = (x.type, read.type, graph.tensors[operator.outputs[0]].type)
        grid = _grid(weight)
        if types == (TYPES.FLOAT32, TYPES.INT8, TYPES.FLOAT32):
            # One scale, 1, for all channels; a MUL behind has theirs.
            assert grid[0].tolist() == [1.0]
            (behind,) = (entry for entry in graph.operators if operator.outputs[0] in entry.inputs)
            assert tflite_file.builtin(model, behind) == kinds.MUL
            scale = tflite_file.array(model, behind.inputs[1])
            grid = scale, np.zeros(len(scale), np.int64)
        return Product(types, q, grid, _grid(x) if x.type == TYPES.INT8 else None, bias)
    raise AssertionError(f"no product of {layer}")


def _data(model: Any, tensor: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(model.buffers[tensor.buffer].data, np.uint8)


def _grid(tensor: Any) -> tuple[Array, Array]:
    found = tensor.quantization
    if found is None or found.scale is None:
        return np.zeros(0), np.zeros(0)
    return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint, np.int64)


def changed(change: Any) -> Path:
    """The float model after ``change(model, operators by layer)``, under the names that a converter gives."""
    content = float_path().read_bytes()
    model, names = tflite_file.read(content), [tensor.name for tensor in tflite_file.read(content).subgraphs[0].tensors]
    layers = tflite_int8.name_layers(model)
    for tensor, name in zip(model.subgraphs[0].tensors, names):
        tensor.name = name
    change(model, layers)
    path = made.folder() / "model.tflite"
    path.write_bytes(tflite_file.write(model))
    return path


def with_weights(change: Any) -> Path:
    """The float model with the weights change(layer, float32 [out, in])."""

    def apply(model: Any, layers: Mapping[str, Any]) -> None:
        for layer, operator in layers.items():
            tensor = model.subgraphs[0].tensors[operator.inputs[1]]
            weight = change(layer, tflite_file.array(model, operator.inputs[1])).astype(np.float32)
            model.buffers[tensor.buffer].data = weight.reshape(-1).view(np.uint8)

    return changed(apply)


def boundary(model: Any) -> list[tuple[str, str, int, list[int]]]:
    signature, tensors = model.signatureDefs[0], model.subgraphs[0].tensors
    entries = sorted((*signature.inputs, *signature.outputs), key=lambda entry: entry.name)
    return [
        (entry.name.decode(), tensors[entry.tensorIndex].name.decode(), tensor.type, list(tensor.shape))
        for entry in entries
        for tensor in (tensors[entry.tensorIndex],)
    ]
