"""verify --junit: every check is a test case, and whatever misses is a failure, also in files with hostile names."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lcr_edge import tolerances
from lcr_edge.cli import main
from lcr_edge.errors import ParityError
from lcr_edge.export.verify.junit import junit, junit_of_error
from lcr_edge.export.verify.measure import measure_all
from lcr_edge.export.verify.report import CLIPS, IDENTITY, MODES, STREAMS, Report
from lcr_edge.runtimes.bundle import MANIFEST, file_record, seal
from tests.export import made
from tests.export.targets.rounded import rounded


@pytest.fixture(scope="module")
def report() -> Report:
    """Three bits: promises are missed, and the growth of the error is not judged on a stream as short as this."""
    return measure_all(rounded("lcr_pico", 3), made.checkpoint("lcr_pico"), frames=12, streams=20, per_class=1)


def test_each_check_is_a_case(report: Report) -> None:
    root = ElementTree.fromstring(junit(report))
    assert [suite.get("name") for suite in root] == [
        f"{report.bundle} {part}" for part in (MODES, IDENTITY, STREAMS, CLIPS)
    ]
    cases = list(root.iter("testcase"))
    checks = report.every_check
    assert [case.get("name") for case in cases] == [check.name for check in checks]
    assert {case.get("classname") for case in cases} == {report.bundle}
    verdicts = [{"failure": False, "skipped": None}.get(case[0].tag) if len(case) else True for case in cases]
    assert verdicts == [check.met for check in checks]
    assert {True, False, None} == set(verdicts)
    assert [failure.get("message") for failure in root.iter("failure")] == list(report.failures)
    counts = {"tests": len(cases), "failures": verdicts.count(False), "skipped": verdicts.count(None), "errors": 0}
    for name, count in counts.items():
        assert root.get(name) == str(count)
        assert sum(int(suite.get(name, "-1")) for suite in root) == count
    for suite, part in zip(root, (MODES, IDENTITY, STREAMS, CLIPS)):
        own = [float(case.get("time", "nan")) for case in suite]
        assert float(suite.get("time", "nan")) == pytest.approx(report.seconds[part], abs=1e-3)
        assert sum(own) == pytest.approx(report.seconds[part] if own else 0, abs=1e-3 * (1 + len(own)))
    assert report.seconds[MODES] > 0


def test_what_is_broken_is_a_failure(report: Report) -> None:
    sentences = ("state_h did not change in a step: it is not computed", "state_c is not read")
    assert report.streams is not None
    streams = dataclasses.replace(report.streams, broken=("streams: NaN",))
    broken = dataclasses.replace(report, broken=sentences, streams=streams)
    root = ElementTree.fromstring(junit(broken))
    assert sorted(str(failure.get("message")) for failure in root.iter("failure")) == sorted(broken.failures)
    (alone,) = ElementTree.fromstring(junit_of_error("a bundle", sentences[0])).iter("testcase")
    assert (alone.get("classname"), alone[0].tag, alone[0].get("message")) == ("a bundle", "failure", sentences[0])


def test_hostile_names_are_escaped(report: Report) -> None:
    evil = '</testsuite>"<&]]>\x00\x1b\ud800\uffff'
    kept = '</testsuite>"<&]]>' + 4 * "\ufffd"
    checks = tuple(dataclasses.replace(check, name=evil, sentence=evil, met=False) for check in report.checks)
    hostile = dataclasses.replace(
        report, bundle=evil, checks=checks, broken=(evil,), identity=None, streams=None, clips=None
    )
    root = ElementTree.fromstring(junit(hostile))
    cases = list(root.iter("testcase"))
    assert len(cases) == len(checks) + 1
    assert {case.get("classname") for case in cases} == {case.get("name") for case in cases} == {kept}
    assert {failure.get("message") for failure in root.iter("failure")} == {kept}


def _put_nan_into(folder: Path) -> None:
    """Change a weight of an ONNX bundle, and seal it as if it were right."""
    model = onnx.load(folder / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.name.endswith("layers.1.attend.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = file_record(folder / "model.onnx")
    (folder / MANIFEST).write_bytes(seal(manifest))


def _verify(*arguments: str | Path) -> int:
    return main(["verify", str(made.bundle("lcr_pico", "onnx")), "--frames", "6", *map(str, arguments)])


def test_on_the_command_line_a_missed_promise_is_a_failure_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "verify.xml"
    assert _verify("--junit", file) == 0
    passed = ElementTree.fromstring(file.read_bytes())
    assert (passed.get("failures"), passed.get("errors")) == ("0", "0")
    assert int(passed.get("tests", "0")) == 7 + 17  # promises, and comparisons with the checkpoint
    assert f"wrote {file}" in capsys.readouterr().out
    impossible = dataclasses.replace(tolerances.PROMISES["fp32"], step_abs=sys.float_info.min)
    monkeypatch.setitem(tolerances.PROMISES, "fp32", impossible)
    assert _verify("--junit", file) == ParityError.exit_code
    failures = list(ElementTree.fromstring(file.read_bytes()).iter("failure"))
    error = capsys.readouterr().err
    assert len(failures) == 3
    assert all(str(failure.get("message")) in error for failure in failures)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_verification_that_ends_early_is_a_failure_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(made.bundle("lcr_pico", "onnx"), tmp_path / "bundle")
    _put_nan_into(folder)
    file = tmp_path / "verify.xml"
    assert main(["verify", str(folder), "--frames", "6", "--junit", str(file)]) == ParityError.exit_code
    (failure,) = ElementTree.fromstring(file.read_bytes()).iter("failure")
    assert "contains NaN or Inf" in str(failure.get("message"))
    assert str(failure.get("message")) in capsys.readouterr().err
