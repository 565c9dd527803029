"""onnxruntime's execution providers: which there are, with which settings, and whether a model really runs there.

onnxruntime goes on with the CPU where a provider's libraries cannot be loaded, or where a provider takes no operator of
the model, and says so in a log at most. So a session is asked after it was made (:func:`check_session`), and one step
is profiled, which names the provider of each operator (:func:`nodes_of`).

The promises of ``lcr_edge.tolerances`` are about float32, so what rounds a float32 bundle's products to fewer bits is
off by default: TF32 and TensorRT's fp16. No GPU was at hand: what is here ran on the CPU provider, on the one that
calls Azure, and on a build with CUDA and TensorRT without a GPU.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

from lcr_edge.contract import TensorSpec
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.bundle import Bundle
from lcr_edge.runtimes.tensorrt_cache import engine_folder, gpu_facts

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_GPU = (CUDA, TENSORRT)
# Read by cuBLAS, cuDNN and TensorRT. For TensorRT onnxruntime has no option of its own.
_TF32 = "NVIDIA_TF32_OVERRIDE"

# As onnxruntime takes it: a name, or a name with options.
Provider = Union[str, "tuple[str, dict[str, str]]"]


def short(provider: str) -> str:
    """A provider for people: "CUDA"."""
    return {TENSORRT: "TensorRT"}.get(provider, provider.replace("ExecutionProvider", ""))


def check_available(wanted: Sequence[str], available: Sequence[str]) -> None:
    """Raise UsageError, which says how to get it, for a provider that this onnxruntime was built without."""
    unknown = [name for name in wanted if name not in available]
    if not unknown:
        return
    gpu = any(name in _GPU for name in unknown)
    how = (
        "take a build that has it in place of onnxruntime: pip uninstall onnxruntime && pip install onnxruntime-gpu; "
        "on a Jetson the wheel that NVIDIA makes for its JetPack"
        if gpu
        else "choose one of these"
    )
    raise UsageError(f"this onnxruntime has no {', '.join(unknown)}, only {', '.join(available)}; {how}")


def configured(names: Sequence[str], bundle: Bundle, version: str) -> list[Provider]:
    """The providers with the settings that keep float32 what it is, and TensorRT's cache.

    version: of onnxruntime. With CUDA or TensorRT among them, TF32 is switched off for the whole process, unless
    NVIDIA_TF32_OVERRIDE is set already. Raises UsageError for int8 on TensorRT.
    """
    if any(name in _GPU for name in names):
        os.environ.setdefault(_TF32, "0")
    return [_configured(name, bundle, version) for name in names]


def _configured(name: str, bundle: Bundle, version: str) -> Provider:
    if name == CUDA:
        return name, {"use_tf32": "0"}
    if name != TENSORRT:
        return name
    if bundle.precision == "int8":
        raise UsageError(
            f"{bundle.folder} is int8 with uint8 inputs, and TensorRT takes int8 only: take the fp32 bundle there"
        )
    settings = {"trt_fp16_enable": "False"}
    folder = engine_folder(bundle, gpu_facts(), version)
    if folder is not None:
        settings.update({"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)})
    return name, settings


def check_session(used: Sequence[str], wanted: str) -> None:
    """Raise UsageError where a session runs without the provider that was wanted. used: what the session says."""
    if wanted not in used:
        raise UsageError(
            f"{short(wanted)} cannot be used here, onnxruntime would take {', '.join(map(short, used))}: the driver, "
            "or a library of the version that this onnxruntime wants, is missing (its log above says which)"
        )


def nodes_of(session: Any, inputs: Sequence[TensorSpec]) -> Counter[str]:
    """How many operators each provider ran in one step, of zeros. Ends the profiling that the session was made with."""
    session.run(None, {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return Counter(
        event["args"].get("provider", CPU)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def profiled(settings: Any) -> tempfile.TemporaryDirectory[str]:
    """Let a session that is made with ``settings`` write its profile into the folder that is returned."""
    folder = tempfile.TemporaryDirectory(prefix="lcr_edge_profile_")
    settings.enable_profiling = True
    settings.profile_file_prefix = str(Path(folder.name) / "step")
    return folder


def check_nodes(nodes: Mapping[str, int], wanted: str) -> str:
    """What to add to the engine's name: "CUDA (330 of 339 nodes)". Raises UsageError where no node runs there."""
    mine, everything = nodes.get(wanted, 0), sum(nodes.values())
    if not mine:
        others = ", ".join(f"{short(name)} {count}" for name, count in sorted(nodes.items()))
        raise UsageError(f"{short(wanted)} takes none of the model's {everything} nodes ({others}); take the CPU")
    return f"{short(wanted)} ({mine} of {everything} nodes)"
