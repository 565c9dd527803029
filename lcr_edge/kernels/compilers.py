"""Where compilers and compiled libraries are; needs no torch."""

from __future__ import annotations

import os
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


def find_cc() -> str | None:
    """The path of a C compiler: $CC, cc, gcc or clang; None if there is none."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for found in map(shutil.which, filter(None, names)) if found), None)
