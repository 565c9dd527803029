"""Int8 TFLite: the right operators, the grids that the plan says, size, and a model of integers whose state is copied."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from lcr_edge.calibration.plan import ACTIVATIONS, QUANT_MODES, Plan
from lcr_edge.config import Config
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.export import int8_tflite, to_tflite
from lcr_edge.export.cell import HostEdgeCell, StepCell
from lcr_edge.export.int8_onnx import quantise_weight
from lcr_edge.export.int8_tflite import quantise
from lcr_edge.export.int8_tflite_full import CHUNK, INNER, quantise_full
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets import Request
from lcr_edge.tolerances import PROMISES
from tests.export import made

Array = npt.NDArray[Any]
Ranges = dict[str, tuple[float, float]]

PICO = "lcr_pico"
FP32 = PROMISES["fp32"].step_abs or 0.0
INT8 = PROMISES["int8"].step_relative or 0.0
# Largest size of an int8 file of the packaged network, as a part of the float one.
SIZE = 0.35
TYPES = schema.TensorType
STATES = ("state_h", "state_c")

each_mode = pytest.mark.parametrize(
    ("mode", "activations"), [("static", "u8"), ("static", "s8"), ("dynamic", "u8"), ("weight-only", "u8")]
)


@functools.cache
def _cell(name: str = PICO) -> HostEdgeCell:
    """With the small chunks of a model of integers, which serve as well here: one conversion for all tests."""
    return HostEdgeCell(StepCell(made.checkpoint(name).model, chunk=CHUNK if name == PICO else None)).eval()


@functools.cache
def _float_path(name: str = PICO, edges: str = "host") -> Path:
    cell: nn.Module = _cell(name)
    if edges == "graph":
        cell = StepCell(made.checkpoint(name).model).eval()
        # The edges themselves are tested elsewhere; each pass of the real number costs conversion time.
        cell.edge_graph.hysteresis = 1  # type: ignore[assignment]
    folder = made.folder()
    with quiet():
        to_tflite.convert(cell, Request(made.checkpoint(name).config, "tflite", edges=edges), folder)
    return folder / "model.tflite"


@functools.cache
def _feeds(name: str = PICO) -> list[dict[str, Array]]:
    """Random frames, each with the state that the float cell has come to."""
    config: Config = _cell(name).config
    draw = np.random.default_rng(3)
    h, c = np.zeros((2, *config.state_shape), np.float32)
    feeds = []
    for _ in range(8):
        frame = draw.integers(0, 256, (1, *config.frame_shape), np.uint8)
        edge = draw.integers(0, 2, (1, config.height, config.width), np.uint8)
        feeds.append({"frame": frame, "edge": edge, "state_h_in": h, "state_c_in": c})
        _, h, c = _step(_cell(name), feeds[-1])
    return feeds


def _step(cell: HostEdgeCell, feed: Mapping[str, Array]) -> list[Array]:
    with torch.no_grad():
        return [part.numpy() for part in cell(*map(torch.from_numpy, feed.values()))]


@functools.cache
def _ranges(name: str = PICO) -> tuple[Ranges, Ranges]:
    """What the layers of the float cell read and write over :func:`_feeds`."""
    read: Ranges = {}
    wrote: Ranges = {}

    def note(found: Ranges, layer: str, x: Tensor) -> None:
        low, high = found.get(layer, (np.inf, -np.inf))
        found[layer] = (min(low, float(x.min())), max(high, float(x.max())))

    def watch(layer: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        note(read, layer, inputs[0])
        note(wrote, layer, output)

    cell = copy.deepcopy(_cell(name))
    for layer, part in cell.cell.linears().items():
        part.register_forward_hook(functools.partial(watch, layer))
    for feed in _feeds(name):
        _step(cell, feed)
    return read, wrote


def _plan(mode: str = "static", activations: str = "u8", name: str = PICO, **changes: Any) -> Plan:
    read, wrote = _ranges(name)
    plan = Plan(mode, activations, tuple(read), read, outputs=wrote)
    return dataclasses.replace(plan, **changes)


def _int8(plan: Plan, path: Path | None = None, outputs: Ranges | None = None) -> bytes:
    with quiet():
        return quantise(path or _float_path(), plan, outputs)


@functools.cache
def _usual(mode: str, activations: str) -> bytes:
    return _int8(_plan(mode, activations))


def _run(content: bytes, feeds: list[dict[str, Array]] | None = None) -> list[Array]:
    """Logits and both states after each feed, [n, ...] each."""
    with quiet():
        interpreter = Interpreter(model_content=content, num_threads=1)
        runner = interpreter.get_signature_runner("serving_default")
        results = [runner(**feed) for feed in feeds or _feeds()]
    return [np.stack([result[key] for result in results]) for key in ("logits", "state_h_out", "state_c_out")]


def _relative(found: list[Array], wanted: list[Array]) -> float:
    """Largest rms error over standard deviation, of logits and both states."""
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()) for a, b in zip(found, wanted))


def _true() -> list[Array]:
    return _run(_float_path().read_bytes())


@dataclasses.dataclass
class Product:
    """A layer in the file: its tensors, the int8 weight and the steps of an int32 bias. Grids are (scales, zero points)."""

    types: tuple[int, int, int]  # of what the operator reads, of its weight, of what it writes
    q: Array
    weight: tuple[Array, Array]
    x: tuple[Array, Array] | None
    bias: Array | None


def _product(content: bytes, layer: str) -> Product:
    model = int8_tflite.read(content)
    graph = model.subgraphs[0]
    made_by = {operator.outputs[0]: operator for operator in graph.operators}
    kinds = schema.BuiltinOperator
    for operator in graph.operators:
        if int8_tflite.builtin(model, operator) != kinds.FULLY_CONNECTED:
            continue
        x, read, *rest = (graph.tensors[index] if index >= 0 else None for index in operator.inputs)
        # Where arithmetic is in float, a DEQUANTIZE lies between.
        source = made_by.get(operator.inputs[1])
        weight = read if source is None else graph.tensors[source.inputs[0]]
        if int8_tflite.text(weight) != f"{layer}.weight":
            continue
        q = _data(model, weight).view(np.int8 if weight.type == TYPES.INT8 else np.float32).reshape(weight.shape)
        bias = None
        if rest and rest[0] is not None and rest[0].type == TYPES.INT32:
            bias = _data(model, rest[0]).view(np.int32) * _grid(rest[0])[0]
        types = (x.type, read.type, graph.tensors[operator.outputs[0]].type)
        return Product(types, q, _grid(weight), _grid(x) if x.type == TYPES.INT8 else None, bias)
    raise AssertionError(f"no product of {layer}")


def _data(model: Any, tensor: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(model.buffers[tensor.buffer].data, np.uint8)


def _grid(tensor: Any) -> tuple[Array, Array]:
    found = tensor.quantization
    if found is None or found.scale is None:
        return np.zeros(0), np.zeros(0)
    return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint, np.int64)


def _changed(change: Any) -> Path:
    """The float model after ``change(model, operators by layer)``, under the names that a converter gives."""
    content = _float_path().read_bytes()
    model, names = int8_tflite.read(content), [tensor.name for tensor in int8_tflite.read(content).subgraphs[0].tensors]
    layers = int8_tflite.name_layers(model)
    for tensor, name in zip(model.subgraphs[0].tensors, names):
        tensor.name = name
    change(model, layers)
    path = made.folder() / "model.tflite"
    path.write_bytes(int8_tflite.write(model))
    return path


def _with_weights(change: Any) -> Path:
    """The float model with the weights change(layer, float32 [out, in])."""

    def apply(model: Any, layers: Mapping[str, Any]) -> None:
        for layer, operator in layers.items():
            tensor = model.subgraphs[0].tensors[operator.inputs[1]]
            weight = change(layer, int8_tflite.array(model, operator.inputs[1])).astype(np.float32)
            model.buffers[tensor.buffer].data = weight.reshape(-1).view(np.uint8)

    return _changed(apply)


@each_mode
def test_products_become_what_the_mode_says(mode: str, activations: str) -> None:
    whole, real = (TYPES.INT8,) * 3, TYPES.FLOAT32
    kinds = {"static": whole, "dynamic": (real, TYPES.INT8, real), "weight-only": (real, real, real)}
    some = tuple(layer for layer in _ranges()[0] if layer not in ("prompt", "layers.1.kv"))
    content = _int8(_plan(mode, activations, layers=some, float_layers=("layers.0.rg",)))
    for layer in _ranges()[0]:
        if layer in ("prompt", "layers.1.kv"):
            with pytest.raises(AssertionError, match="no product"):
                _product(content, layer)
            continue
        wanted = kinds["weight-only" if layer == "layers.0.rg" else mode]
        # Its output is the step's: float, so it cannot be static.
        wanted = kinds["dynamic"] if (layer, mode) == ("classify", "static") else wanted
        assert _product(content, layer).types == wanted, layer


@each_mode
def test_weights_lie_on_the_symmetric_grid_of_their_channel(mode: str, activations: str) -> None:
    content = _usual(mode, activations)
    for layer, linear in _cell().cell.linears().items():
        q, scale = quantise_weight(linear.weight.detach().numpy())
        found = _product(content, layer)
        assert (found.q == q).all()
        assert (found.weight[0] == scale).all()
        assert not found.weight[1].any()


def test_weights_on_the_grid_stay() -> None:
    drawn: dict[str, Array] = {}
    draw = np.random.default_rng(5)

    def on_grid(layer: str, weight: Array) -> Array:
        q = draw.integers(-127, 128, weight.shape)
        q[:, 0] = 127
        drawn[layer] = q
        # A power of two: then the products are exact, and so must the result be.
        return q * np.exp2(np.floor(np.log2(quantise_weight(weight)[1])))[:, None]

    path = _with_weights(on_grid)
    for mode in QUANT_MODES:
        content = _int8(_plan(mode), path)
        assert all((_product(content, layer).q == q).all() for layer, q in drawn.items())
    for found, wanted in zip(_run(content), _run(path.read_bytes())):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FP32)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_inputs_have_the_grid_of_the_plan(activations: str) -> None:
    plan = _plan(activations=activations)
    shift = 128 if activations == "u8" else 0
    for layer in plan.layers:
        if layer == "classify":
            continue
        found = _product(_usual("static", activations), layer).x
        assert found is not None
        scale, zero = plan.scale(layer)
        assert found[0].tolist() == [np.float32(scale)]
        assert found[1].tolist() == [zero - shift]


def test_layers_that_read_one_tensor_keep_their_own_ranges() -> None:
    """As keys and values of all layers do where they come from the edges alone."""

    def share(model: Any, layers: Mapping[str, Any]) -> None:
        first = layers["layers.0.kv"].inputs[0]
        for layer in ("layers.1.kv", "layers.2.kv"):
            layers[layer].inputs = [first, *layers[layer].inputs[1:]]

    read = {**_ranges()[0], "layers.0.kv": (-5.0, 5.0), "layers.1.kv": (-3.0, 4.0), "layers.2.kv": (-5.0, 5.0)}
    plan, path = _plan(ranges=read), _changed(share)
    content = _int8(plan, path)
    for layer in ("layers.0.kv", "layers.1.kv", "layers.2.kv"):
        found = _product(content, layer).x
        assert found is not None
        assert found[0].tolist() == [np.float32(plan.scale(layer)[0])]
    assert _relative(_run(content), _run(path.read_bytes())) < INT8


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_channels_of_zeros_keep_their_bias(activations: str) -> None:
    """The scale of an int32 bias is that of the weights: of none it would leave the bias no room."""
    path = _with_weights(lambda layer, weight: weight * (np.arange(len(weight)) % 2)[:, None])
    content = _int8(_plan(activations=activations), path)
    bias = _cell().cell.linears()["prompt"].bias
    found = _product(content, "prompt").bias
    assert found is not None
    np.testing.assert_allclose(found, bias.detach().numpy(), rtol=0, atol=FP32)
    assert all(np.isfinite(part).all() for part in _run(content))


@each_mode
def test_a_step_is_near_the_float_one(mode: str, activations: str) -> None:
    assert 0 < _relative(_run(_usual(mode, activations)), _true()) < INT8


def test_the_engine_computes_what_the_plan_says() -> None:
    """Weight-only against PyTorch with rounded weights, static nearer to what it emulates than to the float step."""
    assert all(
        np.abs(a - b).max() <= FP32 for a, b in zip(_run(_usual("weight-only", "u8")), _emulated(False), strict=True)
    )
    found = _run(_usual("static", "u8"))
    assert _relative(found, _emulated(True)) < _relative(found, _true())


def _emulated(static: bool) -> list[Array]:
    cell, (read, wrote) = copy.deepcopy(_cell()), _ranges()

    def rounded(ends: tuple[float, float], x: Tensor) -> Tensor:
        scale, zero = Plan("static", "u8", (), {"": ends}).scale("")
        return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale

    for layer, part in cell.cell.linears().items():
        q, scale = quantise_weight(part.weight.detach().numpy())
        part.weight.data = torch.from_numpy(q * scale[:, None])
        if static and layer != "classify":
            part.register_forward_pre_hook(lambda _, x, ends=read[layer]: (rounded(ends, x[0]),))
            part.register_forward_hook(lambda _, x, y, ends=wrote[layer]: rounded(ends, y))
    return [np.stack(parts) for parts in zip(*(_step(cell, feed) for feed in _feeds()))]


def test_ranges_that_do_not_fit_cost_accuracy() -> None:
    read, wrote = _ranges()
    for changes in ({"ranges": read}, {"outputs": wrote}):
        ((name, ranges),) = changes.items()
        wide = {layer: (64 * low, 64 * high) for layer, (low, high) in ranges.items()}
        assert _relative(_run(_int8(_plan(**{name: wide}))), _true()) > INT8
    wide = {layer: (64 * low, 64 * high) for layer, (low, high) in wrote.items()}
    assert _int8(_plan(), outputs=wide) == _int8(_plan(outputs=wide)) != _usual("static", "u8")


@each_mode
def test_the_contract_stays_and_the_bytes_are_the_same_each_time(mode: str, activations: str) -> None:
    content = _usual(mode, activations)
    assert _int8(_plan(mode, activations)) == content
    model, before = int8_tflite.read(content), int8_tflite.read(_float_path().read_bytes())
    for found, wanted in zip(_boundary(model), _boundary(before), strict=True):
        assert found == wanted
    names = [tensor.name for tensor in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert not model.metadata


def _boundary(model: Any) -> list[tuple[str, str, int, list[int]]]:
    signature, tensors = model.signatureDefs[0], model.subgraphs[0].tensors
    entries = sorted((*signature.inputs, *signature.outputs), key=lambda entry: entry.name)
    return [
        (entry.name.decode(), tensors[entry.tensorIndex].name.decode(), tensor.type, list(tensor.shape))
        for entry in entries
        for tensor in (tensors[entry.tensorIndex],)
    ]


def test_no_layers_change_no_number() -> None:
    for found, wanted in zip(_run(_int8(_plan(layers=()))), _true()):
        assert (found == wanted).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("layers.9.rg",)}, r"no layer layers\.9\.rg; choose from"),
        ({"ranges": {}}, "no range for the input of layer"),
        ({"outputs": {}}, "no range for the output of layer"),
        ({"layers": ("prompt",), "ranges": {"prompt": (0.0, float("nan"))}}, "calibrate again"),
        ({"layers": ("prompt",), "outputs": {"prompt": (1.0, 0.0)}}, "calibrate again"),
        ({"mode": "int4"}, "unknown quant: 'int4'; choose one of static"),
        ({"activations": "f8"}, "unknown int8 activations: 'f8'; choose one of u8"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantise(_float_path(), _plan(**changes))


def test_a_file_that_is_no_float_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    for content, message in ((b"", "no TFLite model"), (_usual("static", "u8"), "no linear layer")):
        path.write_bytes(content)
        with pytest.raises(LcrError, match=message):
            quantise(path, _plan())


@pytest.mark.slow
def test_a_file_of_the_packaged_network_is_small() -> None:
    source = _float_path(made.PACKAGED)
    for mode in QUANT_MODES:
        assert len(_int8(_plan(mode, name=made.PACKAGED), source)) <= SIZE * source.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("edges", ["host", "graph"])
@pytest.mark.parametrize("name", [PICO, made.PACKAGED, "lcr_tiny"])
def test_every_layer_is_found(name: str, edges: str) -> None:
    model = int8_tflite.read(_float_path(name, edges).read_bytes())
    found, linears = int8_tflite.name_layers(model), _cell(name).cell.linears()
    assert set(found) == set(linears)
    for layer, operator in found.items():
        assert (int8_tflite.array(model, operator.inputs[1]) == linears[layer].weight.detach().numpy()).all()


@functools.cache
def _whole(inner: str) -> tuple[bytes, dict[str, tuple[float, int]]]:
    with quiet():
        return quantise_full(_float_path(), _feeds(), inner=inner)


@pytest.mark.parametrize("inner", INNER)
def test_a_model_of_integers_has_no_other_tensors(inner: str) -> None:
    content, grids = _whole(inner)
    with quiet():
        assert quantise_full(_float_path(), _feeds(), inner=inner)[0] == content
    model = int8_tflite.read(content)
    whole = {TYPES.INT8, TYPES.INT32, TYPES.UINT8, TYPES.BOOL} | ({TYPES.INT16, TYPES.INT64} - {None})
    kinds = {tensor.type for tensor in model.subgraphs[0].tensors}
    assert kinds <= (whole if inner == "int16" else whole - {TYPES.INT16, TYPES.INT64})
    found = {name: (kind, shape) for name, _, kind, shape in _boundary(model)}
    before = {name: shape for name, _, _, shape in _boundary(int8_tflite.read(_float_path().read_bytes()))}
    assert {name: shape for name, (_, shape) in found.items()} == before
    assert {name for name, (kind, _) in found.items() if kind == TYPES.UINT8} == {"frame", "edge"}
    assert {name for name, (kind, _) in found.items() if kind == TYPES.INT8} == set(grids)
    for state in STATES:
        assert grids[f"{state}_in"] == grids[f"{state}_out"]


@pytest.mark.parametrize("inner", INNER)
def test_integers_step_like_the_float_model_with_their_state_copied(inner: str) -> None:
    content, grids = _whole(inner)
    with quiet():
        runner = Interpreter(model_content=content, num_threads=1).get_signature_runner("serving_default")
        details = {**runner.get_input_details(), **runner.get_output_details()}
        for name, (scale, zero) in grids.items():
            assert details[name]["quantization"] == (np.float32(scale), zero)
        shape = _cell().config.state_shape
        state = {f"{name}_in": np.full(shape, grids[f"{name}_in"][1], np.int8) for name in STATES}
        results = []
        for feed in _feeds():
            results.append(runner(frame=feed["frame"], edge=feed["edge"], **state))
            state = {f"{name}_in": results[-1][f"{name}_out"] for name in STATES}
    found = [
        np.stack([(result[name].astype(np.float32) - zero) * np.float32(scale) for result in results])
        for name, (scale, zero) in grids.items()
        if not name.endswith("_in")
    ]
    order = [name for name in grids if not name.endswith("_in")]
    wanted = dict(zip(("logits", "state_h_out", "state_c_out"), _true()))
    assert _relative(found, [wanted[name] for name in order]) < INT8


def test_states_of_integers_have_the_ranges_that_are_given() -> None:
    with quiet():
        _, grids = quantise_full(_float_path(), _feeds()[:1], {"state_h": (-1.0, 1.0)})
    assert grids["state_h_in"] == (float(np.float32(2 / 255)), 0)
    assert grids["state_c_in"] != _whole(INNER[0])[1]["state_c_in"]


def test_integers_that_cannot_be_had_are_refused() -> None:
    for feeds, options, message in (
        (_feeds(), {"inner": "int4"}, "unknown integers inside: 'int4'; choose one of"),
        ([], {}, "needs calibration samples"),
        (_feeds()[:1], {"states": {"state_c": (1.0, -1.0)}}, "range of state_c"),
    ):
        with pytest.raises(UsageError, match=message), quiet():
            quantise_full(_float_path(), feeds, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_integers_cannot_find_edges() -> None:
    with pytest.raises(UsageError, match="export with --edges host"):
        quantise_full(_float_path(edges="graph"), _feeds())
