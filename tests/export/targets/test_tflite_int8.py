"""Int8 TFLite: the right operators, the grids that the plan says, the same contract, size."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lcr_edge.calibration.prepare import prepare
from lcr_edge.calibration.quant_plan import ACTIVATIONS, QUANT_MODES, Plan
from lcr_edge.errors import LcrError, UsageError
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets import tflite_convert, tflite_file, tflite_int8
from lcr_edge.export.targets.job import Job, Source, convert
from lcr_edge.export.targets.onnx_int8 import quantise_weight
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.tflite_int8 import quantise
from lcr_edge.model.step_cell import StepCell
from lcr_edge.tolerances import PROMISES
from tests.export import made
from tests.export.targets.int8_steps import (
    PICO,
    TYPES,
    Array,
    boundary,
    cell_of,
    changed,
    feeds_of,
    float_path,
    float_run,
    make_plan,
    product,
    quantised,
    ranges_of,
    relative,
    run,
    step,
    usual,
    with_weights,
)

FP32 = PROMISES["fp32"].step_abs or 0.0
INT8 = PROMISES["int8"].step_relative or 0.0

each_mode = pytest.mark.parametrize(
    ("mode", "activations"),
    [
        ("static", "u8"),
        pytest.param("static", "s8", marks=pytest.mark.slow),
        ("dynamic", "u8"),
        pytest.param("weight-only", "u8", marks=pytest.mark.slow),
    ],
)


@each_mode
def test_products_become_what_the_mode_says(mode: str, activations: str) -> None:
    whole, real = (TYPES.INT8,) * 3, TYPES.FLOAT32
    kinds = {"static": whole, "dynamic": (real, TYPES.INT8, real), "weight-only": (real, real, real)}
    some = tuple(layer for layer in ranges_of()[0] if layer not in ("prompt", "layers.1.kv"))
    content = quantised(make_plan(mode, activations, layers=some, float_layers=("layers.0.rg",)))
    for layer in ranges_of()[0]:
        found = product(content, layer)
        assert (found.q.dtype == np.int8) == (layer in some)
        wanted = kinds["weight-only" if layer not in some or layer == "layers.0.rg" else mode]
        # Its output is the step's: float, so it cannot be static.
        wanted = kinds["dynamic"] if (layer, mode) == ("classify", "static") else wanted
        assert found.types == wanted, layer


@each_mode
def test_weights_lie_on_the_symmetric_grid_of_their_channel(mode: str, activations: str) -> None:
    content = usual(mode, activations)
    for layer, linear in cell_of().cell.linears().items():
        q, scale = quantise_weight(linear.weight.detach().numpy())
        found = product(content, layer)
        assert (found.q == q).all()
        assert (found.weight[0] == scale).all()
        assert not found.weight[1].any()


@pytest.mark.slow
def test_weights_on_the_grid_stay() -> None:
    drawn: dict[str, Array] = {}
    draw = np.random.default_rng(5)

    def on_grid(layer: str, weight: Array) -> Array:
        q = draw.integers(-127, 128, weight.shape)
        q[:, 0] = 127
        drawn[layer] = q
        # A power of two: then the products are exact, and so must the result be.
        return q * np.exp2(np.floor(np.log2(quantise_weight(weight)[1])))[:, None]

    path = with_weights(on_grid)
    for mode in QUANT_MODES:
        content = quantised(make_plan(mode), path)
        assert all((product(content, layer).q == q).all() for layer, q in drawn.items())
    for found, wanted in zip(run(content), run(path.read_bytes())):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FP32)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_inputs_have_the_grid_of_the_plan(activations: str) -> None:
    plan = make_plan(activations=activations)
    shift = 128 if activations == "u8" else 0
    for layer in plan.layers:
        if layer == "classify":
            continue
        found = product(usual("static", activations), layer).x
        assert found is not None
        scale, zero = plan.scale(layer)
        assert found[0].tolist() == [np.float32(scale)]
        assert found[1].tolist() == [zero - shift]


def test_layers_that_read_one_tensor_keep_their_own_ranges() -> None:
    """As keys and values of all layers do where they come from the edges alone."""

    def share(_: Any, layers: Mapping[str, Any]) -> None:
        first = layers["layers.0.kv"].inputs[0]
        for layer in ("layers.1.kv", "layers.2.kv"):
            layers[layer].inputs = [first, *layers[layer].inputs[1:]]

    read = {**ranges_of()[0], "layers.0.kv": (-5.0, 5.0), "layers.1.kv": (-3.0, 4.0), "layers.2.kv": (-5.0, 5.0)}
    plan, path = make_plan(ranges=read), changed(share)
    content = quantised(plan, path)
    for layer in ("layers.0.kv", "layers.1.kv", "layers.2.kv"):
        found = product(content, layer).x
        assert found is not None
        assert found[0].tolist() == [np.float32(plan.scale(layer)[0])]
    assert relative(run(content), run(path.read_bytes())) < INT8


@pytest.mark.slow
def test_a_converter_that_moves_factors_into_the_weights_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual order of an equalised norm's factors, which litert-torch undoes."""
    prepared = prepare(StepCell(made.checkpoint(PICO).model).eval(), made.samples(PICO), "dynamic", "u8")
    request = Request(made.checkpoint(PICO).config, "tflite", "int8", quant="dynamic")
    monkeypatch.setattr(tflite_convert, "with_joined_factors", copy.deepcopy)
    with pytest.raises(LcrError, match=r"changed the weights of layers\.0\.rg"), quiet():
        convert(Job(Source(prepared.cell), request, tmp_path, prepared.plan))


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_channels_of_zeros_keep_their_bias(activations: str) -> None:
    """The scale of an int32 bias is that of the weights: of none it would leave the bias no room."""
    path = with_weights(lambda _, weight: weight * (np.arange(len(weight)) % 2)[:, None])
    content = quantised(make_plan(activations=activations), path)
    bias = cell_of().cell.linears()["prompt"].bias
    found = product(content, "prompt").bias
    assert found is not None
    np.testing.assert_allclose(found, bias.detach().numpy(), rtol=0, atol=FP32)
    assert all(np.isfinite(part).all() for part in run(content))


