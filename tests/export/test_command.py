"""The command line: what it lists, and what it says to wrong calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcr_edge import checkpoint
from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.cli import main
from lcr_edge.config import CONFIGS, get_config
from lcr_edge.export.targets.table import TARGETS

ROOT = Path(__file__).resolve().parents[2]


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
        (["--target", "onnx", "--random-weights", "-1"], ["seed"]),
        (["--target", "onnx", "--random-weights", "1", "--checkpoint", "x"], ["exclude each other"]),
        (["--target", "onnx", "--random-weights", "1", "--variant", "best"], ["'best'", "paper"]),
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
    call = [
        "export",
        "--target",
        "onnx",
        "--checkpoint",
        str(path),
        "--config",
        "lcr_nano",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(call) == 2
    assert "is of config lcr_pico, not lcr_nano" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(not PACKAGED_FILE.is_file(), reason="no packaged checkpoint in this tree yet")
def test_a_config_without_a_packaged_checkpoint_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--target", "onnx", "--config", "lcr_tiny"]) == 2
    assert "--random-weights" in capsys.readouterr().err


def test_a_missing_converter_names_the_pip_line() -> None:
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'litert_torch' else found(name, *rest)\n"
        "from lcr_edge.cli import main\n"
        "sys.exit(main(['export', '--target', 'tflite', '--random-weights', '1']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert 'pip install "lcr-edge[export]"' in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_an_export_prints_what_it_wrote_and_nothing_of_the_converters(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "lcr_edge", "export", "--target", "openvino", "--config", "lcr_pico"),
            *("--random-weights", "3", "--out", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == f"wrote {tmp_path}/lcr_pico-openvino-fp32/"
    assert "model.bin" in lines[1]
    assert "max abs error" in lines[2]
    assert len(lines) == 3
    assert [line.split(" ...")[0] for line in ended.stderr.splitlines()] == [
        "lcr_pico-openvino-fp32: converting",
        "lcr_pico-openvino-fp32: verifying over 50 frames",
    ]
