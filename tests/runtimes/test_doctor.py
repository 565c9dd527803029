"""``lcr-edge doctor BUNDLE``: bundles that work here, and bundles that do not, each for a real reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.machine import Machine, available_bytes, features
from lcr_edge.runtimes import doctor
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.doctor import numbers
from lcr_edge.runtimes.engines import ENGINES
from lcr_edge.runtimes.trial import outcome, try_out
from tests.boards.boards import BOARDS
from tests.runtimes.toy import golden, make_bundle, reseal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx", "host")


def examined(bundle: Path, tmp_path: Path) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """The exit code, the JSON document, and its findings by name."""
    report = tmp_path / "doctor.json"
    code = main(["doctor", str(bundle), "--json", str(report)])
    document = json.loads(report.read_text())
    return code, document, {finding["what"]: finding for finding in document["findings"]}


def test_a_bundle_that_works(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, findings = examined(bundle, tmp_path)
    assert code == 0
    assert document["works"] is True
    assert list(findings) == ["bundle", "python", "numpy", "engine", "opencv", "memory", "step"]
    assert findings["bundle"]["text"] == "toy for onnx, fp32: contract version 1, 2 files whole"
    assert version("onnxruntime") in findings["engine"]["text"]
    assert "within what is promised" in findings["step"]["text"]
    assert capsys.readouterr().out.splitlines()[-1] == f"{bundle} works here"


def test_an_engine_that_is_older_than_the_bundles_is_told_and_tried(bundle: Path, tmp_path: Path) -> None:
    reseal(bundle, producer={"onnxruntime": "99.0"})
    code, _, findings = examined(bundle, tmp_path)
    assert code == 0  # it made its step
    assert findings["engine"]["state"] == "note"
    assert findings["engine"]["fix"] == 'pip install --upgrade "onnxruntime>=99.0"'


def test_a_bundle_whose_answers_differ_here(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = golden("host")
    arrays["logits"] = arrays["logits"] + np.float32(0.01)
    np.savez(bundle / "golden.npz", **arrays)  # type: ignore[arg-type]
    reseal(bundle)
    code, document, findings = examined(bundle, tmp_path)
    assert (code, document["works"]) == (1, False)
    assert "computes something else here: one step: logits is off by 1.00e-02" in findings["step"]["text"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{bundle} will not work here, because of its step. To mend it: lcr-edge selftest")


def test_a_damaged_bundle_and_a_newer_one_do_not_work(bundle: Path, tmp_path: Path) -> None:
    reseal(bundle, contract_version=2)
    code, _, findings = examined(bundle, tmp_path)
    assert code == 1
    assert "upgrade lcr-edge on this device" in findings["bundle"]["text"]
    reseal(bundle, contract_version=1)
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    code, _, findings = examined(bundle, tmp_path)
    assert code == 1
    assert list(findings) == ["bundle"]
    assert "changed, truncated or half copied" in findings["bundle"]["text"]


def test_a_model_that_the_engine_cannot_load(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no model")
    reseal(bundle)
    code, _, findings = examined(bundle, tmp_path)
    assert code == 1
    assert "cannot load" in findings["step"]["text"]
    assert findings["step"]["fix"].startswith("pip install --upgrade")


def test_wrong_calls_are_not_verdicts(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert main(["doctor", str(tmp_path)]) == 2
    assert main(["doctor", str(bundle), "--require-cuda-kernel"]) == 2
    said = capsys.readouterr().err
    assert "does not exist" in said
    assert "has no manifest.json" in said
    assert "leave out the bundle" in said


def test_without_the_engine_the_command_that_installs_it_is_the_verdict(bundle: Path, tmp_path: Path) -> None:
    """In a Python that has numpy and nothing else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in Path(np.__file__).parents[1].glob("numpy*"):
        (packages / folder.name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "lcr_edge", "doctor", str(bundle)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join((str(packages), str(ROOT))), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("FAILED  engine     onnxruntime is not installed") for line in lines)
    assert any(line.startswith("note    opencv     not installed: no cameras") for line in lines)
    assert "edges are computed by numpy" in done.stdout
    assert lines[-1].startswith(f"{bundle} will not work here, because of its engine. To mend it: ")


@pytest.mark.parametrize(
    ("machine", "target", "says", "fix"),
    [
        (Machine("armv7l", 32, (3, 11), (2, 36)), "onnx", "has no wheel for ARM of 32 bits: install a system", ""),
        (Machine("armv7l", 32, (3, 11), (2, 36)), "tflite", "ai-edge-litert is not installed", "[tflite-runtime]"),
        (Machine("aarch64", 64, (3, 10), None), "openvino", "has no wheel without glibc", ""),
        (Machine("aarch64", 64, (3, 10), (2, 35)), "openvino", "openvino is not installed", "[openvino]"),
    ],
)
def test_a_missing_engine_on_other_machines(
    machine: Machine, target: str, says: str, fix: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(read_bundle(bundle), target=target)
    monkeypatch.setattr(doctor, "this_machine", lambda: machine)
    finding = doctor._engine(whole, ENGINES[target].package, None)
    assert finding.state == "FAILED"
    assert says in finding.text
    assert fix in finding.fix or "activate" in finding.fix


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGILL, "an instruction that this processor does not have (SIGILL)"),
        (signal.SIGKILL, "most likely for want of memory (SIGKILL)"),
        (signal.SIGTERM, "it was ended (SIGTERM)"),
    ],
)
def test_an_engine_that_ends_the_process_is_told_by_its_signal(number: signal.Signals, says: str) -> None:
    program = f"import os; os.kill(os.getpid(), {int(number)})"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert outcome(done).error.endswith(says)


def test_a_process_that_says_nothing(tmp_path: Path) -> None:
    program = "import sys; sys.exit('no such thing')"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert outcome(done).error == "it ended with exit code 1: no such thing"
    assert "within 0 s" in try_out(tmp_path, timeout_s=0.001).error


def test_memory_features_and_versions(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:    2000 kB\n")
    assert available_bytes(meminfo) == 2_048_000
    assert available_bytes(tmp_path / "none") is None
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(BOARDS[0].cpuinfo())
    assert "asimddp" in features(cpuinfo)
    assert features(tmp_path / "none") == frozenset()
    assert numbers("1.31.1") > numbers("1.9") > numbers("1.9rc1")[:1] == (1,)
    assert numbers("unknown") == ()
