"""What several tests use is made once a run: by the test process that needs it first, for all of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

# Names the run's folder. Set by the process that starts the others (see conftest), and by whoever brings things along.
VARIABLE = "LCR_TEST_SHARED"


def open_folder() -> Path | None:
    """Make the folder of this run, unless there is one; what was made must be removed at the end of the run."""
    if VARIABLE in os.environ:
        return None
    made = Path(tempfile.mkdtemp(prefix="lcr_edge_tests_"))
    os.environ[VARIABLE] = str(made)
    return made


def folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` (letters, digits, ``.-_/``) with what ``make`` has written into it; tests must not change it.

    ``make`` gets an empty folder and runs in one process only, while the others wait. What it raises is raised, and the
    next who asks tries again.
    """
    place = Path(os.environ[VARIABLE]) / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.with_name(f"{place.name}.lock")):
        if not place.is_dir():
            part = place.with_name(f"{place.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(place)
    return place


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a process that dies
        yield
