"""Int8 OpenVINO: integer products for the chosen layers, the weights' grid, size, stateful form, the engine's hint."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import ACTIVATIONS, Plan
from lcr_edge.contract import STATE_NAMES
from lcr_edge.errors import BundleError, UsageError
from lcr_edge.export.targets import openvino_convert
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.openvino_int8 import quantise, save
from lcr_edge.export.targets.request import Request
from lcr_edge.model.step_cell import HostEdgeCell, StepCell
from lcr_edge.runtimes import openvino_engine
from lcr_edge.runtimes.api import EngineOptions
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.openvino_engine import LOW_PRECISION, OpenVinoEngine, core, saturates
from lcr_edge.tolerances import PROMISES
from tests.export.made import PACKAGED, bundle, checkpoint
from tests.runtimes.toy import make_bundle, reseal

Array = npt.NDArray[Any]

PICO, LARGER = "lcr_pico", (PACKAGED, "lcr_tiny")
FP32 = PROMISES["fp32"].step_abs or 0.0
INT8 = PROMISES["int8"].step_relative or 0.0
GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
GROUPS = {"static": 0, "dynamic": 32, "weight-only": 0}

each_mode = pytest.mark.parametrize(
    ("mode", "activations"),
    [
        ("static", "u8"),
        pytest.param("static", "s8", marks=pytest.mark.slow),
        ("dynamic", "u8"),
        pytest.param("weight-only", "u8", marks=pytest.mark.slow),
    ],
)
INTEGER = "INT8" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_int8 = pytest.mark.skipif(not INTEGER, reason="OpenVINO has no int8 on this CPU")


def _cell(name: str = PICO) -> HostEdgeCell:
    return HostEdgeCell(StepCell(checkpoint(name).model)).eval()


@functools.cache
def _float_model(name: str = PICO) -> ov.Model:
    return core().read_model(str(bundle(name, "onnx") / "model.onnx"))


@functools.cache
def _feeds(name: str = PICO) -> list[dict[str, Tensor]]:
    """Random frames, each with the state that the float cell has come to."""
    cell, config = _cell(name), checkpoint(name).config
    generator = torch.Generator().manual_seed(3)
    h, c = torch.zeros(2, *config.state_shape).unbind(0)
    feeds = []
    for _ in range(4):
        frame = torch.randint(0, 256, (1, *config.frame_shape), dtype=torch.uint8, generator=generator)
        edge = torch.randint(0, 2, (1, config.height, config.width), dtype=torch.uint8, generator=generator)
        feeds.append({"frame": frame, "edge": edge, "state_h_in": h, "state_c_in": c})
        with torch.no_grad():
            _, h, c = cell(frame, edge, h, c)
    return feeds


def _torch_run(cell: HostEdgeCell, look: Callable[..., Tensor | None], name: str) -> list[Array]:
    """As :func:`_run`. ``look`` is given each layer's name and inputs, and may replace these."""
    for layer, part in cell.cell.linears().items():
        part.register_forward_pre_hook(functools.partial(look, layer))
    with torch.no_grad():
        return [np.stack(parts) for parts in zip(*(cell(*feed.values()) for feed in _feeds(name)))]


def _run(model: ov.Model, group: int = 0, name: str = PICO) -> list[Array]:
    """Logits and both states after each of :func:`_feeds`: [4, ...] each."""
    request = _compile(model, group).create_infer_request()
    feeds = ({key: tensor.numpy() for key, tensor in feed.items()} for feed in _feeds(name))
    steps = [[np.array(array) for array in request.infer(feed).values()] for feed in feeds]
    return [np.stack(parts) for parts in zip(*steps)]


def _compile(model: ov.Model, group: int = 0, integer: bool | None = None) -> ov.CompiledModel:
    """As the engine does. integer: whether products may become int8 ones, by default where they are right."""
    integer = not saturates() if integer is None else integer
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, GROUP_SIZE: group}
    settings[LOW_PRECISION] = integer
    return core().compile_model(model, "CPU", settings)


