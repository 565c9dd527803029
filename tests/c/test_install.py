"""The C library as a project gets it: installed by CMake and by make, found by CMake and pkg-config, or as a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lcr_edge.errors import BundleError
from lcr_edge.runtimes.bundle import read_bundle
from tests import shared
from tests.export import made

PROGRAM = """#include <lcr_edge.h>
#include <stdio.h>
int main(int count, char **arguments) {
    lcr_model *model = NULL;
    lcr_status status = count == 2 ? lcr_open(arguments[1], NULL, &model) : LCR_ARGUMENT;
    puts(status == LCR_OK ? lcr_label(model, 0) : lcr_message(status));
    lcr_close(model);
    return lcr_abi_version() == LCR_ABI_VERSION ? 0 : 1;
}
"""
PROJECT = """cmake_minimum_required(VERSION 3.10)
project(program C)
{}
add_executable(program program.c)
target_link_libraries(program lcr_edge::lcr_edge)
"""
# Speed does not count here.
FAST = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-O0"]


def run(command: Sequence[str | Path], **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("CPPFLAGS", "LDFLAGS", "DESTDIR")}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install gcc make cmake pkg-config")


@pytest.fixture(scope="module")
def bundle() -> Path:
    return made.bundle("lcr_pico", "c")


@pytest.fixture(scope="module")
def label(bundle: Path) -> str:
    from lcr_edge.runtimes.bundle import read_bundle

    return read_bundle(bundle).labels[0]


def by_cmake(bundle: Path, shared_library: bool) -> Path:
    """A prefix that cmake --install was given, not the one that it was configured with."""
    need("cmake", "cc")

    def make(folder: Path) -> None:
        build, switch = folder / "build", f"-DBUILD_SHARED_LIBS={'ON' if shared_library else 'OFF'}"
        run(["cmake", "-S", bundle, "-B", build, "-DCMAKE_INSTALL_PREFIX=/nowhere", switch, *FAST])
        run(["cmake", "--build", build])
        run(["cmake", "--install", build, "--prefix", folder / "prefix"])
        shutil.rmtree(build)

    return shared.folder(f"c_install/cmake-{shared_library}", make) / "prefix"


def by_make(bundle: Path) -> tuple[Path, Path]:
    """A prefix, and where it lies before it is shipped."""
    need("make", "cc")

    def make(folder: Path) -> None:
        shutil.copytree(bundle, folder / "bundle")
        run(["make", "-C", folder / "bundle", "CFLAGS=-O0", "install", "PREFIX=/opt/edge", f"DESTDIR={folder}/image"])

    folder = shared.folder("c_install/make", make)
    return Path("/opt/edge"), folder / "image"


def program(folder: Path, cmake: str = "") -> Path:
    (folder / "program.c").write_text(PROGRAM)
    (folder / "CMakeLists.txt").write_text(PROJECT.format(cmake))
    return folder / "program"


@pytest.mark.slow
@pytest.mark.parametrize("shared_library", [False, True])
def test_find_package(shared_library: bool, bundle: Path, label: str, tmp_path: Path) -> None:
    prefix = by_cmake(bundle, shared_library)
    names = {path.name for path in prefix.rglob("*")}
    assert "lcr_edge.h" in names
    assert "lcr_internal.h" not in names
    assert "model.bin" not in names
    assert ("liblcr_edge.so.1" if shared_library else "liblcr_edge.a") in names
    program(tmp_path, "find_package(lcr_edge 1 REQUIRED)")
    run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", tmp_path / "build"])
    assert run([tmp_path / "build" / "program", bundle / "model.bin"]) == f"{label}\n"
    program(tmp_path, "find_package(lcr_edge 2 REQUIRED)")  # another ABI
    done = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "other"), f"-DCMAKE_PREFIX_PATH={prefix}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "version: 1" in done.stderr


def linked(folder: Path, flags: str, *variables: str) -> Path:
    built = program(folder)
    run(["cc", "-std=c99", folder / "program.c", *flags.split(), *variables, "-o", built])
    return built


@pytest.mark.slow
@pytest.mark.parametrize("shared_library", [False, True])
def test_pkg_config_after_cmake(shared_library: bool, bundle: Path, label: str, tmp_path: Path) -> None:
    need("pkg-config")
    prefix = by_cmake(bundle, shared_library)
    (found,) = prefix.rglob("lcr_edge.pc")
    moved = tmp_path / "moved"  # names are relative to the .pc file
    shutil.copytree(prefix, moved, symlinks=True)
    where = str(moved / found.parent.relative_to(prefix))
    flags = run(["pkg-config", "--cflags", "--libs", "lcr_edge"], PKG_CONFIG_PATH=where)
    built = linked(tmp_path, flags)
    assert run([built, bundle / "model.bin"], LD_LIBRARY_PATH=str(Path(where).parent)) == f"{label}\n"


@pytest.mark.slow
def test_pkg_config_after_make(bundle: Path, label: str, tmp_path: Path) -> None:
    need("pkg-config")
    prefix, image = by_make(bundle)
    libraries = image / str(prefix).lstrip("/") / "lib"
    assert sorted(path.name for path in libraries.iterdir()) == [
        "liblcr_edge.a",
        "liblcr_edge.so",
        "liblcr_edge.so.1",
        "pkgconfig",
    ]
    variables = {"PKG_CONFIG_PATH": str(libraries / "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(image)}
    flags = run(["pkg-config", "--cflags", "--libs", "lcr_edge"], **variables)
    assert f"-L{libraries}" in flags
    built = linked(tmp_path, flags)
    assert run([built, bundle / "model.bin"], LD_LIBRARY_PATH=str(libraries)) == f"{label}\n"
    without = subprocess.run([str(built)], capture_output=True, text=True, check=False)
    assert "liblcr_edge.so.1" in without.stderr  # the name that the program asks for
    (tmp_path / "static").mkdir()
    static = linked(tmp_path / "static", flags, "-static")
    assert run([static, bundle / "model.bin"]) == f"{label}\n"


def test_flags_reach_the_compiler_and_the_linker(bundle: Path) -> None:
    need("make")
    flags = ["CC=cc", "CPPFLAGS=-DONE", "CFLAGS=-O1 -g", "LDFLAGS=-Wl,-z,now", "PREFIX=/opt/edge"]
    lines = run(["make", "-C", bundle, "-n", *flags, "selftest", "install"]).splitlines()
    compiled = [line.split() for line in lines if " -c " in line]
    assert len(compiled) == len(list(bundle.glob("lcr_*.c")))
    assert all({"-DONE", "-O1", "-g", "-std=c99"} <= set(words) for words in compiled)
    linked_by = [line.split() for line in lines if "-Wl,-z,now" in line and " -o " in line]
    assert [words[-1] for words in linked_by] == ["selftest", "liblcr_edge.so.1"]


@pytest.mark.slow
def test_two_bundles_in_one_project(bundle: Path, label: str, tmp_path: Path) -> None:
    """They share one library, whichever name a program links; sources of two versions are refused."""
    need("cmake", "cc")
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    both = f'add_subdirectory("{bundle}" one)\nadd_subdirectory(other)'
    program(tmp_path, both)
    run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", *FAST])
    run(["cmake", "--build", tmp_path / "build"])
    assert run([tmp_path / "build" / "program", other / "model.bin"]) == f"{label}\n"
    run(["cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "prefix"])
    assert not list((tmp_path / "prefix").rglob("*lcr_edge*"))  # not this project's to install
    (other / "lcr_internal.h").write_text((other / "lcr_internal.h").read_text() + "/* newer */\n")
    shutil.rmtree(tmp_path / "build")
    done = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "export both again with one version" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_bundle_beside_an_installed_library(bundle: Path, tmp_path: Path) -> None:
    prefix = by_cmake(bundle, False)
    program(tmp_path, f'find_package(lcr_edge REQUIRED)\nadd_subdirectory("{bundle}" one)')
    done = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), f"-DCMAKE_PREFIX_PATH={prefix}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "leave out that call" in " ".join(done.stderr.split())


def test_a_bundle_that_was_built_in_is_a_bundle(bundle: Path, tmp_path: Path) -> None:
    need("make", "cc")
    built = tmp_path / "bundle"
    shutil.copytree(bundle, built)
    run(["make", "-C", built, "CFLAGS=-O0", "all", "selftest"])
    assert read_bundle(built).folder == built
    (built / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"does not list: notes\.txt; remove them"):
        read_bundle(built)
