"""The judge pack: a few held-out clips that lie beside a network, so that its exports are judged on what it is for.

    CONFIG.judge.npz: jpeg uint8 [bytes of all frames], sizes int64 [n * T], targets int64 [n], about: JSON

Frames are JPEG files of the network's size; ``about`` has the names of the classes. The checkpoint holds the file's
name and SHA-256; another pack, or one that was altered, is refused, unless ``--judge-data`` names it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcr_edge.arrays import npz_of
from lcr_edge.data.sampling import Sample, balanced
from lcr_edge.data.sets import ClipSet
from lcr_edge.errors import CheckpointError, MissingExtraError, VideoError
from lcr_edge.files import write_atomically

SUFFIX = ".judge.npz"
MOST_BYTES = 4_000_000
MOST_CLIPS = 216
_QUALITY = 95
_MOST_DECODED = 2**31  # bytes of all frames in memory
_ROOM = 20_000  # bytes for everything but the pictures
_LEAST_TO_SPLIT = 16


@dataclass(frozen=True)
class Pack:
    """clips: uint8 RGB [n, T, H, W, 3], classes in turn. targets: class index of each, int64 [n]; -1 for a clip without
    a class. name: whose clips. labels: class names, by index; empty where a pack of an earlier version has none."""

    clips: NDArray[np.uint8]
    targets: NDArray[np.int64]
    name: str
    labels: tuple[str, ...] = ()

    def read(self) -> Pack:
        """This pack, as a :class:`PackFile` reads one."""
        return self

    @property
    def _split(self) -> int:
        # Few clips serve twice: ranges of eight clips would describe the clips.
        return (len(self.clips) + 1) // 2 if len(self.clips) >= _LEAST_TO_SPLIT else len(self.clips)

    def judging(self) -> Pack:
        """The clips that exports are judged on."""
        return Pack(self.clips[: self._split], self.targets[: self._split], self.name, self.labels)

    def calibrating(self) -> Pack:
        """The clips for calibration: others than those that judge, where there are enough."""
        first = self._split % len(self.clips)
        return Pack(self.clips[first:], self.targets[first:], self.name, self.labels)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of clips and targets, however they are stored."""
        digest = hashlib.sha256(repr((self.clips.shape, self.targets.tolist())).encode())
        for clip in self.clips:
            digest.update(np.ascontiguousarray(clip).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class PackFile:
    """Where a checkpoint's pack lies, and what it must be."""

    path: Path
    sha256: str

    def read(self) -> Pack:
        """Read and check it. Raises CheckpointError, MissingExtraError without OpenCV."""
        return _read(self.path, self.sha256)[0]


def choose(
    data: ClipSet,
    size: tuple[int, int],
    fps: float,
    frames: int,
    *,
    most_bytes: float | None = None,
    faults: list[str] | None = None,
) -> Pack:
    """As many clips as fit into the file, of each class in turn; clips that cannot be read are left out.

    Clips have ``frames`` frames at ``fps`` from their middle, fitted to ``size`` (height, width). most_bytes: of the
    file, MOST_BYTES by default. faults: gets a message for each clip that cannot be read.
    """
    clips: list[NDArray[np.uint8]] = []
    targets: list[int] = []
    room = (MOST_BYTES if most_bytes is None else most_bytes) - _ROOM
    for index in balanced(data.targets, 0)[: 2 * MOST_CLIPS]:
        try:
            clip = data.read(index, Sample(frames, fps, 0.5), size)[0]
        except VideoError as error:
            if faults is not None:
                faults.append(str(error))
            continue
        room -= sum(len(picture) for picture in _encoded(clip)) + 8 * len(clip)
        if room < 0 or len(clips) == MOST_CLIPS:
            break
        clips.append(clip)
        targets.append(int(data.targets[index]))
    found = np.stack(clips) if clips else np.empty((0, frames, *size, 3), np.uint8)
    kind, _, place = data.name.partition(":")
    name = f"{kind}:{Path(place).expanduser().resolve().name}" if place else kind
    return Pack(found, np.array(targets, np.int64), name, data.labels)


def write(path: Path, pack: Pack) -> str:
    """Write the pack atomically; returns its SHA-256. Raises OutputError."""
    pictures = [picture for clip in pack.clips for picture in _encoded(clip)]
    about = json.dumps({"name": pack.name, "shape": list(pack.clips.shape), "labels": list(pack.labels)})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        jpeg=np.frombuffer(b"".join(pictures), np.uint8),
        sizes=np.array([len(picture) for picture in pictures], np.int64),
        targets=pack.targets,
        about=np.frombuffer(about.encode(), np.uint8),
    )
    write_atomically(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_any(path: Path) -> tuple[Pack, str]:
    """A pack that the user names, whoever's it is, and its SHA-256. Raises CheckpointError, MissingExtraError."""
    return _read(path, None)


def _read(path: Path, sha256: str | None) -> tuple[Pack, str]:
    """The pack, and its SHA-256, which has to be the one that is given."""
    try:
        if path.stat().st_size > 2 * MOST_BYTES:
            raise ValueError(f"it has more than {2 * MOST_BYTES} bytes")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256:
            raise CheckpointError(
                f"{path} is the judge pack of another network, or was altered: copy the one that training wrote beside "
                "this network, or, to judge on other clips of its classes, name these with --judge-data"
            )
        return _unpacked(data), digest
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the judge pack {path} cannot be read ({error}): copy it again") from error


@functools.lru_cache(maxsize=2)
def _unpacked(data: bytes) -> Pack:
    file = npz_of(data)
    about: dict[str, Any] = json.loads(file["about"].tobytes())
    jpeg, sizes, targets = file["jpeg"].tobytes(), file["sizes"].tolist(), file["targets"]
    shape = tuple(int(length) for length in about["shape"])
    if len(shape) != 5 or math.prod(shape[:2]) != len(sizes) or len(targets) != shape[0] or sum(sizes) != len(jpeg):
        raise ValueError("its parts do not fit together")
    if math.prod(shape) > _MOST_DECODED:
        raise ValueError(f"its frames would take {math.prod(shape)} bytes")
    clips, place = np.empty(shape, np.uint8), 0
    for number, length in enumerate(sizes):
        clips[np.unravel_index(number, shape[:2])] = _decoded(jpeg[place : place + length])
        place += length
    clips.setflags(write=False)
    labels = tuple(map(str, about.get("labels", ())))
    if targets.dtype.kind != "i" or (labels and not ((targets >= 0) & (targets < len(labels))).all()):
        raise ValueError("a class index has no class")
    return Pack(clips, targets.astype(np.int64), str(about["name"]), labels)


def _encoded(clip: NDArray[np.uint8]) -> list[bytes]:
    cv2 = _opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return [cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]), options)[1].tobytes() for frame in clip]


def _decoded(picture: bytes) -> NDArray[np.uint8]:
    cv2 = _opencv()
    try:
        found = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty one, or one of too many pixels
        found = None
    if found is None:
        raise ValueError("a picture is damaged")
    return np.asarray(found[..., ::-1], np.uint8)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", "Judging on a network's own clips") from error
    return cv2