@functools.cache
def _ranges(name: str = PICO) -> dict[str, tuple[float, float]]:
    """What the layers of the float cell see over :func:`_feeds`."""
    seen: dict[str, list[Tensor]] = collections.defaultdict(lambda: [torch.zeros(1)])
    _torch_run(_cell(name), lambda layer, _, inputs: seen[layer].append(inputs[0].flatten()), name)
    return {layer: (float(torch.cat(values).min()), float(torch.cat(values).max())) for layer, values in seen.items()}


def _plan(mode: str = "static", activations: str = "u8", name: str = PICO, **changes: Any) -> Plan:
    return dataclasses.replace(Plan(mode, activations, tuple(_ranges(name)), _ranges(name)), **changes)


def _rms(a: list[Array], b: list[Array]) -> float:
    """Largest root mean square difference of an output over its deviation."""
    return max(float(np.sqrt(np.mean(np.square(one - other)) / np.var(other))) for one, other in zip(a, b))


def _with_weights(change: Callable[[Array], Array]) -> ov.Model:
    """The float model with other weights, which have the names that they have where edges are inside: no prefix."""
    model = _float_model().clone()
    for node in model.get_ordered_ops():
        if node.get_friendly_name().endswith(".weight"):
            changed = ops.constant(change(node.data.copy()))
            changed.set_friendly_name(node.get_friendly_name().removeprefix("cell."))
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(changed.output(0))
    return model


