"""An articulated hand and arm: joint angles to 3-D joints, weak perspective to the image, drawing with OpenCV.

A pose is a row of ``POSE_SIZE`` float64 numbers (the column constants below). Lengths inside the model are in hand
lengths (wrist to the tip of the stretched middle finger is 1). The model's axes: x to the image's right, y up, z to
the camera; an upright hand at rest has its fingers along y and, for ``facing=+1``, the palm towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Columns of a pose. X, Y: palm centre, fractions of the frame, y down. SIZE: hand length, fraction of the frame.
# ROLL: in-plane rotation, radians, positive is clockwise in the image. PITCH: positive tips the fingertips to the
# camera. YAW: about the hand's long axis. FLEX..FLEX+4: thumb to little finger, 0 stretched, 1 folded.
# SPREAD: 0 fingers together, 1 fanned out. PINCH: thumb, -1 away from the hand, 0 relaxed, 1 beside the index finger.
X, Y, SIZE, ROLL, PITCH, YAW, FLEX = range(7)
SPREAD, PINCH, POSE_SIZE = 11, 12, 13

_SHUTTER = 0.2  # share of the frame interval during which the shutter is open
_PERSPECTIVE = 0.3
_PALM_TONE = np.array([208.0, 156.0, 130.0])
_CENTRE = np.array([0.0, 0.28, 0.0])
# Index, middle, ring and little finger: knuckle, length, direction when together and fanned out (degrees from y to x).
_KNUCKLES = np.array([[0.15, 0.49], [0.052, 0.52], [-0.052, 0.50], [-0.145, 0.44]])
_LENGTHS = np.array([0.43, 0.48, 0.44, 0.35])
_TOGETHER = np.array([3.0, 1.0, -2.0, -6.0])
_FANNED = np.array([22.0, 6.0, -11.0, -27.0])
_SHARES = np.array([0.46, 0.29, 0.25])
_BENDS = np.array([78.0, 98.0, 55.0])
_FINGER_RADII = np.array([[0.054, 0.049, 0.045, 0.039]] * 3 + [[0.045, 0.041, 0.037, 0.033]])
_THUMB_BASE = np.array([0.09, 0.09, 0.02])
_THUMB_LENGTHS = np.array([0.21, 0.17, 0.14])
_THUMB_RADII = np.array([0.075, 0.058, 0.052, 0.042])
# Thumb directions in degrees from y to x: away, relaxed, beside the index finger, folded over the palm.
_THUMB_AWAY = np.array([62.0, 84.0, 90.0])
_THUMB_RELAXED = np.array([48.0, 44.0, 34.0])
_THUMB_PINCHED = np.array([40.0, 8.0, 2.0])
_THUMB_FOLDED = np.array([42.0, -28.0, -62.0])
# Joint indices: 0 wrist, 1-4 knuckles' joints of the index finger (knuckle to tip), ..., 13-16 little, 17-20 thumb.
_PALM_SEGMENTS = [(0, 1), (0, 5), (0, 9), (0, 13), (1, 13)]
_CAP_ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 7)
_CIRCLE = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=-1)
_SHIFT = 4


@dataclass(frozen=True)
class Look:
    """What one person's hand and arm look like. Colours are RGB in 0..255; ``light`` points to the light in the image.

    thumb: +1 when the thumb of the upright hand points to the image's right, else -1. facing: +1 shows the palm, -1
    the back. arm: +1 for the arm on the image's right. bare: share of the forearm that the sleeve leaves bare.
    shoulder: position in fractions of the frame. girth: factor on all radii, near 1. reach: length of the forearm.
    """

    skin: Array
    sleeve: Array
    thumb: int
    facing: int
    arm: int
    bare: float
    shoulder: tuple[float, float]
    girth: float
    reach: float
    light: tuple[float, float]


def _plane(degrees: Array) -> Array:
    """Unit vectors [..., 2] at angles measured from y towards x."""
    radians = np.deg2rad(degrees)
    return np.stack([np.sin(radians), np.cos(radians)], axis=-1)


def joints(poses: Array, look: Look) -> Array:
    """The 21 joints of each pose in hand lengths about the palm's centre, rotated: [n, 13] to float64 [n, 21, 3]."""
    n = len(poses)
    out = np.zeros((n, 21, 3))
    spread = poses[:, SPREAD, None]
    side = _plane(_TOGETHER + (_FANNED - _TOGETHER) * spread)  # [n, 4, 2]
    flex = poses[:, FLEX + 1 : FLEX + 5]
    bend = np.cumsum(np.deg2rad(flex[:, :, None] * _BENDS), axis=-1)  # [n, 4, 3]
    steps = _LENGTHS[:, None] * _SHARES
    along = np.cumsum(np.cos(bend) * steps, axis=-1)
    out_of_plane = np.cumsum(np.sin(bend) * steps, axis=-1)
    fingers = out[:, 1:17].reshape(n, 4, 4, 3)
    fingers[..., :2] = _KNUCKLES[:, None]
    fingers[:, :, 1:, :2] += along[..., None] * side[:, :, None]
    fingers[:, :, 1:, 2] += out_of_plane
    out[:, 1:17] = fingers.reshape(n, 16, 3)

    pinch, fold = poses[:, PINCH, None], np.clip(poses[:, FLEX, None], 0.0, 1.0)
    angle = _THUMB_RELAXED + np.maximum(pinch, 0) * (_THUMB_PINCHED - _THUMB_RELAXED)
    angle = angle + np.maximum(-pinch, 0) * (_THUMB_AWAY - _THUMB_RELAXED)
    angle = angle + fold * (_THUMB_FOLDED - angle)
    path = np.cumsum(_plane(angle) * _THUMB_LENGTHS[:, None], axis=1)  # [n, 3, 2]
    out[:, 17] = _THUMB_BASE
    out[:, 18:21, :2] = _THUMB_BASE[:2] + path
    out[:, 18:21, 2] = _THUMB_BASE[2] + np.array([0.05, 0.1, 0.13]) * (0.6 + fold + 0.8 * np.maximum(pinch, 0))

    out -= _CENTRE
    # The other hand is the mirror image; showing the back turns the hand about its long axis (x and z change sign).
    out *= np.array([look.thumb, 1.0, look.facing])
    cy, sy = np.cos(poses[:, YAW]), np.sin(poses[:, YAW])
    cp, sp = np.cos(poses[:, PITCH]), np.sin(poses[:, PITCH])
    cr, sr = np.cos(poses[:, ROLL]), np.sin(poses[:, ROLL])
    x, y, z = out[..., 0], out[..., 1], out[..., 2]
    x, z = cy[:, None] * x + sy[:, None] * z, cy[:, None] * z - sy[:, None] * x
    y, z = cp[:, None] * y - sp[:, None] * z, cp[:, None] * z + sp[:, None] * y
    x, y = cr[:, None] * x + sr[:, None] * y, cr[:, None] * y - sr[:, None] * x
    return np.stack([x, y, z], axis=-1)


