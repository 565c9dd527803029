"""The C library, and a network for it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.runtimes.c_engine import declared
from lcr_edge.runtimes.c_library import library
from tests.c.step_library import COMPILERS, OK
from tests.export import made


@pytest.fixture(scope="module")
def c() -> Any:
    """The library."""
    if not COMPILERS:
        pytest.skip("there is no C compiler: apt-get install gcc")
    found = declared(library())
    found.lcr_arena_size.restype = ctypes.c_size_t
    found.lcr_label.restype = ctypes.c_char_p
    found.lcr_state_size.restype = ctypes.c_size_t
    return found


@pytest.fixture(scope="module")
def weights() -> Path:
    return made.bundle("lcr_pico", "c") / "model.bin"


@pytest.fixture
def model(c: Any, weights: Path) -> Iterator[Any]:
    opened = ctypes.c_void_p()
    assert c.lcr_open(str(weights).encode(), None, ctypes.byref(opened)) == OK
    yield opened
    c.lcr_close(opened)
