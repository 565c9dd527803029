"""Int8 OpenVINO: integer products for the chosen layers, the weights' grid, size, stateful form, the engine's hint."""

from __future__ import annotations

import collections
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from torch import Tensor, nn

from lcr_edge.calibration.plan import ACTIVATIONS, QUANT_MODES, Plan
from lcr_edge.config import get_config
from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import BundleError, UsageError
from lcr_edge.export import to_onnx, to_openvino
from lcr_edge.export.cell import HostEdgeCell, StepCell
from lcr_edge.export.int8_onnx import quantise_weight
from lcr_edge.export.int8_openvino import quantise, save
from lcr_edge.export.targets import Request
from lcr_edge.runtimes.api import Options
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.openvino_engine import OpenVinoEngine
from lcr_edge.tolerances import PROMISES
from tests.export.made import PACKAGED, checkpoint
from tests.runtimes.toy import make_bundle, reseal

Array = npt.NDArray[Any]
Ranges = dict[str, tuple[float, float]]

FP32 = PROMISES["fp32"].step_abs
INT8 = PROMISES["int8"].step_relative or 0.0
MODES = [("static", "u8"), ("static", "s8"), ("dynamic", "u8"), ("weight-only", "u8")]
GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# lcr_pico has products over 64 channels and more; a group is not larger than the product.
GROUPS = {"static": 0, "dynamic": 32, "weight-only": 0}

needs_int8 = pytest.mark.skipif(
    "INT8" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="OpenVINO has no int8 on this CPU"
)


@functools.cache
def _cell(name: str = "lcr_pico") -> HostEdgeCell:
    return HostEdgeCell(StepCell(checkpoint(name).model)).eval()


def _fresh(cell: nn.Module, edges: str = "host") -> ov.Model:
    config = cell.config
    assert not isinstance(config, (Tensor, nn.Module))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "from.onnx")
        path.write_bytes(to_onnx.build(cell, Request(config, "onnx", edges=edges)).SerializeToString())
        return ov.Core().read_model(str(path)).clone()


@functools.cache
def _float_model(name: str = "lcr_pico") -> ov.Model:
    return _fresh(_cell(name))


def _linears(cell: HostEdgeCell) -> dict[str, nn.Linear]:
    return {name: part for name, part in cell.cell.named_modules() if isinstance(part, nn.Linear)}


@functools.cache
def _feeds(name: str = "lcr_pico") -> list[dict[str, Tensor]]:
    """Random frames, each with the state that the float cell has come to."""
    config = _cell(name).config
    generator = torch.Generator().manual_seed(3)
    h, c = torch.zeros(2, *config.state_shape).unbind(0)
    feeds = []
    for _ in range(4):
        frame = torch.randint(0, 256, (1, *config.frame_shape), dtype=torch.uint8, generator=generator)
        edge = torch.randint(0, 2, (1, config.height, config.width), dtype=torch.uint8, generator=generator)
        feeds.append({"frame": frame, "edge": edge, "state_h_in": h, "state_c_in": c})
        with torch.no_grad():
            _, h, c = _cell(name)(frame, edge, h, c)
    return feeds


@functools.cache
def _ranges(name: str = "lcr_pico") -> Ranges:
    """What the layers of the float cell see over :func:`_feeds`."""
    ranges: Ranges = {}

    def look(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = ranges.get(layer, (0.0, 0.0))
            ranges[layer] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

        return hook

    hooks = [part.register_forward_pre_hook(look(layer)) for layer, part in _linears(_cell(name)).items()]
    with torch.no_grad():
        for feed in _feeds(name):
            _cell(name)(*feed.values())
    for handle in hooks:
        handle.remove()
    return ranges


def _plan(mode: str = "static", activations: str = "u8", name: str = "lcr_pico", **changes: Any) -> Plan:
    return dataclasses.replace(Plan(mode, activations, tuple(_ranges(name)), _ranges(name)), **changes)


def _compile(model: ov.Model, group: int = 0) -> ov.CompiledModel:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, GROUP_SIZE: group}
    return ov.Core().compile_model(model, "CPU", settings)