def project(poses: Array, points: Array) -> tuple[Array, Array]:
    """Weak perspective: image positions [n, k, 2] in fractions of the frame and the scale [n, k] of lengths there."""
    scale = poses[:, SIZE, None] * (1.0 + _PERSPECTIVE * points[..., 2])
    centre = poses[:, None, [X, Y]]
    return centre + points[..., :2] * np.array([1.0, -1.0]) * scale[..., None], scale


def capsules(start: Array, end: Array, r_start: Array, r_end: Array) -> Array:
    """Outlines of tapered capsules: ends [m, 2], radii [m] to polygons [m, 14, 2], in the same unit."""
    delta = end - start
    angle = np.arctan2(delta[:, 1], delta[:, 0])[:, None]
    front, back = angle + _CAP_ANGLES, angle + _CAP_ANGLES + np.pi
    cap_end = end[:, None] + r_end[:, None, None] * np.stack([np.cos(front), np.sin(front)], axis=-1)
    cap_start = start[:, None] + r_start[:, None, None] * np.stack([np.cos(back), np.sin(back)], axis=-1)
    return np.concatenate([cap_end, cap_start], axis=1)


def fill(canvas: Array, polygons: Array, colours: Array) -> None:
    """Fill convex polygons [m, v, 2] (float pixels) of an RGBA canvas, in order, with opaque RGB colours [m, 3]."""
    fixed = np.rint(polygons * (1 << _SHIFT)).astype(np.int32)
    for polygon, (r, g, b) in zip(fixed, np.minimum(colours, 255.0).tolist()):
        cv2.fillConvexPoly(canvas, polygon, (r, g, b, 255.0), cv2.LINE_8, _SHIFT)


