"""The C functions for images and events as a shared library, built once a run, and their structures."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import shared

U8 = npt.NDArray[np.uint8]
SOURCES = Path(__file__).parents[2] / "runtimes" / "c"
FILES = ("lcr_edges.c", "lcr_fit.c", "lcr_events.c")
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic", "-O2", "-shared", "-fPIC"]
GUARD = 64  # bytes behind every buffer that must stay as they are
FILL = 0x5A  # as int16, int32 or float a large number that spoils what it gets into

OK, ARGUMENT = 0, 1
RGB, BGR, GRAY8, NV12, YUYV = range(5)


class Image(ctypes.Structure):
    _fields_ = [
        ("planes", ctypes.c_void_p * 2),
        ("strides", ctypes.c_size_t * 2),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("format", ctypes.c_int),
    ]


class Rules(ctypes.Structure):
    _fields_ = [
        ("enter", ctypes.c_double),
        ("leave", ctypes.c_double),
        ("min_s", ctypes.c_double),
        ("pause_s", ctypes.c_double),
        ("enters", ctypes.c_void_p),
        ("ignore", ctypes.c_void_p),
    ]


class Event(ctypes.Structure):
    _fields_ = [
        ("number", ctypes.c_uint32),
        ("label", ctypes.c_int),
        ("ended", ctypes.c_int),
        ("cut", ctypes.c_int),
        ("start_s", ctypes.c_double),
        ("end_s", ctypes.c_double),
        ("confidence", ctypes.c_float),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The library, built with ``$CC $CFLAGS``. Skips the calling test where there is no C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("a C compiler is needed, cc or the one that CC names")
    chosen = [compiler, *FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]

    def make(folder: Path) -> None:
        sources = [str(SOURCES / name) for name in FILES]
        subprocess.run([*chosen, *sources, "-lm", "-o", str(folder / "image.so")], check=True)

    loaded = ctypes.CDLL(str(shared.folder("c_image", make) / "image.so"))
    for name in ("lcr_edges_scratch", "lcr_fit_scratch", "lcr_events_size"):
        getattr(loaded, name).restype = ctypes.c_size_t
    loaded.lcr_events_start.restype = ctypes.c_void_p
    loaded.lcr_usual_rules.restype = Rules
    return loaded


def guarded(size: int) -> U8:
    """A buffer of ``size`` bytes with GUARD more behind it, all FILL; aligned for int64_t."""
    buffer = np.empty(-(-(size + GUARD) // 8), np.int64).view(np.uint8)[: size + GUARD]
    buffer[:] = FILL
    return buffer


def address(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def unguarded(buffer: U8) -> U8:
    """What lies before the guard, which must be untouched."""
    assert np.all(buffer[-GUARD:] == FILL), "something was written behind a buffer"
    return buffer[:-GUARD]


def find_edges(frame: U8) -> U8:
    """lcr_find_edges of a frame uint8 [H, W, 3]."""
    height, width = frame.shape[:2]
    frame = np.ascontiguousarray(frame)
    edges, scratch = guarded(height * width), guarded(library().lcr_edges_scratch(height, width))
    library().lcr_find_edges(address(frame), height, width, address(edges), address(scratch))
    unguarded(scratch)
    return unguarded(edges).reshape(height, width)


def image(planes: Sequence[U8], width: int, height: int, form: int) -> Image:
    """An lcr_image of planes uint8 [rows, stride]. They must live as long as it."""
    strides = [plane.strides[0] for plane in planes] + [0] * (2 - len(planes))
    addresses = [plane.ctypes.data for plane in planes] + [0] * (2 - len(planes))
    return Image((ctypes.c_void_p * 2)(*addresses), (ctypes.c_size_t * 2)(*strides), width, height, form)


def fit(given: Image, height: int, width: int, crop: bool) -> U8:
    """lcr_fit_image, which must succeed."""
    size = library().lcr_fit_scratch(ctypes.byref(given), height, width, int(crop))
    assert size > 0
    frame, scratch = guarded(height * width * 3), guarded(size)
    status = library().lcr_fit_image(ctypes.byref(given), height, width, int(crop), address(frame), address(scratch))
    assert status == OK
    unguarded(scratch)
    return unguarded(frame).reshape(height, width, 3)
