"""What the machine says of itself: processor, clock, temperature, throttling. Nothing is guessed: None is unknown."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CPU = Path("/proc/cpuinfo")
_ROOT = Path("/")
# x86-64 and ARM instructions that multiply int8 and accumulate in int32, as _CPU names them.
_INT8 = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")
_RASPBERRY = "sys/devices/platform/soc/soc:firmware/get_throttled"
# Bits of a Raspberry Pi's throttled word.
_BITS = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage since boot",
    17: "clock capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}


def machine() -> str:
    """The CPU in words: its name, its int8 dot product instructions and its number of hardware threads."""
    try:
        text = _CPU.read_text()
    except OSError:  # not Linux
        text = ""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine() or "unknown CPU"
    flags = facts.get("flags", facts.get("Features"))
    if flags is None:
        return f"{name}, {os.cpu_count()} hardware threads"
    found = [flag for flag in _INT8 if flag in flags.split()]
    return f"{name} ({', '.join(found) or 'no int8 dot product'}), {os.cpu_count()} hardware threads"


def condition(root: Path = _ROOT) -> dict[str, Any]:
    """The machine's state at this moment, as JSON values; None for what the system does not tell.

    governor, mhz (now) and max_mhz: of the first core. celsius: the warmest sensor, and its name. throttled: what the
    board or the processor says in words, or "no". throttle_count: how often an x86 core was throttled since boot.
    load: processes that ran or waited in the last minute, on average. root: the file system; a test gives another one.
    """
    clock = root / "sys/devices/system/cpu/cpu0/cpufreq"
    sensors = [(temperature, name) for temperature, name in _temperatures(root) if -50 < temperature < 200]
    celsius = max(sensors, default=None)
    counts = [
        count
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
        if (count := read_number(path)) is not None
    ]
    count = int(sum(counts)) if counts else None
    throttled = _raspberry(root)
    if throttled is None and count is not None:
        throttled = f"{count} times since boot" if count else "no"
    return {
        "governor": read_text(clock / "scaling_governor"),
        "mhz": _megahertz(clock / "scaling_cur_freq"),
        "max_mhz": _megahertz(clock / "cpuinfo_max_freq"),
        "celsius": None if celsius is None else celsius[0],
        "sensor": None if celsius is None else celsius[1],
        "throttled": throttled,
        "throttle_count": count,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def sentences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The conditions before and after a run in words, for people."""
    lines = []
    if after["governor"] is None and after["mhz"] is None:
        lines.append("Clock: the system does not tell its governor and frequency.")
    else:
        of = "" if after["max_mhz"] is None else f" of at most {after['max_mhz']:.0f}"
        now = "frequency unknown" if after["mhz"] is None else f"{after['mhz']:.0f}{of} MHz after the run"
        lines.append(f"Clock: governor {after['governor'] or 'unknown'}, {now}.")
    if after["celsius"] is None:
        lines.append("Temperature: the system has no sensor for it.")
    else:
        start = "" if before["celsius"] is None else f"{before['celsius']:.0f} C before, "
        lines.append(f"Temperature: {start}{after['celsius']:.0f} C after the run ({after['sensor']}).")
    if after["throttled"] is None:
        lines.append("Throttling: the system does not tell.")
    else:
        extra = 0 if after["throttle_count"] is None else after["throttle_count"] - (before["throttle_count"] or 0)
        during = f", {extra} times during this run" if extra else ""
        lines.append(f"Throttling: {after['throttled']}{during}.")
    if before["load"] is not None:
        lines.append(f"Load average before the run: {before['load']:.1f} (above 0: other programs ran too).")
    return lines


def read_text(path: Path) -> str | None:
    """A file of one line; None if it cannot be read or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """A file with one number; None if it cannot be read or holds something else."""
    try:
        return float(read_text(path) or "")
    except ValueError:
        return None


def _megahertz(path: Path) -> float | None:
    kilohertz = read_number(path)
    return None if kilohertz is None else kilohertz / 1e3


def _temperatures(root: Path) -> Iterator[tuple[float, str]]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = read_number(zone / "temp")
        if value is not None:
            yield value / 1e3, read_text(zone / "type") or zone.name
    for path in sorted(root.glob("sys/class/hwmon/hwmon*/temp*_input")):
        value = read_number(path)
        if value is not None:
            yield value / 1e3, read_text(path.parent / "name") or path.parent.name


def _raspberry(root: Path) -> str | None:
    text = read_text(root / _RASPBERRY)
    if text is None and root == _ROOT and (tool := shutil.which("vcgencmd")):
        try:
            done = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True)
            text = done.stdout.strip().rpartition("=")[2]  # throttled=0x50000
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        word = int(text or "", 16)
    except ValueError:
        return None
    return ", ".join(words for bit, words in _BITS.items() if word >> bit & 1) or "no"
