"""Layers by name: which match a pattern, which usually compute in float, and of which kind each is."""

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
            raise UsageError(f"{part!r} matches no layer; the layers are {', '.join(names)}")
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, part) for part in parts))


def in_float(names: Collection[str], quant: str, pattern: str | None = None) -> tuple[str, ...]:
    """The names of products that compute in float: those that match, see :func:`matching`; without a pattern those
    that are usual for the quant."""
    if pattern is None:
        pattern = FLOAT_BY_DEFAULT if quant == "static" else "none"
    return matching(pattern, names)


def kinds_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names by their kind, which is a pattern for --keep-float: "layers.0.rg" is of "layers.*.rg"."""
    kinds: dict[str, tuple[str, ...]] = {}
    for name in names:
        kind = re.sub(r"\.\d+", ".*", name)
        kinds[kind] = (*kinds.get(kind, ()), name)
    return kinds
