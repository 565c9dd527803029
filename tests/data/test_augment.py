"""Augmentations keep labels and joints true, for rendered gestures and for recorded clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lcr_edge import tolerances
from lcr_edge.data import augment
from lcr_edge.data.labels import JESTER
from lcr_edge.data.mirror import NEVER, mirror_table
from lcr_edge.data.rendered.clips import clip_joints, render_clip


def _name(table: npt.NDArray[np.int64], name: str) -> str:
    return JESTER[int(table[JESTER.index(name)])]


def test_label_maps() -> None:
    assert _name(augment.MIRRORED_LABEL, "Swiping Left") == "Swiping Right"
    assert _name(augment.MIRRORED_LABEL, "Turning Hand Counterclockwise") == "Turning Hand Clockwise"
    assert _name(augment.MIRRORED_LABEL, "Swiping Up") == "Swiping Up"
    assert _name(augment.REVERSED_LABEL, "Swiping Up") == "Swiping Down"
    assert _name(augment.REVERSED_LABEL, "Pulling Two Fingers In") == "Pushing Two Fingers Away"
    assert _name(augment.REVERSED_LABEL, "Thumb Up") == "Thumb Up"
    for table in (augment.MIRRORED_LABEL, augment.REVERSED_LABEL):
        assert np.array_equal(table[table], np.arange(len(JESTER)))


def test_augmentation_moves_joints_with_the_pixels(rng: np.random.Generator) -> None:
    """A white dot is drawn where each frame's joint is; it must still be there afterwards."""
    size, frames = 56, 6
    label = JESTER.index("Swiping Left")
    seen = set()
    for _ in range(40):
        place = rng.integers(12, size - 12, size=(frames, 2))
        clip = np.zeros((frames, size, size, 3), np.uint8)
        clip[np.arange(frames), place[:, 1], place[:, 0]] = 255
        joints = ((place + 0.5) / size).astype(np.float32)[:, None]
        changed, moved, new_label = augment.augment(clip, joints, label, rng, shift=4)
        assert changed.shape == clip.shape
        assert changed.dtype == np.uint8
        brightest = changed.sum(-1, dtype=np.int64).reshape(frames, -1).argmax(1)
        found = np.stack([brightest % size, brightest // size], axis=-1)
        assert np.array_equal(np.floor(moved[:, 0] * size + 1e-3).astype(int), found)
        seen.add(JESTER[new_label])
    assert seen == {"Swiping Left", "Swiping Right"}


def test_mirrored_labels() -> None:
    labels = ("Pull left to right", "Pull right to left", "spin_cw", "spin_ccw", "Turn Left", "Bright", "Wave")
    assert mirror_table(labels).tolist() == [1, 0, 3, 2, NEVER, NEVER, 6]
    assert mirror_table(("turn anti-clockwise", "turn clockwise")).tolist() == [1, 0]


def test_labels_follow_the_changes(rng: np.random.Generator) -> None:
    """A mark that moves to the left is shown; whatever is done to the clip, its label says where it goes."""
    names = ("Marker Left", "Marker Right", "Turn Left", "Wave")
    clip = np.full((6, 64, 64, 3), 40, np.uint8)
    for k in range(6):
        clip[k, 28:36, 50 - 7 * k : 56 - 7 * k] = 230
    how = augment.recipe(names, reversible=False)
    assert how.mirrored.tolist() == [1, 0, NEVER, 3]
    assert how.reversed is None
    seen: Counter[int] = Counter()
    sizes = set()
    for label in (0, 2, 3):
        for _ in range(30):
            changed, _, new = augment.vary(clip, None, label, rng, how)
            assert changed.shape == clip.shape
            bright = changed.astype(np.int64).sum(-1) > 300
            centres = [np.flatnonzero(picture.any(0)).mean() for picture in bright]
            steps = np.diff(centres)
            assert (steps < 0).all() or (steps > 0).all(), "all frames are changed alike"
            left = bool(steps[0] < 0)
            assert left if new in (0, 2) else (not left or label == 3)
            seen[new] += 1
            sizes.add(round(float(-steps.mean() if left else steps.mean()), 1))
    assert seen[2] == seen[3] == 30
    assert seen[0] > 5
    assert seen[1] > 5
    assert min(sizes) >= 6.9
    assert max(sizes) <= 7 / augment.MIN_CROP + 0.2
    assert len(sizes) > 3


def test_joints_follow_the_crop(rng: np.random.Generator) -> None:
    how = replace(augment.recipe(JESTER, reversible=True), crop=0.7)
    for _ in range(20):
        x, y = rng.integers(24, 40, size=2)
        clip = np.zeros((2, 64, 64, 3), np.uint8)
        clip[:, y - 1 : y + 2, x - 1 : x + 2] = 255
        joints = np.broadcast_to(((np.array([x, y]) + 0.5) / 64).astype(np.float32), (2, 21, 2))
        changed, moved, _ = augment.vary(clip, joints, 0, rng, how)
        assert moved is not None
        weight = changed[0].astype(np.float64).sum(-1)
        weight[weight < 0.5 * weight.max()] = 0
        centre = np.array([(weight.sum(0) * np.arange(64)).sum(), (weight.sum(1) * np.arange(64)).sum()]) / weight.sum()
        assert np.abs(moved[0, 0] * 64 - 0.5 - centre).max() < tolerances.JOINT_PIXELS


def test_rendered_changes_are_those_of_augment() -> None:
    """``augment`` and the batches' recipe draw and do the same."""
    clip, joints = render_clip(16, 1, size=64), clip_joints(16, 1)
    shift = round(augment.MAX_SHIFT * 64)
    one = augment.augment(clip, joints, 16, np.random.default_rng(1), shift)
    two = augment.vary(clip, joints, 16, np.random.default_rng(1), augment.recipe(JESTER, reversible=True))
    assert np.array_equal(one[0], two[0])
    assert two[1] is not None
    assert np.array_equal(one[1], two[1])
    assert one[2] == two[2]
