"""The C step as a shared library: built once on this machine from the sources in ``c/``, and kept."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

from lcr_edge.errors import BundleError, OutputError
from lcr_edge.kernels.compilers import cache_folder, find_cc

# Of a weights file, as in c/lcr_weights.c.
FORMAT_VERSION = 2
SOURCES = Path(__file__).parent / "c"
# No contraction to fused products outside the matrix products: every processor computes the same bits.
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_KINDS, _MAKEFILE = (".h", ".c", ".inc", ".txt"), "Makefile"
_LIBRARY = "liblcr_edge.so"
_LIMIT_S = 600


def sources() -> dict[str, str]:
    """Name and text of every file that a C bundle has beside its weights: header, sources, and how they are built."""
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in _KINDS or path.name == _MAKEFILE)
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def library() -> ctypes.CDLL:
    """The library, built if it is not in the cache. Raises BundleError without a compiler that can, and OutputError."""
    compiler = find_cc()
    digest = hashlib.sha256(repr((sources(), FLAGS, compiler, platform.machine(), platform.node())).encode())
    folder = cache_folder() / "c" / digest.hexdigest()[:16]
    path = folder / _LIBRARY
    if not path.is_file():
        if not compiler:
            named = os.environ.get("CC")
            raise BundleError(
                f"running a bundle for c takes a C compiler, and CC={named} is none: name another one, or unset it"
                if named
                else "running a bundle for c takes a C compiler: apt-get install gcc, or name one in the variable CC"
            )
        _build(compiler, folder)
    _check_owner(folder, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BundleError(
            f"the C library that {shlex.join(compiler)} built cannot be loaded here ({error}): name a compiler for "
            "this machine in the variable CC, or unset it"
        ) from error


def _check_owner(folder: Path, path: Path) -> None:
    """A library is a program: nobody else may have put it here. Raises OutputError."""
    for place in (folder, path):
        found = place.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise OutputError(
                f"{place} is not yours alone, so the C library in it is not loaded: remove it, or set LCR_EDGE_CACHE "
                "to a folder of yours"
            )


def _build(compiler: tuple[str, ...], folder: Path) -> None:
    """Compile into a temporary folder and move the result: processes that build at the same time do not meet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, _LIBRARY)
            _compile(compiler, made)
            made.chmod(0o700)
            made.replace(folder / _LIBRARY)
    except OSError as error:
        raise OutputError(
            f"cannot keep the C library in {folder}: {error.strerror}; set LCR_EDGE_CACHE to a folder of yours"
        ) from error


def _compile(compiler: tuple[str, ...], made: Path) -> None:
    files = [str(path) for path in sorted(SOURCES.glob("lcr_*.c"))]
    command = [*compiler, *FLAGS, "-shared", "-fPIC", "-o", str(made), *files, "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(
            f"the C compiler {shlex.join(compiler)} cannot be run ({error}): name another one in the variable CC"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BundleError(
            f"{shlex.join(compiler)} cannot build the C step: {lines[0] if lines else 'it says nothing'}; "
            "name another compiler in the variable CC"
        )
