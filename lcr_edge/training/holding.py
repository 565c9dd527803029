"""A run's folder belongs to one process, or to one group of processes, from before its data are opened to its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lcr_edge.errors import OutputError, UsageError
from lcr_edge.files import make_folder

LOCK = ".lock"


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if it is missing, and removed at the end if it is empty then.

    The system releases it when the process is killed; the file that is left then means nothing. On a file system
    without locks nobody is kept out. Raises UsageError where another process holds it, OutputError.
    """
    new = not folder.exists()
    make_folder(folder)
    path = folder / LOCK
    try:
        handle = _lock(path)
    except BlockingIOError as error:
        raise UsageError(
            f"another process is training into {folder}: wait until it has ended, or choose another --out"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is still held: see _lock
        os.close(handle)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(path: Path) -> int:
    """An open file that this process alone has locked. BlockingIOError where another one has."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                return handle
            # Whoever held it may have removed it between the two calls: then this lock is of a file that nobody finds.
            if _same(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
