"""Imports go one way: runtimes and calibration know the core, export knows all three, the core knows none of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.imports import LOAD, TYPES, Import, circles, imports_of, loaded_with, modules

ROOT = Path(__file__).resolve().parents[2]
# What each part may import besides itself, wherever the import stands: loading, in a function, for types only.
ALLOWED = {
    "core": set(),
    "runtimes": {"core"},
    "calibration": {"core"},
    "export": {"core", "calibration", "runtimes"},
}
# Heavy packages that no module of the device side may load, at its top or in a function; types are not loaded.
WORKSTATION = {"torch", "safetensors", "onnx", "onnxscript", "litert_torch", "matplotlib"}


def part_of(module: str) -> str | None:
    """The part of lcr_edge that a module belongs to, None for other packages."""
    names = module.split(".")
    if names[0] != "lcr_edge":
        return None
    return names[1] if len(names) > 1 and names[1] in ALLOWED else "core"


def wrong_ways(imports: list[Import]) -> list[str]:
    """Imports of all three kinds from a part that the importing one must not know."""
    found = []
    for item in imports:
        source, target = part_of(item.source), part_of(item.target)
        if source and target and target != source and target not in ALLOWED[source]:
            found.append(f"{item.source}, line {item.line}, imports {item.target}")
    return found


def heavy_runtimes(imports: list[Import], files: list[str]) -> list[str]:
    """Runtimes, and what loads with them, that import a workstation's package; runtimes not even in a function."""
    device = [name for name in files if part_of(name) == "runtimes"]
    loaded = loaded_with(imports, device)
    return [
        f"{item.source}, line {item.line}, imports {item.target}"
        for item in imports
        if item.target.split(".")[0] in WORKSTATION
        and ((item.kind == LOAD and item.source in loaded) or (item.kind != TYPES and item.source in device))
    ]


def module_circles(imports: list[Import]) -> list[str]:
    """Modules that load each other. A package and a module in it count as one step each."""
    own = [item for item in imports if item.kind == LOAD and part_of(item.target)]
    return [" <-> ".join(group) for group in circles((item.source, item.target) for item in own)]


def export_circles(imports: list[Import]) -> list[str]:
    """Packages inside export that know each other, in functions too; types do not count."""
    edges = set()
    for item in imports:
        source, target = _package_of_export(item.source), _package_of_export(item.target)
        if item.kind != TYPES and source and target and source != target:
            edges.add((source, target))
    return [" <-> ".join(group) for group in circles(edges)]


def _package_of_export(module: str) -> str | None:
    names = module.split(".")
    return names[2] if names[:2] == ["lcr_edge", "export"] and len(names) > 3 else None


FILES = modules(ROOT)
IMPORTS = imports_of(FILES)


def test_every_module_is_looked_at() -> None:
    assert {part_of(name) for name in FILES} == set(ALLOWED)
    assert {"lcr_edge.cli", "lcr_edge.runtimes.api", "lcr_edge.export.targets.table", "lcr_edge.export"} <= set(FILES)
    assert len(IMPORTS) > 5 * len(FILES)
    assert {item.source for item in IMPORTS} <= set(FILES)


def test_imports_go_one_way() -> None:
    assert wrong_ways(IMPORTS) == []


def test_the_device_side_needs_no_package_of_a_workstation() -> None:
    assert heavy_runtimes(IMPORTS, list(FILES)) == []


def test_no_modules_load_each_other() -> None:
    assert module_circles(IMPORTS) == []


def test_the_packages_of_export_do_not_know_each_other_both_ways() -> None:
    assert export_circles(IMPORTS) == []


