"""Float16 states on every target: half the state, the same arithmetic, the same weights."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lcr_edge.contract import LOGITS, STATE_NAMES, STATES_IN, STATES_OUT
from lcr_edge.errors import StateError
from lcr_edge.export.manifest import write_manifest
from lcr_edge.export.targets.job import Job, Source, convert
from lcr_edge.export.targets.onnx_convert import build
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.export.verify.clips import rendered_stream
from lcr_edge.export.verify.reference import roll
from lcr_edge.model.step_cell import HostEdgeCell, StepCell, with_state_precision
from lcr_edge.runtimes import Model, load
from lcr_edge.runtimes.bundle import MANIFEST, read_bundle
from lcr_edge.runtimes.golden import GOLDEN, Golden
from lcr_edge.tolerances import PROMISES, promise_of
from tests import shared
from tests.export import made

pytestmark = pytest.mark.slow
FRAMES = 20
CHECKPOINT = made.checkpoint("lcr_pico")
CONFIG = CHECKPOINT.config
EXACT = PROMISES["fp32"].step_abs or 0.0
KINDS = [
    (target, mode) for target, row in TARGETS.items() if "fp16" in row.state_precisions for mode in row.state_modes
]
SCALES = {LOGITS: (0.25, 1), **dict.fromkeys((*STATES_IN, *STATES_OUT), (0.0078125, -3))}


# One for all: what converters have made is made once.
SOURCE = Source(StepCell(CHECKPOINT.model))


@functools.cache
def _rollout() -> Golden:
    return roll(CHECKPOINT.model, itertools.islice(rendered_stream(CONFIG, CHECKPOINT.fit), FRAMES))


def _model(target: str, state_mode: str = "explicit", state_precision: str = "fp16", precision: str = "fp32") -> Model:
    return _loaded(Request(CONFIG, target, precision, state_mode=state_mode, state_precision=state_precision))


@functools.cache
def _loaded(request: Request) -> Model:
    def make(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converters
            converted = convert(Job(SOURCE, request, folder))
        (folder / GOLDEN).write_bytes(_rollout().to_bytes())
        write_manifest(folder, request, CHECKPOINT, converted.operators)

    return load(shared.folder(f"states/{request.name}", make), threads=1)


def _float_model() -> Model:
    """The same network with float32 states. On one engine: all agree on a step of float32, as their own tests say."""
    return _model("onnx", state_precision="fp32")


def _frames() -> Any:
    return _rollout().frames


@pytest.mark.parametrize(("target", "state_mode"), KINDS)
def test_a_stream_stays_near_the_one_with_float32_states(target: str, state_mode: str) -> None:
    half, whole = _model(target, state_mode), _float_model()
    promise = promise_of("fp32", "fp16")
    assert promise is not None
    assert promise.stream_abs is not None
    state, twin = half.initial_state(), whole.initial_state()
    worst = 0.0
    half.reset()
    for frame in _frames():
        logits, state = half.step(frame, state)
        twin_logits, twin = whole.step(frame, twin)
        assert state.h.dtype == state.c.dtype == np.float16
        assert logits.dtype == np.float32
        pairs = zip((logits, *half.state_values(state)), (twin_logits, twin.h, twin.c))
        worst = max(worst, *(float(np.abs(found - wanted).max()) for found, wanted in pairs))
        assert np.abs(half.step_stream(frame) - logits).max() <= EXACT
    # Float16 at the boundary shows, or nothing was rounded at all.
    assert EXACT < worst <= promise.stream_abs


@pytest.mark.parametrize(("target", "state_mode"), KINDS)
def test_the_arithmetic_is_that_of_float32(target: str, state_mode: str) -> None:
    """From the same state, logits are those of the float32 bundle and the states are its own, rounded once."""
    half, whole = _model(target, state_mode), _float_model()
    state = half.initial_state()
    for frame in _frames():
        logits, after = half.step(frame, state)
        wanted, expected = whole.step(frame, whole.state_of(*half.state_values(state)))
        assert np.abs(logits - wanted).max() <= EXACT
        for found, value in zip((after.h, after.c), (expected.h, expected.c)):
            rounding = np.spacing(np.abs(value).astype(np.float16)).astype(np.float64) / 2
            assert (np.abs(found.astype(np.float64) - value) <= rounding + EXACT).all()
        state = after


@pytest.mark.parametrize(("target", "state_mode"), KINDS)
def test_a_float32_state_is_refused(target: str, state_mode: str) -> None:
    half, whole = _model(target, state_mode), _float_model()
    with pytest.raises(StateError, match="state_of"):
        half.step(_frames()[0], whole.initial_state())
    with pytest.raises(StateError, match="state_of"):
        whole.step(_frames()[0], half.initial_state())


@pytest.mark.parametrize(("target", "state_mode"), KINDS)
def test_the_manifest_says_what_the_states_are(target: str, state_mode: str) -> None:
    half, whole = _model(target, state_mode).manifest, _float_model().manifest
    assert half["name"].endswith("-state16")
    assert (half["state_precision"], whole["state_precision"]) == ("fp16", "fp32")
    assert half["io"] == whole["io"] == "float"
    for row, other in zip(half["states"], whole["states"]):
        assert row["dtype"] == "float16"
        assert 2 * row["bytes"] == other["bytes"] == 4 * int(np.prod(CONFIG.state_shape))
        assert "scale" not in row
    states = [row["dtype"] for row in (*half["inputs"], *half["outputs"]) if row["name"].startswith(STATE_NAMES)]
    assert states == ([] if state_mode == "internal" else ["float16"] * 4)


def test_half_precision_weights_go_with_half_precision_states() -> None:
    model, whole = _model("onnx", precision="fp16"), _model("onnx")
    promise = PROMISES["fp16"].step_abs or 0.0
    state = model.initial_state()
    for frame in _frames():
        logits, after = model.step(frame, state)
        assert 0 < np.abs(logits - whole.step(frame, state)[0]).max() <= promise
        state = after


def test_the_weights_keep_their_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half, whole = (
            build(Job(SOURCE, Request(CONFIG, "onnx", state_precision=precision), made.folder()))
            for precision in ("fp16", "fp32")
        )
    assert _weights(half) == _weights(whole)
    assert "cell.layers.0.rg.weight" in _weights(half)
    kinds = {node.op_type for node in half.graph.node} - {"Cast"}
    assert kinds == {node.op_type for node in whole.graph.node} - {"Cast"}
    assert len(half.graph.node) == len(whole.graph.node) + 4


def _weights(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer if tensor.name.endswith((".weight", ".bias"))}


@pytest.mark.parametrize("edges", ["host", "graph"])
def test_the_wrapped_cell_rounds_the_states_and_nothing_else(edges: str) -> None:
    whole, narrow = (
        Job(SOURCE, Request(CONFIG, "onnx", edges=edges, state_precision=precision), made.folder())
        for precision in ("fp32", "fp16")
    )
    cell, half = whole.step(), narrow.step()
    assert type(half) is type(cell)
    assert not half.training
    generator = torch.Generator().manual_seed(2)
    inputs = narrow.example_inputs()
    assert {name: inputs[name].dtype for name in STATES_IN} == dict.fromkeys(STATES_IN, torch.float16)
    inputs["frame"].random_(0, 256, generator=generator)
    for name in STATES_IN:
        inputs[name].normal_(generator=generator)
    with torch.no_grad():
        found = half(**inputs)
        wanted = cell(**{name: value.float() if name in STATES_IN else value for name, value in inputs.items()})
    torch.testing.assert_close(found, (wanted[0], wanted[1].half(), wanted[2].half()), atol=0.0, rtol=0.0)


def test_other_precisions_leave_the_cell_alone() -> None:
    for cell in (SOURCE.cell, HostEdgeCell(SOURCE.cell)):
        assert with_state_precision(cell, "fp32") is cell
        assert with_state_precision(cell, "int8") is cell
    with pytest.raises(TypeError, match="not a step cell"):
        with_state_precision(torch.nn.Identity(), "fp16")
    integers = Job(SOURCE, _integers(), made.folder()).example_inputs()
    assert {integers[name].dtype for name in STATES_IN} == {torch.float32}


def _integers() -> Request:
    return Request(CONFIG, "tflite", "int8", state_precision="int8", io="int8")


def test_the_manifest_of_a_model_of_integers(tmp_path: Path) -> None:
    request = _integers()
    (tmp_path / "model.tflite").write_bytes(b"no model, but a file")
    with pytest.raises(ValueError, match="zero point"):
        write_manifest(tmp_path, request, CHECKPOINT, [], boundary={LOGITS: (0.25, 1)})
    assert not (tmp_path / MANIFEST).exists()
    digest, kept = "d" * 64, ["classify", "layers.1.attend"]
    write_manifest(tmp_path, request, CHECKPOINT, [], boundary=SCALES, calibration_digest=digest, float_layers=kept)
    bundle = read_bundle(tmp_path)
    assert (bundle.io, bundle.state_precision, dict(bundle.boundary)) == ("int8", "int8", SCALES)
    assert {spec.name for spec in bundle.inputs if spec.dtype == "int8"} == set(STATES_IN)
    assert {spec.name for spec in bundle.outputs if spec.dtype == "int8"} == {LOGITS, *STATES_OUT}
    manifest = bundle.manifest
    for row in manifest["states"]:
        assert (row["dtype"], row["bytes"]) == ("int8", int(np.prod(CONFIG.state_shape)))
        assert (row["scale"], row["zero_point"]) == SCALES[row["in"]]
    assert (manifest["quant"], manifest["activations"]) == ("static", "u8")
    assert (manifest["calibration_digest"], manifest["float_layers"]) == (digest, kept)


@pytest.mark.parametrize(
    ("target", "precision", "quant", "size"),
    [
        ("openvino", "int8", "dynamic", 32),
        ("openvino", "int8", "weight-only", 0),
        ("openvino", "int8", "static", None),
        ("openvino", "fp32", "static", None),
        ("onnx", "int8", "dynamic", None),
    ],
)
def test_openvino_is_told_how_to_treat_int8_weights(
    tmp_path: Path, target: str, precision: str, quant: str, size: int | None
) -> None:
    write_manifest(tmp_path, Request(CONFIG, target, precision, quant=quant), CHECKPOINT, [])
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["runtime_hints"].get("DYNAMIC_QUANTIZATION_GROUP_SIZE") == size
    assert manifest["quant"] == (quant if precision == "int8" else None)
    assert manifest["activations"] == ("u8" if (precision, quant) == ("int8", "static") else None)
