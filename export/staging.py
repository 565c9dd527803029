"""Folders that appear whole or not at all.

A bundle is made in a temporary folder beside its place and renamed when it is complete; one that was there before is
moved aside first and deleted last. A killed export leaves the old bundle or the new one, or, if it dies between two
renames, the old one aside; the next export of that name restores or deletes what was left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lcr_edge.errors import LcrError, OutputError

_NEW, _OLD = ".new", ".old"
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


@contextlib.contextmanager
def staged(out: Path, name: str) -> Iterator[Path]:
    """A temporary folder that becomes ``out / name`` when the body ends, and vanishes when it raises.

    Raises OutputError where the disk or the permissions do not allow it, and when another process is just writing
    the same bundle.
    """
    with _storage_errors(out / name):
        out.mkdir(parents=True, exist_ok=True)
        _clean(out, name)
        folder = out / f".{name}.{os.getpid()}{_NEW}"
        folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        with _storage_errors(out / name, folder):
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
            for path in folder.iterdir():
                _sync(path)
            _sync(folder)
            _swap(folder, out / name)
            _sync(out)
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _swap(new: Path, place: Path) -> None:
    """Put ``new`` at ``place``. Rename cannot replace a folder that is not empty, hence the way over ``old``."""
    old = place.with_name(f".{place.name}.{os.getpid()}{_OLD}")
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


def _clean(out: Path, name: str) -> None:
    """Bring away what killed exports of this bundle left; put an old bundle back where no new one took its place."""
    for left in sorted(out.glob(f".{name}.*")):
        middle, suffix = left.name[len(name) + 2 :].rpartition(".")[::2]
        if not middle.isdigit():
            continue
        if f".{suffix}" == _OLD:
            if (out / name).exists():
                _remove(left)
            else:
                left.rename(out / name)
        elif f".{suffix}" == _NEW:
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"another export (process {middle}) is writing {out / name}: wait for it") from None
            finally:
                os.close(lock)
            _remove(left)


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
    """Turn what the operating system says of disk and permissions into an OutputError.

    Converters have errors of their own for a full disk: after any of them, a small write shows whether that was it.
    """
    try:
        yield
    except LcrError:
        if folder is not None:
            _probe(place, folder)
        raise
    except OSError as error:
        wrong_place = isinstance(error, (FileExistsError, NotADirectoryError, FileNotFoundError)) and folder is None
        if error.errno in _STORAGE or wrong_place:
            raise _unwritable(place, error) from error
        raise
    except Exception:
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
        f"cannot write {place}: {error.strerror or error}; {way_out}. Nothing was left behind, "
        "a bundle that was there before is unchanged"
    )
