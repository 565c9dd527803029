"""``lcr-edge doctor`` and the kernel bench: what they say where there is no GPU, and without torch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lcr_edge import doctor
from lcr_edge.cli import run_command
from lcr_edge.errors import how_to_install
from lcr_edge.kernels.compilers import cache_folder, find_nvcc
from lcr_edge.kernels.wkv import bench

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(arguments))


def test_json_holds_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["numpy"] == version("numpy")
    assert facts["torch"].startswith(torch.__version__)
    assert facts["engines"]["onnxruntime"] == doctor.version_of("onnxruntime")
    assert (facts["nvcc"] is None) == (find_nvcc() is None)
    assert len(facts["devices"]) == torch.cuda.device_count()


@no_gpu
def test_without_a_gpu_the_portable_form_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run() == 0
    out = capsys.readouterr().out
    assert "no CUDA device" in out
    assert "portable: " in out
    assert _run("--require-cuda-kernel") == 1
    facts = doctor.examine()["wkv"]
    assert facts["kernel"] is False
    assert "CUDA" in facts["why"]


@needs_gpu
def test_with_a_gpu_the_kernel_is_compiled_and_right() -> None:
    facts = doctor.examine()["wkv"]
    assert facts["kernel"], facts["why"]
    assert _run("--require-cuda-kernel") == 0


def test_works_without_torch(tmp_path: Path) -> None:
    """In a process whose `import torch` finds a module that raises ImportError, as where torch is absent."""
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    script = (
        "import argparse, sys; from lcr_edge import doctor; parser = argparse.ArgumentParser();"
        "doctor.add_arguments(parser); code = doctor.run(parser.parse_args(['--json', '-', '--require-cuda-kernel']));"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    facts = json.loads(done.stdout)
    assert facts["wkv"] == {"kernel": False, "form": "none", "why": facts["wkv"]["why"]}
    assert how_to_install("train") in facts["wkv"]["why"]
    assert facts["cache"] == str(tmp_path / ".cache" / "lcr_edge")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LCR_EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lcr_edge"
    monkeypatch.setenv("LCR_EDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_cuda_home_comes_before_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 99.1, V99.1.2'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_nvcc() == str(nvcc)
    assert doctor.examine()["nvcc"] == f"{nvcc} release 99.1"


@no_gpu
def test_bench_without_a_gpu_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(bench, "bench", []) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_bench_times_the_portable_form_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--device", "cpu", "--no-compile", "--rounds", "2", "--shape", "1,2,17,16", "--dtype", "bfloat16"]
    assert run_command(bench, "bench", [*arguments, "--json", str(out)]) == 0
    facts = json.loads(out.read_text())
    (row,) = facts["rows"]
    assert (row["form"], row["dtype"], row["shape"]) == ("portable", "bfloat16", [1, 2, 17, 16])
    assert row["forward_ms"] > 0
    assert row["both_ms"] > 0
    assert row["forward_bytes_per_s"] == pytest.approx(4 * 2 * 17 * 16 * 2 / row["forward_ms"] * 1e3)
    assert "1 2 17 16" in capsys.readouterr().out
    assert run_command(bench, "bench", [*arguments, "--json", str(tmp_path / "absent" / "bench.json")]) == 2
    assert run_command(bench, "bench", ["--device", "cpu", "--shape", "1,2,3"]) == 2
    assert run_command(bench, "bench", ["--device", "cpu", "--rounds", "0"]) == 2
    assert run_command(bench, "bench", ["--device", "abacus"]) == 2
    assert "torch does not know --device abacus" in capsys.readouterr().err
    assert run_command(bench, "bench", [*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["form"] == "portable"