_STARTS = np.array([a for a, _ in _PALM_SEGMENTS] + [4 * f + 1 + k for f in range(4) for k in range(3)] + [17, 18, 19])
_ENDS = np.array([b for _, b in _PALM_SEGMENTS] + [4 * f + 2 + k for f in range(4) for k in range(3)] + [18, 19, 20])
_R_STARTS = np.concatenate([[0.10, 0.10, 0.10, 0.10, 0.065], _FINGER_RADII[:, :3].ravel(), _THUMB_RADII[:3]])
_R_ENDS = np.concatenate([[0.068, 0.068, 0.068, 0.062, 0.06], _FINGER_RADII[:, 1:].ravel(), _THUMB_RADII[1:]])
# Palm, index to little finger, thumb: their segments, and the joints whose mean depth says which is drawn first.
_GROUPS = [slice(0, 5)] + [slice(5 + 3 * f, 8 + 3 * f) for f in range(5)]
_DEPTH_JOINTS = np.array([[1, 5, 9, 13]] + [[4 * f + 2, 4 * f + 3, 4 * f + 4, 4 * f + 4] for f in range(5)])


def draw(poses: Array, look: Look, size: int) -> Array:
    """Draw each pose alone on a black transparent canvas.

    poses: [n, 13]. Returns uint8 [n, size, size, 4], RGBA with alpha 0 or 255 (no smoothing: draw larger, then shrink).
    A hand wholly outside the frame leaves its canvas empty.
    """
    canvas = np.zeros((len(poses), size, size, 4), np.uint8)
    points = joints(poses, look)
    flat, scale = project(poses, points)
    pixels, scale = flat * size, scale * size
    girth = scale * look.girth
    for k in range(len(poses)):
        _arm(canvas[k], poses[k], points[k], pixels[k], float(girth[k, 0]), look, size)
        _hand(canvas[k], points[k], pixels[k], girth[k], look)
    return canvas


def shutter(path: Callable[[Array], Array], time: float, fps: float) -> Array:
    """Poses while the shutter is open around ``time`` (seconds): one of a still hand, up to five of a fast one.

    They lie about 1 % of the frame apart. Returns float64 [1..5, 13].
    """
    half = 0.5 * _SHUTTER / fps
    ends = path(np.array([time - half, time + half]))
    change = np.abs(ends[1] - ends[0])
    turn = 0.5 * float(ends[:, SIZE].mean()) * float(change[ROLL:].max())
    way = float(np.hypot(change[X], change[Y])) + float(change[SIZE]) + turn
    count = min(5, max(1, round(way / 0.01)))
    return path(time + (np.arange(count) - (count - 1) / 2) * (2 * half / count))


def expose(poses: Array, look: Look, size: int) -> Array:
    """The hand as the camera sees it, the poses averaged: premultiplied RGBA float32 [size, size, 4], 0..255."""
    work = size * (2 if size >= 96 else 3)
    layer = np.zeros((size, size, 4), np.float32)
    for drawn in draw(poses, look, work):
        np.add(layer, cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), out=layer)
    return layer / np.float32(len(poses))


def _arm(canvas: Array, pose: Array, points: Array, pixels: Array, girth: float, look: Look, size: int) -> None:
    """Upper arm and forearm; the forearm points between the shoulder's side of the frame and the hand's own axis."""
    wrist = pixels[0]
    target = np.array([look.shoulder[0] + 0.06 * look.arm, 1.25]) * size
    down = target - wrist
    axis = (points[0, :2] - points[5, :2]) * np.array([1.0, -1.0])
    direction = 0.68 * down / (np.linalg.norm(down) + 1e-6) + 0.32 * axis / (np.linalg.norm(axis) + 0.3)
    elbow = wrist + direction / (np.linalg.norm(direction) + 1e-6) * look.reach * float(pose[SIZE]) * size
    shoulder = np.array(look.shoulder) * size
    cuff = wrist + (elbow - wrist) * look.bare
    starts = np.stack([shoulder, wrist, cuff])
    ends = np.stack([elbow, elbow, elbow])
    r0 = np.array([0.24, 0.105, 0.135 + 0.06 * look.bare]) * girth
    r1 = np.array([0.19, 0.15, 0.185]) * girth
    edge = max(1.0, 0.018 * girth)
    layers = _layers(starts, ends, r0, r1, np.full(3, edge), np.array(look.light) * np.full((3, 1), 0.05 * girth))
    colours = np.stack([look.sleeve * 0.85, look.skin * 0.93, look.sleeve])
    tones = np.stack([colours * 0.5, colours, colours * 1.08 + 8.0])
    fill(canvas, layers.transpose(1, 0, 2, 3).reshape(9, -1, 2), tones.transpose(1, 0, 2).reshape(9, 3))


