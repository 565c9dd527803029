"""Layers by name: which match a pattern, which compute in float by default, and the kind of each."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable

from lcr_edge.errors import UsageError
from lcr_edge.export.targets.table import FLOAT_BY_DEFAULT


def matching(pattern: str, names: Collection[str]) -> tuple[str, ...]:
    """The names that match a comma-separated list of shell patterns ("layers.0.*,classify"); "none" matches none.

    Raises UsageError for a pattern that matches nothing.
    """
    if pattern == "none":
        return ()
    parts = [part.strip() for part in pattern.split(",")]
    for part in parts:
        if not fnmatch.filter(names, part):
            raise UsageError(f"{part!r} matches no layer; choose from {', '.join(names)}")
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, part) for part in parts))


def in_float(names: Collection[str], quant: str, pattern: str | None = None) -> tuple[str, ...]:
    """The names of products that compute in float: those that match, see :func:`matching`; without a pattern, the
    default for the quant."""
    if pattern is None:
        pattern = FLOAT_BY_DEFAULT if quant == "static" else "none"
    return matching(pattern, names)


def kinds_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names by kind, which is a pattern for --keep-float: "layers.0.rg" has the kind "layers.*.rg"."""
    kinds: dict[str, tuple[str, ...]] = {}
    for name in names:
        kind = re.sub(r"\.\d+", ".*", name)
        kinds[kind] = (*kinds.get(kind, ()), name)
    return kinds
