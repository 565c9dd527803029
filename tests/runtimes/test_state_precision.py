"""States that cross the step's boundary as float16 or int8: on real engines, against the toy's equations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.cli import main
from lcr_edge.contract import LOGITS, STATE_DTYPES
from lcr_edge.errors import BundleError, StateError
from lcr_edge.runtimes import Model, State, load
from lcr_edge.runtimes.bundle import MANIFEST, read_bundle
from lcr_edge.tolerances import PROMISES
from tests.runtimes.toy import BOUNDARY, CONFIG, clip, make_bundle, model_bytes, reference_step, reseal

EXACT = PROMISES["fp32"].step_abs or 0.0
# target, edges, state_mode, state_precision
KINDS = (
    ("onnx", "graph", "explicit", "fp16"),
    ("onnx", "host", "explicit", "int8"),
    ("openvino", "graph", "explicit", "fp16"),
    ("openvino", "graph", "internal", "fp16"),
    ("openvino", "graph", "explicit", "int8"),
    ("tflite", "graph", "explicit", "fp16"),
    ("tflite", "graph", "explicit", "int8"),
)
Array = npt.NDArray[Any]


@pytest.fixture(params=KINDS, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "bundle", *request.param), threads=1)


@pytest.fixture
def half(tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "half", "onnx", state_precision="fp16"), threads=1)


@pytest.fixture
def integers(tmp_path: Path) -> Model:
    return load(make_bundle(tmp_path / "integers", "onnx", state_precision="int8"), threads=1)


def _rounding(model: Model, values: Array, name: str) -> Array:
    """The largest error that rounding ``values`` to the model's states makes: half a step."""
    if model.bundle.io == "int8":
        return np.full(values.shape, BOUNDARY[name][0] / 2)
    return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64) / 2


def test_each_step_is_the_equations_rounded_once(model: Model) -> None:
    dtype = STATE_DTYPES[model.bundle.state_precision]
    state = model.initial_state()
    for frame in clip():
        logits, after = model.step(frame, state)
        expected, h, c = reference_step(frame, model.bundle.edges, *model.state_values(state))
        assert str(after.h.dtype) == str(after.c.dtype) == dtype
        assert logits.dtype == np.float32
        # A value at the middle between two steps may go either way.
        near = 1 + EXACT
        logits_step = BOUNDARY[LOGITS][0] / 2 if model.bundle.io == "int8" else 0.0
        assert np.abs(logits - expected).max() <= logits_step * near + EXACT
        for found, wanted, name in zip(model.state_values(after), (h, c), ("state_h_in", "state_c_in")):
            assert found.dtype == np.float32
            assert (np.abs(found - wanted) <= _rounding(model, wanted, name) * near + EXACT).all()
        assert not np.array_equal(after.h, state.h)
        state = after


def test_a_stream_starts_from_what_means_zero(model: Model) -> None:
    state = model.initial_state()
    zeros = (BOUNDARY["state_h_in"][1], BOUNDARY["state_c_in"][1]) if model.bundle.io == "int8" else (0, 0)
    assert (state.h == zeros[0]).all()
    assert (state.c == zeros[1]).all()
    for values in model.state_values(state):
        assert values.shape == CONFIG.state_shape
        assert not values.any()


def test_step_stream_equals_step(model: Model) -> None:
    state = model.initial_state()
    for frame in clip():
        logits, state = model.step(frame, state)
        assert np.abs(model.step_stream(frame) - logits).max() <= EXACT


def test_a_saved_state_keeps_its_dtype_and_resumes_the_stream(model: Model, tmp_path: Path) -> None:
    first, second = clip(2)
    _, state = model.step(first, model.initial_state())
    state.save(tmp_path / "camera.state")
    loaded = State.load(tmp_path / "camera.state")
    assert loaded.h.dtype == state.h.dtype
    assert np.array_equal(loaded.c, state.c)
    assert np.array_equal(model.step(second, loaded)[0], model.step(second, state)[0])


