"""lcr_edge.h over the engines' C APIs, built for tests; each library once a run."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.runtimes.c_engine import declared
from lcr_edge.runtimes.c_library import FLAGS, SOURCES
from lcr_edge.runtimes.libraries import openvino
from tests import shared
from tests.c import ort_headers
from tests.c.step_library import COMPILERS

ENGINES = SOURCES / "engines"
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic")
READER = ("lcr_bundle.c", "lcr_json.c")
SHARED = tuple(f"lcr_{name}.c" for name in ("checks", "edges", "events", "fit", "selftest", "sha256"))
TARGETS = ("onnx", "openvino")


@dataclass(frozen=True)
class Built:
    """How programs are built with an engine: headers, the library to link, and the folders to find it at run time."""

    name: str
    sources: tuple[str, ...]
    headers: Path
    library: Path
    soname: str

    def linked(self, folder: Path) -> list[str]:
        """Options of the linker for a program in ``folder``, in which a link is put if the loader needs one."""
        link = folder / self.soname
        if self.soname != self.library.name and not link.exists():
            link.symlink_to(self.library)
        return [str(self.library), "-Wl,-rpath,$ORIGIN", f"-Wl,-rpath,{self.library.parent}", "-lm", "-lpthread"]

    def files(self) -> list[str]:
        """All sources of the library."""
        own = (ENGINES / name for name in ("lcr_engine.c", *READER, *self.sources))
        return [str(path) for path in (*own, *(SOURCES / name for name in SHARED))]

    def flags(self) -> list[str]:
        return ["-std=c99", "-isystem", str(self.headers), "-I", str(SOURCES), "-I", str(ENGINES)]


def package(name: str) -> Path:
    """A Python package's folder. Skips without it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(found.origin).parent


@functools.cache
def engine(target: str) -> Built:
    """Skips where a compiler, the engine or its headers are missing."""
    if not COMPILERS:
        pytest.skip("there is no C compiler: apt-get install gcc")
    if target == "openvino":
        root = package("openvino")
        libraries = sorted(root.glob("libs/libopenvino_c.so*"))
        headers, sources = root / "include", ("lcr_openvino.c", "lcr_openvino_probe.c")
        if not libraries or not headers.is_dir():
            pytest.skip("this openvino has no C library")
        return Built("openvino", sources, headers, libraries[0], libraries[0].name)
    found, libraries = ort_headers.find(), sorted(package("onnxruntime").glob("capi/libonnxruntime.so*"))
    if found is None:
        pytest.skip("there is no onnxruntime_c_api.h: make headers")
    if not libraries:
        pytest.skip("this onnxruntime has no C library")
    return Built("onnxruntime", ("lcr_onnxruntime.c",), found, libraries[0], "libonnxruntime.so.1")


def compiled(built: Built, folder: Path, out: str, options: Sequence[str], sources: Sequence[str]) -> Path:
    """A program or library of sources of the engine's implementation, in ``folder``."""
    call = [COMPILERS[0], *built.flags(), *options, *sources, *built.linked(folder), "-o", str(folder / out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder / out


@functools.cache
def engine_library(target: str) -> Any:
    """The library, loaded."""
    built = engine(target)
    if target == "openvino":
        openvino()  # Python's OpenVINO, so that it reports to nobody, and both have the same library

    def make(folder: Path) -> None:
        options = [*(flag for flag in FLAGS if flag != "-std=c99"), *STRICT, "-shared", "-fPIC"]
        compiled(built, folder, "engine.so", options, built.files())

    folder = shared.folder(f"c_engines/{built.name}", make)
    found = declared(ctypes.CDLL(str(folder / "engine.so")))
    found.lcr_open_explained.argtypes = (*found.lcr_open.argtypes, ctypes.c_char_p, ctypes.c_size_t)
    found.lcr_label.restype = ctypes.c_char_p
    found.lcr_state_size.restype = found.lcr_selftest_size.restype = ctypes.c_size_t
    found.lcr_arena_size.restype = ctypes.c_size_t
    return found


def explained(c: Any, path: Path | str, options: Any = None) -> tuple[int, str, Any]:
    """lcr_open_explained: status, sentence and model."""
    opened, why = ctypes.c_void_p(), ctypes.create_string_buffer(600)
    given = None if options is None else ctypes.byref(options)
    status = c.lcr_open_explained(str(path).encode(), given, ctypes.byref(opened), why, len(why))
    return int(status), why.value.decode(), opened
