"""Int8 ONNX: integer kernels for the chosen layers, the weights' grid, size, errors against the float model."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES, Plan
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.onnx_int8 import quantise, quantise_weight
from lcr_edge.model.step_cell import HostEdgeCell, StepCell
from lcr_edge.tolerances import PROMISES
from tests.export.made import bundle, checkpoint

F32 = npt.NDArray[np.float32]

FP32 = PROMISES["fp32"].step_abs or 0.0
MODES = [("static", "u8"), ("static", "s8"), ("dynamic", "u8"), ("weight-only", "u8")]
INTEGER = {"QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
FLOAT = {"Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


@functools.cache
def _cell() -> HostEdgeCell:
    return HostEdgeCell(StepCell(checkpoint("lcr_pico").model)).eval()


@functools.cache
def _float_bytes() -> bytes:
    return (bundle("lcr_pico", "onnx") / "model.onnx").read_bytes()


def _float_model() -> onnx.ModelProto:
    return onnx.load_from_string(_float_bytes())


def _linears(cell: HostEdgeCell) -> dict[str, nn.Linear]:
    return {name: part for name, part in cell.cell.named_modules() if isinstance(part, nn.Linear)}


def _step(cell: HostEdgeCell, feed: dict[str, Any]) -> list[Any]:
    with torch.no_grad():
        return [part.numpy() for part in cell(*map(torch.from_numpy, feed.values()))]


@functools.cache
def _feeds() -> list[dict[str, Any]]:
    """Random frames, each with the state that the float cell has come to."""
    config = _cell().config
    draw = np.random.default_rng(3)
    h, c = np.zeros((2, *config.state_shape), np.float32)
    feeds = []
    for _ in range(4):
        frame = draw.integers(0, 256, (1, *config.frame_shape), np.uint8)
        edge = draw.integers(0, 2, (1, config.height, config.width), np.uint8)
        feeds.append({"frame": frame, "edge": edge, "state_h_in": h, "state_c_in": c})
        _, h, c = _step(_cell(), feeds[-1])
    return feeds


@functools.cache
def _ranges() -> dict[str, tuple[float, float]]:
    """What the layers of the float cell see over :func:`_feeds`."""
    cell = copy.deepcopy(_cell())
    ranges: dict[str, tuple[float, float]] = {}
    names: dict[nn.Module, str] = {part: name for name, part in _linears(cell).items()}

    def look(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = ranges.get(names[part], (0.0, 0.0))
        ranges[names[part]] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    for part in names:
        part.register_forward_pre_hook(look)
    for feed in _feeds():
        _step(cell, feed)
    return ranges


def _plan(mode: str = "static", activations: str = "u8", **changes: Any) -> Plan:
    return dataclasses.replace(Plan(mode, activations, tuple(_ranges()), _ranges()), **changes)


def _run(model: onnx.ModelProto) -> list[list[F32]]:
    """What a step gives for each of :func:`_feeds`."""
    settings = ort.SessionOptions()
    # Sums of two int8 products saturate on x86 CPUs without VNNI, unless the weights are made unsigned when they load.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in _feeds()]


def _rms(a: list[list[F32]], b: list[list[F32]]) -> float:
    """Root mean square difference of everything a step gives, each output over its own spread."""
    parts = []
    for index in range(3):
        one, other = (np.stack([step[index] for step in steps]) for steps in (a, b))
        parts.append(float(np.mean(np.square(one - other)) / np.var(other)))
    return float(np.sqrt(np.mean(parts)))


def _worst(a: list[list[F32]], b: list[list[F32]]) -> float:
    return max(float(np.abs(one - other).max()) for step in zip(a, b) for one, other in zip(*step))


def _operators(model: onnx.ModelProto, folder: Path) -> collections.Counter[str]:
    """The operators that onnxruntime makes of a model on this machine."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # it warns that the file is for this machine only
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    optimised = onnx.load(settings.optimized_model_filepath)
    return collections.Counter(node.op_type for node in optimised.graph.node)


