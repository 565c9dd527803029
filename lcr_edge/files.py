"""Writing files so that a run that is killed leaves the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lcr_edge.errors import OutputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary neighbour, then a rename. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; check the folder, its permissions and the free space"
        ) from error