def test_values_and_states_are_inverse(model: Model) -> None:
    state = model.initial_state()
    for frame in clip():
        _, state = model.step(frame, state)
        again = model.state_of(*model.state_values(state))
        assert again.h.dtype == state.h.dtype
        assert np.array_equal(again.h, state.h)
        assert np.array_equal(again.c, state.c)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_state_of_rounds_to_the_nearest(model: Model, dtype: type[np.floating[Any]], rng: np.random.Generator) -> None:
    h = rng.uniform(-0.7, 0.7, CONFIG.state_shape).astype(dtype)
    c = rng.uniform(-2.5, 2.5, CONFIG.state_shape).astype(dtype)
    for found, wanted, name in zip(model.state_values(model.state_of(h, c)), (h, c), ("state_h_in", "state_c_in")):
        error = np.abs(found.astype(np.float64) - wanted)
        assert (error <= _rounding(model, wanted, name) + EXACT).all()


def test_values_beyond_the_dtype_become_its_largest(half: Model, integers: Model) -> None:
    beyond = np.full(CONFIG.state_shape, 1e30, np.float32)
    state = half.state_of(beyond, -beyond)
    assert (state.h == np.finfo(np.float16).max).all()
    assert (state.c == np.finfo(np.float16).min).all()
    half.step(clip(1)[0], state)
    state = integers.state_of(beyond, -beyond)
    assert (state.h == 127).all()
    assert (state.c == -128).all()


def test_values_of_a_float_state_are_its_own_arrays(tmp_path: Path) -> None:
    model = load(make_bundle(tmp_path / "bundle", "onnx"), threads=1)
    state = model.initial_state()
    h, c = model.state_values(state)
    assert h is state.h
    assert c is state.c
    own = model.state_of(h, c)
    own.h += 1
    assert not h.any()


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.zeros((1, 2, 3), np.float32), "[2, 7, 32]"),
        (np.zeros(CONFIG.state_shape, np.int8), "floats"),
        (np.full(CONFIG.state_shape, np.nan, np.float32), "NaN"),
        (np.full(CONFIG.state_shape, -np.inf, np.float64), "Inf"),
        (None, "NoneType"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_values_that_are_no_state(half: Model, integers: Model, position: int, values: Any, hint: str) -> None:
    for model in (half, integers):
        pair: list[Any] = [np.zeros(CONFIG.state_shape, np.float32)] * 2
        pair[position] = values
        with pytest.raises(StateError, match="initial_state") as caught:
            model.state_of(*pair)
        assert hint in str(caught.value)


@pytest.mark.parametrize("which", ["h", "c"])
def test_a_state_of_another_dtype_is_refused_with_the_way_out(model: Model, which: str) -> None:
    own = STATE_DTYPES[model.bundle.state_precision]
    for dtype in {"float32", "float16", "float64", "int8", "uint8"} - {own}:
        state = model.initial_state()
        setattr(state, which, np.zeros(CONFIG.state_shape, dtype))
        for call in (lambda: model.step(clip(1)[0], state), lambda: model.state_values(state)):  # noqa: B023
            with pytest.raises(StateError, match="initial_state") as caught:
                call()
            assert f"is {dtype} " in str(caught.value)
            assert f"model's is {own} " in str(caught.value)
            assert ("state_of" in str(caught.value)) == dtype.startswith("float")


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 200, -1])
def test_a_lost_half_precision_state_is_noticed(half: Model, value: float, index: int) -> None:
    for which in ("h", "c"):
        state = half.initial_state()
        getattr(state, which).flat[index] = value
        with pytest.raises(StateError, match="NaN or Inf"):
            half.step(clip(1)[0], state)


def test_every_finite_half_precision_number_is_a_state(half: Model) -> None:
    everything = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    finite = everything[np.isfinite(everything)]
    size = int(np.prod(CONFIG.state_shape))
    for start in range(0, len(finite), size):
        part = np.resize(finite[start : start + size], CONFIG.state_shape)
        half.step(clip(1)[0], State(part, part[::-1]))  # the second is no contiguous array


