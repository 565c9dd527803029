"""--provider on the providers that onnxruntime has here: the CPU, and often one for Azure, which takes no operator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.errors import OutputError, ParityError, UsageError
from lcr_edge.runtimes import load, onnx_providers
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.golden import read_golden
from lcr_edge.runtimes.onnx_providers import CPU, CUDA, TENSORRT
from lcr_edge.runtimes.provider import best_of, golden_step, load_on
from lcr_edge.runtimes.tensorrt_cache import STAMP, engine_folder, gpu_facts
from tests.runtimes.toy import golden, make_bundle, reseal

ort: Any = pytest.importorskip("onnxruntime")
AZURE = "AzureExecutionProvider"
HERE = ort.get_available_providers()
needs_azure = pytest.mark.skipif(AZURE not in HERE, reason="this onnxruntime has no provider that takes no operator")
needs_no_gpu = pytest.mark.skipif(CUDA in HERE, reason="this onnxruntime has CUDA")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


@needs_no_gpu
@pytest.mark.parametrize("command", ["selftest", "bench", "run"])
def test_what_is_not_there_is_refused_with_the_package_that_has_it(
    command: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--source", "0"] if command == "run" else []
    assert main([command, str(bundle), "--provider", "cuda", *more]) == 2
    said = capsys.readouterr().err
    assert "has no CUDAExecutionProvider, only" in said
    assert CPU in said
    assert "pip install onnxruntime-gpu" in said
    assert "Jetson" in said


@needs_azure
def test_a_provider_that_takes_no_operator_is_no_silent_cpu(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"Azure takes none of the model's \d+ nodes \(CPU \d+\)"):
        load(bundle, providers=[AZURE, CPU])


def test_the_operators_are_counted_where_they_run(bundle: Path) -> None:
    settings = ort.SessionOptions()
    with onnx_providers.profiled(settings) as folder:
        session = ort.InferenceSession(str(bundle / "model.onnx"), settings, providers=[CPU])
        nodes = onnx_providers.nodes_of(session, read_bundle(bundle).inputs)
        assert Path(folder).is_dir()
    assert not Path(folder).exists()
    assert set(nodes) == {CPU}
    assert onnx_providers.check_nodes(nodes, CPU) == f"CPU ({nodes[CPU]} of {nodes[CPU]} nodes)"
    onnx_providers.check_session(session.get_providers(), CPU)
    with pytest.raises(UsageError, match="TensorRT cannot be used here, onnxruntime would take CPU"):
        onnx_providers.check_session(session.get_providers(), TENSORRT)


@needs_azure
def test_auto_takes_what_passes_and_says_why_not_the_others(bundle: Path) -> None:
    said: list[str] = []
    tried = {"none": ("NoSuchProvider", CPU), "azure": (AZURE, CPU), "one": (CPU,), "two": (CPU,)}
    model = best_of(bundle, tried, 1, said.append)
    assert model.engine.name == f"onnxruntime {ort.__version__}"
    line = said.pop()
    assert said == ["provider: trying azure"]
    taken = line.split()[1].rstrip(",")
    assert taken in ("one", "two")
    assert "not none: not in this onnxruntime" in line
    assert "not azure: Azure takes none of" in line
    assert f"not {'two' if taken == 'one' else 'one'}: " in line


def test_auto_takes_nothing_that_computes_something_else(bundle: Path) -> None:
    arrays = golden("graph")
    arrays["state_c"] = arrays["state_c"] + np.float32(1e-3)
    np.savez(bundle / "golden.npz", **arrays)  # type: ignore[arg-type]
    reseal(bundle)
    with pytest.raises(ParityError, match=r"passes its golden step on no provider \(not cpu: one step: state_c is off"):
        best_of(bundle, {"cpu": (CPU,)}, 1, print)


@needs_no_gpu
def test_auto_on_the_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", str(bundle), "--provider", "auto"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("provider: cpu, ")
    assert "not cuda: not in this onnxruntime; not tensorrt: not in this onnxruntime" in captured.err
    assert "passed in" in captured.out


def test_other_engines_have_the_cpu_alone(tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", "openvino")
    with pytest.raises(UsageError, match=r"--provider cuda is for ONNX bundles; .* is for openvino"):
        load_on(other, "cuda")
    for provider in ("auto", "cpu"):
        assert load_on(other, provider).engine.name.startswith("openvino")


@pytest.mark.parametrize("state_precision", ["fp32", "fp16"])
def test_the_golden_step_is_within_the_promise(tmp_path: Path, state_precision: str) -> None:
    model = load(make_bundle(tmp_path / "toy", "onnx", state_precision=state_precision))
    checks = golden_step(model, read_golden(model.bundle))
    assert [check.met for check in checks] == [True] * 3


def test_float32_stays_float32_on_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "NVIDIA_TF32_OVERRIDE"
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    whole = read_bundle(bundle)
    assert onnx_providers.configured([CPU], whole, "1.0") == [CPU]
    assert name not in os.environ
    assert onnx_providers.configured([CUDA, CPU], whole, "1.0") == [(CUDA, {"use_tf32": "0"}), CPU]
    assert os.environ[name] == "0"
    (tensorrt,) = onnx_providers.configured([TENSORRT], whole, "1.0")
    assert tensorrt[0] == TENSORRT
    assert tensorrt[1]["trt_fp16_enable"] == "False"  # type: ignore[index]
    assert ("trt_engine_cache_path" in tensorrt[1]) == (gpu_facts() is not None)
    reseal(bundle, precision="int8")
    with pytest.raises(UsageError, match="TensorRT takes int8 only: take the fp32 bundle"):
        onnx_providers.configured([TENSORRT, CPU], read_bundle(bundle), "1.0")


def test_engines_of_another_machine_or_version_are_not_used(bundle: Path, tmp_path: Path) -> None:
    whole, cache = read_bundle(bundle), tmp_path / "cache"
    facts = {"device": "Orin", "driver": "540.4", "cuda": "12060", "tensorrt": "100300"}
    first = engine_folder(whole, facts, "1.23", cache)
    assert first is not None
    assert first.stat().st_mode & 0o77 == 0
    kept = first / "model.engine"
    kept.write_bytes(b"engine")
    assert engine_folder(whole, dict(facts), "1.23", cache) == first
    assert kept.is_file()
    others = [
        engine_folder(whole, {**facts, "tensorrt": "100400"}, "1.23", cache),
        engine_folder(whole, {**facts, "device": "Xavier"}, "1.23", cache),
        engine_folder(whole, facts, "1.24", cache),
    ]
    assert len({first, *others}) == 4
    (first / STAMP).write_text("{}")  # copied from elsewhere
    assert engine_folder(whole, facts, "1.23", cache) == first
    assert not kept.exists()
    assert engine_folder(whole, None, "1.23", cache) is None
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    (first / STAMP).write_text("{}")
    with pytest.raises(OutputError, match="cannot keep TensorRT's engines in"):
        engine_folder(whole, facts, "1.23", cache)
