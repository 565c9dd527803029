"""What an error says about a missing package: the command fits where this copy of lcr_edge is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lcr_edge import errors
from lcr_edge.errors import MissingExtraError, how_to_install


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the package, a wheel's site-packages until a test makes a checkout of it."""
    folder = tmp_path / "my place"
    monkeypatch.setattr(errors, "_PACKAGE", folder / "lcr_edge")
    monkeypatch.setattr(errors, "CONSTRAINTS", folder / "lcr_edge" / "constraints.txt")
    folder.mkdir()
    return folder


def make_checkout(folder: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).touch()
    return folder


def test_an_installed_wheel_names_pip_with_the_tested_versions(place: Path) -> None:
    assert how_to_install("onnx") == 'pip install "lcr-edge[onnx]"'
    versions = f"{place}/lcr_edge/constraints.txt"
    assert how_to_install("export") == f"pip install -c '{versions}' \"lcr-edge[export]\""
    assert str(MissingExtraError("torch", "train", "Training")).endswith(how_to_install("train"))


def test_a_checkout_is_built_and_its_environment_activated(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkout(place)
    assert how_to_install("train") == f"make -C '{place}' build"
    assert how_to_install("tflite") == f'pip install -e "{place}[tflite]"'
    environment = place / ".venv"
    environment.mkdir()
    assert how_to_install("train") == f"make -C '{place}' build", "an environment for the demo alone lacks packages"
    (environment / ".dev-installed").touch()
    for extra in ("train", "tflite"):
        assert how_to_install(extra) == f"source '{environment}/bin/activate'"
    monkeypatch.setattr(sys, "prefix", str(environment))
    versions = f"{place}/lcr_edge/constraints.txt"
    assert how_to_install("train") == f"pip install -c '{versions}' -e \"{place}[train]\"", "make would do nothing"


def test_names_that_a_shell_would_read_are_quoted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = make_checkout(place).rename(place.parent / "$HOME's")
    monkeypatch.setattr(errors, "_PACKAGE", odd / "lcr_edge")
    assert '"\'"' in how_to_install("tflite"), "a single quote leaves its quotes"
    assert '"$HOME' not in how_to_install("tflite")


def test_the_constraints_are_where_the_hint_says() -> None:
    assert errors.CONSTRAINTS.is_file()
