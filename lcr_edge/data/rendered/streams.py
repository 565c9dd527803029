"""Streams of rendered gestures: one camera that stands, one room, one person, and a plan of who does what when.

Between the gestures nobody is there, or the person sits still, or does something that is none of the gestures. The
person walks in before the first thing that they do after an empty room, and out after the last one.

A stream is drawn frame by frame from its seed; split, seed and plan give the same frames on one machine and OpenCV
version. Needs OpenCV, the extra ``video``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.labels import JESTER
from lcr_edge.errors import MissingExtraError, UsageError

EMPTY, STILL = "empty", "still"  # nobody is there; the person does nothing
NOTHING = ("No gesture", "Doing other things")  # of the labels those that are not gestures
GESTURES = tuple(label for label in JESTER if label not in NOTHING)
GESTURE_S = 2.0  # as in training
_WALK_S = 0.75  # to come or to go
_FAR = 1.0  # frames beside their place a person is out of sight
_TAG = 71  # keeps these random numbers apart from those of clips


@dataclass(frozen=True)
class Part:
    """what: a label of ``JESTER``, EMPTY or STILL. start_s, end_s: seconds from the stream's start."""

    what: str
    start_s: float
    end_s: float


def plan_stream(seed: int, gestures: int, *, idle: float = 0.0, labels: Sequence[str] = GESTURES) -> list[Part]:
    """Parts of a stream with ``gestures`` gestures, one of each label in random order before any comes again.

    Pauses of 1 to 5 seconds, empty, still, or with other movements, are before and after each gesture. idle: the share
    of the time, in [0, 1), in which the room is empty; 0: as the pauses fall. Raises UsageError.
    """
    if gestures < 1 or not 0 <= idle < 1:
        raise UsageError(f"a stream needs a gesture or more and an idle share in [0, 1), got {gestures} and {idle}")
    rng = np.random.default_rng((_TAG, seed))
    order = [labels[i] for _ in range(-(-gestures // len(labels))) for i in rng.permutation(len(labels))]
    parts: list[Part] = []
    now = 0.0

    def add(what: str, seconds: float) -> None:
        nonlocal now
        parts.append(Part(what, now, now + seconds))
        now += seconds

    # While the room is not empty: the gesture, coming and going, and every second time another movement.
    busy_s = GESTURE_S + 2 * _WALK_S + GESTURE_S / 2
    for label in order[:gestures]:
        if idle:
            add(EMPTY, _eighths(busy_s * idle / (1 - idle) * rng.uniform(0.5, 1.5)))
            add(STILL, 1.0)
        else:
            add(str(rng.choice([EMPTY, STILL])), _eighths(rng.uniform(1.0, 3.0)))
        if rng.random() < 0.5:
            add(str(rng.choice(NOTHING, p=[0.25, 0.75])), GESTURE_S)
            add(STILL, _eighths(rng.uniform(0.25, 2.0)))
        add(label, GESTURE_S)
    add(STILL, 1.0)
    add(EMPTY, 2.0)
    return parts


def _eighths(seconds: float) -> float:
    return max(1, round(8 * seconds)) / 8


def render_stream(
    seed: int, parts: Sequence[Part], *, split: str = "heldout", size: int = 112, fps: float = 8.0
) -> Iterator[NDArray[np.uint8]]:
    """The frames of a plan, uint8 RGB [size, size, 3], ``fps`` a second. Raises UsageError, MissingExtraError."""
    try:
        from lcr_edge.data.rendered import clips, gestures, hand, motion, scene
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", "Rendering gestures") from error
    person = clips._perform(0, seed, split, GESTURE_S)
    stage = scene.Scene(person.room, size, person.skin, person.shirt, person.look.light)
    stage.hold_camera()
    camera = scene.Camera(person.sensor, size)
    look = dataclasses.replace(person.look, shoulder=(stage.person_x + 0.27 * person.look.arm, 0.95))
    moves = np.random.default_rng((_TAG, clips.SPLITS.index(split), seed))
    actor = motion.Actor(look.thumb, look.facing, look.arm, float(moves.uniform(0.3, 0.42)))
    paths = [
        gestures.trajectory(JESTER.index(part.what), moves, actor, part.end_s - part.start_s)
        if part.what in JESTER
        else None
        for part in parts
    ]
    number = 0
    for k in range(math.ceil(parts[-1].end_s * fps - 1e-6)):
        time = (k + 0.5) / fps
        while time >= parts[number].end_s and number + 1 < len(parts):
            number += 1
        part, path = parts[number], paths[number]
        image = stage.frame(time, _aside(parts, number, time))
        if path is not None:
            own = time - part.start_s
            image = scene.over(image, hand.expose(hand.shutter(path, own, fps), look, size))
        yield camera.expose(image, time)


def _aside(parts: Sequence[Part], number: int, time: float) -> float | None:
    """Where the person is: within the empty part that they come out of, or go into, on their way; else nowhere."""
    part = parts[number]
    if part.what != EMPTY:
        return 0.0
    comes = number + 1 < len(parts) and parts[number + 1].what != EMPTY
    goes = number > 0 and parts[number - 1].what != EMPTY
    if goes and time - part.start_s < _WALK_S:
        return _FAR * (time - part.start_s) / _WALK_S
    if comes and part.end_s - time < _WALK_S:
        return -_FAR * (part.end_s - time) / _WALK_S
    return None
