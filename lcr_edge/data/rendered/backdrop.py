"""What else can stand behind a rendered person: a film that plays, a photo that the camera pans over, or noise.

A network that has only ever seen drawn rooms is at a loss before a real one: decisions sit near ties, and small
differences between engines tip them. Half of the clips keep the drawn room.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.decode import read_film
from lcr_edge.data.rendered.colours import Array, Rng
from lcr_edge.errors import UsageError
from lcr_edge.frames import letterbox

DRAWN, NOISE = 0.5, 0.15  # shares of the clips that keep the drawn room, and that stand before noise
# "No gesture" has to hold for scenes of any kind: fewer of its clips keep the room, and a share of the others shows no
# person. Where that is a film or a photo, a share shows all of it, as a camera's frame is letterboxed, and a share is
# seen by a camera that somebody holds.
DRAWN_NOBODY, EMPTY, WHOLE, HELD = 0.25, 0.7, 0.5, 0.5
_SIDE, _FRAMES = 176, 240  # pixels of the short side, and frames, that are kept of a film
_PART = 0.5, 1.0  # of a picture's short side: what a square part shows
_PAN = 0.2  # of the frame: the longest way of the camera over a photo, in one second
_VERSION = 2  # of what is drawn from the same files: kept clips of another one are drawn again


class Backdrop(NamedTuple):
    """play: a function of the time in seconds to uint8 [size, size, 3]. empty: nobody stands before it. inside: 1 where
    the picture is and 0 where a letterbox has its bars, uint8 [size, size, 3]; None without bars."""

    play: Callable[[float], Array]
    empty: bool
    inside: Array | None = None


class Backdrops:
    """Photos and films, opened once per process. paths: image or video files. Raises UsageError for others.

    Sent to another process, it is opened there again.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self._films = _open(paths)

    def __reduce__(self) -> tuple[Any, ...]:
        return Backdrops, (self.paths,)

    @property
    def digest(self) -> str:
        """The first 8 hexadecimal digits of the SHA-256 of the files' names and pixels."""
        found = hashlib.sha256(f"{_VERSION}".encode())
        for path, (film, rate) in zip(self.paths, self._films):
            found.update(f"{path.name} {film.shape} {rate}".encode())
            found.update(film.tobytes())
        return found.hexdigest()[:8]

    def choose(self, rng: Rng, size: int, nobody: bool = False) -> Backdrop | None:
        """What one clip stands before; None: its drawn room. nobody: a clip of a class that may show an empty scene."""
        kind, drawn = rng.random(), DRAWN_NOBODY if nobody else DRAWN
        if kind < drawn:
            return None
        empty = nobody and rng.random() < EMPTY
        if kind < drawn + NOISE:
            return Backdrop(_noise(rng, size), empty)
        photos = [one for one in self._films if not one[1]]
        films = [one for one in self._films if one[1]]
        chosen = (films if rng.random() < 0.5 else photos) or self._films  # a film as often as a photo
        film, rate = chosen[int(rng.integers(len(chosen)))]
        return _play(film, rate, rng, size, empty)


@lru_cache(maxsize=2)
def _open(paths: tuple[Path, ...]) -> list[tuple[NDArray[np.uint8], float]]:
    """Frames uint8 [T, h, w, 3] RGB of each file, and their rate in frames per second (of a photo 0)."""
    films = []
    for path in paths:
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if photo is not None:
            films.append((_small(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB))[None], 0.0))
            continue
        frames, rate = read_film(path, _FRAMES)
        films.append((np.stack([_small(frame) for frame in frames]), rate))
    if not films:
        raise UsageError("--backgrounds needs at least one photo or video")
    return films


def _small(picture: Array) -> NDArray[np.uint8]:
    scale = _SIDE / min(picture.shape[:2])
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _play(film: NDArray[np.uint8], rate: float, rng: Rng, size: int, empty: bool) -> Backdrop:
    """A film from a random frame on, forwards and backwards in turn, or a photo: a square part of it, over which the
    camera may glide; or, if nobody stands before it, also all of it, letterboxed, or seen by a camera in a hand."""
    height, width = film.shape[1:3]
    whole, held = empty and rng.random() < WHOLE, empty and rng.random() < HELD
    way = _in_a_hand(rng) if held else _gliding(rng, float(_PAN * (rate == 0 and not whole)))
    bars = letterbox(np.ones_like(film[0]), size, size) if whole else np.ones((size, size, 3), np.uint8)
    rows, columns = (np.flatnonzero(bars.any(axis=(1 - axis, 2))) for axis in (0, 1))
    shape = len(rows), len(columns)
    # How much of the picture is seen: of all of it a camera that moves leaves out the border.
    scale = max(shape[0] / height, shape[1] / width) / rng.uniform(
        *(_PART if not whole else (0.8, 0.9) if held else (1, 1))
    )
    free = (np.array([width, height]) * scale - shape[::-1]) / 2
    middle = rng.uniform(-1, 1, 2) * free.clip(min=0) * (not whole)
    start, mirrored = int(rng.integers(len(film))), rng.random() < 0.5
    turns = max(1, 2 * len(film) - 2)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR

    def behind(time: float) -> Array:
        number = (start + round(time * rate)) % turns
        picture = cv2.resize(film[min(number, turns - number)], None, fx=scale, fy=scale, interpolation=method)
        dx, dy, zoom, angle = way(time)
        x, y = middle + np.array([dx, dy]) * max(shape)
        centre = picture.shape[1] / 2 - 0.5, picture.shape[0] / 2 - 0.5
        turned = cv2.getRotationMatrix2D(centre, angle, zoom)
        turned[:, 2] += [shape[1] / 2 - 0.5 - centre[0] - x, shape[0] / 2 - 0.5 - centre[1] - y]
        seen = cv2.warpAffine(picture, turned, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        drawn = np.zeros((size, size, 3), np.uint8)
        drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = seen[:, ::-1] if mirrored else seen
        return drawn

    return Backdrop(behind, empty, bars if whole else None)


# The camera at a time in seconds: its place, x and y in shares of the frame, how many times it enlarges, its angle.
Way = Callable[[float], "tuple[float, float, float, float]"]


def _gliding(rng: Rng, most: float) -> Way:
    """Straight on, with up to ``most`` of the frame in a second."""
    x, y = rng.uniform(-most, most, 2)
    return lambda time: (x * time, y * time, 1.0, 0.0)


def _in_a_hand(rng: Rng) -> Way:
    """It sways, nears and turns."""
    size = np.array([0.12, 0.12, 0.1, 6.0]) * rng.uniform(0.1, 1.0, 4)
    speed, phase = rng.uniform(1.0, 5.0, 4), rng.uniform(0, 2 * np.pi, 4)

    def way(time: float) -> tuple[float, float, float, float]:
        x, y, zoom, angle = size * np.sin(speed * time + phase)
        return float(x), float(y), 1.0 + float(zoom), float(angle)

    return way


def _noise(rng: Rng, size: int) -> Callable[[float], Array]:
    """Cells of random colours, at rest or new in every frame."""
    cells, strength, still = int(rng.integers(4, size + 1)), rng.uniform(10, 90), rng.random() < 0.5
    grey, seed = rng.uniform(40, 215, 3), int(rng.integers(2**31))

    def behind(time: float) -> Array:
        own = np.random.default_rng((seed, 0 if still else round(time * 1000)))
        sheet = grey + strength * own.standard_normal((cells, cells, 3))
        small = np.clip(sheet, 0, 255).astype(np.uint8)
        return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_NEAREST))

    return behind
