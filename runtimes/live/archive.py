"""The folder of ``--record``: names, what a killed run left, the quota, and how much space there is."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from lcr_edge.errors import UsageError
from lcr_edge.files import check_writable
from lcr_edge.runtimes.live.locks import Lock

# The only names that are ever deleted. Time first, so that sorting by name is sorting by age.
_NAME = r"lcr-\d{8}T\d{9}Z-\w{1,40}-\w{1,40}-[0-9a-f]{8}"
_OURS = re.compile(rf"{_NAME}\.(?:mp4|json)", re.ASCII)
# What a killed run leaves: a video, or a JSON file under the name that lcr_edge.files gives it, cut to 100 bytes.
_LEFT = re.compile(rf"\.(?:{_NAME}\.mp4|lcr-\d{{8}}T\d{{9}}Z-[\w.-]{{1,100}}\.[0-9a-f]{{16}}\.tmp\.json)", re.ASCII)
_PART = 40
# Recording stops before the disk is full: a system whose disk is full has other troubles.
RESERVE_BYTES = 50_000_000


class Archive:
    """A folder of recordings that this process alone writes to, at most ``quota`` bytes of them.

    reserve: bytes of the disk that recordings leave free. Raises UsageError where another process records into the
    folder, OutputError where it cannot be written.
    """

    def __init__(self, folder: Path, quota: float, reserve: int = RESERVE_BYTES) -> None:
        try:
            str(folder).encode()
        except UnicodeEncodeError:  # OpenCV would crash
            raise UsageError(f"--record {str(folder)!r} is not UTF-8; choose another folder") from None
        self.folder, self._quota, self._reserve = folder, quota, reserve
        check_writable(folder, "--record")
        self._lock = Lock(folder / ".lock", f"the folder {folder}", "--record")
        for entry in self._entries():
            if _LEFT.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def new_name(self, at: float, source: str, label: str) -> str:
        """A name without a suffix that no other recording has. at: when it began, seconds since 1970."""
        seconds = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at))
        return f"lcr-{seconds}{int(at * 1000) % 1000:03d}Z-{_plain(source)}-{_plain(label)}-{secrets.token_hex(4)}"

    def has_space(self) -> bool:
        """Whether more than the reserve is free. A folder that is gone has none."""
        try:
            return shutil.disk_usage(self.folder).free > self._reserve
        except OSError:
            return False

    def keep_quota(self) -> int:
        """Delete the oldest recordings until the rest is within the quota; never the newest. Returns how many."""
        found: dict[str, list[tuple[Path, int]]] = {}
        for entry in self._entries():
            if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    size = entry.stat(follow_symlinks=False).st_size
                    found.setdefault(entry.name.partition(".")[0], []).append((Path(entry.path), size))
        total, deleted = sum(size for files in found.values() for _, size in files), 0
        for name in sorted(found)[:-1]:
            if total <= self._quota:
                break
            for path, size in sorted(found[name], reverse=True):  # the video before what describes it
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size  # also of one that cannot be deleted: newer ones do not go in its place
            deleted += 1
        return deleted

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return list(entries)
        except OSError:
            return []


def _plain(text: str) -> str:
    """Letters, digits and underscores of a name, as no file system or shell minds them."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:_PART] or "_"
