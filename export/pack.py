"""``lcr-edge pack BUNDLE --device NAME``: all that a device without network needs, in one archive.

    lcr_nano-tflite-int8-pi5/
        install.sh      makes an environment from the wheels alone, and runs the selftest in it
        bundles/        the bundle
        wheels/         lcr_edge, the bundle's engine and all that they need, for the device's processor and Python

The wheels are downloaded here by pip, for the device and not for this machine. lcr_edge's own is built from the
checkout or, where it was installed from a wheel, put together from the installed files.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lcr_edge
from lcr_edge import options, progress
from lcr_edge.errors import CONSTRAINTS, LcrError, UsageError
from lcr_edge.files import check_file, written_atomically
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.engines import ENGINES

_OLDEST_GLIBC = 17  # wheels are made for glibc 2.17 and newer
# Of a checkout, what its wheel is built from.
_SOURCES, _FILES = ("lcr_edge", "calibration", "export", "runtimes"), ("pyproject.toml", "README.md", "LICENSE")
_CONSTRAINED = ((3, 11), (3, 12), (3, 13))  # the Pythons that the tested versions are for


@dataclass(frozen=True)
class Device:
    """A kind of device. machine: its processor, as wheels name it. glibc: minor version of its C library. python: its
    Python's version. text: for people.
    """

    machine: str
    glibc: int
    python: str
    text: str

    def platforms(self) -> list[str]:
        """Tags of the wheels that run there, newest first."""
        return [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]


DEVICES = {
    "pi5": Device("aarch64", 36, "3.11", "Raspberry Pi 5, Raspberry Pi OS 12 of 64 bits"),
    "pi4": Device("aarch64", 36, "3.11", "Raspberry Pi 4 or 3, Raspberry Pi OS 12 of 64 bits"),
    "jetson": Device("aarch64", 35, "3.10", "Jetson, JetPack 6, on its CPU"),
    "x86": Device("x86_64", 36, "3.11", "PC, Debian 12"),
}

_INSTALL = """#!/bin/sh
# Installs lcr_edge and its engine into the folder env beside this file, or into the one that is given: needs
# Python {python} with its venv module, and no network. Then steps the bundle's golden clip and compares.
set -eu
[ $# = 0 ] || case "$1" in /*) ;; *) set -- "$PWD/$1" ;; esac
cd "$(dirname "$0")"
env="${{1:-env}}"
python="${{PYTHON:-python{python}}}"
command -v "$python" >/dev/null || {{
    echo "There is no $python. Install Python {python} (Debian: apt-get install python{python}-venv)," \\
        "or name it: PYTHON=/path/to/python{python} ./install.sh" >&2
    exit 1
}}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != ({numbers}))' || {{
    echo "$python is not Python {python}, which these wheels are for; pack again with --python" >&2
    exit 1
}}
[ "$(uname -m)" = {machine} ] || {{
    echo "This machine is $(uname -m), and the wheels are for {machine}; pack again with another --device" >&2
    exit 1
}}
"$python" -m venv "$env"
"$env/bin/python" -m pip install --quiet --no-index --find-links wheels "{requirement}"
"$env/bin/lcr-edge" selftest "bundles/{bundle}"
echo "installed in $(cd "$env" && pwd)"
{last}
"""
_LAST = {
    True: 'echo "Run it: cd $(pwd) && $env/bin/lcr-edge run bundles/{bundle} --source 0"',
    False: 'echo "OpenCV is not in it: to read cameras and video files, pack with --video"',
}


class PackError(LcrError):
    """An archive that cannot be made: pip finds no wheels for the device, or cannot reach where they are."""


def pack(
    bundle: Path, device: Device, out: Path, *, video: bool, name: str, service: bool = False
) -> list[tuple[str, int]]:
    """Write the archive ``out``. Returns the wheels in it: name and bytes.

    video: with OpenCV, for cameras and files. name: the folder in the archive. service: with OpenCV and what a camera
    service may take. Raises BundleError, PackError and OutputError.
    """
    checked = read_bundle(bundle)
    wanted = {"video": video or service, "service": service}
    if not ENGINES[checked.target].package:
        raise PackError(
            f"{bundle} is C: it needs no wheels. Copy the folder, build it with make there, or cross-compile it"
        )
    extras = [ENGINES[checked.target].extra, *(extra for extra, with_it in wanted.items() if with_it)]
    with tempfile.TemporaryDirectory(prefix="lcr_edge_pack_") as folder:
        wheels = Path(folder) / "wheels"
        wheels.mkdir()
        own = own_wheel(wheels)
        _download(f"{own}[{','.join(extras)}]", device, wheels)
        found = sorted(wheels.glob("*.whl"))
        text = _INSTALL.format(
            python=device.python,
            numbers=device.python.replace(".", ", "),
            machine=device.machine,
            requirement=f"lcr-edge[{','.join(extras)}]",
            bundle=checked.folder.resolve().name,
            last=_LAST[video or service].format(bundle=checked.folder.resolve().name),
        )
        members = [("install.sh", text.encode(), 0o755)]
        members += [(f"wheels/{path.name}", path.read_bytes(), 0o644) for path in found]
        names = sorted(path for path in bundle.iterdir())
        members += [(f"bundles/{bundle.resolve().name}/{path.name}", path.read_bytes(), 0o644) for path in names]
        with written_atomically(out) as temporary:
            _write(temporary, name, members)
        return [(path.name, path.stat().st_size) for path in found]


def _write(path: Path, name: str, members: Sequence[tuple[str, bytes, int]]) -> None:
    """A .tar.gz of files: their names, bytes and permissions. Equal files give equal archives."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, 0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for member, data, mode in members:
            entry = tarfile.TarInfo(f"{name}/{member}")
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))


