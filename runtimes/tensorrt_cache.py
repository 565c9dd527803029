"""Where TensorRT keeps the engines that it builds, so that minutes become seconds at the next start.

An engine is right for one GPU, one TensorRT, one onnxruntime and one model. What they are is the folder's stamp; the
folder's name is a digest of it, so an engine of another machine or version is never looked at. Where the GPU cannot be
asked, nothing is kept.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Optional

from lcr_edge.errors import OutputError
from lcr_edge.files import write_atomically
from lcr_edge.kernels.compilers import cache_folder
from lcr_edge.runtimes.bundle import Bundle

STAMP = "stamp.json"
_LIBRARIES = ("libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so")
# Of the driver: a PC, a Jetson.
_RELEASES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))

Facts = Optional["dict[str, str]"]


def gpu_facts() -> Facts:
    """Name of the first GPU, driver, and versions of CUDA and TensorRT; None where they cannot be had.

    Not run on a GPU yet.
    """
    try:
        cuda, tensorrt = ctypes.CDLL("libcuda.so.1"), _tensorrt()
        device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        failed = (
            cuda.cuInit(0)
            or cuda.cuDeviceGet(ctypes.byref(device), 0)
            or cuda.cuDeviceGetName(name, len(name), device)
            or cuda.cuDriverGetVersion(ctypes.byref(version))
        )
        found = {"device": name.value.decode(errors="replace"), "tensorrt": str(tensorrt.getInferLibVersion())}
    except (OSError, AttributeError):
        return None
    releases = [path.read_text(errors="replace").partition("\n")[0] for path in _RELEASES if path.is_file()]
    return None if failed else {**found, "cuda": str(version.value), "driver": " ".join(releases)}


def _tensorrt() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("no TensorRT")


def engine_folder(bundle: Bundle, facts: Facts, onnxruntime: str, cache: Path | None = None) -> Path | None:
    """The folder for the engines of this bundle on this machine, made and stamped; None without ``facts``.

    onnxruntime: its version. cache: the user's, see ``lcr_edge.kernels.compilers.cache_folder``. A folder whose stamp
    is another one is emptied. Raises OutputError.
    """
    if facts is None:
        return None
    model = {name: bundle.manifest["files"][name]["sha256"] for name in bundle.model_files}
    text = json.dumps({**facts, "onnxruntime": onnxruntime, "model": model, "float32": "exact"}, sort_keys=True)
    folder = (cache_folder() if cache is None else cache) / "tensorrt" / hashlib.sha256(text.encode()).hexdigest()[:16]
    stamp = folder / STAMP
    try:
        if folder.exists() and (not stamp.is_file() or stamp.read_bytes() != text.encode()):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # an engine is a program: nobody else may put one here, or own the folder
    except OSError as error:
        raise OutputError(
            f"cannot keep TensorRT's engines in {folder}: {error.strerror}; remove it, or set LCR_EDGE_CACHE to "
            "a folder of yours"
        ) from error
    if not stamp.is_file():
        write_atomically(stamp, text.encode())
    return folder
