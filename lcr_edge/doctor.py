"""The machine's part of ``lcr-edge doctor``: Python, processor, torch, GPU, compilers, engines and how to install those
that are not there, and which form of the WKV runs.

Works without torch. On a machine with a CUDA device the kernel is compiled, run and compared, which takes some seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import subprocess
from typing import Any

from lcr_edge import __version__
from lcr_edge.errors import how_to_install
from lcr_edge.kernels.compilers import cache_folder, find_cxx, find_nvcc
from lcr_edge.machine import Machine, how_to_get, processor, this_machine
from lcr_edge.options import add_json, text_stream, write_json

ENGINES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime")
PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "onnx",
    "safetensors",
    "flash-linear-attention",
    "aiohttp",
    "paho-mqtt",
    "prometheus-client",
)


def examine() -> dict[str, Any]:
    """All facts as plain values. ``wkv.kernel`` is True where the CUDA kernel compiles and its results are right."""
    nvcc, machine = find_nvcc(), this_machine()
    facts: dict[str, Any] = {
        "lcr_edge": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {machine.bits} bits, {_glibc(machine)}",
        "processor": processor(),
        "torch": version_of("torch"),
        "devices": [],
        "nvcc": f"{nvcc} {_nvcc_release(nvcc)}" if nvcc else None,
        "c++": find_cxx(),
        "cache": str(cache_folder()),
        "engines": {name: version_of(name) for name in ENGINES},
        "to install": {name: how_to_get(name, machine) for name in _missing()},
        "packages": {name: version_of(name) for name in PACKAGES},
        "edges": "OpenCV" if importlib.util.find_spec("cv2") else "numpy (install opencv-python-headless for speed)",
    }
    facts["wkv"] = _examine_wkv(facts)
    return facts


def _missing() -> list[str]:
    """The engines that are not here. Of the two for TFLite the older one counts only where there is none."""
    missing = [name for name in ENGINES if version_of(name) is None]
    return [name for name in missing if name != "tflite-runtime" or "ai-edge-litert" in missing]


def _glibc(machine: Machine) -> str:
    return "no glibc" if machine.glibc is None else f"glibc {machine.glibc[0]}.{machine.glibc[1]}"


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, read without importing it; None where it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _examine_wkv(facts: dict[str, Any]) -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError):  # absent, or without the libraries that it needs
        return {"kernel": False, "form": "none", "why": f"torch cannot be imported: {how_to_install('train')}"}
    facts["torch"] = f"{torch.__version__} (CUDA {torch.version.cuda or 'not built in'})"
    if not torch.cuda.is_available():
        why = "torch sees no CUDA device" if torch.version.cuda else "this build of torch has no CUDA"
        return {"kernel": False, "form": "portable", "why": why}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        facts["devices"].append(
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
                "memory_bytes": properties.total_memory,
            }
        )
    return _try_kernel(torch.cuda.current_device())


def _try_kernel(index: int) -> dict[str, Any]:
    from lcr_edge.kernels.wkv.op import kernel_works
    from lcr_edge.tolerances import WKV_KERNEL

    try:
        way, error = kernel_works(index)
    except Exception as failure:  # whatever goes wrong is what the user came to read
        return {"kernel": False, "form": "portable", "why": str(failure)}
    if not error <= WKV_KERNEL["float32"]:
        why = f"the kernel compiled by {way} is wrong here by {error:.1e}; set LCR_EDGE_WKV=portable and report it"
        return {"kernel": False, "form": f"cuda ({way})", "why": why}
    return {"kernel": True, "form": f"cuda ({way})", "why": f"compiled by {way}; differs from float64 by {error:.1e}"}


def _nvcc_release(nvcc: str) -> str:
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"(cannot be run: {error})"
    releases = [part.strip() for line in done.stdout.splitlines() for part in line.split(",") if " release " in part]
    return releases[0] if releases else "(release unknown)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge doctor``."""
    add_json(parser)
    parser.add_argument(
        "--require-cuda-kernel", action="store_true", help="exit with 1 unless the CUDA kernel runs and is right"
    )


def run(args: argparse.Namespace) -> int:
    """Print the facts. Raises OutputError."""
    facts = examine()
    for key, value in facts.items():
        print(f"{key:10} {_readable(key, value)}", file=text_stream(args.json))
    write_json(args.json, facts)
    return 1 if args.require_cuda_kernel and not facts["wkv"]["kernel"] else 0


def _readable(key: str, value: Any) -> str:
    if key == "wkv":
        return f"{value['form']}: {value['why']}"
    if key == "devices":
        lines = (
            f"{d['name']}, sm_{d['capability'].replace('.', '')}, {d['multiprocessors']} multiprocessors, "
            f"{d['memory_bytes'] / 2**30:.1f} GiB"
            for d in value
        )
        return "; ".join(lines) or "no CUDA device"
    if key == "to install":
        return f"\n{'':10} ".join(f"{name}: {how}" for name, how in value.items()) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items() if version) or "none"
    return str(value) if value is not None else "not found"
