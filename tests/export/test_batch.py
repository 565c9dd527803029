"""``export --batch N``: bundles whose streams share a call, in every engine and precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.contract import input_specs, output_specs
from lcr_edge.errors import UsageError
from lcr_edge.export.targets.request import Request
from lcr_edge.export.targets.table import TARGETS
from lcr_edge.export.verify.identity import measure_identity
from lcr_edge.runtimes import State, load
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.row_check import row_check
from lcr_edge.runtimes.selftest import selftest
from lcr_edge.tolerances import ROWS_OFF_ROUNDED
from tests.export import made

BATCH = 3
SMALL = made.SMALL
SEVERAL = [target for target, row in TARGETS.items() if row.most_streams > 1]
KINDS = [
    *((target, precision, None) for target in SEVERAL for precision in ("fp32", "int8")),
    ("openvino", "int8", "dynamic"),
    ("tflite", "int8", "static"),
    ("tflite", "int8", "weight-only"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision", "quant"), KINDS, ids=lambda part: str(part or "default"))
def test_streams_of_a_call_have_the_bits_that_they_have_alone(target: str, precision: str, quant: str | None) -> None:
    folder = made.bundle(SMALL, target, precision, quant=quant, batch=BATCH)
    assert folder.name.endswith(f"-batch{BATCH}")
    bundle = read_bundle(folder)
    assert bundle.batch == bundle.manifest["batch"] == BATCH
    assert bundle.inputs == input_specs(bundle.config, bundle.edges, batch=BATCH)
    assert bundle.outputs == output_specs(bundle.config, batch=BATCH)
    model = load(folder, threads=1)
    check = row_check(model, read_golden(bundle))
    assert check is not None
    assert check.measured == 0.0
    report = selftest(model)
    assert report.passed, report.failures
    assert check.name in {one.name for one in report.checks}
    identity = measure_identity(model, made.checkpoint(SMALL))
    assert not [one.sentence for one in identity.checks if one.met is False]
    assert check.name in {one.name for one in identity.checks}


@pytest.mark.slow
@pytest.mark.parametrize("target", SEVERAL)
def test_a_call_computes_what_single_steps_compute(target: str) -> None:
    """The same int8 numbers, too: rows do not change each other's scales."""
    model = load(made.bundle(SMALL, target, "int8", batch=BATCH), threads=1)
    one = load(made.bundle(SMALL, target, "int8"), threads=1)
    golden = read_golden(model.bundle)
    states = [model.state_of(golden.state_h[t], golden.state_c[t]) for t in range(BATCH)]
    logits, after = model.step_many(golden.frames[1 : BATCH + 1], states)
    for row in range(BATCH):
        wanted, state = one.step(golden.frames[row + 1], states[row])
        for found, other in ((logits[row], wanted), (after[row].h, state.h), (after[row].c, state.c)):
            assert float(np.sqrt(np.mean((found - other) ** 2)) / other.std()) <= ROWS_OFF_ROUNDED


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"precision": "fp16"}, {"state_precision": "fp16"}, {"edges": "graph"}], ids=str)
def test_other_kinds_of_bundles_step_several_streams(change: dict[str, Any]) -> None:
    model = load(made.bundle(SMALL, "onnx", batch=2, **change), threads=1)
    check = row_check(model, read_golden(model.bundle))
    assert check is not None
    assert check.measured == 0.0
    frames = read_golden(model.bundle).frames[:2]
    states: list[State] = [model.initial_state() for _ in frames]
    for _ in range(2):
        logits, states = model.step_many(frames, states)
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


def test_what_cannot_step_several_streams_is_refused() -> None:
    config = made.checkpoint(SMALL).config
    refused: list[tuple[str, dict[str, str | int]]] = [
        ("1 to 64 streams, got --batch 65", {"target": "onnx", "batch": 65}),
        ("1 to 64 streams, got --batch 0", {"target": "onnx", "batch": 0}),
        ("a bundle for c steps one stream in a call", {"target": "c", "batch": 2}),
        ("--batch needs --state-mode explicit", {"target": "openvino", "batch": 2, "state_mode": "internal"}),
        (
            "leave --batch or --io int8 out",
            {"target": "tflite", "batch": 2, "precision": "int8", "state_precision": "int8", "io": "int8"},
        ),
        ("use --quant static with --batch", {"target": "onnx", "batch": 2, "precision": "int8", "quant": "dynamic"}),
    ]
    for message, options in refused:
        with pytest.raises(UsageError, match=message):
            Request(config, **options)  # type: ignore[arg-type]


def test_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["export", "--target", "onnx", "--config", "lcr_pico", "--random-weights", "--out", str(tmp_path / "out")]
    assert main([*call, "--batch", "0"]) == 2
    assert "--batch must be at least 1, got 0" in capsys.readouterr().err
    assert main([*call, "--batch", "2", "--json", str(tmp_path / "report")]) == 0
    (bundle,) = json.loads((tmp_path / "report").read_text())["bundles"]
    assert Path(bundle["folder"]).name == "lcr_pico-onnx-fp32-batch2"
    assert any(check["name"].startswith("2 streams in one call") for check in bundle["parity"]["checks"])