@each_mode
def test_a_step_is_near_the_float_one(mode: str, activations: str) -> None:
    assert 0 < relative(run(usual(mode, activations)), float_run()) < INT8


def test_the_engine_computes_what_the_plan_says() -> None:
    """Weight-only against PyTorch with rounded weights, static nearer to what it emulates than to the float step."""
    assert all(
        np.abs(a - b).max() <= FP32 for a, b in zip(run(usual("weight-only", "u8")), _emulated(False), strict=True)
    )
    found = run(usual("static", "u8"))
    assert relative(found, _emulated(True)) < relative(found, float_run())


def _emulated(static: bool) -> list[Array]:
    cell, (read, wrote) = copy.deepcopy(cell_of()), ranges_of()

    def rounded(ends: tuple[float, float], x: Tensor) -> Tensor:
        scale, zero = Plan("static", "u8", (), {"": ends}).scale("")
        return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale

    for layer, part in cell.cell.linears().items():
        q, scale = quantise_weight(part.weight.detach().numpy())
        part.weight.data = torch.from_numpy(q * scale[:, None])
        if static and layer != "classify":
            part.register_forward_pre_hook(lambda _, x, ends=read[layer]: (rounded(ends, x[0]),))
            part.register_forward_hook(lambda _, __, y, ends=wrote[layer]: rounded(ends, y))
    return [np.stack(parts) for parts in zip(*(step(cell, feed) for feed in feeds_of()))]


@pytest.mark.slow
def test_ranges_that_do_not_fit_cost_accuracy() -> None:
    read, wrote = ranges_of()
    for name, ranges in (("ranges", read), ("outputs", wrote)):
        changes: dict[str, Any] = {name: {layer: (64 * low, 64 * high) for layer, (low, high) in ranges.items()}}
        assert relative(run(quantised(make_plan(**changes))), float_run()) > INT8
    wide = {layer: (64 * low, 64 * high) for layer, (low, high) in wrote.items()}
    assert quantised(make_plan(), outputs=wide) == quantised(make_plan(outputs=wide)) != usual("static", "u8")


@each_mode
def test_the_contract_stays_and_the_bytes_are_the_same_each_time(mode: str, activations: str) -> None:
    content = usual(mode, activations)
    assert quantised(make_plan(mode, activations)) == content
    model, before = tflite_file.read(content), tflite_file.read(float_path().read_bytes())
    for found, wanted in zip(boundary(model), boundary(before), strict=True):
        assert found == wanted
    names = [tensor.name for tensor in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert not model.metadata


def test_no_layers_change_no_number() -> None:
    for found, wanted in zip(run(quantised(make_plan(layers=()))), float_run()):
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
        quantise(float_path(), make_plan(**changes))


def test_a_file_that_is_no_float_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    for content, message in ((b"", "not a TFLite model"), (usual("static", "u8"), "no linear layer")):
        path.write_bytes(content)
        with pytest.raises(LcrError, match=message):
            quantise(path, make_plan())


@pytest.mark.slow
def test_a_weight_costs_a_byte() -> None:
    """Besides a channel costs scale and zero point, 12 bytes, of weight and bias; shorter names pay for all else."""
    source = float_path(made.PACKAGED)
    weights = [linear.weight for linear in cell_of(made.PACKAGED).cell.linears().values()]
    saved = sum(3 * weight.numel() - 24 * weight.shape[0] for weight in weights)
    for mode in QUANT_MODES:
        assert len(quantised(make_plan(mode, name=made.PACKAGED), source)) <= source.stat().st_size - saved


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edges"), [(PICO, "graph"), (made.PACKAGED, "host"), ("lcr_tiny", "host")])
def test_every_layer_is_found(name: str, edges: str) -> None:
    model = tflite_file.read(float_path(name, edges).read_bytes())
    found, linears = tflite_int8.name_layers(model), cell_of(name).cell.linears()
    assert set(found) == set(linears)
    for layer, operator in found.items():
        assert (tflite_file.array(model, operator.inputs[1]) == linears[layer].weight.detach().numpy()).all()
