"""The person behind the hand: head, neck and shoulders, drawn once per clip.

Lengths and places are fractions of the frame, y downwards. The order in which random numbers are taken is part of what
a seed means: a change of it changes every clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lcr_edge.data.rendered.colours import Array, Rng, cloth_colour, hair_colour
from lcr_edge.data.rendered.hand import capsules, fill

_OVERSAMPLING = 2  # the canvas has twice the frame's pixels each way
_CORNERS = 32  # of the polygon that stands for an oval
_BELOW = 1.2  # a row below the frame, where torso and arms end

_BALD, _LONG_HAIR, _STRIPED = 0.15, 0.4, 0.4  # probabilities

# The torso. Offsets along the shoulders are in units of the body's width.
_SHOULDER = 0.72  # from the middle to where an arm begins
_ELBOW = 0.8  # from the middle to where an arm leaves the frame
_SHOULDER_RADIUS, _ARM_RADIUS, _ELBOW_RADIUS = 0.085, 0.095, 0.12
_OUTLINE = 0.008  # an outline is this much wider than the part, and this much darker:
_OUTLINE_SHADE = 0.55
_CLOTH_SHADE = 0.92
_STRIPE_RADIUS = 0.012

# The face: an oval in the shade, a lighter one, and a bright one on the side of the light. Each row: how far it moves
# towards the light and up (in radii of the face), its half width and half height (in those of the face), and its tone.
_FACE = (
    (0.0, 0.0, 1.0, 1.0, 0.82),
    (0.05, 0.0, 0.94, 0.97, 0.92),
    (0.25, 0.1, 0.6, 0.7, 0.98),
)
_NECK_SHADE, _NOSE_SHADE, _BROW_SHADE, _LONG_HAIR_SHADE = 0.78, 0.84, 0.7, 0.8
_LIPS = np.array([0.8, 0.52, 0.5])  # of the skin's red, green and blue
_EYE_WHITE, _PUPIL = np.array([225.0, 222.0, 215.0]), np.array([40.0, 30.0, 26.0])


@dataclass(frozen=True)
class _Body:
    """x: column of the middle. head, neck: rows of the face's middle and of the neck's end. radius, face: half width
    and half height of the face. width: about half the distance between the shoulders.
    """

    x: float
    head: float
    neck: float
    radius: float
    face: float
    width: float

    @classmethod
    def random(cls, rng: Rng, x: float) -> _Body:
        radius = rng.uniform(0.115, 0.16)
        head = rng.uniform(0.25, 0.36)
        face = radius * rng.uniform(1.22, 1.4)
        return cls(x, head, head + face * 1.22, radius, face, radius * rng.uniform(1.75, 2.25))

    @property
    def shoulder(self) -> float:
        """The row from which the shoulders are measured."""
        return self.neck + self.radius * 0.55


class _Painter:
    """A transparent canvas that takes shapes in fractions of the frame and colours in 0 to 255."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._work = _OVERSAMPLING * size
        self._canvas = np.zeros((self._work, self._work, 4), np.uint8)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Array) -> None:
        angle = np.linspace(0, 2 * math.pi, _CORNERS + 1)[:-1]
        self._paint(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=-1), colour)

    def limb(self, start: tuple[float, float], end: tuple[float, float], radii: tuple[float, float], c: Array) -> None:
        """A bar with round ends, of the given radius at its start and at its end."""
        ends = np.array([start, end])
        self._paint(capsules(ends[:1], ends[1:], np.array(radii[:1]), np.array(radii[1:]))[0], c)

    def _paint(self, polygon: Array, colour: Array) -> None:
        fill(self._canvas, polygon[None] * self._work, np.clip(colour, 0, 255)[None])

    def picture(self) -> Array:
        """uint8 RGBA [size, size, 4]."""
        return np.asarray(cv2.resize(self._canvas, (self._size, self._size), interpolation=cv2.INTER_AREA))


def draw_person(rng: Rng, size: int, skin: Array, shirt: Array, x: float, light: tuple[float, float]) -> Array:
    """Head, neck and shoulders about the column ``x``: uint8 RGBA [size, size, 4]. light: x and y, towards the lamp."""
    painter, body = _Painter(size), _Body.random(rng, x)
    hair = hair_colour(rng)
    bald, long_hair = rng.random() < _BALD, rng.random() < _LONG_HAIR
    if long_hair and not bald:
        _long_hair(painter, body, hair)
    _torso(painter, body, shirt * _CLOTH_SHADE)
    if rng.random() < _STRIPED:
        _stripes(painter, body, rng)
    _neck(painter, body, skin)
    if not bald:
        painter.oval(body.x, body.head - 0.16 * body.radius, body.radius * 1.13, body.face * 1.08, hair)
    for sideways, up, wide, high, tone in _FACE:
        place = body.x + light[0] * sideways * body.radius, body.head - up * body.face
        painter.oval(*place, body.radius * wide, body.face * high, skin * tone)
    if not bald:
        _fringe(painter, body, hair, rng)
    _eyes(painter, body, hair)
    _nose(painter, body, skin)
    _mouth(painter, body, skin, rng)
    return painter.picture()


