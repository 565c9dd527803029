"""JPEG pictures of a source's frames, each made once, however many people look at it."""

from __future__ import annotations

import functools
import importlib
from typing import Any, Callable

import numpy as np

from lcr_edge.edges.host import host_edges
from lcr_edge.errors import LcrError
from lcr_edge.frames import Frame
from lcr_edge.runtimes.api import Model

SIDES = {"live": 720, "tile": 240, "thumbnail": 192}  # of the longer side, in pixels, at most
_QUALITY = 80
_EDGE_COLOUR = (94, 224, 204)  # RGB, visible on dark and on bright pictures
_DIM = 0.35  # of what lies behind edges


class Pictures:
    """The pictures of one source. For one thread, but for :meth:`keep`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: dict[str, tuple[Frame, bytes]] = {}

    def of(self, frame: Frame, kind: str) -> bytes:
        """A frame (uint8 [h, w, 3], RGB) as a JPEG picture. kind: "live"; "tile", which is small; or "edges", what the
        network sees: the frame fitted to its size, with the edges that it is given."""
        made = self._made.get(kind)
        if made is None or made[0] is not frame:
            data = self._with_edges(frame) if kind == "edges" else encode(shrunk(frame, SIDES[kind]))
            made = self._made[kind] = (frame, data)
        return made[1]

    def forget(self) -> None:
        """Keep no frame alive."""
        self._made.clear()

    def keep(self, frame: Frame) -> Callable[[], bytes]:
        """What makes a thumbnail of a frame when it is first asked for, and holds only the thumbnail's pixels."""
        small = shrunk(frame, SIDES["thumbnail"])
        return functools.lru_cache(maxsize=None)(lambda: encode(small))

    def _with_edges(self, frame: Frame) -> bytes:
        fitted = self._model.fit(frame)
        edges = host_edges(fitted) > 0
        seen = (fitted * np.float32(1 - _DIM)).astype(np.uint8)
        seen[edges] = _EDGE_COLOUR
        factor = max(1, SIDES["live"] // max(seen.shape[:2]))
        return encode(seen.repeat(factor, axis=0).repeat(factor, axis=1))


def shrunk(frame: Frame, side: int) -> Frame:
    """A frame whose longer side has at most ``side`` pixels; a copy, unless it is small already."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Frame = _cv2().resize(frame, size, interpolation=_cv2().INTER_AREA)
    return small


def encode(frame: Frame) -> bytes:
    """A JPEG file of uint8 [h, w, 3], RGB."""
    cv2 = _cv2()
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    if not done:
        raise LcrError("OpenCV cannot write JPEG pictures; install opencv-python-headless")
    return bytes(data)


@functools.lru_cache(maxsize=1)
def _cv2() -> Any:
    return importlib.import_module("cv2")  # the sources are read with it, so it is there
