"""A file or folder that belongs to one process at a time; the system releases it when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from lcr_edge.errors import OutputError, UsageError


class Lock:
    """Holds ``path``, an empty file that is made if it is missing and stays. what: is held, for the message.

    On a file system without locks nobody is kept out. Raises UsageError where another process holds it, OutputError
    where the file cannot be made.
    """

    def __init__(self, path: Path, what: str, option: str) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._handle: int | None = os.open(path, flags, 0o666)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot make {path}: {reason}; give {option} a place that you may write to") from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise UsageError(f"another process is using {what}: end it, or give {option} another name") from error
        except OSError:
            pass

    def close(self) -> None:
        """Release it. Harmless when repeated."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
