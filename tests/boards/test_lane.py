"""The parts of tests/boards/lane that need no emulator; ``make boards`` runs the rest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.runtimes.selftest import selftest
from lcr_edge.tolerances import ACROSS_CPUS, ACROSS_CPUS_INT8, COARSE_ACTIVATIONS
from tests.boards import answers, lane
from tests.boards.boards import ARM64, ARMHF, BOARDS
from tests.boards.lane import FAILED, PASSED, SKIPPED, Row, difference, nearest, plant, table, verdict
from tests.runtimes.toy import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


def test_the_planted_fault_is_one(bundle: Path) -> None:
    assert selftest(bundle).passed
    plant(bundle)
    assert any("logits" in failure for failure in selftest(bundle).failures)


def test_answers_are_steps_from_the_reference(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.main(str(bundle), str(tmp_path / "answers.npz")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["coarse_activations"] is False
    found, golden = np.load(tmp_path / "answers.npz"), np.load(bundle / "golden.npz")
    for name, error in report["step_error"].items():
        assert found[name].shape == golden[name].shape
        assert float(np.abs(found[name] - golden[name]).max()) == pytest.approx(error)


def test_a_bundle_that_ends_the_program_leaves_the_answers_before_it(bundle: Path, tmp_path: Path) -> None:
    found = lane.Lane([], tmp_path, tmp_path, 1)._answers([bundle, tmp_path / "none", bundle])
    report, answered = found[bundle]  # type: ignore[misc]
    assert report["passed"] is True
    assert set(answered) == {"logits", "state_h", "state_c"}
    assert "none" in str(found[tmp_path / "none"])


def test_a_program_that_crashes_in_the_end_has_failed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    answer = "import os, sys; import numpy as np; np.savez(sys.argv[2], logits=np.zeros(1))"
    program.write_text(f"{answer}\nprint('{{}}', flush=True); os.abort()")
    monkeypatch.setattr(lane, "PROGRAM", program)
    found = lane.Lane([], tmp_path, tmp_path, 1)._answers([bundle])
    assert "exit code -6" in str(found[bundle])


def test_the_difference_between_two_machines(bundle: Path) -> None:
    golden = {name: np.load(bundle / "golden.npz")[name] for name in ("logits", "state_h", "state_c")}
    other = {**golden, "state_h": golden["state_h"] + np.float32(0.25)}
    report = {"precision": "fp32", "coarse_activations": False}
    assert difference(bundle, report, golden, golden)[0] == 0
    off, promised, name = difference(bundle, report, other, golden)
    assert off == pytest.approx(0.25)
    assert (promised, name) == (ACROSS_CPUS, "state_h")
    coarse = difference(bundle, {**report, "coarse_activations": True}, other, golden)
    assert coarse[1] == COARSE_ACTIVATIONS.step_abs
    off, promised, name = difference(bundle, {**report, "precision": "int8"}, other, golden)
    deviation = golden["state_h"][4:].std(dtype=np.float64)
    assert off == pytest.approx(0.25 / deviation)
    assert (promised, name) == (ACROSS_CPUS_INT8, "state_h")


def test_a_failed_row_turns_it_red_and_a_skipped_one_is_not_passed() -> None:
    passed, failed, skipped = (
        Row("board", "net", "onnx", "fp32", result, why=[] if result == PASSED else ["because"])
        for result in (PASSED, FAILED, SKIPPED)
    )
    assert verdict([passed], require=True) == 0
    assert verdict([passed, failed], require=False) == 1
    assert verdict([passed, skipped], require=False) == 0
    assert verdict([passed, skipped], require=True) == 1
    text = table([passed, failed, skipped])
    assert "FAILED: board, net, onnx, fp32: because" in text
    assert text.endswith("1 passed, 1 FAILED, 1 SKIPPED")


def test_the_nearest_promise() -> None:
    checks = [
        {"name": "one", "kind": "error", "measured": 5e-6, "promised": 1e-5},
        {"name": "two", "kind": "ratio", "measured": 0.09, "promised": 0.1},
        {"name": "three", "kind": "share", "measured": 1.0, "promised": 0.98},
    ]
    assert nearest(checks) == "two 0.090, 90%"


def test_without_an_emulator_nothing_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if "qemu" in name else found(name))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lane.main(["--out", str(tmp_path / "boards")]) == 0
    assert "qemu-user-static" in (out := capsys.readouterr().out)
    assert out.endswith(f"0 passed, 0 FAILED, {len(BOARDS)} SKIPPED\n")
    assert lane.main(["--out", str(tmp_path / "boards"), "--require"]) == 1


def test_headers_of_programs() -> None:
    for arch in (ARM64, ARMHF):
        assert len(bytes.fromhex(arch.magic)) == len(bytes.fromhex(arch.mask)) == 20
    assert bytes.fromhex(ARM64.magic)[-2:] == b"\xb7\x00"
