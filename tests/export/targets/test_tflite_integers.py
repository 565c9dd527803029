"""A TFLite step of integers only: no float tensor, one grid for a state in and out, near the float step."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from lcr_edge.errors import UsageError
from lcr_edge.export.quiet import quiet
from lcr_edge.export.targets import tflite_file
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.tflite_integers import INNER, quantise_full
from lcr_edge.tolerances import PROMISES
from tests.export.targets.int8_steps import TYPES, boundary, cell_of, feeds_of, float_path, float_run, relative

INT8 = PROMISES["int8"].step_relative or 0.0
STATES = ("state_h", "state_c")


@functools.cache
def _whole(inner: str) -> tuple[bytes, dict[str, tuple[float, int]]]:
    with quiet():
        return quantise_full(float_path(), feeds_of(), inner=inner)


@pytest.mark.slow
@pytest.mark.parametrize("inner", INNER)
def test_a_model_of_integers_has_no_other_tensors(inner: str) -> None:
    content, grids = _whole(inner)
    with quiet():
        assert quantise_full(float_path(), feeds_of(), inner=inner)[0] == content
    model = tflite_file.read(content)
    whole = {TYPES.INT8, TYPES.INT32, TYPES.UINT8, TYPES.BOOL}
    wide = {TYPES.INT16, TYPES.INT64} if inner == "int16" else set()
    kinds = {tensor.type for tensor in model.subgraphs[0].tensors}
    assert wide <= kinds <= whole | wide
    found = {name: (kind, shape) for name, _, kind, shape in boundary(model)}
    before = {name: shape for name, _, _, shape in boundary(tflite_file.read(float_path().read_bytes()))}
    assert {name: shape for name, (_, shape) in found.items()} == before
    assert {name for name, (kind, _) in found.items() if kind == TYPES.UINT8} == {"frame", "edge"}
    assert {name for name, (kind, _) in found.items() if kind == TYPES.INT8} == set(grids)
    for state in STATES:
        assert grids[f"{state}_in"] == grids[f"{state}_out"]


@pytest.mark.slow
@pytest.mark.parametrize("inner", [INNER[0], *(pytest.param(inner, marks=pytest.mark.slow) for inner in INNER[1:])])
def test_integers_step_like_the_float_model_with_their_state_copied(inner: str) -> None:
    content, grids = _whole(inner)
    with quiet():
        runner = Interpreter(model_content=content, num_threads=1).get_signature_runner("serving_default")
        details = {**runner.get_input_details(), **runner.get_output_details()}
        for name, (scale, zero) in grids.items():
            assert details[name]["quantization"] == (np.float32(scale), zero)
        shape = cell_of().config.state_shape
        state = {f"{name}_in": np.full(shape, grids[f"{name}_in"][1], np.int8) for name in STATES}
        results = []
        for feed in feeds_of():
            results.append(runner(frame=feed["frame"], edge=feed["edge"], **state))
            state = {f"{name}_in": results[-1][f"{name}_out"] for name in STATES}
    found = [
        np.stack([(result[name].astype(np.float32) - zero) * np.float32(scale) for result in results])
        for name, (scale, zero) in grids.items()
        if not name.endswith("_in")
    ]
    order = [name for name in grids if not name.endswith("_in")]
    wanted = dict(zip(("logits", "state_h_out", "state_c_out"), float_run()))
    assert relative(found, [wanted[name] for name in order]) < INT8


def test_states_of_integers_have_the_ranges_that_are_given() -> None:
    with quiet():
        _, grids = quantise_full(float_path(), feeds_of()[:1], {"state_h": (-1.0, 1.0)})
    assert grids["state_h_in"] == (float(np.float32(2 / 255)), 0)
    assert grids["state_c_in"] != _whole(INNER[0])[1]["state_c_in"]


def test_integers_that_cannot_be_had_are_refused() -> None:
    for feeds, options, message in (
        (feeds_of(), {"inner": "int4"}, "unknown integers inside: 'int4'; choose one of"),
        ([], {}, "needs calibration samples"),
        (feeds_of()[:1], {"states": {"state_c": (1.0, -1.0)}}, "range of state_c"),
    ):
        with pytest.raises(UsageError, match=message), quiet():
            quantise_full(float_path(), feeds, **options)


def test_integers_cannot_find_edges() -> None:
    with pytest.raises(UsageError, match="export with --edges host"):
        Request(cell_of().config, "tflite", "int8", "graph", state_precision="int8", io="int8")
