"""What a process that reads or draws clips for another one does first."""

from __future__ import annotations

import multiprocessing
import os
import threading


def begin() -> None:
    """One thread for OpenCV, since there are many such processes; and end when the process that started this one ends.

    Neither a pool nor torch's loader sees to the latter: a worker whose parent is killed goes on waiting for work, for
    ever in a pool, and in the loader if that happens before the worker asks for its first batch.
    """
    import cv2

    cv2.setNumThreads(0)  # none beside its own
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