def _layers(start: Array, end: Array, r0: Array, r1: Array, edge: Array, light: Array) -> Array:
    """Outline, body and lit ridge of each capsule: polygons [3, m, 14, 2]."""
    flat = capsules(
        np.concatenate([start, start, start + light]),
        np.concatenate([end, end, end + light]),
        np.concatenate([r0 + edge, r0, r0 * 0.45]),
        np.concatenate([r1 + edge, r1, r1 * 0.45]),
    )
    return flat.reshape(3, len(start), -1, 2)


def _hand(canvas: Array, points: Array, pixels: Array, girth: Array, look: Look) -> None:
    """Palm, fingers and thumb, far ones first; each has a dark outline, a body and a lit ridge."""
    size = 0.5 * (girth[_STARTS] + girth[_ENDS])
    r0, r1 = _R_STARTS * size, _R_ENDS * size
    start, end = pixels[_STARTS], pixels[_ENDS]
    edge = np.maximum(0.9, 0.017 * size)
    layers = _layers(start, end, r0, r1, edge, np.array(look.light) * (0.3 * r0)[:, None])
    depth = points[:, 2]
    # A segment nearer to the camera catches more light.
    shade = np.clip(0.97 + 0.3 * (0.5 * (depth[_STARTS] + depth[_ENDS])), 0.78, 1.15)[:, None]
    normal = _normal_z(points, look)
    # Palms of dark hands are lighter than their backs.
    seen = look.skin + (0.28 * np.maximum(_PALM_TONE - look.skin, 0.0) if normal > 0 else 0.0)
    skin = np.repeat(seen[None], len(_STARTS), axis=0)
    skin[_GROUPS[0]] *= np.array([1.04, 0.98, 0.97]) if normal > 0 else np.array([0.95, 0.94, 0.93])
    tones = np.stack([skin * 0.45, skin * shade, skin * shade * 1.1 + 12.0])
    group_depth = depth[_DEPTH_JOINTS].mean(axis=1)
    for group in np.argsort(group_depth, kind="stable").tolist():
        part = _GROUPS[group]
        shown = 3 if group else 2  # the palm has no ridges, they would look like bones
        fill(canvas, layers[:shown, part].reshape(-1, layers.shape[2], 2), tones[:shown, part].reshape(-1, 3))
        if group == 0:
            _palm_detail(canvas, pixels, float(size[0]), skin[0], normal)
        elif normal < -0.25:
            tip = part.stop - 1
            nail = end[tip] + (end[tip] - start[tip]) * 0.05
            fill(canvas, _disc(nail, 0.6 * r1[tip]), look.skin[None] * 0.6 + np.array([92.0, 76.0, 74.0]))


def _normal_z(points: Array, look: Look) -> float:
    """z of the palm's normal: 1 when the palm faces the camera, -1 for the back, 0 seen from the side."""
    across, along = points[1] - points[13], points[5] - points[0]
    normal = np.cross(across, along)
    return float(look.thumb * look.facing * normal[2] / (np.linalg.norm(normal) + 1e-9))


def _disc(centre: Array, radius: float) -> Array:
    """A small circle as a polygon [1, 8, 2]."""
    return np.asarray(centre + radius * _CIRCLE)[None]


def _palm_detail(canvas: Array, pixels: Array, girth: float, skin: Array, normal: float) -> None:
    """Creases of the palm, or the tendons' ridges on the back."""
    wrist, index, middle, ring, little = (pixels[k] for k in (0, 1, 5, 9, 13))
    if normal > 0.2:
        fill(canvas, _disc(wrist * 0.55 + index * 0.45, 0.085 * girth), skin[None] * 1.1)
        fill(canvas, _disc(wrist * 0.5 + little * 0.5, 0.075 * girth), skin[None] * 1.08)
        lines = [
            [index * 0.85 + wrist * 0.15, (middle + wrist) * 0.5, ring * 0.3 + little * 0.25 + wrist * 0.45],
            [index * 0.8 + wrist * 0.2, index * 0.3 + middle * 0.2 + wrist * 0.5, wrist * 0.85 + middle * 0.15],
            [middle * 0.9 + wrist * 0.1, ring * 0.8 + wrist * 0.2, little * 0.82 + wrist * 0.18],
        ]
        factor = 0.72
    elif normal < -0.2:
        lines = [[knuckle, knuckle * 0.45 + wrist * 0.55] for knuckle in (index, middle, ring, little)]
        factor = 0.84
    else:
        return
    r, g, b = np.minimum(skin * factor, 255.0).tolist()
    thickness = max(1, round(0.014 * girth))
    for line in lines:
        fixed = np.round(np.array(line) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(canvas, [fixed], False, (r, g, b, 255.0), thickness, cv2.LINE_8, _SHIFT)
