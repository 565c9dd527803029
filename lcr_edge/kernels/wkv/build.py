"""Compile wkv.cu at first use, or say why that is not possible.

Two ways, tried in this order:

    nvrtc   through torch (torch.cuda._compile_kernel). First, because a pip-installed torch for CUDA brings NVRTC and
            nothing else is needed: no toolkit, no host compiler, no files. Compiles again in each process, one entry
            at a time when it is first called.
    nvcc    to a shared library with a C interface, kept in the cache folder under a digest of the sources, the compiler
            and the architecture. For a torch without the above, such as builds for Jetson in which NVRTC is not found.

LCR_EDGE_WKV=nvrtc or nvcc asks for one of them, LCR_EDGE_WKV=portable for neither. The cache folder is LCR_EDGE_CACHE,
else lcr_edge in XDG_CACHE_HOME or in ~/.cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lcr_edge.errors import LcrError, OutputError
from lcr_edge.files import make_folder, written_atomically
from lcr_edge.kernels.compilers import cache_folder, find_cxx, find_nvcc
from lcr_edge.kernels.wkv.launch import DIMS, ENTRIES, IO_OF_DTYPE, Kernels, block_lanes

FOLDER = Path(__file__).resolve().parent
SOURCES = ("wkv.cu", "wkv_scan.h", "wkv_numbers.h")
WAYS = ("nvrtc", "nvcc")
COMPILE_SECONDS = 600  # a compiler that takes longer has hung
_lock = threading.RLock()


class KernelUnavailableError(LcrError):
    """The CUDA kernel cannot be compiled or loaded here; the message says why and what would help."""


class KernelLaunchError(LcrError):
    """The CUDA driver refused a launch of the compiled kernel."""


def nvcc_command(nvcc: str, dtype: torch.dtype, dim: int, arch: str) -> list[str]:
    """The command that compiles wkv.cu for ``arch`` (such as "sm_87"), without the output."""
    return [nvcc, "-O3", "-std=c++17", f"-arch={arch}", *_defines(dtype, dim), str(FOLDER / "wkv.cu")]


def nvcc_library_command(nvcc: str, dtype: torch.dtype, dim: int, arch: str) -> list[str]:
    """The same for a shared library that needs no CUDA runtime beside it."""
    return [*nvcc_command(nvcc, dtype, dim, arch), "-shared", "-Xcompiler", "-fPIC", "-cudart", "static"]


def _defines(dtype: torch.dtype, dim: int) -> list[str]:
    return [f"-DWKV_IO={IO_OF_DTYPE[dtype]}", f"-DWKV_DIM={dim}"]


def load(dtype: torch.dtype, dim: int, index: int) -> Kernels:
    """The kernel for one dtype, head size and CUDA device number, compiled if need be.

    Raises KernelUnavailableError; the answer, good or bad, is remembered for the process.
    """
    if dtype not in IO_OF_DTYPE or dim not in DIMS:
        names = ", ".join(str(known).split(".")[-1] for known in IO_OF_DTYPE)
        raise KernelUnavailableError(
            f"it supports {names} and head sizes {', '.join(map(str, DIMS))}, not {str(dtype).split('.')[-1]} and {dim}"
        )
    with _lock:
        found = _load(dtype, dim, index, os.environ.get("LCR_EDGE_WKV", "auto"))
    if isinstance(found, str):
        raise KernelUnavailableError(found)
    return found


@functools.cache
def _load(dtype: torch.dtype, dim: int, index: int, asked: str) -> NvrtcKernels | LibraryKernels | str:
    if asked == "portable":
        return "LCR_EDGE_WKV=portable asks for the portable form"
    if asked not in ("auto", *WAYS):
        return f"LCR_EDGE_WKV={asked} is not one of auto, {', '.join(WAYS)}, portable"
    if not torch.version.cuda:
        return "this build of torch has no CUDA"
    makers: dict[str, Callable[[torch.dtype, int, int], NvrtcKernels | LibraryKernels]]
    makers = {"nvrtc": NvrtcKernels, "nvcc": nvcc_kernels}
    reasons = []
    for way in WAYS if asked == "auto" else (asked,):
        try:
            return makers[way](dtype, dim, index)
        except KernelUnavailableError as error:
            reasons.append(f"{way}: {error}")
    return "; ".join(reasons)


class NvrtcKernels:
    """The kernel compiled in memory by NVRTC, through torch."""

    way = "nvrtc"

    def __init__(self, dtype: torch.dtype, dim: int, index: int) -> None:
        compiler = getattr(torch.cuda, "_compile_kernel", None)
        if compiler is None:
            raise KernelUnavailableError(f"torch {torch.__version__} has no torch.cuda._compile_kernel")
        self._compiler: Callable[..., Any] = compiler
        self._dtype, self._dim, self._index = dtype, dim, index
        self._kernels: dict[str, Any] = {}
        self.multiprocessors = int(torch.cuda.get_device_properties(index).multi_processor_count)
        self._entry(ENTRIES[0])  # fail here, where the other way can still be tried

    def launch(self, entry: str, streams: int, chunks: int, arguments: Sequence[Tensor | int]) -> None:
        with torch.cuda.device(self._index):
            kernel = self._entry(entry)
            try:
                kernel(grid=(streams, chunks, 1), block=(block_lanes(self._dim), 1, 1), args=list(arguments))
            except RuntimeError as error:
                raise KernelLaunchError(f"{entry} could not be launched: {error}") from error

    def _entry(self, entry: str) -> Any:
        with _lock:
            if entry not in self._kernels:
                self._kernels[entry] = self._compile(entry)
            return self._kernels[entry]

    def _compile(self, entry: str) -> Any:
        defines = (f"{define[2:].replace('=', ' ')}" for define in _defines(self._dtype, self._dim))
        # Older torch puts extern "C" before a source that does not begin with it.
        source = 'extern "C" {}\n' + "".join(f"#define {define}\n" for define in defines)
        source += f'#define WKV_ENTRY {ENTRIES.index(entry)}\n#include "wkv.cu"\n'
        try:
            with torch.cuda.device(self._index), _any_cuda_home():
                return self._compiler(source, entry, cuda_include_dirs=[str(FOLDER)])
        except Exception as error:
            # torch raises RuntimeError, OSError (no NVRTC library) and AssertionError here.
            raise KernelUnavailableError(f"NVRTC did not compile {entry}: {_end(str(error))}") from error


@contextlib.contextmanager
def _any_cuda_home() -> Iterator[None]:
    """torch adds the toolkit's headers and fails where there is no toolkit; wkv.cu includes none: any folder does."""
    from torch.utils import cpp_extension

    before = cpp_extension.CUDA_HOME
    if before is None:
        cpp_extension.CUDA_HOME = str(FOLDER)
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before