def _tensors(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _on_grid(weight: F32) -> F32:
    q, scale = quantise_weight(weight)
    return q * scale[:, None]


def _with_weights(change: Callable[[F32], F32]) -> onnx.ModelProto:
    """The float model with other weights in its linear layers."""
    model = _float_model()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight"):
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    return model


@pytest.mark.parametrize("layers", ["all", "some", "mixed"])
@pytest.mark.parametrize(("mode", "activations"), MODES[:3])
def test_every_chosen_layer_becomes_an_integer_kernel(mode: str, activations: str, layers: str, tmp_path: Path) -> None:
    chosen = tuple(name for name in _ranges() if layers == "all" or name.startswith(("layers.0.", "embed")))
    others = tuple(name for name in _ranges() if name not in chosen)
    changes = {"float_layers": others} if layers == "mixed" else {"layers": chosen}
    found = _operators(quantise(_float_model(), _plan(mode, activations, **changes)), tmp_path)
    assert sum(found[name] for name in INTEGER) == len(chosen)
    # The others, and those without weights, stay.
    before = _operators(_float_model(), tmp_path)
    assert sum(before[name] - found[name] for name in FLOAT) == len(chosen)


def test_weight_only_costs_nothing_at_a_step(tmp_path: Path) -> None:
    assert _operators(quantise(_float_model(), _plan("weight-only")), tmp_path) == _operators(_float_model(), tmp_path)


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_the_file_keeps_the_contract_and_is_the_same_each_time(mode: str, activations: str) -> None:
    source = _float_model()
    model = quantise(source, _plan(mode, activations))
    assert source.SerializeToString() == _float_bytes()
    assert list(model.graph.input) == list(source.graph.input)
    assert list(model.graph.output) == list(source.graph.output)
    assert list(model.opset_import) == list(source.opset_import)
    assert not any(node.metadata_props for node in model.graph.node)
    assert quantise(source, _plan(mode, activations)).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_a_weight_costs_a_byte_and_nothing_is_there_twice(mode: str, activations: str) -> None:
    model, compact = (quantise(_float_model(), _plan(mode, activations, layers=each)) for each in (_plan().layers, ()))
    weights = [part.weight for part in _linears(_cell()).values()]
    # Scale and zero point of each channel, scale and zero point of each layer's input.
    grids = sum(5 * (weight.shape[0] + 1) for weight in weights)
    size, whole = (sum(array.nbytes for array in _tensors(each).values()) for each in (model, compact))
    assert size <= whole - 3 * sum(weight.numel() for weight in weights) + grids
    tensors = [array for array in _tensors(model).values() if array.dtype not in (np.int8, np.uint8)]
    assert len({(array.dtype.str, array.shape, array.tobytes()) for array in tensors}) == len(tensors)


def test_weights_on_the_grid_are_kept() -> None:
    steps = np.random.default_rng(1).integers(-127, 128, (5, 40)).astype(np.int8)
    steps[:, 7] = [127, -127, 127, -127, 127]
    scale = np.array([0.003, 1e-7, 12.5, 1 / 3, 0.25], np.float32)
    q, found = quantise_weight(scale[:, None] * steps)
    assert (q == steps).all()
    np.testing.assert_allclose(found, scale, rtol=float(np.finfo(np.float32).eps))


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_every_weight_is_rounded_on_the_grid_of_its_channel(mode: str, activations: str) -> None:
    found = _tensors(quantise(_float_model(), _plan(mode, activations)))
    for name, part in _linears(_cell()).items():
        int8 = found[f"cell.{name}.weight_quantized"].T if mode == "dynamic" else found[f"cell.{name}.weight.int8"]
        assert (int8 == quantise_weight(part.weight.numpy())[0]).all()


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_other_readers_of_onnx_find_the_same_in_the_file(mode: str, activations: str) -> None:
    """onnxruntime does not look at everything: to ONNX's own evaluator each attribute counts."""
    model = quantise(_float_model(), _plan(mode, activations))
    found = _run(model)
    model.opset_import[0].version = 19  # the first that it knows; nothing here means anything else in it
    other: Any = [ReferenceEvaluator(model).run(None, feed) for feed in _feeds()]
    assert _rms(other, found) < _rms(found, _run(_float_model()))


def test_a_model_with_weights_on_the_grid_stays_itself() -> None:
    model = _with_weights(_on_grid)
    assert _worst(_run(quantise(model, _plan("weight-only"))), _run(model)) <= FP32


@pytest.mark.parametrize(("mode", "activations"), MODES)
def test_channels_of_zeros_stay_zeros(mode: str, activations: str) -> None:
    source = _with_weights(lambda weight: weight * (np.arange(len(weight), dtype=np.float32)[:, None] % 2))
    outputs, floats = _run(quantise(source, _plan(mode, activations))), _run(source)
    assert all(np.isfinite(array).all() for step in outputs for array in step)
    # Logits of such channels are their biases.
    assert _worst([[step[0][:, ::2]] for step in outputs], [[step[0][:, ::2]] for step in floats]) <= FP32


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_static_computes_what_the_plan_says(activations: str) -> None:
    """Against PyTorch with rounded weights and inputs. Edges are 0 or 1: no rounding of theirs can flip."""
    plan = _plan(activations=activations)
    one = dataclasses.replace(plan, layers=("embed_edge",), ranges={"embed_edge": (-0.3, 0.9)})
    assert _worst(_run(quantise(_float_model(), one)), _emulated(one)) <= FP32
    found = _run(quantise(_float_model(), plan))
    assert _rms(found, _emulated(plan)) < _rms(found, _run(_float_model()))


def _emulated(plan: Plan) -> list[list[F32]]:
    least, most = (0, 255) if plan.activations == "u8" else (-128, 127)

    def rounded(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        scale, zero = plan.scale(name)
        return lambda _, inputs: (((inputs[0] / scale).round() + zero).clamp(least, most) - zero) * scale

    cell = copy.deepcopy(_cell())
    for name, part in _linears(cell).items():
        if name in plan.layers:
            part.weight.copy_(torch.from_numpy(_on_grid(part.weight.numpy())))
            part.register_forward_pre_hook(rounded(name))
    return [_step(cell, feed) for feed in _feeds()]


def test_ranges_that_do_not_fit_cost_accuracy() -> None:
    """Sixteen times the range is what four bits less would be."""
    true = _run(_float_model())
    fitting = _rms(_run(quantise(_float_model(), _plan())), true)
    assert _rms(_run(quantise(_float_model(), _plan("weight-only"))), true) < fitting
    for factor in (16, 1 / 16):
        ranges = {name: (factor * low, factor * high) for name, (low, high) in _ranges().items()}
        assert 2 * fitting < _rms(_run(quantise(_float_model(), _plan(ranges=ranges))), true)


def test_layers_of_a_cell_with_edges_inside_have_the_same_names() -> None:
    """There the step is not wrapped: its tensors have no prefix."""
    model = _float_model()
    for node in model.graph.node:
        node.input[:] = [name.removeprefix("cell.") for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.removeprefix("cell.")
    assert _tensors(quantise(model, _plan()))["layers.0.rg.weight.int8"].dtype == np.int8


def test_a_plan_without_layers_changes_no_number() -> None:
    for mode in QUANT_MODES:
        assert _worst(_run(quantise(_float_model(), _plan(mode, layers=()))), _run(_float_model())) == 0


def test_a_layer_that_saw_only_zeros() -> None:
    for activations in ACTIVATIONS:
        plan = _plan(activations=activations, ranges={**_ranges(), "classify": (0.0, 0.0)})
        outputs = _run(quantise(_float_model(), plan))
        assert all(np.isfinite(array).all() for step in outputs for array in step)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"layers": ("layers.9.rg",)}, r"no layer layers\.9\.rg; choose from embed"),
        ({"ranges": {}}, "no range for the input of layer"),
        ({"ranges": dict.fromkeys(_ranges(), (0.0, float("nan")))}, "calibrate again"),
        ({"ranges": dict.fromkeys(_ranges(), (1.0, -1.0))}, "calibrate again"),
        ({"mode": "int4"}, "unknown quant: 'int4'; choose one of static"),
    ]
    for changes, message in cases:
        with pytest.raises(UsageError, match=message):
            quantise(_float_model(), _plan(**changes))
