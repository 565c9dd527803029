"""Trajectories of the 27 gestures: from a label and a random generator to a pose at any time of the clip.

Opposite labels (left and right, push and pull, ...) share one family: the second label of a pair plays the first
one's trajectory backwards, from entry to exit of the hand. So with equal random numbers the pair's frames are the same
set in opposite order, and no single frame tells one from the other. ``clips`` lists the
families.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.hand import FLEX, PINCH, PITCH, ROLL, SIZE, SPREAD, X, Y
from lcr_edge.data.rendered.motion import Actor, Array, Pose, Rng, cycle, ease, present, shape, stroke

Family = Callable[[Rng, Actor, float], Pose]
Make = Callable[[Rng, Actor], Array]

# label played forwards: label that plays the same family backwards
PAIRS: dict[str, str] = {
    "Swiping Left": "Swiping Right",
    "Swiping Down": "Swiping Up",
    "Sliding Two Fingers Left": "Sliding Two Fingers Right",
    "Sliding Two Fingers Down": "Sliding Two Fingers Up",
    "Pushing Hand Away": "Pulling Hand In",
    "Pushing Two Fingers Away": "Pulling Two Fingers In",
    "Rolling Hand Forward": "Rolling Hand Backward",
    "Turning Hand Clockwise": "Turning Hand Counterclockwise",
    "Zooming In With Full Hand": "Zooming Out With Full Hand",
    "Zooming In With Two Fingers": "Zooming Out With Two Fingers",
}
_FORWARD_OF = {backward: forward for forward, backward in PAIRS.items()}


@dataclass(frozen=True)
class Trajectory:
    """Poses over the time of one clip, in seconds from 0 to ``duration``."""

    duration: float
    backwards: bool
    pose: Pose

    def __call__(self, times: Array) -> Array:
        """Poses float64 [n, 13] at times [n] in seconds."""
        t = np.asarray(times, np.float64)
        return self.pose(self.duration - t if self.backwards else t)


def trajectory(label: int, rng: Rng, actor: Actor, duration: float) -> Trajectory:
    """The trajectory of one clip of class ``label`` (index into ``JESTER``), ``duration`` in seconds."""
    name = JESTER[label]
    forward = _FORWARD_OF.get(name, name)
    return Trajectory(duration, name != forward, _FAMILIES[forward](rng, actor, duration))


def _open(rng: Rng, actor: Actor) -> Array:
    return shape(rng, actor, (0.05, 0.04, 0.04, 0.04, 0.05), rng.uniform(0.1, 0.8), rng.uniform(-0.6, 0.5))


def _two_fingers(rng: Rng, actor: Actor) -> Array:
    return shape(rng, actor, (0.95, 0.04, 0.04, 0.95, 0.95), 0.15)


def _swipe(axis: int, make: Make, travel: tuple[float, float]) -> Family:
    """Translation along ``axis``; X goes to the left, Y goes down; the wrist tilts with the way."""

    def family(rng: Rng, actor: Actor, duration: float) -> Pose:
        pose = make(rng, actor)
        pose[X] = 0.5 + rng.uniform(-0.07, 0.07)
        pose[Y] = rng.uniform(0.45, 0.58) if axis == Y else rng.uniform(0.45, 0.68)
        way = rng.uniform(*travel)
        first, last = pose.copy(), pose.copy()
        tilt = rng.uniform(0.1, 0.9) * way
        cross = rng.normal(0.0, 0.02)
        if axis == X:
            first[[X, Y, ROLL]] += [way / 2, cross, tilt / 2]
            last[[X, Y, ROLL]] -= [way / 2, cross, tilt / 2]
        else:
            first[[Y, X, PITCH]] += [-way / 2, cross, -tilt / 2]
            last[[Y, X, PITCH]] -= [-way / 2, cross, -tilt / 2]
        return stroke(rng, actor, duration, first, last)

    return family


def _push(make: Make) -> Family:
    """Towards the camera: the hand grows 1.5 to 2.3 times."""

    def family(rng: Rng, actor: Actor, duration: float) -> Pose:
        pose = make(rng, actor)
        pose[SIZE] *= 0.88
        ratio = rng.uniform(1.5, 2.3)
        first, last = pose.copy(), pose.copy()
        first[SIZE], last[SIZE] = pose[SIZE] / math.sqrt(ratio), pose[SIZE] * math.sqrt(ratio)
        first[PITCH] += rng.normal(0.0, 0.1)
        drift = rng.normal(0.0, 0.025, 2)
        first[[X, Y]] += drift
        last[[X, Y]] -= drift
        return stroke(rng, actor, duration, first, last)

    return family


def _roll(rng: Rng, actor: Actor, duration: float) -> Pose:
    """Circles about a horizontal axis across the image; at the top of a forward roll the hand comes to the camera."""
    relaxed = rng.uniform(0.1, 0.35)
    pose = shape(rng, actor, (0.3, relaxed, relaxed, relaxed, relaxed), 0.15)
    pose[ROLL] = -actor.arm * rng.uniform(0.9, 1.5)
    rise, grow, tip = rng.uniform(0.07, 0.12), rng.uniform(0.2, 0.32), rng.uniform(0.1, 0.4)

    def wave(phase: Array, strength: Array) -> Array:
        out = np.repeat(pose[None], len(phase), axis=0)
        out[:, Y] -= rise * np.cos(phase) * strength
        out[:, SIZE] *= np.exp(grow * np.sin(phase) * strength)
        out[:, PITCH] += tip * np.sin(phase) * strength
        return out

    return cycle(rng, actor, duration, (0.9, 1.6), wave)


def _turn(rng: Rng, actor: Actor, duration: float) -> Pose:
    """Wrist rotation in the image plane, clockwise as seen in the image, by 90 to 160 degrees."""
    bent = rng.uniform(0.1, 0.45)
    pose = shape(rng, actor, (0.1, bent, bent, bent, bent), rng.uniform(0.3, 0.9))
    angle, middle = math.radians(rng.uniform(90, 160)), rng.normal(-0.15 * actor.arm, 0.25)
    first, last = pose.copy(), pose.copy()
    first[ROLL], last[ROLL] = middle - angle / 2, middle + angle / 2
    return stroke(rng, actor, duration, first, last)


def _zoom_full(rng: Rng, actor: Actor, duration: float) -> Pose:
    """A closed hand opens and fans its fingers."""
    last = shape(rng, actor, (0.0, 0.0, 0.0, 0.0, 0.0), 0.9, -0.3)
    first = last.copy()
    first[FLEX : FLEX + 5] = rng.uniform(0.65, 1.0) + rng.uniform(-0.08, 0.0, 5)
    first[SPREAD] = rng.uniform(0.0, 0.2)
    return stroke(rng, actor, duration, first, last)


def _zoom_two(rng: Rng, actor: Actor, duration: float) -> Pose:
    """Thumb and index finger, pinched, move apart; the other fingers stay folded."""
    last = shape(rng, actor, (0.0, 0.05, 0.95, 0.95, 0.95), 0.6, -rng.uniform(0.3, 0.9))
    last[SIZE] *= rng.uniform(1.05, 1.25)
    first = last.copy()
    first[PINCH] = rng.uniform(0.85, 1.0)
    first[FLEX + 1] = rng.uniform(0.42, 0.52)
    return stroke(rng, actor, duration, first, last)


def _drum(rng: Rng, actor: Actor, duration: float) -> Pose:
    """Fingers bend one after the other, again and again."""
    pose = shape(rng, actor, (0.25, 0.0, 0.0, 0.0, 0.0), 0.4)
    low, high, lag = rng.uniform(0.0, 0.12), rng.uniform(0.55, 0.8), rng.uniform(1.1, 1.6) * rng.choice([-1, 1])
    pose[PITCH] += rng.uniform(-0.1, 0.35)

    def wave(phase: Array, strength: Array) -> Array:
        out = np.repeat(pose[None], len(phase), axis=0)
        bend = 0.5 - 0.5 * np.cos(phase[:, None] + lag * np.arange(4))
        out[:, FLEX + 1 : FLEX + 5] = low + (high - low) * bend * strength[:, None]
        return out

    return cycle(rng, actor, duration, (1.1, 2.0), wave)


def _shake(rng: Rng, actor: Actor, duration: float) -> Pose:
    """An open hand goes quickly left and right, by the wrist and by the arm."""
    pose = _open(rng, actor)
    sway, tilt = rng.uniform(0.03, 0.08), rng.uniform(0.25, 0.5)

    def wave(phase: Array, strength: Array) -> Array:
        out = np.repeat(pose[None], len(phase), axis=0)
        out[:, X] += sway * np.sin(phase) * strength
        out[:, ROLL] += tilt * np.sin(phase) * strength
        return out

    return cycle(rng, actor, duration, (1.5, 2.3), wave)


def _hold(make: Make) -> Family:
    """A pose that is shown and kept."""

    def family(rng: Rng, actor: Actor, duration: float) -> Pose:
        pose = make(rng, actor)
        return stroke(rng, actor, duration, pose, pose)

    return family


def _stop(rng: Rng, actor: Actor) -> Array:
    pose = _open(rng, actor)
    pose[SIZE] *= rng.uniform(0.95, 1.25)
    return pose


def _thumb(up: bool) -> Make:
    def make(rng: Rng, actor: Actor) -> Array:
        pose = shape(rng, actor, (0.0, 0.95, 0.95, 0.95, 0.95), 0.0, -1.0)
        pose[FLEX] = 0.0
        pose[ROLL] += (-1 if up else 1) * actor.thumb * math.pi / 2
        pose[SIZE] *= rng.uniform(1.05, 1.25)
        return pose

    return make


def _nothing(rng: Rng, actor: Actor, duration: float) -> Pose:
    """No hand in view, or a resting one at the lower edge."""
    pose = shape(rng, actor, (0.3, 0.3, 0.35, 0.4, 0.4), 0.2)
    pose[X] = 0.5 + actor.arm * rng.uniform(0.0, 0.3)
    pose[ROLL] = -actor.arm * rng.uniform(0.2, 1.4)
    pose[Y] = rng.uniform(0.93, 1.08) if rng.random() < 0.4 else 1.2 + actor.size
    drift, turns, phase = rng.uniform(0.0, 0.012), rng.uniform(0.2, 0.8), rng.uniform(0, 2 * math.pi)

    def active(t: Array) -> Array:
        out = np.repeat(pose[None], len(t), axis=0)
        out[:, Y] += drift * np.sin(2 * math.pi * turns * t / duration + phase)
        return out

    return active


_OTHER_SHAPES: tuple[tuple[float, ...], ...] = (
    (0.9, 0.95, 0.95, 0.95, 0.95),  # fist
    (0.9, 0.03, 0.95, 0.95, 0.95),  # pointing
    (0.9, 0.03, 0.95, 0.95, 0.05),  # horns
    (0.9, 0.05, 0.05, 0.05, 0.95),  # three
    (0.6, 0.5, 0.1, 0.05, 0.05),  # ring of thumb and index finger
    (0.3, 0.4, 0.4, 0.45, 0.5),  # loose
    (0.05, 0.05, 0.05, 0.05, 0.05),  # open
)


def _other(rng: Rng, actor: Actor, duration: float) -> Pose:
    """Anything else: waypoints, circles, a hand at the head, a held sign, a pumping fist."""
    kind = int(rng.integers(5))
    fingers = _OTHER_SHAPES[int(rng.integers(len(_OTHER_SHAPES) - (1 if kind in (3, 4) else 0)))]
    pose = shape(rng, actor, fingers, rng.uniform(0.1, 0.7))
    if kind == 0:
        return _waypoints(rng, actor, duration, pose)
    if kind == 2:  # at the head: scratching, rubbing an eye, eating
        pose[[X, Y]] = 0.5 + actor.arm * rng.uniform(-0.02, 0.14), rng.uniform(0.2, 0.42)
        pose[ROLL] = -actor.arm * rng.uniform(0.2, 0.9)
    a, b = rng.uniform(0.07, 0.14, 2) * (1 if kind == 1 else 0.25 if kind == 2 else 0.0)
    pump = rng.uniform(0.06, 0.12) if kind == 4 else 0.0
    spin = rng.choice([-1, 1])

    def wave(phase: Array, strength: Array) -> Array:
        out = np.repeat(pose[None], len(phase), axis=0)
        out[:, X] += a * np.cos(spin * phase) * strength
        out[:, Y] += (b * np.sin(spin * phase) + pump * np.sin(phase)) * strength
        return out

    return cycle(rng, actor, duration, (0.7, 1.8), wave)


def _waypoints(rng: Rng, actor: Actor, duration: float, pose: Array) -> Pose:
    """Three to five random places and hand shapes, one after the other."""
    count = int(rng.integers(3, 6))
    stops = np.repeat(pose[None], count, axis=0)
    for k in range(count):
        stops[k, FLEX : FLEX + 5] = _OTHER_SHAPES[int(rng.integers(len(_OTHER_SHAPES)))]
    stops[:, X] += rng.uniform(-0.16, 0.16, count)
    stops[:, Y] += rng.uniform(-0.16, 0.12, count)
    stops[:, ROLL] += rng.uniform(-0.7, 0.7, count)
    stops[:, SIZE] *= rng.uniform(0.85, 1.2, count)
    times = np.linspace(0.05, 0.95, count) * duration

    def active(t: Array) -> Array:
        out = np.repeat(stops[:1], len(t), axis=0)
        for k in range(count - 1):
            out += ease((t - times[k]) / (times[k + 1] - times[k]), 1.6)[:, None] * (stops[k + 1] - stops[k])
        return out

    return present(rng, actor, times[0], times[-1], active)


_FAMILIES: dict[str, Family] = {
    "Swiping Left": _swipe(X, _open, (0.38, 0.68)),
    "Swiping Down": _swipe(Y, _open, (0.36, 0.6)),
    "Sliding Two Fingers Left": _swipe(X, _two_fingers, (0.3, 0.55)),
    "Sliding Two Fingers Down": _swipe(Y, _two_fingers, (0.3, 0.5)),
    "Pushing Hand Away": _push(_open),
    "Pushing Two Fingers Away": _push(_two_fingers),
    "Rolling Hand Forward": _roll,
    "Turning Hand Clockwise": _turn,
    "Zooming In With Full Hand": _zoom_full,
    "Zooming In With Two Fingers": _zoom_two,
    "Drumming Fingers": _drum,
    "Shaking Hand": _shake,
    "Stop Sign": _hold(_stop),
    "Thumb Up": _hold(_thumb(True)),
    "Thumb Down": _hold(_thumb(False)),
    "No gesture": _nothing,
    "Doing other things": _other,
}
