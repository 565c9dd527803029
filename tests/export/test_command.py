"""The command line: what it lists, and what it says to wrong calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from lcr_edge import checkpoint
from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.cli import main
from lcr_edge.config import CONFIGS, get_config
from lcr_edge.errors import OutputError, ParityError, how_to_install
from lcr_edge.export.staging import staged
from lcr_edge.export.targets import onnx_convert
from lcr_edge.export.targets.job import Converted, Job
from lcr_edge.export.targets.table import TARGETS

ROOT = Path(__file__).resolve().parents[2]
PICO = ("export", "--config", "lcr_pico", "--random-weights", "--seed", "3")


@pytest.mark.parametrize("arguments", [["--list"], ["--help"]])
def test_listing_needs_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'openvino', 'litert_torch', 'cv2'): sys.modules[name] = None\n"
        "from lcr_edge.cli import run_command\n"
        f"sys.exit(run_command('lcr_edge.export.command', 'export', {arguments!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert all(name in ended.stdout for name in TARGETS)


def test_python_m_is_the_same_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "lcr_edge.export", "--target", "coreml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: unknown target: 'coreml'; choose one of")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--target is missing", *TARGETS]),
        (["--target", "tensorrt"], ["'tensorrt'", *TARGETS, "all"]),
        (["--target", "onnx", "--precision", "int3"], ["'int3'", "fp32", "fp16"]),
        (["--target", "onnx", "--config", "lcr_huge"], ["'lcr_huge'", *CONFIGS]),
        (["--target", "onnx", "--edges", "cloud"], ["'cloud'", "graph", "host"]),
        (["--target", "tflite", "--state-mode", "internal"], ["tflite", "'internal'", "explicit"]),
        (["--target", "onnx", "--variant", "paper"], ["--random-weights"]),
        (["--target", "onnx", "--random-weights", "--seed", "-1"], ["--seed", "-1"]),
        (["--target", "onnx", "--seed", "1"], ["--seed", "--random-weights", "int8"]),
        (["--target", "onnx", "--threads", "0"], ["--threads", "at least 1"]),
        (["--target", "onnx", "--io", "int8", "--calibration-clips", "9"], ["io for onnx", "'int8'"]),
        (["--target", "tflite", "--io", "int8", "--calibration-clips", "9"], ["--io, --calibration-clips: only with"]),
        (["--target", "onnx", "--random-weights", "--checkpoint", "x"], ["exclude each other"]),
        (["--target", "onnx", "--random-weights", "--variant", "best"], ["'best'", "paper"]),
        (["--target", "onnx", "--checkpoint", "no/such.safetensors"], ["no/such.safetensors", "does not exist"]),
    ],
)
def test_a_wrong_call_is_answered_with_the_way_out(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", *arguments, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert all(part in errors for part in parts), errors
    assert not out.exists()


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = checkpoint.random_checkpoint(get_config("lcr_pico"), 1)
    path = tmp_path / "pico.safetensors"
    checkpoint.save(path, found.model, found.labels, {})
    call = ["export", "--target", "onnx", "--checkpoint", str(path), "--config", "lcr_nano"]
    assert main([*call, "--out", str(tmp_path / "o")]) == 2
    assert "has config lcr_pico, not lcr_nano" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(not PACKAGED_FILE.is_file(), reason="no packaged checkpoint in this tree yet")
def test_a_config_without_a_packaged_checkpoint_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--target", "onnx", "--config", "lcr_tiny"]) == 2
    assert "--random-weights" in capsys.readouterr().err


def test_a_missing_converter_says_how_to_install_it() -> None:
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'litert_torch' else found(name, *rest)\n"
        "from lcr_edge.cli import main\n"
        "sys.exit(main(['export', '--target', 'tflite', '--random-weights']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert how_to_install("export") in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-float", "attention"], "'attention' matches no layer; choose from"),
        (["--keep-float", "auto", "--quant", "weight-only"], "--keep-float auto needs"),
    ],
)
def test_layers_that_cannot_stay_in_float_are_named_before_the_calibration(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PICO, "--target", "onnx", "--precision", "int8", *arguments, "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "calibration:" not in errors


@pytest.mark.slow
def test_an_export_prints_what_it_wrote_and_nothing_of_the_converters(tmp_path: Path) -> None:
    out, summary = tmp_path / "out", tmp_path / "made" / "summary.json"
    ended = _lcr_edge(*PICO, "--target", "openvino", "--out", str(out), "--json", str(summary))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == f"wrote {out}/lcr_pico-openvino-fp32/"
    assert "model.bin" in lines[1]
    assert "max abs error" in lines[2]
    assert len(lines) == 3
    assert [line.split(" ...")[0] for line in ended.stderr.splitlines()] == [
        "loading PyTorch",
        "lcr_pico-openvino-fp32: converting",
        "lcr_pico-openvino-fp32: verifying over 50 frames",
    ]
    folder = out / "lcr_pico-openvino-fp32"
    assert json.loads((folder / "manifest.json").read_text())["random_seed"] == 3
    found = json.loads(summary.read_text())
    (bundle,) = found["bundles"]
    assert found["error"] is None
    assert bundle["folder"] == str(folder)
    assert bundle["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert bundle["page"] is None
    assert bundle["parity"] == json.loads((folder / "parity.json").read_text())


@pytest.mark.slow
def test_json_has_what_was_written_before_an_export_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json - stdout holds JSON and nothing else."""
    monkeypatch.setattr("lcr_edge.export.command.TARGETS", {name: TARGETS[name] for name in ("onnx", "openvino")})
    place = tmp_path / "lcr_pico-openvino-fp32"
    with staged(tmp_path, place.name):
        assert main([*PICO, "--target", "all", "--out", str(tmp_path), "--json", "-"]) == OutputError.exit_code
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert [bundle["folder"] for bundle in found["bundles"]] == [str(tmp_path / "lcr_pico-onnx-fp32")]
    assert f"is writing {place}" in found["error"]
    assert f"error: {found['error']}" in shown.err
    assert "wrote " in shown.err


