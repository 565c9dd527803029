"""The package in its three forms: plain checkout, editable install, wheel. Offline; environments hold numpy alone."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import lcr_edge

ROOT = Path(__file__).resolve().parents[2]
# Folder in the checkout -> folder in the wheel.
FOLDERS = {
    "lcr_edge": "lcr_edge",
    "calibration": "lcr_edge/calibration",
    "export": "lcr_edge/export",
    "runtimes": "lcr_edge/runtimes",
}
SUBPACKAGES = ("calibration", "export", "runtimes")
DEVICE_EXTRAS = ("onnx", "openvino", "tflite", "video", "service")
WHERE = "import sys, lcr_edge.{0} as p; print(p.__file__); print(sorted({{'torch', 'cv2'}} & set(sys.modules)))"


class Place(NamedTuple):
    """One form of the package: the interpreter, the folder to start it in, where lcr_edge.* must be loaded from."""

    python: Path
    cwd: Path
    loaded_from: dict[str, Path]


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The finished process with text output, whatever its exit status. PYTHONPATH comes from ``env`` alone."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def checked(*command: str | Path, cwd: Path, **env: str) -> str:
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def link_packages(site: Path, patterns: tuple[str, ...], into: Path) -> None:
    """Make the installed packages of a site-packages folder that match a pattern importable from ``into``."""
    into.mkdir(parents=True, exist_ok=True)
    found = {path for pattern in patterns for path in site.glob(pattern)}
    assert found, f"{site} holds none of {patterns}"
    for path in found:
        (into / path.name).symlink_to(path)


def numpy_only_environment(folder: Path) -> Path:
    """A virtual environment with nothing but numpy in it. Returns its interpreter."""
    checked(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = checked(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder.parent)
    link_packages(Path(np.__file__).parents[1], ("numpy", "numpy.libs"), Path(site.strip()))
    return python


def pip_install(python: Path, what: list[str | Path], tools: Path) -> None:
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "--python", python)
    checked(*pip, "install", *options, *what, cwd=tools, PYTHONPATH=str(tools))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of everything that a build reads, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # From a copy of its own: the build leaves a build/ folder behind, which the other forms must not see.
    tree = shutil.copytree(source, out / "tree")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    checked(sys.executable, "-m", "pip", "wheel", *options, tree, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def places(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    base = tmp_path_factory.mktemp("environments")
    tools, elsewhere = base / "tools", base / "elsewhere"
    elsewhere.mkdir()
    # The build backend, for the editable install: visible to pip's build, not to the installed environment.
    setuptools = importlib.util.find_spec("setuptools")
    assert setuptools is not None
    assert setuptools.origin is not None
    link_packages(Path(setuptools.origin).parents[1], ("setuptools*", "_distutils_hack"), tools)
    bare = numpy_only_environment(base / "bare")
    editable = numpy_only_environment(base / "editable")
    pip_install(editable, ["-e", source], tools)
    installed = numpy_only_environment(base / "installed")
    pip_install(installed, [wheel], tools)
    (site,) = (base / "installed" / "lib").glob("python*/site-packages")
    in_checkout = {name: source / name for name in SUBPACKAGES}
    in_wheel = {name: site / "lcr_edge" / name for name in SUBPACKAGES}
    return {
        "checkout": Place(bare, source, in_checkout),
        "editable": Place(editable, elsewhere, in_checkout),
        "editable, from the checkout": Place(editable, source, in_checkout),
        "wheel": Place(installed, elsewhere, in_wheel),
        # "python -m" puts the working folder first: the checkout's own files must win as a whole.
        "wheel, from the checkout": Place(installed, source, in_checkout),
    }


FORMS = ("checkout", "editable", "editable, from the checkout", "wheel", "wheel, from the checkout")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_subpackages_import_with_numpy_alone(places: dict[str, Place], form: str) -> None:
    place = places[form]
    for name in SUBPACKAGES:
        file, heavy = checked(place.python, "-c", WHERE.format(name), cwd=place.cwd).splitlines()
        assert Path(file).parent.resolve() == place.loaded_from[name].resolve()
        assert heavy == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_export_lists_its_targets_with_numpy_alone(places: dict[str, Place], form: str) -> None:
    place = places[form]
    listed = checked(place.python, "-m", "lcr_edge.export", "--list", cwd=place.cwd)
    for target in ("onnx", "openvino", "tflite"):
        assert target in listed


@pytest.mark.slow
@pytest.mark.parametrize("form", ["editable", "wheel"])
def test_the_command_is_installed(places: dict[str, Place], form: str) -> None:
    place = places[form]
    help_text = checked(place.python.with_name("lcr-edge"), "--help", cwd=place.cwd)
    for command in ("export", "verify", "run", "selftest", "inspect"):
        assert command in help_text
    assert checked(place.python, "-m", "lcr_edge", "--help", cwd=place.cwd)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBPACKAGES)
def test_a_folder_cannot_be_imported_by_its_bare_name(places: dict[str, Place], name: str) -> None:
    place = places["checkout"]
    done = run(place.python, "-c", f"import {name}", cwd=place.cwd)
    assert done.returncode == 1
    assert f"import lcr_edge.{name}" in done.stderr.splitlines()[-1]


def test_wheel_holds_the_tree_and_nothing_else(source: Path, wheel: Path) -> None:
    expected = {
        f"{target}/{path.relative_to(source / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (source / folder).rglob("*.py")
    }
    kernel = {"wkv.cu", "wkv_scan.h", "wkv_numbers.h", "README.md"}  # compiled on the user's machine
    expected |= {f"lcr_edge/kernels/wkv/{name}" for name in kernel}
    expected |= {f"lcr_edge/checkpoints/{p.name}" for p in (source / "lcr_edge" / "checkpoints").glob("*.safetensors")}
    expected |= {f"lcr_edge/runtimes/live/web/page/{p.name}" for p in (source / "runtimes/live/web/page").iterdir()}
    c = (path for path in (source / "runtimes/c").rglob("*") if path.is_file())
    expected |= {f"lcr_edge/{path.relative_to(source).as_posix()}" for path in c}
    with zipfile.ZipFile(wheel) as archive:
        content = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        for folder, target in FOLDERS.items():
            init = archive.read(f"{target}/__init__.py")
            assert init == (source / folder / "__init__.py").read_bytes()
    assert content == expected | {"lcr_edge/py.typed", "lcr_edge/constraints.txt"}


def test_metadata(metadata: Message) -> None:
    assert metadata["Version"] == lcr_edge.__version__
    assert metadata["Requires-Python"] == ">=3.9"
    requirements = metadata.get_all("Requires-Dist", [])
    assert [r for r in requirements if "extra ==" not in r] == ["numpy>=1.22"]
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"train", "onnx", "openvino", "tflite", "video", "all", "dev"} <= extras
    for extra in DEVICE_EXTRAS:
        wanted = [r for r in requirements if f'extra == "{extra}"' in r]
        assert wanted, extra
        assert not [r for r in wanted if r.startswith(("torch", "lcr-edge"))], f"{extra} would bring torch to a device"


def test_every_error_that_says_what_to_install_names_a_real_extra(source: Path, metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    named = set()
    for folder in FOLDERS:
        for path in (source / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and called in ("MissingExtraError", "how_to_install"):
                    place = 0 if called == "how_to_install" else 1
                    given = [*node.args[place : place + 1], *(k.value for k in node.keywords if k.arg == "extra")]
                    named |= {a.value for a in given if isinstance(a, ast.Constant)}
            named |= set(re.findall(r"lcr-edge\[([a-z-]+)\]", path.read_text()))
    assert named
    assert named <= extras


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "lcr_edge" / "constraints.txt").read_text().splitlines()
    pins = {line.split("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", x) for x in lines if x and not x.startswith("#"))
    wanted = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        if extra != "tflite-runtime":  # made for an environment of its own, on older Pythons
            wanted += requirements
    names = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in wanted} - {"lcr-edge"}
    assert names <= pins


def imports_torch(tree: ast.Module) -> bool:
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] == "torch" for name in names)


def newer_than_python_3_9(tree: ast.Module) -> list[str]:
    """Calls that Python 3.9 parses but rejects at run time. (ruff sees to the annotations.)"""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        keywords = {keyword.arg for keyword in call.keywords}
        if function == "zip" and "strict" in keywords:
            found.append(f"line {call.lineno}: zip(strict=...)")
        if function in {"dataclass", "dataclasses.dataclass"} and keywords & {"slots", "kw_only"}:
            found.append(f"line {call.lineno}: dataclass(slots=..., kw_only=...)")
        if function in {"isinstance", "issubclass"} and len(call.args) == 2 and isinstance(call.args[1], ast.BinOp):
            found.append(f"line {call.lineno}: isinstance(..., X | Y)")
    return found


def test_device_side_files_are_python_3_9() -> None:
    seen = 0
    for folder in ("lcr_edge", "runtimes"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if imports_torch(ast.parse(text)):
                assert folder != "runtimes", f"{path}: a runtime imports torch"
                continue
            assert newer_than_python_3_9(ast.parse(text, str(path), feature_version=(3, 9))) == [], path
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize(
    "code",
    [
        "list(zip(a, a, strict=True))",
        "@dataclass(slots=True)\nclass B: pass",
        "isinstance(1, int | str)",
    ],
)
def test_the_python_3_9_check_notices(code: str) -> None:
    assert len(newer_than_python_3_9(ast.parse(code))) == 1
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1: pass", feature_version=(3, 9))


def test_runtimes_import_where_nothing_but_numpy_may_be_imported() -> None:
    blocked = ("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime", "cv2", "safetensors")
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked}))"
    shown = checked(sys.executable, "-c", f"{block}; import lcr_edge.runtimes; print(lcr_edge.runtimes.load)", cwd=ROOT)
    assert "function load" in shown
