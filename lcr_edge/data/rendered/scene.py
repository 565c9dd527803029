"""The scene around the hand: a textured room, a person, the light, and the camera with its blur, noise and coding.

Everything is drawn once per clip; per frame the layers only move by fractions of a pixel. Images are RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from lcr_edge.data.rendered.backdrop import Backdrop
from lcr_edge.data.rendered.colours import Array, Rng, cloth_colour
from lcr_edge.data.rendered.person import draw_person

_MARGIN = 0.06  # of the room beyond the frame, so that camera and person can move


def _background(rng: Rng, size: int) -> Array:
    """Wall, furniture, posters, a window, and noise of several scales: uint8 [size, size, 3]."""
    ramp = np.linspace(-1, 1, size)
    wall = cloth_colour(rng)
    tilt = rng.normal(0, 22, 2)
    image = wall + (tilt[0] * ramp[:, None] + tilt[1] * ramp[None])[..., None]
    canvas = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(2, 8))):
        _furniture(canvas, rng, size)
    texture = np.zeros((size, size, 3), np.float32)
    for cells in (4, 9, 20, 45):
        strength = rng.uniform(2, 42 / math.sqrt(cells) + 2)
        grid = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        grid = 0.4 * grid + 0.6 * grid.mean(axis=2, keepdims=True)
        texture += strength * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.003, 0.016) * size))
    return np.asarray(np.clip(blurred.astype(np.float32) + texture, 0, 255).astype(np.uint8))


def _furniture(canvas: Array, rng: Rng, size: int) -> None:
    """One rectangle of a room: plain, a window, a shelf with books, or a striped poster."""
    x0, y0 = rng.uniform(-0.2, 0.9), rng.uniform(-0.2, 0.75)
    w, h = rng.uniform(0.1, 0.45, 2)
    left, top, right, bottom = (int(v * size) for v in (x0, y0, x0 + w, y0 + h))
    colour = tuple(cloth_colour(rng).tolist())
    kind = int(rng.integers(4))
    if kind == 1:
        colour = tuple(rng.uniform(195, 255, 3).tolist())
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, -1)
    if kind == 1:
        frame = tuple((rng.uniform(40, 240) * np.ones(3)).tolist())
        thickness = max(1, size // 60)
        cv2.rectangle(canvas, (left, top), (right, bottom), frame, thickness)
        middle = (left + right) // 2
        cv2.line(canvas, (middle, top), (middle, bottom), frame, thickness)
    elif kind == 2:
        place = left
        while place < right:
            width = max(2, int(rng.uniform(0.012, 0.045) * size))
            head = top + int(rng.uniform(0, 0.25) * (bottom - top))
            cv2.rectangle(canvas, (place, head), (place + width, bottom), tuple(cloth_colour(rng).tolist()), -1)
            place += width + 1
    elif kind == 3:
        stripe = tuple(cloth_colour(rng).tolist())
        step = max(4, int(rng.uniform(0.04, 0.12) * size))
        for row in range(top, bottom, step):
            cv2.rectangle(canvas, (left, row), (right, min(row + step // 2, bottom)), stripe, -1)


class Scene:
    """Room and person of one clip at one size.

    ``person_x`` is the person's column in fractions of the frame; ``shirt`` its colour, which the sleeve shares.
    behind: what stands there instead of the room, see ``backdrop``; there may be no person before it.
    """

    def __init__(
        self,
        rng: Rng,
        size: int,
        skin: Array,
        shirt: Array,
        light: tuple[float, float],
        behind: Backdrop | None = None,
    ) -> None:
        self.size, self._behind = size, behind
        self._margin = max(3, math.ceil(_MARGIN * size))
        self._room = _background(rng, size + 2 * self._margin)
        self.person_x = float(np.clip(0.5 + rng.normal(0, 0.07), 0.32, 0.68))
        self._person = draw_person(rng, size, skin, shirt, self.person_x, light)
        sway = 0.02 if rng.random() < 0.5 else 0.006
        # Rows: camera x, y, person x, y; columns: two sine waves. Camera shake is rarer and smaller than sway.
        shake = rng.uniform(0.0, 0.006) if rng.random() < 0.5 else 0.0
        self._waves = rng.normal(0, 1, (4, 2)) * np.array([[shake], [shake], [sway], [0.5 * sway]])
        self._rates, self._phases = rng.uniform(0.15, 1.2, (4, 2)), rng.uniform(0, 2 * math.pi, (4, 2))

    def offsets(self, time: float) -> Array:
        """Camera x, y and person x, y offsets at a time in seconds, fractions of the frame, float64 [4]."""
        moved = (self._waves * np.sin(2 * math.pi * self._rates * time + self._phases)).sum(axis=1)
        return np.asarray(np.clip(moved, -0.9 * _MARGIN, 0.9 * _MARGIN))

    def hold_camera(self) -> None:
        """From now on the camera stands; the person goes on swaying."""
        self._waves[:2] = 0.0

    def frame(self, time: float, aside: float | None = 0.0) -> Array:
        """Room and person at a time in seconds: float32 [size, size, 3], 0..255.

        aside: how far to the right of their place the person is, in fractions of the frame; None: nobody is there.
        """
        camera_x, camera_y, person_x, person_y = (self.offsets(time) * self.size).tolist()
        if self._behind is None:
            room = _shifted(self._room, camera_x - self._margin, camera_y - self._margin, self.size)
        else:
            room = _shifted(self._behind.play(time), camera_x, camera_y, self.size)
        if aside is None or (self._behind is not None and self._behind.empty):
            return room.astype(np.float32)
        if aside:  # a person who walks must not leave a smear of the border behind: the layer ends in nothing
            whole = cv2.copyMakeBorder(self._person, 0, 0, 1, 1, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
            person = _shifted(whole, camera_x + person_x + aside * self.size - 1, camera_y + person_y, self.size)
        else:
            person = _shifted(self._person, camera_x + person_x, camera_y + person_y, self.size)
        return over(room.astype(np.float32), person.astype(np.float32))


def _shifted(image: Array, dx: float, dy: float, size: int) -> Array:
    """The image moved right by dx and down by dy pixels, cut to [size, size]; its border is repeated."""
    matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def over(below: Array, layer: Array) -> Array:
    """Lay a premultiplied RGBA layer (0..255) over an RGB image: float32 [H, W, 3]."""
    alpha = cv2.extractChannel(layer, 3)
    clear = cv2.merge([1.0 - alpha * np.float32(1 / 255)] * 3)
    return np.asarray(cv2.add(cv2.multiply(below, clear), cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB)))


class Camera:
    """Light and sensor of one clip: gain, gamma, colour temperature, defocus, noise, sometimes JPEG coding."""

    def __init__(self, rng: Rng, size: int) -> None:
        self._rng = rng
        self._size = size
        warmth = rng.normal(0, 0.06)
        self._tint = np.array([1 + warmth, 1 + rng.normal(0, 0.02), 1 - warmth])
        self._gain, self._gamma = rng.uniform(0.78, 1.16), rng.uniform(0.8, 1.2)
        self._flicker, self._rate, self._phase = rng.uniform(0, 0.07), rng.uniform(0.1, 0.7), rng.uniform(0, 6.3)
        self._defocus = float(rng.uniform(0.35, 0.75) * size / 112) if rng.random() < 0.6 else 0.0
        self._read_noise, self._shot_noise = rng.uniform(0.8, 4.5), rng.uniform(0.0, 0.35)
        self._quality = int(rng.integers(45, 92)) if rng.random() < 0.3 else 0
        # One sheet of noise serves all frames, each at its own random offset: much cheaper, and as varied to the eye.
        self._spare = 64
        self._noise = rng.standard_normal((size + self._spare, size + self._spare, 3), np.float32)

    def expose(self, image: Array, time: float) -> Array:
        """float32 RGB [size, size, 3], 0..255, to the camera's uint8 image at a time in seconds."""
        if self._defocus:
            image = cv2.GaussianBlur(image, (0, 0), self._defocus)
        flicker = 1 + self._flicker * math.sin(2 * math.pi * self._rate * time + self._phase)
        levels = (np.arange(256) / 255.0) ** self._gamma * 255.0
        table = np.clip(levels[:, None] * self._tint * (self._gain * flicker), 0, 255)
        seen = cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), np.round(table).astype(np.uint8)[None])
        sigma = np.sqrt(self._read_noise**2 + self._shot_noise * np.arange(256)).astype(np.float32)
        row, column = self._rng.integers(0, self._spare, 2).tolist()
        noise = self._noise[row : row + self._size, column : column + self._size]
        noisy = seen + noise * sigma[seen]
        out = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        if self._quality:
            _, code = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
            out = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1]
        return np.ascontiguousarray(out)