def _run(model: ov.Model, group: int = 0, name: str = "lcr_pico") -> list[list[Array]]:
    """Logits and states of each of :func:`_feeds`."""
    request = _compile(model, group).create_infer_request()
    found = []
    for feed in _feeds(name):
        results = request.infer({key: tensor.numpy() for key, tensor in feed.items()})
        found.append([np.array(array) for array in results.values()])
    return found


def _rms(a: list[list[Array]], b: list[list[Array]]) -> float:
    """Largest relative root mean square difference of an output of the step."""
    pairs = [[np.stack([step[index] for step in steps]) for steps in (a, b)] for index in range(3)]
    return max(float(np.sqrt(np.mean(np.square(one - other)) / np.var(other))) for one, other in pairs)


def _with_weights(change: Callable[[Array], Array]) -> ov.Model:
    """The float model with other weights in its linear layers."""
    model = _float_model().clone()
    for node in model.get_ordered_ops():
        if node.get_friendly_name().endswith(".weight"):
            changed = ov.opset13.constant(change(node.data.copy()))
            changed.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(changed.output(0))
    return model


def _products(compiled: ov.CompiledModel) -> collections.Counter[tuple[str, str]]:
    """How many linear layers the CPU device executes with which types of input and weight."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for node in compiled.get_runtime_model().get_ops():
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected":
            found[node.input(0).get_element_type().to_string(), node.input(1).get_element_type().to_string()] += 1
    return found


def _integer(model: ov.Model) -> int:
    found = _products(_compile(model))
    return found["u8", "i8"] + found["i8", "i8"]


@needs_int8
@pytest.mark.parametrize("chosen", ["all", "some"])
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_every_chosen_layer_is_executed_in_int8(activations: str, chosen: str) -> None:
    layers = tuple(
        layer for layer in _ranges() if chosen == "all" or layer.startswith(("layers.0.", "prompt", "embed"))
    )
    model = quantise(_float_model(), _plan(activations=activations, layers=layers))
    assert _integer(model) == len(layers)
    assert sum(_products(_compile(model)).values()) == len(_ranges())


@needs_int8
@pytest.mark.slow
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", [PACKAGED, "lcr_tiny"])
def test_every_layer_of_larger_networks_is_executed_in_int8(name: str, activations: str) -> None:
    model = quantise(_float_model(name), _plan(activations=activations, name=name))
    assert _integer(model) == len(_ranges(name))
    assert _rms(_run(model, name=name), _run(_float_model(name), name=name)) < INT8


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_weights_stay_compressed(mode: str) -> None:
    assert _products(_compile(quantise(_float_model(), _plan(mode)), GROUPS[mode])) == {("f32", "i8"): len(_ranges())}


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_the_file_keeps_the_contract_and_is_the_same_each_time(mode: str, activations: str, tmp_path: Path) -> None:
    source = _float_model()
    before = [node.get_friendly_name() for node in source.get_ordered_ops()]
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        save(quantise(source, _plan(mode, activations)), tmp_path / folder / "model.xml")
    for name in ("model.xml", "model.bin"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["model.bin", "model.xml"]
    assert [node.get_friendly_name() for node in source.get_ordered_ops()] == before
    read = ov.Core().read_model(str(tmp_path / "one" / "model.xml"))
    for found, wanted in zip((*read.inputs, *read.outputs), (*source.inputs, *source.outputs)):
        assert wanted.get_any_name() in found.get_names()
        assert (found.get_element_type(), found.get_shape()) == (wanted.get_element_type(), wanted.get_shape())
    assert len(read.inputs) == len(source.inputs)
    assert len(read.outputs) == len(source.outputs)
    for a, b in zip(_run(read, GROUPS[mode]), _run(quantise(source, _plan(mode, activations)), GROUPS[mode])):
        assert all((one == other).all() for one, other in zip(a, b))


def test_a_weight_costs_a_byte_and_the_description_shrinks(tmp_path: Path) -> None:
    model = _float_model(PACKAGED)
    ov.save_model(model, str(tmp_path / "float.xml"), compress_to_fp16=False)
    save(quantise(model, _plan(name=PACKAGED)), tmp_path / "int8.xml")
    size = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    tensors = dict(_cell(PACKAGED).named_buffers())
    lags = {name: table for name, table in tensors.items() if name.endswith("wkv_lag")}
    mirrored = [table for name, table in lags.items() if (tensors[name[:-3] + "lead"].flip(1) == table).all()]
    assert mirrored
    weights = [part.weight for part in _linears(_cell(PACKAGED)).values()]
    saved = 3 * sum(weight.numel() for weight in weights) + 4 * sum(table.numel() for table in mirrored)
    # A scale for each channel, ends of each layer's range, and the reverse order of tokens.
    added = 4 * sum(weight.shape[0] + 2 for weight in weights) + 4 * sum(table.shape[1] for table in mirrored)
    assert size["int8.bin"] <= size["float.bin"] - saved + added
    assert size["int8.xml"] < size["float.xml"]


def test_weights_on_the_grid_are_kept() -> None:
    def to_grid(weight: Array) -> Array:
        q, scale = quantise_weight(weight)
        return q * scale[:, None]

    source = _with_weights(to_grid)
    for a, b in zip(_run(quantise(source, _plan("weight-only"))), _run(source)):
        for one, other in zip(a, b):
            np.testing.assert_allclose(one, other, rtol=0, atol=FP32)


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_channels_of_zeros_stay_zeros(mode: str, activations: str) -> None:
    def cut(weight: Array) -> Array:
        weight[::2] = 0.0
        return weight

    source = _with_weights(cut)
    outputs, floats = _run(quantise(source, _plan(mode, activations)), GROUPS[mode]), _run(source)
    assert all(np.isfinite(array).all() for step in outputs for array in step)
    # Logits of such channels are their biases.
    for step, true in zip(outputs, floats):
        np.testing.assert_allclose(step[0][0, ::2], true[0][0, ::2], rtol=0, atol=FP32)


@needs_int8
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_static_computes_what_the_plan_says(activations: str) -> None:
    """Against PyTorch with rounded weights and inputs. Edges are 0 or 1: no rounding of theirs can flip."""
    plan = _plan(activations=activations)
    one = dataclasses.replace(plan, layers=("embed_edge",), ranges={"embed_edge": (-0.3, 0.9)})
    for a, b in zip(_run(quantise(_float_model(), one)), _emulated(one)):
        for got, wanted in zip(a, b):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=FP32)
    found = _run(quantise(_float_model(), plan))
    assert _rms(found, _emulated(plan)) < _rms(found, _run(_float_model()))


def _emulated(plan: Plan) -> list[list[Array]]:
    least, most = (0, 255) if plan.activations == "u8" else (-127, 127)

    def rounded(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        scale, zero = plan.scale(layer)
        return lambda _, inputs: (((inputs[0] / scale).round() + zero).clamp(least, most) - zero) * scale

    cell = HostEdgeCell(StepCell(checkpoint("lcr_pico").model)).eval()
    with torch.no_grad():
        for layer, part in _linears(cell).items():
            if layer in plan.layers:
                q, scale = quantise_weight(part.weight.numpy())
                part.weight.copy_(torch.from_numpy(q * scale[:, None]))
                part.register_forward_pre_hook(rounded(layer))
        return [[part.numpy() for part in cell(*feed.values())] for feed in _feeds()]


def test_ranges_that_do_not_fit_cost_accuracy() -> None:
    """Sixteen times the range is what four bits less would be."""
    true = _run(_float_model())
    wide = {layer: (16 * low, 16 * high) for layer, (low, high) in _ranges().items()}
    narrow = {layer: (low / 16, high / 16) for layer, (low, high) in _ranges().items()}
    fitting = _rms(_run(quantise(_float_model(), _plan())), true)
    assert fitting < INT8
    assert _rms(_run(quantise(_float_model(), _plan("weight-only"))), true) < fitting
    for other in (wide, narrow):
        assert _rms(_run(quantise(_float_model(), _plan(ranges=other))), true) > INT8


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_the_stateful_form_gives_the_same_numbers(mode: str, activations: str) -> None:
    request = Request(get_config("lcr_pico"), "openvino", state_mode="internal")
    model = quantise(_float_model(), _plan(mode, activations))
    explicit = _compile(model.clone(), GROUPS[mode]).create_infer_request()
    inside = _compile(to_openvino._stateful(model, request), GROUPS[mode]).create_infer_request()
    inside.reset_state()
    states = {f"{name}_in": np.zeros(request.config.state_shape, np.float32) for name in STATE_NAMES}
    for feed in _feeds():
        images = {key: feed[key].numpy() for key in ("frame", "edge")}
        wanted = explicit.infer({**images, **states})
        states = {f"{name}_in": np.array(wanted[f"{name}_out"]) for name in STATE_NAMES}
        assert (inside.infer(images)["logits"] == wanted["logits"]).all()
    variables = {variable.name: np.array(variable.state.data) for variable in inside.query_state()}
    assert all((variables[name] == states[f"{name}_in"]).all() for name in STATE_NAMES)


def test_layers_of_a_cell_with_edges_inside_have_the_same_names() -> None:
    """There the step is not wrapped: its weights have no prefix."""
    model = _float_model().clone()
    for node in model.get_ordered_ops():
        node.set_friendly_name(node.get_friendly_name().removeprefix("cell."))
    for a, b in zip(_run(quantise(model, _plan())), _run(quantise(_float_model(), _plan()))):
        assert all((one == other).all() for one, other in zip(a, b))


def test_a_plan_without_layers_changes_no_number() -> None:
    for mode in QUANT_MODES:
        for a, b in zip(_run(quantise(_float_model(), _plan(mode, layers=()))), _run(_float_model())):
            assert all((one == other).all() for one, other in zip(a, b))


def test_a_layer_that_saw_only_zeros() -> None:
    ranges = {**_ranges(), "classify": (0.0, 0.0)}
    for activations in ACTIVATIONS:
        outputs = _run(quantise(_float_model(), _plan(activations=activations, ranges=ranges)))
        assert all(np.isfinite(array).all() for step in outputs for array in step)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    cases: list[tuple[Mapping[str, Any], str]] = [
        ({"layers": ("layers.9.rg",)}, r"no layer layers\.9\.rg; choose from"),
        ({"ranges": {}}, "no range for the input of layer"),
        ({"ranges": dict.fromkeys(_ranges(), (0.0, float("nan")))}, "calibrate again"),
        ({"ranges": dict.fromkeys(_ranges(), (1.0, -1.0))}, "calibrate again"),
        ({"mode": "int4"}, "unknown quant: 'int4'; choose one of static"),
        ({"activations": "f8"}, "unknown int8 activations: 'f8'; choose one of u8"),
    ]
    for changes, message in cases:
        with pytest.raises(UsageError, match=message):
            quantise(_float_model(), _plan(**changes))


def test_the_engine_takes_the_hint_of_the_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    model = quantise(_float_model(), _plan("weight-only"))
    save(model, make_bundle(folder, "openvino", "host") / "model.xml")
    feed = {key: tensor.numpy() for key, tensor in _feeds()[0].items()}
    found = {}
    for group in (0, 32):
        reseal(folder, runtime_hints={GROUP_SIZE: group})
        found[group] = OpenVinoEngine(read_bundle(folder), Options(threads=1)).run(feed)["logits"]
        assert (found[group] == _run(model, group)[0][0]).all()
    assert (found[0] != found[32]).any()
    reseal(folder, runtime_hints={GROUP_SIZE: -1})
    with pytest.raises(BundleError, match="must be 0 or a positive number of values, found -1"):
        OpenVinoEngine(read_bundle(folder), Options(threads=1))
