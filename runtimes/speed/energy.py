"""Energy of steps, by a meter of the machine: the processor's own counter (RAPL) or a sensor of the board's supply.

Both measure all that the processor or the board takes, other programs and idling included.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Protocol

from lcr_edge.runtimes.speed.machine import read_number, read_text

_ROOT = Path("/")
_EVERY_S = 0.02  # between two looks at a sensor of power


class Meter(Protocol):
    """name: what it measures, in words."""

    name: str

    def joules(self, work: Callable[[], object]) -> float | None:
        """What ``work`` took; None if the meter failed meanwhile."""


def find_meter(root: Path = _ROOT) -> tuple[Meter | None, str]:
    """A meter, or None and the reason. root: the file system; a test gives another one."""
    zones = sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]"))
    # "psys" counts the whole platform, packages included.
    packages = [zone for zone in zones if (read_text(zone / "name") or "package").startswith("package")]
    readable = [zone for zone in packages if read_number(zone / "energy_uj") is not None]
    if readable:
        return Rapl(readable), ""
    rails = _rails(root)
    if rails:
        return Sensor(rails), ""
    if packages:
        return None, "only root may read /sys/class/powercap/intel-rapl:0/energy_uj"
    return None, "no counter in /sys/class/powercap and no power sensor in /sys/class/hwmon"


class Rapl:
    """The energy counters of the processor's packages, in microjoules; they start again from 0 at their range's end."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self.name = f"processor, by RAPL ({', '.join(read_text(zone / 'name') or zone.name for zone in zones)})"
        self._zones = zones

    def joules(self, work: Callable[[], object]) -> float | None:
        """See :class:`Meter`."""
        before = [read_number(zone / "energy_uj") for zone in self._zones]
        work()
        total = 0.0
        for zone, start in zip(self._zones, before):
            end = read_number(zone / "energy_uj")
            if start is None or end is None:
                return None
            if end < start:
                full = read_number(zone / "max_energy_range_uj")
                if full is None:
                    return None
                end += full
            total += end - start
        return total / 1e6


class Sensor:
    """Power of the board's rails, read again and again beside the work."""

    def __init__(self, rails: Sequence[tuple[str, Callable[[], float | None]]]) -> None:
        self.name = f"board, by its sensors ({', '.join(name for name, _ in rails)})"
        self._rails = rails

    def joules(self, work: Callable[[], object]) -> float | None:
        """See :class:`Meter`."""
        over, watts = threading.Event(), [self._watts()]

        def look() -> None:
            while not over.wait(_EVERY_S):
                watts.append(self._watts())

        thread = threading.Thread(target=look, daemon=True)
        begin = time.perf_counter()
        thread.start()
        try:
            work()
        finally:
            seconds = time.perf_counter() - begin
            over.set()
            thread.join()
        found = [value for value in (*watts, self._watts()) if value is not None]
        return seconds * sum(found) / len(found) if found else None

    def _watts(self) -> float | None:
        values = [read() for _, read in self._rails]
        return sum(value for value in values if value is not None) if None not in values else None


def _rails(root: Path) -> list[tuple[str, Callable[[], float | None]]]:
    """All rails of INA chips, or the input rail alone where one is named so (Jetson), because it feeds the others."""
    rails: list[tuple[str, Callable[[], float | None]]] = []
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not (read_text(chip / "name") or "").startswith("ina"):
            continue
        numbers = sorted({path.name[2:-6] for path in chip.glob("in[0-9]*_input")})
        for path in sorted(chip.glob("power[0-9]*_input")):
            if read_number(path) is not None:
                rails.append((read_text(chip / path.name.replace("_input", "_label")) or chip.name, _power(path)))
        if not any(chip.glob("power[0-9]*_input")):
            # Of an INA3221 4 to 7 are shunts and sums, not rails.
            sums = set("4567") if (read_text(chip / "name") or "").startswith("ina3221") else set()
            for number in sorted(set(numbers) - sums):
                volts, amperes = chip / f"in{number}_input", chip / f"curr{number}_input"
                if read_number(volts) is not None and read_number(amperes) is not None:
                    rails.append((read_text(chip / f"in{number}_label") or chip.name, _product(volts, amperes)))
    whole = [rail for rail in rails if rail[0].upper().startswith(("VDD_IN", "POM_5V_IN")) or rail[0].upper() == "VIN"]
    return whole[:1] or rails


def _power(path: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        microwatts = read_number(path)
        return None if microwatts is None else microwatts / 1e6

    return watts


def _product(volts: Path, amperes: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        millivolts, milliamperes = read_number(volts), read_number(amperes)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    return watts
