"""Rendered gestures: short deterministic clips of the 27 Jester labels, seen by a webcam, no files needed.

A clip shows a person (``person``) in a cluttered room and, in most classes, an articulated hand and arm (``hand``) that
moves along a random trajectory of the class (``gestures``) under a random light and camera (``scene``). The same label,
seed, split and shape give the same bytes on one machine and OpenCV version, whatever the number of worker processes.

Directions are those of the image: "Left" goes to smaller x, "Clockwise" is clockwise as seen in the image, and
"Away" is away from the person, so to the camera (the hand grows). Labels and their families:

- Swiping Left/Right/Up/Down: an open hand crosses 36-68 % of the frame, its wrist tilting.
- Sliding Two Fingers Left/Right/Up/Down: the same, index and middle finger stretched, 30-55 %.
- Pushing Hand Away / Pulling Hand In, and the same with two fingers: size changes 1.5-2.3 times.
- Rolling Hand Forward/Backward: circles of 0.9-1.6 Hz about a horizontal axis; in a forward roll the hand grows
  (comes to the camera) while it is high and shrinks while it is low.
- Turning Hand Clockwise/Counterclockwise: one wrist rotation of 90-160 degrees in the image plane.
- Zooming In/Out With Full Hand: In opens and fans a closed hand, Out closes it.
- Zooming In/Out With Two Fingers: In moves thumb and index finger apart, Out pinches them.
- Drumming Fingers, Shaking Hand: cycles of 1.1-2.0 Hz (fingers) and 1.5-2.3 Hz (whole hand).
- Stop Sign, Thumb Up, Thumb Down: a held pose.
- No gesture: only the person, or a hand that rests at the lower edge.
- Doing other things: random waypoints of place and hand shape, circles, a hand at the head, other held signs.

Single strokes last 0.6-1.4 s inside the clip. Before and after, the hand is already (still) there or comes from
(goes to) the lower edge, each with probability one half. The opposite of a pair plays its partner's trajectory
backwards, so a single frame tells nothing about which of the two it is.

Needs OpenCV, the extra ``video``.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data import worker
from lcr_edge.data.labels import JESTER
from lcr_edge.errors import MissingExtraError, UsageError
from lcr_edge.progress import with_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lcr_edge.data.rendered import backdrop, gestures, hand

_T = TypeVar("_T", bound=np.generic)

SPLITS = ("train", "heldout")
MAX_PER_CLASS = 1_000_000
_MIN_SIZE, _MAX_SIZE = 32, 1024
_NOBODY, _OTHER = "No gesture", "Doing other things"
# One round of the training split. Two classes hold many kinds of scenes under one name, so they get more clips; the
# held-out split has as many of each.
ROUNDS = {
    "train": (*range(len(JESTER)), JESTER.index(_NOBODY), JESTER.index(_OTHER), JESTER.index(_OTHER)),
    "heldout": tuple(range(len(JESTER))),
}


def clips_of(per_class: int, seed: int, labels: Sequence[int]) -> list[tuple[int, int]]:
    """Label and ``render_clip`` seed of each clip of a set: ``per_class`` rounds of one clip of each of the labels. A
    label that comes n times in them has ``n * per_class`` clips, and the first ``per_class`` are those it has alone."""
    found, times = [], [list(labels[:k]).count(label) for k, label in enumerate(labels)]
    for index in range(per_class):
        found += [(label, clip_seed(seed, index + per_class * again)) for label, again in zip(labels, times)]
    return found


def clip_seed(seed: int, index: int) -> int:
    """The ``render_clip`` seed of clip ``index`` of each class in ``render_set(..., seed)``; sets never overlap."""
    return seed * MAX_PER_CLASS + index


def seed_sequence(label: int, seed: int, split: str) -> np.random.SeedSequence:
    """Root of all random numbers of one clip; the split is part of it, so train and held-out clips never coincide."""
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    _check_label(label)
    _check_integer("seed", seed, 0)
    return np.random.SeedSequence((SPLITS.index(split), int(label), int(seed)))


def render_clip(
    label: int,
    seed: int,
    *,
    split: str = "train",
    size: int = 112,
    frames: int = CLIP_FRAMES,
    fps: float = 8.0,
    backdrops: backdrop.Backdrops | None = None,
) -> NDArray[np.uint8]:
    """One clip of class ``label`` (index into ``JESTER``): uint8 RGB [frames, size, size, 3].

    size: pixels, 32 to 1024. fps: frames per second; the gesture fills ``frames / fps`` seconds (2 s by default), at
    least half a second. backdrops: what may stand behind the person instead of the drawn room. Raises UsageError, or
    MissingExtraError without OpenCV.
    """
    _check_shape(size, frames, fps)
    play = _perform(label, seed, split, frames / fps)
    from lcr_edge.data.rendered import hand, scene

    behind = None if backdrops is None else backdrops.choose(play.place, size, JESTER[label] == _NOBODY)
    stage = scene.Scene(play.room, size, play.skin, play.shirt, play.look.light, behind)
    camera = scene.Camera(play.sensor, size)
    look = dataclasses.replace(play.look, shoulder=(stage.person_x + 0.27 * play.look.arm, 0.95))
    out = np.empty((frames, size, size, 3), np.uint8)
    for k in range(frames):
        time = (k + 0.5) / fps
        image = stage.frame(time)
        if behind is None or not behind.empty:
            image = scene.over(image, hand.expose(hand.shutter(play.path, time, fps), look, size))
        out[k] = camera.expose(image, time)
        if behind is not None and behind.inside is not None:
            out[k] *= behind.inside
    return out


def clip_joints(
    label: int, seed: int, *, split: str = "train", frames: int = CLIP_FRAMES, fps: float = 8.0
) -> NDArray[np.float32]:
    """Where the hand of the same :func:`render_clip` is: its 21 joints (order in ``hand``), float32 [frames, 21, 2].

    x and y are fractions of the frame, below 0 or above 1 outside of it. Nothing is drawn, so this is fast.
    """
    _check_shape(_MIN_SIZE, frames, fps)
    play = _perform(label, seed, split, frames / fps)
    from lcr_edge.data.rendered import hand

    poses = play.path((np.arange(frames) + 0.5) / fps)
    return np.asarray(hand.project(poses, hand.joints(poses, play.look))[0], np.float32)


@dataclass(frozen=True)
class _Performance:
    """Everything that is decided before anything is drawn, and the random streams for the rest."""

    look: hand.Look
    path: gestures.Trajectory
    skin: NDArray[Any]
    shirt: NDArray[Any]
    room: np.random.Generator
    sensor: np.random.Generator
    place: np.random.Generator


def _perform(label: int, seed: int, split: str, duration: float) -> _Performance:
    root = seed_sequence(label, seed, split)
    try:
        from lcr_edge.data.rendered import colours, gestures, hand, motion
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", "Rendering gestures") from error

    moves, looks, room, sensor, place = (np.random.Generator(np.random.PCG64(child)) for child in root.spawn(5))
    arm, facing = int(looks.choice([-1, 1])), int(looks.choice([-1, 1], p=[0.3, 0.7]))
    skin, shirt = colours.skin_tone(looks), colours.cloth_colour(looks)
    light = (float(looks.choice([-1.0, 1.0])), -0.5)
    look = hand.Look(
        skin=skin * looks.uniform(1.0, 1.15) + 6.0,
        sleeve=shirt * looks.uniform(0.95, 1.1),
        thumb=-arm * facing,
        facing=facing,
        arm=arm,
        bare=float(looks.choice([looks.uniform(0.15, 0.4), looks.uniform(0.9, 1.0)])),
        shoulder=(0.5 + 0.27 * arm, 0.95),
        girth=float(looks.uniform(0.88, 1.12)),
        reach=float(looks.uniform(1.15, 1.45)),
        light=light,
    )
    actor = motion.Actor(look.thumb, facing, arm, float(looks.uniform(0.3, 0.42)))
    path = gestures.trajectory(int(label), moves, actor, duration)
    return _Performance(look, path, skin, shirt, room, sensor, place)


def render_set(
    per_class: int,
    seed: int,
    *,
    split: str = "train",
    size: int = 112,
    frames: int = CLIP_FRAMES,
    fps: float = 8.0,
    labels: Iterable[int] | None = None,
    workers: int = 1,
    progress: bool = False,
    backdrops: backdrop.Backdrops | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``per_class`` clips of each label (all 27 by default): uint8 [n, T, S, S, 3] and labels int64 [n].

    The clips come in rounds of one clip per label, so every prefix is nearly balanced; shuffle as needed. The result
    does not depend on ``workers``; with more than one, new Python processes are started, so a script that calls this
    needs the usual ``if __name__ == "__main__"`` guard. progress: a bar on stderr, see ``lcr_edge.progress``.
    Raises UsageError or MissingExtraError.
    """
    chosen = list(range(len(JESTER))) if labels is None else list(labels)
    rows = each_clip(
        per_class,
        seed,
        split=split,
        size=size,
        frames=frames,
        fps=fps,
        labels=chosen,
        workers=workers,
        progress=progress,
        backdrops=backdrops,
    )
    clips: NDArray[np.uint8] | None = None
    for k, clip in enumerate(rows):
        if clips is None:
            clips = np.empty((per_class * len(chosen), *clip.shape), np.uint8)
        clips[k] = clip
    assert clips is not None  # each_clip refuses an empty set
    return clips, np.array(chosen * per_class, np.int64)