# What the rules must notice: the files of a made tree, and which rule speaks.
PLANTED = [
    (wrong_ways, {"runtimes/x.py": "from lcr_edge.export import y"}),
    (wrong_ways, {"runtimes/x.py": "def f():\n    import lcr_edge.calibration.y"}),
    (wrong_ways, {"lcr_edge/x.py": "from lcr_edge import runtimes", "runtimes/__init__.py": ""}),
    (wrong_ways, {"lcr_edge/x.py": "if TYPE_CHECKING:\n    from lcr_edge.runtimes.y import Z"}),
    (wrong_ways, {"lcr_edge/model/x.py": "from ..runtimes import y"}),
    (wrong_ways, {"calibration/x.py": "try:\n    from lcr_edge.export.y import z\nexcept ImportError:\n    pass"}),
    (heavy_runtimes, {"runtimes/x.py": "import torch"}),
    (heavy_runtimes, {"runtimes/x.py": "def f():\n    import torch.nn"}),
    (heavy_runtimes, {"runtimes/x.py": "from lcr_edge import y", "lcr_edge/y.py": "import torch"}),
    (heavy_runtimes, {"runtimes/x.py": "import lcr_edge.m.y", "lcr_edge/m/__init__.py": "from torch import nn"}),
    (module_circles, {"lcr_edge/x.py": "import lcr_edge.y", "lcr_edge/y.py": "from lcr_edge import x"}),
    (module_circles, {"export/a/x.py": "from .y import z", "export/a/y.py": "from lcr_edge.export.a.x import w"}),
    (
        export_circles,
        {"export/a/x.py": "import lcr_edge.export.b.y", "export/b/y.py": "def f():\n    from ..a import x"},
    ),
]
FINE = {
    "runtimes/x.py": "from lcr_edge import y\nif TYPE_CHECKING:\n    import torch",
    "lcr_edge/y.py": "def f():\n    import torch\n    from lcr_edge import x",
    "lcr_edge/x.py": "from lcr_edge.y import f\nEXPORT = 'lcr_edge.export.a.x'",
    "export/a/x.py": "from lcr_edge.export.b import y\nfrom lcr_edge.runtimes.x import z\nimport torch",
    "export/b/y.py": "if TYPE_CHECKING:\n    from lcr_edge.export.a.x import w",
}


def _answers(tree: dict[str, str], root: Path) -> dict[Callable[..., list[str]], list[str]]:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    files = modules(root)
    imports = imports_of(files)
    return {
        wrong_ways: wrong_ways(imports),
        heavy_runtimes: heavy_runtimes(imports, list(files)),
        module_circles: module_circles(imports),
        export_circles: export_circles(imports),
    }


@pytest.mark.parametrize(("rule", "tree"), PLANTED)
def test_a_planted_import_is_found(rule: Callable[..., list[str]], tree: dict[str, str], tmp_path: Path) -> None:
    assert {found for found, lines in _answers(tree, tmp_path).items() if lines} == {rule}


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    assert not any(_answers(FINE, tmp_path).values())


def test_what_loads_with_the_runtimes_is_what_python_loads() -> None:
    """The modules found by reading are those that a fresh Python has after importing every runtime."""
    runtimes = [name for name in FILES if part_of(name) == "runtimes"]
    code = f"import sys, {', '.join(runtimes)}; print(*sorted(n for n in sys.modules if n.startswith('lcr_edge')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name for name in loaded_with(IMPORTS, runtimes) if part_of(name)} == set(done.stdout.split())


def test_engines_that_report_are_imported_in_one_place() -> None:
    """Elsewhere they would tell their makers of it: ``runtimes.libraries`` keeps them from that."""
    own = "lcr_edge.runtimes.libraries"
    importing = re.compile(
        r"^\s*(?:import|from)\s+(onnxruntime|openvino)\b|import_module\(.(?:onnxruntime|openvino)\b", re.M
    )
    files = modules(ROOT)
    assert [name for name, path in files.items() if name != own and importing.search(path.read_text())] == []
    for line in (
        "import openvino as ov",
        "    from onnxruntime.quantization import x",
        'import_module("openvino.opset13")',
    ):
        assert importing.search(line)