@pytest.mark.parametrize(
    ("target", "mine", "other"),
    [
        ("onnx", "fp32", "fp16"),
        ("onnx", "fp16", "fp32"),
        ("openvino", "fp16", "fp32"),
        ("tflite", "fp16", "fp32"),
        ("tflite", "int8", "fp16"),
        ("onnx", "int8", "fp32"),
    ],
)
def test_a_model_with_other_states_than_its_manifest_is_refused(
    tmp_path: Path, target: str, mine: str, other: str
) -> None:
    folder = make_bundle(tmp_path / "bundle", target, state_precision=mine)
    for name, data in model_bytes(target, "graph", "explicit", other).items():
        (folder / name).write_bytes(data)
    reseal(folder)
    with pytest.raises(BundleError, match="step contract expects") as caught:
        load(folder)
    assert STATE_DTYPES[other] in str(caught.value)


def _row(folder: Path, table: str, name: str, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    row = next(row for row in content[table] if row["name"] == name)
    row.update(changes)
    reseal(folder, content)


@pytest.mark.parametrize(
    ("table", "name", "changes", "hint"),
    [
        ("outputs", "logits", {"scale": None}, "logits is int8 and needs a scale"),
        ("outputs", "logits", {"zero_point": 0.5}, "logits is int8 and needs"),
        ("inputs", "state_h_in", {"scale": 0.0}, "state_h_in is int8 and needs a scale"),
        ("inputs", "state_h_in", {"scale": -0.1}, "needs a scale"),
        ("inputs", "state_c_in", {"zero_point": 300}, "outside int8"),
        ("outputs", "state_c_out", {"zero_point": 3}, "change its meaning"),
        ("outputs", "state_h_out", {"scale": 0.5}, "change its meaning"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    tmp_path: Path, table: str, name: str, changes: dict[str, Any], hint: str
) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx", state_precision="int8")
    _row(folder, table, name, **changes)
    with pytest.raises(BundleError, match="export the bundle again") as caught:
        read_bundle(folder)
    assert hint in str(caught.value)


def test_a_model_with_other_scales_than_its_manifest_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "tflite", state_precision="int8")
    load(folder)
    _row(folder, "outputs", "logits", scale=0.25)
    with pytest.raises(BundleError, match=r"logits has scale and zero point \(0.125, 2\), but its manifest says"):
        load(folder)


@pytest.mark.parametrize(
    ("state_precision", "changes", "hint"),
    [
        ("fp16", {"state_precision": "fp8"}, "fp32, fp16, int8"),
        ("fp16", {"state_precision": "fp32"}, "float16"),
        ("fp16", {"io": "int8"}, "'int8', but the states are 'fp16'"),
        ("int8", {"io": "float"}, "'float', but the states are 'int8'"),
        ("int8", {"io": "int4"}, "float, int8"),
    ],
)
def test_manifests_that_contradict_themselves(
    tmp_path: Path, state_precision: str, changes: dict[str, Any], hint: str
) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx", state_precision=state_precision)
    reseal(folder, **changes)
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert hint in str(caught.value)


def test_a_manifest_from_before_there_was_a_choice_means_float32(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx")
    content = json.loads((folder / MANIFEST).read_text())
    del content["state_precision"], content["io"]
    reseal(folder, content)
    bundle = load(folder).bundle
    assert (bundle.state_precision, bundle.io, dict(bundle.boundary)) == ("fp32", "float", {})


@pytest.mark.parametrize("state_precision", ["fp16", "int8"])
def test_bench_and_inspect_take_any_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state_precision: str
) -> None:
    folder = make_bundle(tmp_path / "bundle", "onnx", state_precision=state_precision)
    assert main(["bench", str(folder), "--rounds", "1"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(folder), "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["state_dtype"] == STATE_DTYPES[state_precision]
    assert facts["state_bytes"] == 2 * np.dtype(facts["state_dtype"]).itemsize * int(np.prod(CONFIG.state_shape))
    assert facts["io"] == ("int8" if state_precision == "int8" else "float")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert facts["state_bytes"] == sum(row["bytes"] for row in manifest["states"])