def _products(compiled: ov.CompiledModel) -> collections.Counter[tuple[str, str]]:
    """How many linear layers the CPU device executes with which types of input and weight."""
    nodes = compiled.get_runtime_model().get_ops()
    products = [node for node in nodes if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"]
    types = [[node.input(index).get_element_type().to_string() for index in (0, 1)] for node in products]
    return collections.Counter((one, other) for one, other in types)


@pytest.mark.slow
@needs_int8
@pytest.mark.parametrize("activations", [ACTIVATIONS[0], pytest.param(ACTIVATIONS[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [PICO, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)])
def test_every_chosen_layer_is_executed_in_int8(name: str, activations: str) -> None:
    every = tuple(_ranges(name))
    some = tuple(layer for layer in every if layer.startswith(("layers.0.", "prompt", "embed")))
    for layers, floats in ((every, ()), (some, ()), (every, some)):
        plan = _plan(activations=activations, name=name, layers=layers, float_layers=floats)
        model = quantise(_float_model(name), plan)
        found, integer = _products(_compile(model, GROUPS["dynamic"], True)), len(layers) - len(floats)
        assert found["u8", "i8"] + found["i8", "i8"] == integer
        assert found["f32", "f32"] == len(every) - integer
        assert _rms(_run(model, name=name), _run(_float_model(name), name=name)) < INT8


def test_weights_stay_compressed_but_those_of_float_layers() -> None:
    every = tuple(_ranges())
    for mode in ("dynamic", "weight-only"):
        assert _products(_compile(quantise(_float_model(), _plan(mode)), GROUPS[mode])) == {("f32", "i8"): len(every)}
    model = quantise(_float_model(), _plan("dynamic", float_layers=every))
    for found, wanted in zip(_run(model, GROUPS["dynamic"]), _run(quantise(_float_model(), _plan("weight-only")))):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FP32)


@each_mode
def test_the_file_keeps_the_contract_and_is_the_same_each_time(mode: str, activations: str, tmp_path: Path) -> None:
    source = _float_model()
    before = [node.get_friendly_name() for node in source.get_ordered_ops()]
    for name in ("one", "other"):
        save(quantise(source, _plan(mode, activations)), tmp_path / f"{name}.xml")
    for end in ("xml", "bin"):
        assert (tmp_path / f"one.{end}").read_bytes() == (tmp_path / f"other.{end}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.bin", "one.xml", "other.bin", "other.xml"]
    assert [node.get_friendly_name() for node in source.get_ordered_ops()] == before
    read = core().read_model(str(tmp_path / "one.xml"))
    found, wanted = (
        [(port.get_names(), port.get_element_type(), port.get_shape()) for port in (*model.inputs, *model.outputs)]
        for model in (read, source)
    )
    assert found == wanted
    assert _rms(_run(read, GROUPS[mode]), _run(quantise(source, _plan(mode, activations)), GROUPS[mode])) == 0


@pytest.mark.slow
def test_a_weight_costs_a_byte_and_the_description_shrinks(tmp_path: Path) -> None:
    model = _float_model(PACKAGED)
    ov.save_model(model, str(tmp_path / "float.xml"), compress_to_fp16=False)
    save(quantise(model, _plan(name=PACKAGED)), tmp_path / "int8.xml")
    size = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    layers: Any = _cell(PACKAGED).cell.layers
    mirrored = [layer.wkv_lag for layer in layers if (layer.wkv_lead.flip(1) == layer.wkv_lag).all()]
    assert mirrored
    weights = [part.weight for part in _cell(PACKAGED).cell.linears().values()]
    saved = 3 * sum(weight.numel() for weight in weights) + 4 * sum(table.numel() for table in mirrored)
    # A scale for each channel, ends of each layer's range, and the reverse order of tokens.
    added = 4 * sum(weight.shape[0] + 2 for weight in weights) + 4 * sum(table.shape[1] for table in mirrored)
    assert size["int8.bin"] <= size["float.bin"] - saved + added
    assert size["int8.xml"] < size["float.xml"]


@each_mode
def test_weights_on_the_grid_and_zeros_are_kept(mode: str, activations: str) -> None:
    """Zeros: channels whose weights are zero (their logits are biases), and a layer whose input always was."""

    def to_grid(weight: Array) -> Array:
        q, scale = quantise_weight(weight)
        q[::2] = 0
        return q * scale[:, None]

    source, ranges = _with_weights(to_grid), {**_ranges(), "classify": (0.0, 0.0)}
    found, wanted = _run(quantise(source, _plan(mode, activations, ranges=ranges)), GROUPS[mode]), _run(source)
    for one, other in zip(found, wanted):
        assert np.isfinite(one).all()
        if mode == "weight-only":
            np.testing.assert_allclose(one, other, rtol=0, atol=FP32)
    np.testing.assert_allclose(found[0][..., ::2], wanted[0][..., ::2], rtol=0, atol=FP32)


@needs_int8
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_static_computes_what_the_plan_says(activations: str) -> None:
    """Against PyTorch with rounded weights and inputs. Edges are 0 or 1: no rounding of theirs can flip."""
    plan = _plan(activations=activations)
    one = dataclasses.replace(plan, layers=("embed_edge",), ranges={"embed_edge": (-0.3, 0.9)})
    for found, wanted in zip(_run(quantise(_float_model(), one)), _emulated(one)):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FP32)
    whole = _run(quantise(_float_model(), plan))
    assert _rms(whole, _emulated(plan)) < _rms(whole, _run(_float_model()))


def _emulated(plan: Plan) -> list[Array]:
    least, most = (0, 255) if plan.activations == "u8" else (-127, 127)

    def rounded(layer: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if layer not in plan.layers:
            return None
        scale, zero = plan.scale(layer)
        return (((inputs[0] / scale).round() + zero).clamp(least, most) - zero) * scale

    cell = _cell()
    for layer in plan.layers:
        q, scale = quantise_weight(cell.cell.linears()[layer].weight.detach().numpy())
        cell.cell.linears()[layer].weight.data = torch.from_numpy(q * scale[:, None])
    return _torch_run(cell, rounded, PICO)


@pytest.mark.slow
def test_ranges_that_do_not_fit_cost_accuracy() -> None:
    """Sixteen times the range is what four bits less would be."""
    true = _run(_float_model())
    fitting = _rms(_run(quantise(_float_model(), _plan())), true)
    assert _rms(_run(quantise(_float_model(), _plan("weight-only"))), true) < fitting < INT8
    for factor in (16.0, 1 / 16):
        ranges = {layer: (factor * low, factor * high) for layer, (low, high) in _ranges().items()}
        assert _rms(_run(quantise(_float_model(), _plan(ranges=ranges))), true) > INT8


@each_mode
def test_the_stateful_form_gives_the_same_numbers(mode: str, activations: str) -> None:
    request, model = Request(checkpoint(PICO).config, "openvino"), quantise(_float_model(), _plan(mode, activations))
    explicit = _compile(model.clone(), GROUPS[mode]).create_infer_request()
    inside = _compile(openvino_convert._stateful(model, request), GROUPS[mode]).create_infer_request()
    states = {f"{name}_in": np.zeros(request.config.state_shape, np.float32) for name in STATE_NAMES}
    for feed in _feeds():
        images = {key: feed[key].numpy() for key in ("frame", "edge")}
        wanted = explicit.infer({**images, **states})
        states = {f"{name}_in": np.array(wanted[f"{name}_out"]) for name in STATE_NAMES}
        assert (inside.infer(images)["logits"] == wanted["logits"]).all()
    variables = {variable.name: np.array(variable.state.data) for variable in inside.query_state()}
    assert all((variables[name] == states[f"{name}_in"]).all() for name in STATE_NAMES)


def test_a_plan_without_layers_changes_no_number_and_drops_idle_nodes() -> None:
    source = _float_model()
    model = quantise(source, _plan(layers=()))
    assert _rms(_run(model), _run(source)) == 0
    found, wanted = (collections.Counter(node.get_type_name() for node in each.get_ops()) for each in (model, source))
    assert (wanted["Range"] > 0, found["Range"]) == (True, 0)
    assert found["Multiply"] + 2 * len(_ranges()) <= wanted["Multiply"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("layers.9.rg",)}, r"no layer layers\.9\.rg; choose from"),
        ({"ranges": {}}, "no range for the input of layer"),
        ({"layers": ("prompt",), "ranges": {"prompt": (0.0, float("nan"))}}, "calibrate again"),
        ({"mode": "int4"}, "unknown quant: 'int4'; choose one of static"),
        ({"activations": "f8"}, "unknown int8 activations: 'f8'; choose one of u8"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantise(_float_model(), _plan(**changes))


def test_the_engine_takes_the_hint_of_the_bundle(tmp_path: Path) -> None:
    folder, model = tmp_path / "bundle", quantise(_float_model(), _plan("weight-only"))
    save(model, make_bundle(folder, "openvino", "host") / "model.xml")
    feed = {key: tensor.numpy() for key, tensor in _feeds()[0].items()}
    for group, other in ((0, 32), (32, 0)):
        reseal(folder, runtime_hints={GROUP_SIZE: group})
        engine = OpenVinoEngine(read_bundle(folder), EngineOptions(threads=1))
        assert engine._request.get_compiled_model().get_property(GROUP_SIZE) == group
        found = engine.run(feed)["logits"]
        assert (found == _run(model, group)[0][0]).all()
        if not saturates():  # without VNNI this OpenVINO quantises nothing on the fly
            assert (found != _run(model, other)[0][0]).any()
    reseal(folder, runtime_hints={GROUP_SIZE: -1})
    with pytest.raises(BundleError, match="must be 0 or a positive number of values, found -1"):
        OpenVinoEngine(read_bundle(folder), EngineOptions(threads=1))


def test_where_int8_saturates_the_engine_computes_in_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both answers of the probe, on this CPU. In float, products round as the plan says."""
    plan = _plan()
    folder, model = tmp_path / "bundle", quantise(_float_model(), plan)
    save(model, make_bundle(folder, "openvino", "host") / "model.xml")
    reseal(folder, precision="int8")
    feed = {key: tensor.numpy() for key, tensor in _feeds()[0].items()}
    found = {}
    for wrong in (False, True):
        monkeypatch.setattr(openvino_engine, "saturates", lambda wrong=wrong: wrong)
        engine = OpenVinoEngine(read_bundle(folder), EngineOptions(threads=1))
        assert engine.name.endswith(", int8 in float") == wrong
        found[wrong] = _products(engine._request.get_compiled_model()), engine.run(feed)["logits"]
    assert found[True][0]
    assert all(one == "f32" for one, _ in found[True][0])
    assert any(one == "u8" for one, _ in found[False][0])
    wanted = _emulated(plan)[0][0]
    assert np.abs(found[True][1] - wanted).max() < 0.1 * wanted.std()