def _download(requirement: str, device: Device, folder: Path) -> None:
    call = ["download", "--only-binary", ":all:", "--implementation", "cp", "--python-version", device.python]
    for platform in device.platforms():
        call += ["--platform", platform]
    if tuple(map(int, device.python.split("."))) in _CONSTRAINED:
        call += ["--constraint", str(CONSTRAINTS)]
    _pip([*call, "--dest", str(folder), requirement], f"there are no wheels for {device.text}, Python {device.python}")


def _pip(call: Sequence[str], failed: str) -> None:
    """Run this Python's pip. Raises PackError, which begins with ``failed``."""
    whole = [sys.executable, "-m", "pip", *call, "--quiet", "--disable-pip-version-check", "--progress-bar", "off"]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise PackError(f"{sys.executable} has no pip, which gets the wheels: {sys.executable} -m ensurepip")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        raise PackError(f"{failed}. pip says: {errors[-1] if errors else 'nothing'}")


def own_wheel(folder: Path) -> Path:
    """lcr_edge's wheel, written into ``folder``. Raises PackError."""
    root = Path(lcr_edge.__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        _build(root, folder)
    else:
        _again(importlib.metadata.distribution("lcr-edge"), folder)
    return next(folder.glob("lcr_edge-*.whl"))


def _build(root: Path, folder: Path) -> None:
    # Of a copy: setuptools would take what an earlier build has left in the checkout, and leave its own.
    with tempfile.TemporaryDirectory(prefix="lcr_edge_wheel_") as place:
        for name in _SOURCES:
            shutil.copytree(root / name, Path(place) / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            shutil.copy(root / name, place)
        # What builds it is there in a development environment; elsewhere pip gets it.
        here = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
        _pip(["wheel", "--no-deps", *here, "--wheel-dir", str(folder), place], f"no wheel can be built from {root}")


def _again(installed: importlib.metadata.Distribution, folder: Path) -> None:
    """The wheel that a pure-Python distribution was installed from, out of its files."""
    version, record = installed.version, f"lcr_edge-{installed.version}.dist-info/RECORD"
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(folder / f"lcr_edge-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(installed.files or (), key=str):
            # Not those that the installation made: scripts outside, compiled modules, its notes.
            made = (
                path.parts[0] == ".."
                or path.suffix == ".pyc"
                or path.name in ("INSTALLER", "REQUESTED", "direct_url.json")
            )
            if made or str(path) == record:
                continue
            data = Path(str(path.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append((str(path), f"sha256={digest}", str(len(data))))
            wheel.writestr(str(path), data)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        wheel.writestr(record, text.getvalue())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge pack``."""
    parser.description = "Put a bundle, its engine and lcr_edge into one archive, for a device without network."
    parser.add_argument("bundle", type=Path, help="bundle folder written by export")
    kinds = "; ".join(f"{name}: {device.text}" for name, device in DEVICES.items())
    parser.add_argument("--device", required=True, choices=list(DEVICES), metavar="NAME", help=kinds)
    parser.add_argument("--python", metavar="X.Y", help="the device's Python (default: as its system has it)")
    parser.add_argument("--video", action="store_true", help="with OpenCV, to read cameras and video files")
    parser.add_argument(
        "--service", action="store_true", help="with OpenCV and what a camera service takes: page, MQTT, figures"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the archive (default: BUNDLE-NAME.tar.gz)")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the archive and say what to do with it."""
    device = DEVICES[args.device]
    if args.python is not None:
        device = _with_python(device, args.python)
    if not re.fullmatch(r"[\w.-]+", args.bundle.resolve().name, re.ASCII):
        raise UsageError(f"rename {args.bundle}: letters, digits, '.', '_' and '-' go well in a script on the device")
    name = f"{args.bundle.resolve().name}-{args.device}"
    out = args.out or Path(f"{name}.tar.gz")
    options.check_json(args.json)
    check_file(out, "--out")
    if args.json is not None and Path(args.json).resolve() == out.resolve():
        raise UsageError(f"--out and --json are both {out}; give two names")
    if args.bundle.resolve() in out.resolve().parents:
        raise UsageError(f"--out {out} lies in the bundle, which then could not be loaded; choose another place")
    with progress.step(f"getting wheels for {device.text}, Python {device.python}"):
        wheels = pack(args.bundle, device, out, video=args.video, name=name, service=args.service)
    text = options.text_stream(args.json)
    for wheel, size in wheels:
        print(f"{size / 1e6:8.2f} MB  {wheel}", file=text)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB for {device.text}", file=text)
    print(f"on the device: tar xzf {out.name} && {name}/install.sh", file=text)
    document: dict[str, Any] = {"archive": str(out), "bytes": out.stat().st_size, "device": args.device}
    options.write_json(args.json, {**document, "python": device.python, "wheels": dict(wheels)})
    return 0


def _with_python(device: Device, version: str) -> Device:
    parts = version.split(".")
    if len(parts) != 2 or parts[0] != "3" or not parts[1].isdecimal() or not 9 <= int(parts[1]) <= 13:
        raise UsageError(f"--python {version!r} is not one of 3.9 to 3.13, which lcr_edge runs on")
    return Device(device.machine, device.glibc, f"3.{int(parts[1])}", device.text)