class LibraryKernels:
    """wkv_launch of a shared library: on a GPU, or in a C++ compiler's build on the CPU (tests only)."""

    def __init__(self, path: Path, way: str, multiprocessors: int, selector: int) -> None:
        self.way, self.path, self.multiprocessors = way, path, multiprocessors
        # nvcc: the device; CPU: 1 to run the lanes from the last to the first.
        self._selector = selector
        library = ctypes.CDLL(str(path))
        self._launch = library.wkv_launch
        self._launch.argtypes = [ctypes.c_int] * 3 + [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_void_p]
        self._launch.restype = ctypes.c_int
        self._error = library.wkv_error
        self._error.argtypes, self._error.restype = [ctypes.c_int], ctypes.c_char_p

    def launch(self, entry: str, streams: int, chunks: int, arguments: Sequence[Tensor | int]) -> None:
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        on_gpu = self.way == "nvcc"
        stream = torch.cuda.current_stream(self._selector).cuda_stream if on_gpu else None
        with torch.cuda.device(self._selector) if on_gpu else contextlib.nullcontext():
            code = self._launch(ENTRIES.index(entry), streams, chunks, pointers, self._selector, stream)
        if code:
            raise KernelLaunchError(f"{entry} could not be launched: {self._error(code).decode()}")


def nvcc_kernels(dtype: torch.dtype, dim: int, index: int) -> LibraryKernels:
    """The kernel compiled by nvcc for the GPU ``index``, from the cache folder if it is already there."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise KernelUnavailableError(
            "nvcc was not found; install the CUDA toolkit, or set CUDA_HOME to the folder that has bin/nvcc"
        )
    properties = torch.cuda.get_device_properties(index)
    arch = f"sm_{properties.major}{properties.minor}"
    command = nvcc_library_command(nvcc, dtype, dim, arch)
    path = compile_library(command, f"wkv-{IO_OF_DTYPE[dtype]}-{dim}-{arch}", cache_folder())
    return LibraryKernels(path, "nvcc", int(properties.multi_processor_count), index)


def host_kernels(
    dtype: torch.dtype, dim: int, folder: Path, multiprocessors: int = 16, descending: bool = False
) -> LibraryKernels:
    """The same source on the CPU, a loop in place of the grid. For tests: it is slow.

    descending: run the lanes of a block from the last to the first. ``multiprocessors`` only decides the chunks.
    """
    cxx = find_cxx()
    if cxx is None:
        raise KernelUnavailableError("no C++ compiler was found; install g++, or set CXX")
    command = [cxx, "-O2", "-std=c++17", "-shared", "-fPIC", "-x", "c++", *_defines(dtype, dim), str(FOLDER / "wkv.cu")]
    path = compile_library(command, f"wkv-{IO_OF_DTYPE[dtype]}-{dim}-host", folder)
    return LibraryKernels(path, "host", multiprocessors, int(descending))


def compile_library(command: Sequence[str], name: str, folder: Path) -> Path:
    """Run a compiler, unless its library is already in ``folder``; returns the library's path.

    Several processes may build at once: each writes a file of its own and renames it. Raises KernelUnavailableError.
    """
    digest = hashlib.sha256()
    for part in (*command, _version(command[0]), *((FOLDER / source).read_text() for source in SOURCES)):
        digest.update(part.encode() + b"\0")
    path = folder / f"{name}-{digest.hexdigest()[:16]}.so"
    if path.is_file():
        return path
    try:
        make_folder(folder, None)
        with written_atomically(path) as temporary:
            done = subprocess.run(
                [*command, "-o", str(temporary)], capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
            if done.returncode:
                raise KernelUnavailableError(f"{' '.join(command)} failed:\n{_end(done.stdout + done.stderr)}")
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailableError(f"{command[0]} did not end within {COMPILE_SECONDS} s") from error
    except OutputError as error:
        raise KernelUnavailableError(f"{error}. Or set LCR_EDGE_CACHE to a folder that you can write to") from error
    return path


@functools.cache
def _version(compiler: str) -> str:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailableError(f"{compiler} cannot be run: {error}") from error


def _end(text: str, size: int = 2000) -> str:
    text = text.strip()
    return text if len(text) <= size else "..." + text[-size:]
