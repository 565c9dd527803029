"""Which modules of lcr_edge import which, read from the source. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Folder in the checkout by package.
FOLDERS = {
    "lcr_edge": "lcr_edge",
    "lcr_edge.calibration": "calibration",
    "lcr_edge.export": "export",
    "lcr_edge.runtimes": "runtimes",
}
LOAD, CALL, TYPES = "load", "call", "types"


@dataclass(frozen=True, order=True)
class Import:
    """One import. kind: LOAD when it runs as the module loads, CALL inside a function, TYPES under TYPE_CHECKING."""

    source: str
    target: str
    kind: str
    line: int


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by name, packages by the name of their folder."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(root / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(files: Mapping[str, Path]) -> list[Import]:
    """All imports of all modules. Of our own modules the exact one is the target, and its packages load with it."""
    found: set[Import] = set()
    for source, path in files.items():
        package = source if path.name == "__init__.py" else source.rpartition(".")[0]
        for node, kind in _statements(ast.parse(path.read_text(encoding="utf-8"), str(path)).body, LOAD):
            for target in _targets(node, package, files):
                found.add(Import(source, target, kind, node.lineno))
    return sorted(found)


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that reach each other: the strongly connected components of more than one name."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset({name, *(other for other in reach[name] if name in reach.get(other, ()))}) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def loaded_with(imports: Iterable[Import], starts: Iterable[str]) -> set[str]:
    """Every module that is loaded when ``starts`` are, the outer packages included."""
    graph: dict[str, set[str]] = {}
    for item in imports:
        if item.kind == LOAD:
            graph.setdefault(item.source, set()).add(item.target)
            for package in _packages(item.target):
                graph.setdefault(item.target, set()).add(package)
    found = set(starts)
    for name in list(found):
        found |= _reachable(graph, name)
        for package in _packages(name):
            found |= {package, *_reachable(graph, package)}
    return found


def _packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for target in graph.get(left.pop(), ()):
            if target not in found:
                found.add(target)
                left.append(target)
    return found


def _statements(body: Iterable[ast.AST], kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, kind
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _statements(node.body, TYPES)
            yield from _statements(node.orelse, kind)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _statements(ast.iter_child_nodes(node), CALL if inside and kind == LOAD else kind)


def _targets(node: ast.Import | ast.ImportFrom, package: str, files: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        outer = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*outer, base] if base else outer)
    names = [f"{base}.{alias.name}" for alias in node.names]
    yield from (name for name in names if name in files)
    if not all(name in files for name in names):
        yield base
