"""Building blocks of the gestures: base poses, timing, one stroke, one cycle, and how a hand comes into view.

A ``Pose`` function maps times in seconds, float64 [n], to poses, float64 [n, 13] (columns in ``hand``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.rendered.hand import FLEX, PINCH, PITCH, POSE_SIZE, ROLL, SIZE, SPREAD, YAW, X, Y

Array = NDArray[Any]
Rng = np.random.Generator
Pose = Callable[[Array], Array]


@dataclass(frozen=True)
class Actor:
    """Who moves: thumb, facing and arm as in ``hand.Look``; size is the hand's usual length in frame heights."""

    thumb: int
    facing: int
    arm: int
    size: float


def shape(rng: Rng, actor: Actor, flex: tuple[float, ...], spread: float = 0.3, pinch: float = 0.0) -> Array:
    """A pose near the middle of the frame with the given fingers (thumb first) and small random deviations."""
    pose = np.zeros(POSE_SIZE)
    pose[X] = 0.5 + actor.arm * rng.uniform(-0.02, 0.25)
    pose[Y] = rng.uniform(0.52, 0.72)
    pose[SIZE] = actor.size
    pose[ROLL] = rng.normal(0.0, 0.14)
    pose[PITCH] = rng.normal(0.0, 0.14)
    pose[YAW] = rng.normal(0.0, 0.25)
    pose[FLEX : FLEX + 5] = np.clip(np.array(flex) + rng.uniform(-0.06, 0.08, 5), 0.0, 1.0)
    pose[SPREAD] = np.clip(spread + rng.uniform(-0.2, 0.3), 0.0, 1.1)
    pose[PINCH] = pinch
    return pose


def ease(u: Array, power: float) -> Array:
    """0 to 1, slow at both ends; the power sets how sharp the middle is."""
    v = np.clip(u, 0.0, 1.0)
    a, b = v**power, (1.0 - v) ** power
    return np.asarray(a / (a + b))


def present(rng: Rng, actor: Actor, begin: float, end: float, active: Pose) -> Pose:
    """Let the hand rise before ``begin`` and sink after ``end``, each with probability one half, and add tremor."""
    rest = shape(rng, actor, (0.3, 0.3, 0.35, 0.4, 0.4), 0.2)
    rest[X] = 0.5 + actor.arm * rng.uniform(0.1, 0.3)
    rest[Y] = 1.1 + actor.size * rng.uniform(0.4, 0.7)
    enters, leaves = rng.random() < 0.5, rng.random() < 0.5
    gaps, spans, powers = rng.uniform(0.0, 0.12, 2), rng.uniform(0.25, 0.42, 2), rng.uniform(1.3, 2.2, 2)
    tremor = rng.normal(0.0, 1.0, (3, 4)) * np.array([[0.004], [0.004], [0.025]])
    rates, phases = rng.uniform(0.3, 1.6, 4), rng.uniform(0, 2 * math.pi, 4)

    def pose(t: Array) -> Array:
        out = active(t)
        waves = np.sin(2 * math.pi * rates * t[:, None] + phases) @ tremor.T
        out[:, [X, Y, ROLL]] += waves
        away = np.zeros_like(t)
        if enters:
            away = np.maximum(away, ease((begin - gaps[0] - t) / spans[0], powers[0]))
        if leaves:
            away = np.maximum(away, ease((t - end - gaps[1]) / spans[1], powers[1]))
        return np.asarray(out + away[:, None] * (rest - out))

    return pose


def stroke(rng: Rng, actor: Actor, duration: float, first: Array, last: Array) -> Pose:
    """One movement from pose to pose, 0.6 to 1.4 s long and wholly inside the clip."""
    length = min(rng.uniform(0.6, 1.4), 0.8 * duration)
    begin = rng.uniform(0.0, duration - length)
    power = rng.uniform(1.2, 2.1)

    def active(t: Array) -> Array:
        return np.asarray(first + ease((t - begin) / length, power)[:, None] * (last - first))

    return present(rng, actor, begin, begin + length, active)


def cycle(
    rng: Rng, actor: Actor, duration: float, hertz: tuple[float, float], wave: Callable[[Array, Array], Array]
) -> Pose:
    """A repeated movement: ``wave(phase, strength)`` over most of the clip, swelling and fading over 0.15 s."""
    length = duration * rng.uniform(0.72, 1.0)
    begin = rng.uniform(0.0, duration - length)
    rate, start = rng.uniform(*hertz), rng.uniform(0, 2 * math.pi)

    def active(t: Array) -> Array:
        strength = ease((t - begin + 0.15) / 0.15, 1.5) * ease((begin + length + 0.15 - t) / 0.15, 1.5)
        inside = np.clip(t, begin, begin + length)
        return wave(start + 2 * math.pi * rate * inside, strength)

    return present(rng, actor, begin, begin + length, active)
