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
# person. Where that is a film or a photo, a share shows all of it, as a camera's frame is letterboxed.
DRAWN_NOBODY, EMPTY, WHOLE = 0.25, 0.7, 0.5
_SIDE, _FRAMES = 176, 240  # pixels of the short side, and frames, that are kept of a film
_PAN = 0.2  # of the picture's side: the longest way of the camera over a photo, in one second


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
        found = hashlib.sha256()
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
        whole = empty and rng.random() < WHOLE
        bars = letterbox(np.ones_like(film[0]), size, size) if whole else None
        return Backdrop(_play(film, rate, rng, size, whole), empty, bars)


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


def _play(film: NDArray[np.uint8], rate: float, rng: Rng, size: int, whole: bool) -> Callable[[float], Array]:
    """A square part of a film from a random frame on, forwards and backwards in turn; of a photo, a pan over it. whole:
    the whole pictures, letterboxed, in place of a part."""
    height, width = film.shape[1:3]
    side = int(rng.uniform(0.5, 1.0) * min(height, width))
    free = np.array([width - side, height - side], np.float64)
    corner = rng.uniform(0, 1, 2) * free
    pan = rng.uniform(-_PAN, _PAN, 2) * side * (rate == 0)
    start, mirrored = int(rng.integers(len(film))), rng.random() < 0.5
    way = max(1, 2 * len(film) - 2)

    def behind(time: float) -> Array:
        number = (start + round(time * rate)) % way
        x, y = np.clip(corner + pan * time, 0, free).round().astype(int)
        picture = film[min(number, way - number) if len(film) > 1 else 0]
        part = picture[y : y + side, x : x + side]
        grown = (
            letterbox(picture, size, size) if whole else cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
        )
        return np.asarray(grown[:, ::-1] if mirrored else grown)

    return behind


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
