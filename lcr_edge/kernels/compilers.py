"""Where compilers and compiled libraries are; needs no torch."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled libraries are kept: LCR_EDGE_CACHE, else lcr_edge in XDG_CACHE_HOME or in ~/.cache."""
    chosen = os.environ.get("LCR_EDGE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lcr_edge"


def find_nvcc() -> str | None:
    """The path of nvcc from CUDA_HOME or CUDA_PATH, else PATH, else /usr/local/cuda; None if there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for home in homes:
        found = shutil.which("nvcc", path=str(Path(home) / "bin"))
        if found:
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_cxx() -> str | None:
    """The path of a C++ compiler: $CXX, g++, c++ or clang++; None if there is none."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return next((found for found in map(shutil.which, filter(None, names)) if found), None)


def find_cc() -> tuple[str, ...]:
    """The command of a C compiler: what CC says, such as "ccache gcc", else cc, gcc or clang; empty if there is none.

    A compiler that CC names counts as none if it is not there: another one would not be what was asked for.
    """
    named = shlex.split(os.environ.get("CC", ""))
    for words in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        found = shutil.which(words[0])
        if found:
            return (found, *words[1:])
    return ()