def each_clip(
    per_class: int,
    seed: int,
    *,
    split: str = "train",
    size: int = 112,
    frames: int = CLIP_FRAMES,
    fps: float = 8.0,
    labels: Iterable[int] | None = None,
    workers: int = 1,
    progress: bool = False,
    backdrops: backdrop.Backdrops | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The clips of :func:`render_set` one by one, for sets that do not fit into memory. Same arguments and errors."""
    _check_shape(size, frames, fps)
    jobs = _jobs(per_class, seed, split, labels, workers)
    shape: dict[str, Any] = {"size": size, "frames": frames, "fps": fps, "backdrops": backdrops}
    return _each(partial(_job, split=split, **shape), jobs, workers, progress, "rendering")


def each_joints(
    per_class: int,
    seed: int,
    *,
    split: str = "train",
    frames: int = CLIP_FRAMES,
    fps: float = 8.0,
    labels: Iterable[int] | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """:func:`clip_joints` of each clip of the same :func:`render_set`, in its order."""
    _check_shape(_MIN_SIZE, frames, fps)
    jobs = _jobs(per_class, seed, split, labels, workers)
    return _each(partial(_joints_job, split=split, frames=frames, fps=fps), jobs, workers, progress, "joints")


def _jobs(per_class: int, seed: int, split: str, labels: Iterable[int] | None, workers: int) -> list[tuple[int, int]]:
    """Label and ``render_clip`` seed of each clip of a set."""
    chosen = list(range(len(JESTER))) if labels is None else list(labels)
    for label in chosen:
        _check_label(label)
    if not chosen:
        raise UsageError("labels is empty: name at least one label, or leave it out for all 27")
    _check_integer("per_class", per_class, 1, MAX_PER_CLASS)
    _check_integer("workers", workers, 1, 256)
    seed_sequence(chosen[0], seed, split)
    most = per_class * max(chosen.count(label) for label in chosen)
    _check_integer("per_class, times how often a label is named,", most, 1, MAX_PER_CLASS)
    return clips_of(per_class, int(seed), chosen)


def _each(
    make: Callable[[tuple[int, int]], NDArray[_T]], jobs: list[tuple[int, int]], workers: int, progress: bool, what: str
) -> Iterator[NDArray[_T]]:
    if workers == 1:
        yield from with_bar(map(make, jobs), what, "clip", len(jobs), progress)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has loaded torch can hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=worker.begin) as pool:
        # In portions: the pool keeps all results that have not been asked for yet.
        size = 128 * workers
        portions = (pool.map(make, jobs[i : i + size], chunksize=8) for i in range(0, len(jobs), size))
        rows = (row for portion in portions for row in portion)
        yield from with_bar(rows, what, "clip", len(jobs), progress)


def _job(job: tuple[int, int], **how: Any) -> NDArray[np.uint8]:
    return render_clip(job[0], job[1], **how)


def _joints_job(job: tuple[int, int], *, split: str, frames: int, fps: float) -> NDArray[np.float32]:
    return clip_joints(job[0], job[1], split=split, frames=frames, fps=fps)


def _check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if whole and low <= int(value) and (high is None or int(value) <= high):
        return
    span = f"of {low} or more" if high is None else f"from {low} to {high}"
    raise UsageError(f"{name} must be an integer {span}, got {value!r}")


def _check_label(label: object) -> None:
    _check_integer("label (an index into JESTER)", label, 0, len(JESTER) - 1)


def _check_shape(size: object, frames: int, fps: float) -> None:
    _check_integer("size in pixels", size, _MIN_SIZE, _MAX_SIZE)
    _check_integer("frames", frames, 1)
    rate: object = fps
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate <= 0:
        raise UsageError(f"fps must be a positive number, got {fps!r}")
    if frames / fps < 0.5:
        raise UsageError(f"a clip must last at least 0.5 s; {frames} frames at {fps} fps last {frames / fps:.2f} s")
