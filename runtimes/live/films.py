"""Video files in place of cameras: again and again, as fast as they are stepped or in real time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lcr_edge.errors import VideoError
from lcr_edge.runtimes.live.memory import give_back
from lcr_edge.video import TimedFrame, VideoSource

_FPS = 25.0  # of a file that does not declare it: only for the time between its last frame and its first


class Film(VideoSource):
    """A video file that begins again at its end; its time and its count of frames go on, so no state is reset there.

    Cameras and streams stay what they are. as_camera: each frame comes when its time has come, and the source is
    ``live``. Raises what ``VideoSource`` does.
    """

    def __init__(self, source: str, name: str | None = None, *, as_camera: bool = False) -> None:
        super().__init__(source, name)
        self._is_camera, self._as_camera = self.live, as_camera
        self.live = self.live or as_camera

    def again(self) -> Film:
        return Film(self.source, self.name, as_camera=self._as_camera)

    def __iter__(self) -> Iterator[TimedFrame]:
        return super().__iter__() if self._is_camera else self._played()

    def _played(self) -> Iterator[TimedFrame]:
        started, last, seen = time.monotonic(), 0.0, 0
        while True:
            begin = last + 1 / (self.fps or _FPS) if seen else 0.0
            for timed in self._frames(live=False):
                last = begin + timed.time_s
                if self._as_camera:
                    time.sleep(max(0.0, started + last - time.monotonic()))
                yield TimedFrame(timed.frame, last, timed.index)
            if self.seen == seen:
                raise VideoError(f"{self.name} cannot be read again: it was changed or removed while it was played")
            seen = self.seen
            self._open()
            give_back()
