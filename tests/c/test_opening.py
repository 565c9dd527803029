"""Weights that cannot be read: memory is missing, the file changes meanwhile, or it is no file or a very large one."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.runtimes.c_library import SOURCES
from tests import shared
from tests.c.step_library import COMPILERS, DIGEST, FILE, FORMAT, MEMORY, OK
from tests.c.tiny import tiny

_WRAPPED = ("malloc", "calloc", "realloc", "free", "fread")


@pytest.fixture(scope="module")
def opening() -> Path:
    """missing.c with the library."""
    if not COMPILERS:
        pytest.skip("there is no C compiler: apt-get install gcc")

    def make(folder: Path) -> None:
        sources = [str(path) for path in (Path(__file__).parent / "missing.c", *sorted(SOURCES.glob("lcr_*.c")))]
        flags = ["-std=gnu99", "-O1", "-fno-builtin", "-I", str(SOURCES), *(f"-Wl,--wrap={name}" for name in _WRAPPED)]
        subprocess.run([COMPILERS[0], *flags, *sources, "-lm", "-o", str(folder / "opening")], check=True)

    return shared.folder("c_opening", make) / "opening"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(tiny(height=32, width=32, dim=32, head_dim=16, hidden=64, classes=5))
    return path


def _told(opening: Path, what: str, path: Path) -> list[str]:
    done = subprocess.run([str(opening), what, str(path)], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_memory_that_is_missing(opening: Path, small: Path) -> None:
    assert _told(opening, "memory", small) == [
        f"call 0 fails: {MEMORY}, not freed: 0",
        f"call 1 fails: {MEMORY}, not freed: 0",
        f"call 2 fails: {OK}, not freed: 2",
        "asked in steps: 0",
        "closed, not freed: 0",
    ]


@pytest.mark.parametrize(
    ("what", "status"), [("stays", OK), ("shrinks", FILE), ("changes", DIGEST), ("grows", OK), ("grows", FORMAT)]
)
def test_a_file_that_changes_while_it_is_read(what: str, status: int, opening: Path, small: Path) -> None:
    """What was appended meanwhile is not read, but the next one who opens it finds it."""
    if status == FORMAT:
        _told(opening, what, small)
    assert _told(opening, what, small) == [f"{status}, not freed: 0"]


def _open(c: Any, path: Path) -> int:
    opened = ctypes.c_void_p(16)
    status = int(c.lcr_open(os.fsencode(path), None, ctypes.byref(opened)))
    assert (status == OK) == bool(opened.value)
    c.lcr_close(opened)
    return status


def test_what_is_no_file(c: Any, tmp_path: Path) -> None:
    """A pipe is refused at once: nobody writes into this one. So is what it may be hidden behind."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("pipe", "link", "lost", "round", "", "x" * 5000):
        assert _open(c, tmp_path / name) == FILE, name
    assert _open(c, Path("/dev/zero")) == FILE


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 + 64, 2**40])
def test_files_that_are_large_and_empty(size: int, c: Any, tmp_path: Path) -> None:
    """Refused by their start, before memory is taken for them."""
    path = tmp_path / "weights"
    before = _peak_kb()
    for start in (b"", tiny()):
        with path.open("wb") as file:
            file.write(start)
            try:
                file.truncate(size)
            except OSError:
                pytest.skip(f"the file system has no files of {size} bytes")
        assert _open(c, path) == FORMAT
    assert _peak_kb() - before < 64 * 1024
