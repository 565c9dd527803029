"""Memory that does not grow while pictures of several sizes and the threads of decoders come and go for weeks.

What is freed goes back to the allocator, not to the system. glibc keeps a heap for each few threads, and a picture that
comes out of one leaves a hole between small things that last; each heap ends up as large as it ever had to be. Nothing
leaks, but a process that starts with 170 MB holds 280 after some hours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

# From glibc's malloc.h.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_BYTES = 256 * 1024
_HEAPS = 2


def keep_small() -> bool:
    """Let blocks of 256 KiB or more be mapped, and returned, one by one, and have two heaps.

    glibc's limit for what is mapped is lower, but it raises it by itself, up to 32 MB, when such a block is freed.
    Returns whether it could be done: not with another C library, nor where the environment has settings of its own.
    """
    libc = _glibc()
    if libc is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    return bool(libc.mallopt(_MMAP_THRESHOLD, _BYTES) and libc.mallopt(_ARENA_MAX, _HEAPS))


def give_back() -> None:
    """Return what lies free in all heaps to the system. Takes some milliseconds: for moments at which a source ends."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library, if it is glibc: another one may have functions of these names that do something else."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version
        return libc
    return None
