"""onnxruntime's C headers for the tests: those of this system, or Debian's package libonnxruntime-dev, unpacked.

``python -m tests.c.ort_headers FOLDER`` fetches them with apt, as any user: nothing is installed. Debian before 13 does
not have the package, so there it is taken from Debian 13 on the server that apt uses already. Headers of an older
version than the library's fit it. Exit code 0, also where they cannot be had: then their tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = "onnxruntime_c_api.h"
FOLDER = Path(__file__).parents[2] / "build" / "onnxruntime-headers"
PACKAGE = "libonnxruntime-dev"
_SUITE, _KEYS = "trixie", "/usr/share/keyrings/debian-archive-keyring.gpg"
_BELOW = ("", "onnxruntime", "include", "include/onnxruntime", "usr/include/onnxruntime")
_PLACES = (os.environ.get("LCR_ONNXRUNTIME_HEADERS", ""), "/usr/include", "/usr/local/include", str(FOLDER))


def find() -> Path | None:
    """The folder of the headers; None where there are none."""
    folders = (Path(place, part) for place in _PLACES if place for part in _BELOW)
    return next((folder for folder in folders if (folder / HEADER).is_file()), None)


def fetch(folder: Path) -> str:
    """Unpack the package into a new folder. Returns what is wrong, nothing if all is well."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            return f"there is no {tool}"
    with tempfile.TemporaryDirectory(prefix="lcr_edge_headers_") as name:
        scratch = Path(name)
        problem = _download(scratch, ())
        if problem:
            server = _server()
            if not server or not Path(_KEYS).is_file():
                return problem
            problem = _from_newer(scratch, server)
        if problem:
            return problem
        (package,) = scratch.glob(f"{PACKAGE}_*.deb")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return _tried(["dpkg-deb", "-x", str(package), str(folder)], scratch)


def _from_newer(scratch: Path, server: str) -> str:
    """From a newer Debian, whose lists are kept apart from this system's."""
    (scratch / "sources.list").write_text(f"deb [signed-by={_KEYS}] {server} {_SUITE} main\n", encoding="utf-8")
    for part in ("lists/partial", "cache/archives/partial"):
        (scratch / part).mkdir(parents=True)
    apart = (
        f"-oDir::Etc::SourceList={scratch / 'sources.list'}",
        "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={scratch / 'lists'}",
        f"-oDir::Cache={scratch / 'cache'}",
    )
    return _tried(["apt-get", "-qq", *apart, "update"], scratch) or _download(scratch, apart)


def _download(scratch: Path, options: tuple[str, ...]) -> str:
    return _tried(["apt-get", "-qq", *options, "download", PACKAGE], scratch)


def _server() -> str:
    """Where this system gets Debian from; nothing if it is another system."""
    call = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Created-By: Packages"]
    found = subprocess.run(call, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else ""


def _tried(call: list[str], folder: Path) -> str:
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [f"{call[0]} failed"]
    return lines[0] if done.returncode else ""


if __name__ == "__main__":
    if find() is None:
        wrong = fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
        if wrong:
            print(f"onnxruntime's C headers cannot be had here ({wrong}): the step over onnxruntime is not tested")
