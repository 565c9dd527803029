"""The C library for tests: what its calls take, a model of lcr_pico, and programs built with sanitizers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcr_edge.runtimes.c_library import SOURCES

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
OK, ARGUMENT, FILE, FORMAT, VERSION, ENDIAN, DIGEST, MEMORY, STATE, OVERLAP, BUSY, PARITY, UNSUPPORTED, ENGINE = range(
    14
)
U8 = npt.NDArray[np.uint8]


class Options(ctypes.Structure):
    """lcr_options."""

    _fields_ = (("threads", ctypes.c_int), ("plain", ctypes.c_int))


def step(c: Any, model: Any, frame: U8, state: Any, out: Any, logits: Any) -> int:
    pointers = [None if array is None else array.ctypes.data for array in (frame, None, state, out, logits)]
    return int(c.lcr_step_edges(model, *pointers))


def arrays(c: Any, model: Any) -> tuple[U8, Any, Any, Any]:
    info = c.lcr_about(model)
    shape = (2, info.layers, info.tokens, info.dim)
    frame = np.full((info.height, info.width, 3), 90, np.uint8)
    return frame, np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(info.classes, np.float32)


def opened_as(c: Any, content: bytes, folder: Path) -> int:
    path, opened = folder / "weights", ctypes.c_void_p()
    path.write_bytes(content)
    status = int(c.lcr_open(str(path).encode(), None, ctypes.byref(opened)))
    assert (status == OK) == bool(opened.value)
    c.lcr_close(opened)
    return status


def aligned(size: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def sanitised(sanitizer: str, folder: Path) -> Path:
    """stepping.c with the library, built with a sanitizer. Skips without a compiler; "memory" takes clang."""
    if not COMPILERS:
        pytest.skip("there is no C compiler")
    if sanitizer == "memory" and "clang" not in COMPILERS:
        pytest.skip("there is no clang: apt-get install clang")
    compiler = "clang" if sanitizer == "memory" else COMPILERS[0]
    program = folder / "stepping"
    sources = [str(path) for path in (Path(__file__).parent / "stepping.c", *sorted(SOURCES.glob("lcr_*.c")))]
    flags = ["-std=gnu99", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-I", str(SOURCES)]
    subprocess.run([compiler, *flags, *sources, "-lm", "-lpthread", "-o", str(program)], check=True)
    return program
