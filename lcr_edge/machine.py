"""What this machine is, as far as it decides which engines run on it, and how to install each one here.

The rules are those of the wheels that pip finds; they were looked up for Python 3.9 to 3.13 on x86-64 and on ARM of 64
and of 32 bits, in November 2026. Importing this needs the standard library only.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from lcr_edge.errors import how_to_install

_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
# Of the features that a processor names, those that change how fast or how exactly an engine computes.
_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "asimdhp", "sve", "neon",
)  # fmt: skip
_NEWEST_PYTHON = (3, 13)


@dataclass(frozen=True)
class Machine:
    """machine: of the processor, as the kernel names it. bits: of this Python's pointers. python: (3, minor).

    glibc: (major, minor) of the C library; None where it is another one.
    """

    machine: str
    bits: int
    python: tuple[int, int]
    glibc: tuple[int, int] | None

    @property
    def arm32(self) -> bool:
        """Whether this is a Python of 32 bits on ARM, be the kernel one of 64 bits or not."""
        return self.bits == 32 and self.machine.startswith(("arm", "aarch64"))


def this_machine() -> Machine:
    """The machine that this runs on."""
    library, version = platform.libc_ver()
    parts = version.split(".")
    numbers = (int(parts[0]), int(parts[1])) if library == "glibc" and len(parts) > 1 else None
    return Machine(platform.machine(), 64 if sys.maxsize > 2**32 else 32, sys.version_info[:2], numbers)


@dataclass(frozen=True)
class _Wheels:
    """Where an engine has wheels. glibc: the oldest one, by machine. newest: Python. arm32: for ARM of 32 bits too."""

    extra: str
    glibc: dict[str, tuple[int, int]]
    newest: tuple[int, int] = _NEWEST_PYTHON
    arm32: bool = False


_WHEELS = {
    "onnxruntime": _Wheels("onnx", {"x86_64": (2, 27), "aarch64": (2, 27)}),
    "openvino": _Wheels("openvino", {"x86_64": (2, 17), "aarch64": (2, 31)}),
    "ai-edge-litert": _Wheels("tflite", {"x86_64": (2, 17), "aarch64": (2, 17)}),
    "tflite-runtime": _Wheels("tflite-runtime", {"x86_64": (2, 17), "aarch64": (2, 17)}, (3, 11), arm32=True),
}


def how_to_get(engine: str, machine: Machine) -> str:
    """The command that installs an engine on a machine, or why there is none. engine: its name for pip."""
    wheels = _WHEELS[engine]
    found = f"{machine.machine}, Python {machine.python[0]}.{machine.python[1]}"
    if machine.python > wheels.newest:
        return f"not for {found}: its newest wheels are for Python {wheels.newest[0]}.{wheels.newest[1]}"
    if machine.glibc is None:
        return "not without glibc (Alpine has musl): take Debian or Ubuntu"
    if machine.arm32:
        if machine.machine.startswith(("armv5", "armv6")):
            return f"not for {machine.machine} (Raspberry Pi Zero and 1): no engine has wheels for it"
        if not wheels.arm32:
            return "not for ARM of 32 bits: install a system of 64 bits, or take tflite-runtime"
        # There is no wheel of numpy for it; Debian has one.
        return "apt-get install python3-numpy, then in an environment with --system-site-packages: " + how_to_install(
            wheels.extra
        )
    oldest = wheels.glibc.get(machine.machine)
    if oldest is None or machine.bits == 32:
        return f"not for {found} of {machine.bits} bits: its wheels are for {' and '.join(wheels.glibc)}"
    if machine.glibc < oldest:
        return f"not for glibc {machine.glibc[0]}.{machine.glibc[1]}: needs {oldest[0]}.{oldest[1]}, a newer system"
    alone = ", in an environment of its own: it needs numpy 1" if engine == "tflite-runtime" else ""
    return how_to_install(wheels.extra) + alone


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name, and those of its features that engines use; from Linux's /proc/cpuinfo."""
    entries = _first_core(cpuinfo)
    if entries is None:
        return platform.processor() or "unknown"
    name = entries.get("model name") or entries.get("model") or f"part {entries.get('cpu part', 'unknown')}"
    known = _flags(entries)
    return ", ".join([name, *(feature for feature in _FEATURES if feature in known)])


def features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The names of all features of the processor, as Linux has them; empty where they are not known."""
    return frozenset(_flags(_first_core(cpuinfo) or {}))


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """How much memory programs can still have without swap; None where Linux does not say."""
    try:
        lines = meminfo.read_text(encoding="utf-8", errors="replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def _first_core(cpuinfo: Path) -> dict[str, str] | None:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    entries: dict[str, str] = {}
    for line in lines:  # of the first core; a Raspberry Pi's name comes after the last
        key, _, value = line.partition(":")
        entries.setdefault(key.strip().lower(), value.strip())
    return entries


def _flags(entries: dict[str, str]) -> set[str]:
    return set(entries.get("flags", entries.get("features", "")).split())