@pytest.mark.slow
def test_a_refused_bundle_does_not_keep_the_others_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lcr_edge.export.command.TARGETS", {name: TARGETS[name] for name in ("onnx", "openvino")})
    convert = onnx_convert.convert

    def spoilt(job: Job) -> Converted:
        made = convert(job)
        model = onnx.load(job.path)
        weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("attend.weight"))
        weight.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weight), weight.name))
        onnx.save(model, job.path)
        return made

    monkeypatch.setattr(onnx_convert, "convert", spoilt)
    report = tmp_path / "export.json"
    command = [*PICO, "--out", str(tmp_path / "out"), "--json", str(report)]
    assert main([*command, "--target", "all"]) == ParityError.exit_code
    shown, found = capsys.readouterr(), json.loads(report.read_text())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lcr_pico-openvino-fp32"]
    assert [Path(bundle["folder"]).name for bundle in found["bundles"]] == ["lcr_pico-openvino-fp32"]
    assert set(found["refused"]) == {"lcr_pico-onnx-fp32"}
    assert found["error"] is None
    assert "error: lcr_pico-onnx-fp32 was not written: it breaks its promise" in shown.err
    table = [line.split(maxsplit=1) for line in shown.out.splitlines()[-2:]]
    assert table == [["lcr_pico-onnx-fp32", "refused, see above"], ["lcr_pico-openvino-fp32", "written"]]
    # One target alone: an error, and nothing else is said.
    assert main([*command, "--target", "onnx"]) == ParityError.exit_code
    assert "see above" not in capsys.readouterr().out
    assert json.loads(report.read_text())["refused"].keys() == {"lcr_pico-onnx-fp32"}


@pytest.mark.parametrize("option", ["--out", "--report", "--json"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    places = {"--out": str(tmp_path / "out"), option: str(tmp_path / "file" / "x" / "y")}
    call = [part for pair in places.items() for part in pair]
    assert main([*PICO, "--target", "onnx", *call]) == OutputError.exit_code
    errors = capsys.readouterr().err
    assert f"choose another {option}" in errors
    assert "converting" not in errors


def _lcr_edge(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lcr_edge", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
