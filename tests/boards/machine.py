"""Emulated machines: Debian's Python and the engines' real wheels for ARM, run by QEMU's user-mode emulation.

Nothing is compiled and no system is booted. A machine is a folder:

    build/boards/arm64/root          what Debian's packages hold: Python and the C libraries
    build/boards/arm64/site          wheels: lcr_edge as it is here, its engines, numpy
    build/boards/arm64/cortex-a76    what a program on that processor sees as /: root, with a /proc/cpuinfo of its own

It is made once for each set of packages. A program is run by the emulator and sees the files of the host, but those of
the machine first; this takes no root and no container.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from tests.boards.boards import Arch, Board

ROOT = Path(__file__).resolve().parents[2]
SUITE, PYTHON = "bookworm", "3.11"
TOOLS = {"qemu-user-static": "qemu-aarch64-static", "mmdebstrap": "mmdebstrap"}
_PACKAGES = ("python3", "libpython3.11-stdlib", "libstdc++6", "libgomp1", "libgcc-s1", "zlib1g")
_CONSTRAINTS = ROOT / "lcr_edge" / "constraints.txt"
_TRIES = 3  # downloads: a mirror may be about to change


class Unavailable(Exception):
    """No board can be emulated here, and why."""


def need_tools() -> None:
    """Install the system packages, as root on Debian or Ubuntu. Raises Unavailable."""
    missing = [package for package, program in TOOLS.items() if shutil.which(program) is None]
    if not missing:
        return
    how = f"Debian, Ubuntu: apt-get install {' '.join(missing)}, as root"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"{' and '.join(missing)} not installed ({how})")
    print(f"Installing the system packages {' '.join(missing)} (to emulate ARM boards)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for call in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *call], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"{' and '.join(missing)} cannot be installed ({last_line(done.stderr)}; {how})")


class Machine:
    """The machine of one instruction set, in ``folder``; :meth:`prepare` makes it."""

    def __init__(self, arch: Arch, folder: Path) -> None:
        self.arch = arch
        self.folder = folder.resolve() / arch.debian
        self.root, self.site = self.folder / "root", self.folder / "site"

    def prepare(self, wheel: Path) -> None:
        """Make the machine, unless it is there, and put lcr_edge's ``wheel`` on it. Raises Unavailable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another call may be making it; let go when the file is closed
            _once(self.root, " ".join((SUITE, *_PACKAGES, *self.arch.packages)), self._make_root)
            _once(
                self.site,
                repr((self.arch, _CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text())),
                lambda part: self._make_site(part, wheel),
            )
            self._pip("--no-deps", "--upgrade", str(wheel), into=self.site)

    def run(
        self, board: Board, *arguments: str, timeout: float, site: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python on ``board`` with ``arguments``. site: other packages than the machine's."""
        call, environment = [*self.emulator(board), *arguments], self.environment()
        if site is not None:
            environment["PYTHONPATH"] = str(site)
        return subprocess.run(
            call,
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def emulator(self, board: Board) -> list[str]:
        """The command that is Python on ``board``."""
        return [self.arch.qemu, "-L", str(self._seen_by(board)), "-cpu", board.cpu, str(self.python)]

    @property
    def python(self) -> Path:
        """The machine's interpreter, an ARM program."""
        return self.root / "usr" / "bin" / "python3"

    def environment(self) -> dict[str, str]:
        """Variables for programs on the machine: this process's, without what is meant for its own Python."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LD_"))
        }
        return {**kept, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def _seen_by(self, board: Board) -> Path:
        """The root as ``board`` sees it: links into the root, and its own /proc/cpuinfo."""
        seen = self.folder / board.cpu
        proc = seen / "proc"
        proc.mkdir(parents=True, exist_ok=True)
        for name in ("usr", "lib", "bin", "etc"):
            link = seen / name
            if not link.is_symlink():
                with contextlib.suppress(FileExistsError):  # by another thread
                    link.symlink_to(self.root / name)
        if not (proc / "cpuinfo").is_file() or (proc / "cpuinfo").read_text() != board.cpuinfo():
            (proc / "cpuinfo").write_text(board.cpuinfo())
        return seen

    def _make_root(self, folder: Path) -> None:
        mode = "root" if os.geteuid() == 0 else "unshare"
        call = ["mmdebstrap", "--quiet", f"--mode={mode}", f"--architectures={self.arch.debian}", "--variant=extract"]
        call += [f"--include={','.join((*_PACKAGES, *self.arch.packages))}", SUITE, str(folder), *_mirror()]
        _tried(call)
        # Links that a package's own scripts would have made; they are not run, because nothing is emulated yet.
        for library in folder.glob("usr/lib/*/*/lib*.so.3"):
            if library.parent.name in ("blas", "lapack"):
                (library.parents[1] / library.name).symlink_to(library.relative_to(library.parents[1]))

    def _make_site(self, folder: Path, wheel: Path) -> None:
        wheels = [one.format(wheel=wheel) for one in self.arch.wheels]
        self._pip("--constraint", str(_CONSTRAINTS), *wheels, into=folder)

    def installed_from(self, wheels: Path, requirement: str, folder: Path) -> Path:
        """Install from a folder of wheels alone, as a device without network does. Returns what PYTHONPATH takes."""
        self._pip("--no-index", "--find-links", str(wheels), requirement, into=folder)
        return folder

    def _pip(self, *arguments: str, into: Path) -> None:
        """Install wheels for the machine with the pip of this environment."""
        call = [sys.executable, "-m", "pip", "install", "--quiet", "--progress-bar", "off", "--only-binary", ":all:"]
        for platform in self.arch.platforms:
            call += ["--platform", platform]
        call += [
            "--implementation",
            "cp",
            "--python-version",
            PYTHON,
            "--target",
            str(into),
        ]
        _tried([*call, *arguments])


# Run with unshare, so that the host's own handlers stay as they are; "$1" is what to register.
_NESTED = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$1" > /proc/sys/fs/binfmt_misc/register
shift
exec "$@"
"""


def nested(machine: Machine, board: Board) -> tuple[list[str], dict[str, str]]:
    """The command that is Python on ``board`` and whose child processes run there too, and its environment.

    The kernel is told, for these processes alone, what starts ARM programs. Raises Unavailable where that is forbidden.
    """
    arch = machine.arch
    magic, mask = (_escaped(header) for header in (arch.magic, arch.mask))
    handler = f":lcr_edge_{arch.debian}:M::{magic}:{mask}:{shutil.which(arch.qemu)}:FOC"
    call = ["unshare", "--map-root-user", "--mount", "bash", "-euc", _NESTED, "nested", handler, str(machine.python)]
    prefix = machine.emulator(board)[2]
    environment = {**machine.environment(), "QEMU_LD_PREFIX": prefix, "QEMU_CPU": board.cpu}
    try:
        tried = subprocess.run(
            [*call, "-c", "import os; print(os.uname().machine)"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise Unavailable("there is no unshare (Debian, Ubuntu: apt-get install util-linux, as root)") from None
    if tried.returncode:
        raise Unavailable(f"binfmt_misc cannot be mounted here ({last_line(tried.stderr)})")
    return call, environment


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _mirror() -> list[str]:
    """Where this system gets the same suite from, without its updates; nothing on another one: mmdebstrap knows."""
    call = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI)",
        f"Codename: {SUITE}",
        "Label: Debian",
        "Created-By: Packages",
    ]
    found = subprocess.run(call, capture_output=True, text=True, check=False).stdout.split()
    return found[:1]


def _tried(call: Sequence[str], tries: int = _TRIES) -> None:
    """Run what downloads, some times if need be. Raises Unavailable."""
    for left in reversed(range(tries)):
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if left:
            time.sleep(20)
    errors = [line for line in done.stderr.splitlines() if re.match(r"\s*(E:|ERROR)", line)]
    raise Unavailable(f"{Path(call[0]).name}: {(errors or [last_line(done.stderr)])[0].strip()}")


def _once(folder: Path, wanted: str, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill ``folder``, unless that was done for the same ``wanted``."""
    mark = folder.with_suffix(".made")
    if folder.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return
    part = folder.with_suffix(".part")
    for old in (folder, part):
        shutil.rmtree(old, ignore_errors=True)
    make(part)
    part.rename(folder)
    mark.write_text(wanted, encoding="utf-8")


def _escaped(header: str) -> str:
    """Hexadecimal bytes as binfmt_misc reads them."""
    return "".join(f"\\x{byte:02x}" for byte in bytes.fromhex(header))
