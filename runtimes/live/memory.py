"""Memory that does not grow while frames of several sizes come and go for weeks."""

from __future__ import annotations

import ctypes
import os

# From glibc's malloc.h. By default it raises its limit for memory that is mapped, and returned, by itself up to 32 MB,
# after the first pictures; from then on they leave holes between small and lasting things.
_MMAP_THRESHOLD = -3
_BYTES = 256 * 1024
_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def return_pictures() -> bool:
    """Let glibc map each block of 256 KiB or more by itself, and return it when it is freed.

    Returns whether it could be done: not with another C library, nor where the environment has settings of its own.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other libraries may have a mallopt that means something else
        return bool(libc.mallopt(_MMAP_THRESHOLD, _BYTES))
    except (OSError, AttributeError):
        return False
