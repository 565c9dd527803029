"""Augmentations of whole clips that keep the label true, or change it with the clip. Numpy, uint8."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.gestures import PAIRS
from lcr_edge.data.labels import JESTER

# Pairs that are each other's mirror image; gestures.PAIRS are each other played backwards. All others stay themselves.
_MIRRORED = {
    "Swiping Left": "Swiping Right",
    "Sliding Two Fingers Left": "Sliding Two Fingers Right",
    "Turning Hand Clockwise": "Turning Hand Counterclockwise",
}


def _label_map(pairs: dict[str, str]) -> NDArray[np.int64]:
    swap = {**pairs, **{second: first for first, second in pairs.items()}}
    return np.array([JESTER.index(swap.get(name, name)) for name in JESTER])


MIRRORED_LABEL = _label_map(_MIRRORED)
REVERSED_LABEL = _label_map(PAIRS)


def augment(
    clip: NDArray[np.uint8], joints: NDArray[np.float32], label: int, random: np.random.Generator, shift: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
    """One clip uint8 [T, H, W, 3] with its joints [T, J, 2] (fractions of the frame) and label, changed at random.

    Mirrored, played backwards (each with the label), shifted by up to ``shift`` pixels, relit.
    """
    height, width = clip.shape[1:3]
    if random.random() < 0.5:
        clip, label = clip[:, :, ::-1], int(MIRRORED_LABEL[label])
        joints = np.stack([1.0 - joints[..., 0], joints[..., 1]], axis=-1)
    if random.random() < 0.5:
        clip, joints, label = clip[::-1], joints[::-1], int(REVERSED_LABEL[label])
    dy, dx = random.integers(-shift, shift + 1, size=2)
    joints = joints - np.array([dx / width, dy / height], np.float32)
    clip = clip.take(np.clip(np.arange(height) + dy, 0, height - 1), axis=1)
    clip = clip.take(np.clip(np.arange(width) + dx, 0, width - 1), axis=2)
    gain = random.uniform(0.8, 1.2, size=3) * random.uniform(0.85, 1.15)
    curve = np.clip(np.arange(256)[:, None] * gain + random.uniform(-12, 12), 0, 255).astype(np.uint8)
    relit = cv2.LUT(clip.reshape(-1, width, 3), curve[:, None])
    return np.asarray(relit, np.uint8).reshape(clip.shape), joints, label
