"""Options that several commands share, each defined once: the same spelling, meaning and check everywhere.

| option | meaning |
|---|---|
| ``--checkpoint FILE`` | the network: a .safetensors file, by default the packaged lcr_nano |
| ``--frames N`` | how many frames of a stream to step |
| ``--seed N`` | where every random choice of the command starts |
| ``--threads N`` | CPU threads of one step |
| ``--out DIR`` | the folder that results are written into |
| ``--json FILE|-`` | the result as JSON; "-" for stdout, and then text goes to stderr |
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lcr_edge.errors import UsageError
from lcr_edge.files import check_file, write_atomically

STDOUT = "-"
MAX_SEED = 2**32


def add_checkpoint(parser: argparse._ActionsContainer, default: str = "the packaged lcr_nano") -> None:
    """``--checkpoint FILE``: a string or None."""
    parser.add_argument("--checkpoint", metavar="FILE", help=f"a trained .safetensors file (default: {default})")


def add_frames(parser: argparse._ActionsContainer, text: str, default: int | None = None) -> None:
    """``--frames N``."""
    parser.add_argument("--frames", type=int, default=default, metavar="N", help=text + _shown(default))


def add_seed(
    parser: argparse._ActionsContainer, text: str = "where every random choice starts", default: int | None = 0
) -> None:
    """``--seed N``, 0 by default; see :func:`check_seed`.

    default: None for a command that must know whether a seed was given; the command then uses 0 where none was.
    """
    parser.add_argument("--seed", type=int, default=default, metavar="N", help=f"{text} (default: 0)")


def add_threads(
    parser: argparse._ActionsContainer,
    default: int | None = 1,
    text: str = "CPU threads of one step",
    engine: str = "the engine",
) -> None:
    """``--threads N``; None leaves the number to the engine."""
    shown = f" (default: {engine} chooses)" if default is None else _shown(default)
    parser.add_argument("--threads", type=int, default=default, metavar="N", help=f"{text}{shown}")


def add_out(parser: argparse._ActionsContainer, text: str, default: str | None = None, **more: Any) -> None:
    """``--out DIR``: a Path, or None without a default."""
    folder = None if default is None else Path(default)
    parser.add_argument("--out", type=Path, default=folder, metavar="DIR", help=text + _shown(default), **more)


def add_json(parser: argparse._ActionsContainer, text: str = "also write the result as JSON") -> None:
    """``--json FILE|-``: a string or None; see :func:`text_stream` and :func:`write_json`."""
    parser.add_argument("--json", metavar="FILE|-", help=f"{text}; - writes it to stdout and the text to stderr")


def text_stream(destination: str | None) -> IO[str]:
    """Where a command prints its text: stdout, unless ``--json -`` keeps that for JSON."""
    return sys.stderr if destination == STDOUT else sys.stdout


def write_json(destination: str | None, document: Any) -> None:
    """Write what ``--json`` asks for: to a file, whole or not at all, to stdout, or nowhere. Raises OutputError."""
    if destination is None:
        return
    text = document if isinstance(document, str) else json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if destination == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomically(Path(destination), text.encode())


def check_json(destination: str | None) -> None:
    """Find out before the work whether :func:`write_json` can write. Makes the file's folder. Raises OutputError."""
    if destination not in (None, STDOUT):
        check_file(Path(str(destination)), "--json")


def check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    """UsageError, naming the valid values, unless ``value`` is one of them."""
    if value not in allowed:
        raise UsageError(f"unknown {what}: {value!r}; choose one of {', '.join(allowed)}")


def check_least(option: str, value: float | None, least: float) -> None:
    """UsageError where the value of an option was given and lies below ``least``, or is not a number."""
    if value is not None and not value >= least:
        raise UsageError(f"{option} must be at least {least}, got {value}")


def check_seed(value: int | None) -> None:
    """UsageError unless 0 <= value < 2**32, or no seed was given."""
    if value is not None and not 0 <= value < MAX_SEED:
        raise UsageError(f"--seed must be from 0 to {MAX_SEED - 1}, got {value}")


@dataclass(frozen=True)
class Number:
    """A numeric option: one row of a command's table, by which it is offered and checked.

    name: the option without its dashes. text: the help. kind: int or float. low, high: the range that is allowed, ends
    included unless ``above_low`` or ``below_high``. default: None where the option may be left out. field: its name in
    the parsed arguments, that of the option by default. metavar: stands for the value; a tuple for several values.
    """

    name: str
    text: str
    kind: type[int] | type[float] = int
    low: float = 1
    high: float = math.inf
    above_low: bool = False
    below_high: bool = False
    default: Any = None
    field: str = ""
    metavar: str | tuple[str, ...] = "N"

    @property
    def dest(self) -> str:
        return self.field or self.name.replace("-", "_")

    def add(self, parser: argparse._ActionsContainer) -> None:
        """Offer the option."""
        pair = isinstance(self.metavar, tuple)
        shown = " ".join(map(str, self.default)) if pair and self.default is not None else self.default
        more: dict[str, Any] = {"nargs": len(self.metavar)} if pair else {}
        parser.add_argument(
            f"--{self.name}", dest=self.dest, type=self.kind, default=self.default, metavar=self.metavar,
            help=self.text + _shown(shown), **more,
        )  # fmt: skip

    def check(self, value: Any) -> None:
        """UsageError, which names what is allowed, for a value (or one of several) out of range."""
        if value is None:
            return
        values = tuple(value) if isinstance(self.metavar, tuple) else (value,)
        if not all(self._allows(number) for number in values):
            raise UsageError(f"--{self.name} must be {self._range()}, got {' '.join(map(str, values))}")

    def _allows(self, value: float) -> bool:
        low = value > self.low if self.above_low else value >= self.low
        high = value < self.high if self.below_high else value <= self.high
        return low and high and math.isfinite(value)

    def _range(self) -> str:
        low = f"above {self.low:g}" if self.above_low else f"at least {self.low:g}"
        if self.high == math.inf:
            return low
        if self.above_low or self.below_high:
            return f"{low} and {'below' if self.below_high else 'at most'} {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


def check_numbers(table: Sequence[Number], args: argparse.Namespace) -> None:
    """UsageError for the first option of the table whose value is out of range."""
    for row in table:
        row.check(getattr(args, row.dest))


def _shown(default: object) -> str:
    return "" if default is None else f" (default: {default})"