def _long_hair(painter: _Painter, body: _Body, hair: Array) -> None:
    """Hair behind the head, down to the neck."""
    top = body.head - 0.1 * body.radius
    radii = body.radius * 1.15, body.radius * 1.0
    painter.limb((body.x, top), (body.x, body.neck), radii, hair * _LONG_HAIR_SHADE)


def _torso(painter: _Painter, body: _Body, cloth: Array) -> None:
    """Shoulders and upper arms with a dark outline, then the chest, which covers the outline in the middle."""
    left, right = body.x - body.width * _SHOULDER, body.x + body.width * _SHOULDER
    left_elbow, right_elbow = body.x - body.width * _ELBOW, body.x + body.width * _ELBOW
    across, arm = body.shoulder + 0.03, body.shoulder + 0.05
    for shade, grow in ((_OUTLINE_SHADE, _OUTLINE), (1.0, 0.0)):
        shoulder, radii = _SHOULDER_RADIUS + grow, (_ARM_RADIUS + grow, _ELBOW_RADIUS + grow)
        painter.limb((left, across), (right, across), (shoulder, shoulder), cloth * shade)
        painter.limb((left, arm), (left_elbow, _BELOW), radii, cloth * shade)
        painter.limb((right, arm), (right_elbow, _BELOW), radii, cloth * shade)
    chest = body.radius * 0.8, body.width * 0.85
    painter.limb((body.x, body.neck + 0.05), (body.x, _BELOW), chest, cloth)


def _stripes(painter: _Painter, body: _Body, rng: Rng) -> None:
    """Stripes across the shirt, in another colour."""
    colour = cloth_colour(rng)
    left, right = body.x - body.width * _SHOULDER, body.x + body.width * _SHOULDER
    for y in np.arange(body.shoulder + 0.08, 1.0, rng.uniform(0.05, 0.1)):
        painter.limb((left, y), (right, y), (_STRIPE_RADIUS, _STRIPE_RADIUS), colour)


def _neck(painter: _Painter, body: _Body, skin: Array) -> None:
    top, bottom = body.head + 0.6 * body.face, body.neck + 0.03
    radii = body.radius * 0.52, body.radius * 0.55
    painter.limb((body.x, top), (body.x, bottom), radii, skin * _NECK_SHADE)


def _fringe(painter: _Painter, body: _Body, hair: Array, rng: Rng) -> None:
    """Hair over the forehead, parted somewhere."""
    parting = body.x + rng.uniform(-0.3, 0.3) * body.radius
    painter.oval(parting, body.head - 0.88 * body.face, body.radius * 0.85, body.face * 0.32, hair)


def _eye_row(body: _Body) -> float:
    return body.head - 0.05 * body.face


def _eyes(painter: _Painter, body: _Body, hair: Array) -> None:
    """Eyes and brows."""
    row, radius = _eye_row(body), body.radius
    brow, thick = row - 0.2 * body.face, 0.03 * radius
    for side in (-1, 1):
        x = body.x + side * 0.4 * radius
        half = 0.16 * radius
        painter.limb((x - half, brow), (x + half, brow), (thick, thick), hair * _BROW_SHADE)
        painter.oval(x, row, 0.17 * radius, 0.09 * radius, _EYE_WHITE)
        painter.oval(x, row, 0.08 * radius, 0.09 * radius, _PUPIL)


def _nose(painter: _Painter, body: _Body, skin: Array) -> None:
    bridge = body.x, _eye_row(body) + 0.1 * body.face
    tip = body.x + 0.08 * body.radius, body.head + 0.27 * body.face
    painter.limb(bridge, tip, (0.05 * body.radius, 0.11 * body.radius), skin * _NOSE_SHADE)


def _mouth(painter: _Painter, body: _Body, skin: Array, rng: Rng) -> None:
    half = rng.uniform(0.2, 0.36) * body.radius
    row, thick = body.head + 0.56 * body.face, 0.06 * body.radius
    painter.limb((body.x - half, row), (body.x + half, row), (thick, thick), skin * _LIPS)
