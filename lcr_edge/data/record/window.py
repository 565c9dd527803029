"""A window that shows what is recorded, where OpenCV and the machine have one."""

from __future__ import annotations

import os
import sys
from typing import Any

from lcr_edge.data.record.footage import Clip
from lcr_edge.errors import UsageError
from lcr_edge.frames import Frame

_NAME = "lcr-edge record"
_WITHOUT = "or leave --preview out"


class Window:
    """An open window. Close it, or use :func:`open_window`'s in a ``with`` of ``contextlib.closing``."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2

    def show(self, frame: Frame, text: str = "") -> None:
        """Show a frame, uint8 [h, w, 3] RGB, with a line of text. OpenCV's letters are ASCII: others become "?"."""
        picture = self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2BGR)
        if text:
            shown = text.encode("ascii", "replace").decode()
            size = max(0.5, frame.shape[1] / 640)
            # Black below white: readable on any picture.
            for colour, width in (((0, 0, 0), 6), ((255, 255, 255), 2)):
                self._cv2.putText(
                    picture, shown, (10, round(30 * size)), self._cv2.FONT_HERSHEY_SIMPLEX, size, colour, width
                )
        self._cv2.imshow(_NAME, picture)
        self.pump()

    def play(self, clip: Clip) -> None:
        """Play a clip at its rate."""
        for frame in clip.frames:
            self.show(frame)
            self._cv2.waitKey(max(1, round(1e3 / clip.fps)))

    def pump(self) -> None:
        """Let the window draw and answer; without it the desktop takes the window for hung."""
        self._cv2.waitKey(1)

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()


def open_window() -> Window:
    """A window. Raises UsageError where OpenCV was built without windows, or the machine has no display."""
    import cv2

    # Asked first: OpenCV's window library ends the process where there is no display.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UsageError(f"--preview needs a display, and DISPLAY is not set; log in at the machine itself, {_WITHOUT}")
    try:
        cv2.namedWindow(_NAME)
    except cv2.error as error:
        raise UsageError(
            "--preview needs an OpenCV with windows, and this one was built without (opencv-python-headless): "
            f"pip uninstall opencv-python-headless && pip install opencv-python, {_WITHOUT}"
        ) from error
    return Window(cv2)
