"""Verification sees what errors of logits and states do not show: labels, fitting, the golden clip, kept buffers."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import ParityError
from lcr_edge.export.verify.identity import Identity, measure_identity
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.runtimes import load
from lcr_edge.runtimes.bundle import MANIFEST
from lcr_edge.runtimes.golden import GOLDEN
from lcr_edge.tolerances import GOLDEN_OFF
from tests.export import made
from tests.journeys.fault_files import reseal
from tests.journeys.fault_runtime import ENGINE, WRAPPER, engine_fault

PICO = "lcr_pico"


def _identity(folder: Path) -> Identity:
    return measure_identity(load(folder, threads=1), made.checkpoint(PICO))


def _missed(found: Identity) -> set[str]:
    return {check.name.removeprefix("identity: ") for check in found.checks if not check.met}


def test_a_right_bundle_has_no_difference() -> None:
    found = _identity(made.bundle(PICO, "onnx"))
    assert _missed(found) == set()
    assert found.broken == ()
    assert len(found.checks) == 17
    assert {check.measured for check in found.checks} == {0}
    assert "17 of 17" in found.table()


def _labels(manifest: dict[str, Any]) -> None:
    manifest["labels"][:2] = manifest["labels"][1::-1]


def _fit(manifest: dict[str, Any]) -> None:
    manifest["frame"]["fit"] = "crop"


def _rate(manifest: dict[str, Any]) -> None:
    manifest["frame"]["train_fps"] = 25.0


def _fmax(manifest: dict[str, Any]) -> None:
    manifest["config"]["fmax"] = 0.8


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (_labels, {"labels of the manifest", "labels of the runtime"}),
        (_fit, {"manifest's config and frame", "pixels of fitted frames"}),
        (_rate, {"manifest's config and frame"}),
        (_fmax, {"manifest's config and frame"}),
    ],
)
def test_a_manifest_of_another_network(tmp_path: Path, change: Callable[[Any], None], missed: set[str]) -> None:
    folder: Path = shutil.copytree(made.bundle(PICO, "onnx"), tmp_path / "bundle")
    reseal(folder, change)
    assert _missed(_identity(folder)) == missed


@pytest.mark.parametrize(
    ("name", "change", "missed"),
    [
        ("logits", lambda x: np.roll(x, 1, axis=1), "golden answers"),
        ("state_h", lambda x: x + np.float32(10 * GOLDEN_OFF), "golden answers"),
        ("edges", lambda x: np.roll(x, 1, axis=2), "pixels of the golden edges"),
    ],
)
def test_a_golden_clip_of_another_network(tmp_path: Path, name: str, change: Callable[[Any], Any], missed: str) -> None:
    folder: Path = shutil.copytree(made.bundle(PICO, "onnx"), tmp_path / "bundle")
    arrays = dict(np.load(folder / GOLDEN))
    arrays[name] = change(arrays[name])
    np.savez_compressed(folder / GOLDEN, **arrays)
    reseal(folder)
    assert _missed(_identity(folder)) == {missed}


@pytest.mark.parametrize(
    ("kind", "missed"),
    [
        ("edges off by one pixel", "edges at the engine"),
        ("edges of the previous frame", "edges at the engine"),
        ("crop for letterbox", "pixels of fitted frames"),
        ("frame resized twice", "pixels of fitted frames"),
        ("reset that does not reset", "reset"),
        ("a stream does not start from zeros", "initial state"),
        ("labels permuted in the runtime", "labels of the runtime"),
        ("output buffer reused between calls", "results overwritten"),
        ("two streams share a state", "two streams beside each other"),
        ("state one frame late", "steps repeated from a zero state"),
    ],
)
def test_a_fault_around_the_engine(kind: str, missed: str) -> None:
    fault: contextlib.AbstractContextManager[None]
    fault = engine_fault("onnx", ENGINE[kind]) if kind in ENGINE else WRAPPER[kind]()
    with fault:
        found = _missed(_identity(made.bundle(PICO, "onnx")))
    assert missed in found
    assert _missed(_identity(made.bundle(PICO, "onnx"))) == set(), "the fault was not taken back"


def test_a_model_that_changes_what_passes_through_it() -> None:
    """The engine's own input and output are compared with the caller's."""
    model = load(made.bundle(PICO, "onnx"), threads=1)
    whole = model.look_at
    for change, missed in (
        (lambda frame, edge: (frame[..., ::-1], edge), "frame at the engine"),
        (lambda frame, edge: (frame, 1 - edge), "edges at the engine"),
    ):
        model.look_at = lambda frame, change=change: change(*whole(frame))  # type: ignore[method-assign, misc]
        assert _missed(measure_identity(model, made.checkpoint(PICO))) == {missed}


def test_an_int8_bundle_must_be_calibrated_on_states(tmp_path: Path) -> None:
    folder: Path = shutil.copytree(made.bundle(PICO, "onnx"), tmp_path / "bundle")
    reseal(folder, lambda manifest: manifest.update(precision="int8", calibration_states=0.4))
    found = _identity(folder)
    assert _missed(found) == {"int8 products", "calibrated on states"}
    products = next(check for check in found.checks if check.name == "identity: int8 products")
    assert products.met is None
    assert "export it again" in products.remark


def test_verify_says_what_is_different(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder: Path = shutil.copytree(made.bundle(PICO, "onnx"), tmp_path / "bundle")
    reseal(folder, _labels)
    report = tmp_path / "report.json"
    assert main(["verify", str(folder), "--frames", "6", "--json", str(report)]) == ParityError.exit_code
    captured = capsys.readouterr()
    assert "the labels of the manifest are not the checkpoint's" in captured.err
    assert "MISSED identity: labels of the manifest" in captured.out
    assert "(promised none; label 0 is" in captured.out
    assert json.loads(report.read_text())["identity"] == {"differences": 4}
    assert (folder / MANIFEST).is_file()


def test_a_trial_that_nobody_keeps_can_do_without() -> None:
    report = measure_all(
        load(made.bundle(PICO, "onnx"), threads=1), made.checkpoint(PICO), frames=4, decisions=False, identity=False
    )
    assert report.identity is None
    assert not any(check.name.startswith("identity") for check in report.every_check)
