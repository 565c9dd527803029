"""Augmentations of whole clips that keep the label true, or change it with the clip. Numpy and OpenCV, uint8.

One function, :func:`vary`, does it for all data sets; a :class:`Recipe` says what is true for the set at hand.

| change | rendered gestures | recorded clips |
|---|---|---|
| mirrored, every second clip | label by the table of ``mirror`` | the same; classes without a partner are left alone |
| played backwards, every second clip | label by ``gestures.PAIRS`` | never: recorded time has a direction |
| shifted, edge pixels repeated | up to 1/14 of the frame's height | none: the crop moves the picture |
| cropped and enlarged, all frames alike | none | 85 to 100 % of height and width, at a random place |
| relit | gain 0.68 to 1.38 a channel, offset up to 12 of 255 | the same |
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.labels import JESTER
from lcr_edge.data.mirror import NEVER, mirror_table
from lcr_edge.data.rendered.gestures import PAIRS

Clip = NDArray[np.uint8]
Joints = NDArray[np.float32]

MAX_SHIFT = 1 / 14
MIN_CROP = 0.85


def _reverse_table() -> NDArray[np.int64]:
    swap = {**PAIRS, **{second: first for first, second in PAIRS.items()}}
    return np.array([JESTER.index(swap.get(name, name)) for name in JESTER])


MIRRORED_LABEL = mirror_table(JESTER)
REVERSED_LABEL = _reverse_table()


@dataclass(frozen=True)
class Recipe:
    """The changes that are allowed for the clips of a data set.

    mirrored: class index after mirroring, int64 [classes], ``mirror.NEVER`` where that is not allowed.
    reversed: class index after playing backwards, int64 [classes]; None when that is not allowed.
    shift: largest shift as a share of the frame's height. crop: smallest share of height and width that is kept.
    """

    mirrored: NDArray[np.int64]
    reversed: NDArray[np.int64] | None = None
    shift: float = 0.0
    crop: float = 1.0


def recipe(labels: tuple[str, ...], *, reversible: bool) -> Recipe:
    """The recipe of a data set with these class names; ``reversible``: its clips are rendered gestures."""
    if reversible:
        backwards = {JESTER[i]: JESTER[j] for i, j in enumerate(REVERSED_LABEL)}
        after = np.array([labels.index(backwards.get(name, name)) for name in labels])
        return Recipe(mirror_table(labels), after, shift=MAX_SHIFT)
    return Recipe(mirror_table(labels), crop=MIN_CROP)


def vary(
    clip: Clip, joints: Joints | None, label: int, random: np.random.Generator, how: Recipe
) -> tuple[Clip, Joints | None, int]:
    """One clip uint8 [T, H, W, 3], its joints float32 [T, J, 2] (fractions of the frame) or None, and its class index.

    Returns the same three, changed at random as ``how`` allows; every frame of the clip is changed alike.
    """
    height, width = clip.shape[1:3]
    if random.random() < 0.5 and how.mirrored[label] != NEVER:
        clip, label = clip[:, :, ::-1], int(how.mirrored[label])
        if joints is not None:
            joints = np.stack([1.0 - joints[..., 0], joints[..., 1]], axis=-1)
    if how.reversed is not None and random.random() < 0.5:
        clip, label = clip[::-1], int(how.reversed[label])
        joints = None if joints is None else joints[::-1]
    shift = round(how.shift * height)
    if shift:
        dy, dx = random.integers(-shift, shift + 1, size=2)
        joints = None if joints is None else joints - np.array([dx / width, dy / height], np.float32)
        clip = clip.take(np.clip(np.arange(height) + dy, 0, height - 1), axis=1)
        clip = clip.take(np.clip(np.arange(width) + dx, 0, width - 1), axis=2)
    if how.crop < 1:
        clip, joints = _cropped(clip, joints, random, how.crop)
    return _relit(clip, random), joints, label


def augment(
    clip: Clip, joints: Joints, label: int, random: np.random.Generator, shift: int
) -> tuple[Clip, Joints, int]:
    """:func:`vary` for a rendered gesture, with a largest shift of ``shift`` pixels."""
    how = Recipe(MIRRORED_LABEL, REVERSED_LABEL, shift / clip.shape[1])
    changed, moved, label = vary(clip, joints, label, random, how)
    return changed, joints if moved is None else moved, label


def _cropped(
    clip: Clip, joints: Joints | None, random: np.random.Generator, smallest: float
) -> tuple[Clip, Joints | None]:
    """A random part of the frames, the same in all of them, enlarged to the old size."""
    height, width = clip.shape[1:3]
    share = random.uniform(smallest, 1.0)
    inner_height, inner_width = max(1, round(share * height)), max(1, round(share * width))
    top = int(random.integers(0, height - inner_height + 1))
    left = int(random.integers(0, width - inner_width + 1))
    part = clip[:, top : top + inner_height, left : left + inner_width]
    out = np.empty(clip.shape, np.uint8)
    for k, frame in enumerate(part):
        out[k] = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=cv2.INTER_LINEAR)
    if joints is None:
        return out, None
    size, inner = np.array([width, height], np.float32), np.array([inner_width, inner_height], np.float32)
    return out, (joints * size - np.array([left, top], np.float32)) / inner


def _relit(clip: Clip, random: np.random.Generator) -> Clip:
    width = clip.shape[2]
    gain = random.uniform(0.8, 1.2, size=3) * random.uniform(0.85, 1.15)
    curve = np.clip(np.arange(256)[:, None] * gain + random.uniform(-12, 12), 0, 255).astype(np.uint8)
    relit = cv2.LUT(np.ascontiguousarray(clip).reshape(-1, width, 3), curve[:, None])
    return np.asarray(relit, np.uint8).reshape(clip.shape)
