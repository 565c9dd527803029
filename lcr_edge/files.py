"""The one way in which lcr_edge writes files: whole or not at all, and never something other than a file.

A file is written to a temporary neighbour with an unpredictable name and renamed when it is complete, so a run that is
killed leaves the old file or the new one. What the path names stays what it is:

- a symbolic link goes on pointing where it points; the file behind it is replaced;
- a device or a pipe (``/dev/stdout``, a FIFO) is written to, not replaced;
- a file that is there keeps its permissions; a new one gets those that the umask allows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lcr_edge.errors import OutputError

_NEW_FILE = 0o666  # less what the umask takes
_OWNER_ONLY = 0o600
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(folder: Path, option: str | None = "--out") -> None:
    """Make a folder and its parents, if need be. Raises OutputError, which names the option that chose it, if any."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        other = option or "folder"
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another {other}") from error


def check_writable(folder: Path, option: str = "--out") -> None:
    """Make a folder and write a file into it, before work that takes long. Raises OutputError."""
    make_folder(folder, option)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {folder}: {error.strerror}; choose another {option}, or change its permissions"
        ) from error


def check_file(path: Path, option: str) -> None:
    """Make the folder of a file and see whether it can be written, before work that takes long. Raises OutputError,
    which names the option that chose the file."""
    if _is_special(path):
        return
    mode = mode_of(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{option} {path} is a folder; give the name of a file")
    check_writable(Path(os.path.realpath(path)).parent, option)


def mode_of(path: Path) -> int | None:
    """What ``stat`` says of a path; None where there is nothing, where it may not look, or if it is no name at all."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a file whole or not at all, or to a device or pipe. Raises OutputError."""
    if not _is_special(path):
        with written_atomically(path) as temporary:
            temporary.write_bytes(data)
        return
    try:
        with path.open("ab") as file:  # appended: stdout may be a file into which text was written before
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another name") from error


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """The name of an empty temporary file that becomes ``path`` when the body ends, for libraries that want a name.

    The temporary file has the suffix of ``path`` and vanishes when the body raises. An OSError, of the body too,
    becomes an OutputError; other errors of the body pass unchanged. Raises OutputError also for a device or a pipe.
    """
    if "\0" in str(path) or _is_special(path):
        raise OutputError(f"cannot write {str(path)!r}: it is not the name of a regular file; choose another name")
    with _output_errors(path), _neighbour(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _neighbour(path: Path) -> Iterator[Path]:
    place = Path(os.path.realpath(path))  # behind a symbolic link lies the file that is meant
    if place.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")
    kept = _permissions(place)
    # A random name, opened only if it is new: nobody can have planted a link there.
    temporary = place.with_name(f".{_cut(place.name, 100)}.{secrets.token_hex(8)}.tmp{_cut(place.suffix, 32)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _NEW_FILE if kept is None else _OWNER_ONLY))
    try:
        yield temporary
        if kept is not None:
            temporary.chmod(kept)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def remove_leftovers(path: Path) -> int:
    """Remove what killed writers of ``path`` left beside it. Returns how many. Only while nobody else writes it."""
    place, count = Path(os.path.realpath(path)), 0
    head, tail = f".{_cut(place.name, 100)}.", f".tmp{_cut(place.suffix, 32)}"
    with contextlib.suppress(OSError):
        for entry in place.parent.iterdir():
            token = entry.name[len(head) : len(entry.name) - len(tail)]
            if entry.name == head + token + tail and re.fullmatch("[0-9a-f]{16}", token):
                entry.unlink()
                count += 1
    return count


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, so that a power cut does not undo a rename; as far as this can be had."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cut(name: str, size: int) -> str:
    """At most ``size`` bytes of a name, so that the temporary one is not too long for the file system."""
    return name.encode(errors="ignore")[:size].decode(errors="ignore")


def _permissions(place: Path) -> int | None:
    """Those of the file that is there, None where there is none."""
    try:
        return stat.S_IMODE(place.stat().st_mode)
    except FileNotFoundError:
        return None


def _is_special(path: Path) -> bool:
    """Whether the path names something to write to that is neither a file nor a folder.

    The names of open streams (/dev/stdout, /dev/fd/3) always count: a file that a shell has opened there must be kept.
    """
    mode = mode_of(path)
    if mode is None or stat.S_ISDIR(mode):
        return False
    stream = str(path.parent) == "/dev" or os.path.realpath(path.parent).startswith("/proc/")
    return stream or not stat.S_ISREG(mode)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        way_out = "free some space, or choose another folder" if full else "check the folder and its permissions"
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; {way_out}. A file that was there before is unchanged"
        ) from error
