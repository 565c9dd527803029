"""Folders that appear complete or not at all.

A bundle is made in a temporary folder beside its final place and renamed when it is complete. An existing bundle is
moved aside first and deleted last. A killed export leaves the old bundle or the new one, or, if it dies between two
renames, the old one moved aside; the next export of that name restores or deletes what was left.

Two locks keep processes apart. Each export holds a lock on its own temporary folder, which shows the others that it
is alive. The lock on the output folder is held only briefly: while an export cleans up and makes its temporary folder,
and while it moves the bundle into place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lcr_edge.errors import OutputError

_NEW, _OLD = "new", "old"
_STORAGE = (
    errno.ENOSPC,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
)

_WRONG_PLACE = (FileExistsError, NotADirectoryError, FileNotFoundError)


@contextlib.contextmanager
def staged(out: Path, name: str) -> Iterator[Path]:
    """A temporary folder that becomes ``out / name`` when the body ends, and is deleted if it raises.

    Raises OutputError if the disk or the permissions do not allow it, or if another process is writing the same bundle.
    """
    place = out / name
    with _storage_errors(place):
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            _clean_up(out, name)
            folder = _beside(place, _NEW)
            folder.mkdir()
            alive = os.open(folder, os.O_RDONLY)
            fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        with _storage_errors(place, folder):
            yield folder
        with _storage_errors(place):
            for path in folder.iterdir():
                _sync(path)
            _sync(folder)
            with _locked(out):
                _swap(folder, place)
                _sync(out)
    finally:
        # Another export that is cleaning up must not find this folder half-deleted.
        with contextlib.suppress(OSError), _locked(out):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


def _beside(place: Path, kind: str) -> Path:
    """A new name next to ``place``, which :func:`_clean_up` recognises. Nobody can have planted a link there."""
    return place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(8)}.{kind}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process holds the lock on a folder, and hold it while the body runs."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _swap(new: Path, place: Path) -> None:
    """Put ``new`` at ``place``. Rename cannot replace a non-empty folder, hence the detour via ``old``."""
    old = _beside(place, _OLD)
    replaced = place.exists() or place.is_symlink()
    if replaced:
        place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        if replaced:
            old.rename(place)
        raise
    if replaced:
        _remove(old)


def _clean_up(out: Path, name: str) -> None:
    """Delete what killed exports of this bundle left; restore an old bundle if no new one replaced it.

    Raises OutputError if another export is writing the bundle. Call it with the lock on ``out``.
    """
    form = re.compile(rf"\.{re.escape(name)}\.(\d+)\.[0-9a-f]{{16}}\.({_NEW}|{_OLD})")
    for left in sorted(out.iterdir()):
        match = form.fullmatch(left.name)
        if match is None:
            continue
        process, kind = match.groups()
        if kind == _OLD and not (out / name).exists():
            left.rename(out / name)
            continue
        if kind == _NEW and _in_use(left):
            raise OutputError(
                f"another export (process {process}) is writing {out / name}: wait for it, or choose another --out"
            )
        _remove(left)


def _in_use(folder: Path) -> bool:
    """Whether a running export holds the lock on its temporary folder."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:  # a file or a link: no export made it
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(place: Path, folder: Path | None = None) -> Iterator[None]:
    """Turn the operating system's errors about disk and permissions into an OutputError.

    Converters raise their own errors when the disk is full: after any error, a small write to ``folder``, if given,
    shows whether that was the reason.
    """
    try:
        yield
    except Exception as error:
        wrong_place = folder is None and isinstance(error, _WRONG_PLACE)
        if isinstance(error, OSError) and (error.errno in _STORAGE or wrong_place):
            raise _unwritable(place, error) from error
        if folder is not None:
            _probe(place, folder)
        raise


def _probe(place: Path, folder: Path) -> None:
    try:
        with (folder / "probe").open("wb") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
        (folder / "probe").unlink()
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        way_out = "free some space (or raise the limit on file sizes), or choose another folder with --out"
    else:
        way_out = "choose another folder with --out, or change the permissions"
    return OutputError(
        f"cannot write {place}: {error.strerror or error}; {way_out}. Nothing was left behind; "
        "an existing bundle is unchanged"
    )
