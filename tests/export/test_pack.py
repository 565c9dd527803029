"""``lcr-edge pack``: archives for devices, of wheels that lie in a folder, so that no network is needed."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lcr_edge.cli import main
from lcr_edge.export import pack
from lcr_edge.export.pack import DEVICES
from tests.runtimes.toy import make_bundle

# What the extra "service" brings to a Python 3.11.
SERVICE = ("aiohttp", "paho_mqtt", "prometheus_client")


def make_wheel(folder: Path, name: str, version: str, tags: str, requires: str = "") -> None:
    """A wheel with nothing in it but its name."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-{tags}.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tags}\n")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of."""
    folder = tmp_path / "index"
    folder.mkdir()
    for machine in ("aarch64", "x86_64"):
        make_wheel(folder, "numpy", "2.4.6", f"cp311-cp311-manylinux_2_28_{machine}")
        make_wheel(folder, "onnxruntime", "1.31.1", f"cp311-cp311-manylinux_2_28_{machine}", "protobuf")
    make_wheel(folder, "protobuf", "7.36.2", "py3-none-any")
    make_wheel(folder, "opencv_python_headless", "5.0.0.93", "cp37-abi3-manylinux_2_28_aarch64")
    for name in SERVICE:
        make_wheel(folder, name, importlib.metadata.version(name), "py3-none-any")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "toy-onnx", "onnx")


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
@pytest.mark.parametrize("option", ["", "--video", "--service"])
def test_an_archive(option: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, document = tmp_path / "pi.tar.gz", tmp_path / "pi.json"
    call = ["pack", str(bundle), "--device", "pi5", "--out", str(out), "--json", str(document)]
    assert main(call + [option] * bool(option)) == 0
    video, service = bool(option), option == "--service"
    with tarfile.open(out) as archive:
        modes = {entry.name: entry.mode for entry in archive.getmembers()}
        archive.extractall(tmp_path / "device", filter="data")
    folder = tmp_path / "device" / "toy-onnx-pi5"
    packed = {path.name for path in (folder / "wheels").iterdir()}
    found = json.loads(document.read_text())
    assert set(found["wheels"]) == packed
    assert found["bytes"] == out.stat().st_size
    names = {name.split("-")[0] for name in packed}
    more = {*(["opencv_python_headless"] if video else []), *(SERVICE if service else [])}
    assert names == {"lcr_edge", "numpy", "onnxruntime", "protobuf", *more}
    assert not [name for name in packed if "x86_64" in name]
    copied = folder / "bundles" / "toy-onnx"
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    script = folder / "install.sh"
    assert modes["toy-onnx-pi5/install.sh"] == 0o755
    assert (f"lcr-edge[onnx{',video' * video}{',service' * service}]" in script.read_text()) is True
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert "tar xzf pi.tar.gz && toy-onnx-pi5/install.sh" in capsys.readouterr().out
    # On a machine of another kind it says so, before it makes anything.
    done = subprocess.run(
        ["sh", str(script)], env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    wanted = "is not Python 3.11" if sys.version_info[:2] != (3, 11) else "the wheels are for aarch64"
    if platform.machine() != "aarch64":
        assert done.returncode == 1
        assert wanted in done.stderr
    assert not (folder / "env").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
def test_no_wheels_for_the_device(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pi.tar.gz"
    out.write_text("an older one")
    assert main(["pack", str(bundle), "--device", "pi5", "--python", "3.13", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert (
        "there are no wheels for Raspberry Pi 5, Raspberry Pi OS 12 of 64 bits, Python 3.13. pip says: ERROR" in error
    )
    assert out.read_text() == "an older one"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--device", "pi5", "--python", "3.8"], "not one of 3.9 to 3.13"),
        (["--device", "pi5", "--python", "three"], "not one of 3.9 to 3.13"),
    ],
)
def test_calls_that_cannot_be(
    arguments: list[str], hint: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(bundle), *arguments]) == 2
    assert hint in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar.gz"))


def test_folders_that_are_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(tmp_path / "none"), "--device", "pi5", "--out", str(tmp_path / "a")]) == 2
    assert "does not exist" in capsys.readouterr().err
    named = make_bundle(tmp_path / "a bundle$(x)", "onnx")
    assert main(["pack", str(named), "--device", "pi5", "--out", str(tmp_path / "a")]) == 2
    assert "letters, digits" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_wheel_again_out_of_an_installation(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built, again, site = tmp_path / "built", tmp_path / "again", tmp_path / "site"
    built.mkdir()
    again.mkdir()
    wheel = pack.own_wheel(built)
    subprocess.run([*call, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (installed,) = importlib.metadata.distributions(name="lcr-edge", path=[str(site)])
    pack._again(installed, again)
    (other,) = again.glob("*.whl")
    assert other.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(other) as two:
        assert set(one.namelist()) == set(two.namelist())
        lists = {name for name in one.namelist() if name.endswith("/RECORD")}
        assert all(one.read(name) == two.read(name) for name in set(one.namelist()) - lists)
        rows = [set(file.read(name).decode().split()) for file in (one, two) for name in lists]
    assert rows[0] == rows[1]


def test_outputs_that_would_spoil_each_other(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same, inside = str(tmp_path / "same"), str(bundle / "pi.tar.gz")
    assert main(["pack", str(bundle), "--device", "pi5", "--out", same, "--json", same]) == 2
    assert "give two names" in capsys.readouterr().err
    before = sorted(bundle.iterdir())
    assert main(["pack", str(bundle), "--device", "pi5", "--out", inside]) == 2
    assert "lies in the bundle" in capsys.readouterr().err
    assert sorted(bundle.iterdir()) == before


def test_tags_of_a_device() -> None:
    tags = DEVICES["jetson"].platforms()
    assert tags[0] == "manylinux_2_35_aarch64"
    assert tags[-1] == "manylinux_2_17_aarch64"
