"""Rendered gestures: the same seed gives the same bytes, splits differ, opposite labels are time reversals."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered import clips as rendered
from lcr_edge.errors import UsageError

pytest.importorskip("cv2", reason="rendering needs OpenCV")

from lcr_edge.data.rendered import colours, gestures, hand, motion

LABELS = range(len(JESTER))
PAIRS = [(JESTER.index(a), JESTER.index(b)) for a, b in gestures.PAIRS.items()]
DURATION, FRAMES = 2.0, 16
TIMES = (np.arange(FRAMES) + 0.5) * DURATION / FRAMES


def path_of(label: int, seed: int) -> gestures.Trajectory:
    """The trajectory of a label, all random numbers from ``seed`` alone: equal seeds, equal random numbers."""
    rng = np.random.Generator(np.random.PCG64(seed))
    thumb, facing, arm = (int(rng.choice([-1, 1])) for _ in range(3))
    return gestures.trajectory(label, rng, motion.Actor(thumb, facing, arm, rng.uniform(0.3, 0.42)), DURATION)


def poses(label: int, seed: int) -> Any:
    """Poses [16, 13] at the middles of the frames."""
    return path_of(label, seed)(TIMES)


def always_up(label: int) -> list[gestures.Trajectory]:
    """Trajectories whose hand neither comes from nor goes to its rest below the frame, long before and after."""
    paths = [path_of(label, seed) for seed in range(40)]
    found = [path for path in paths if float(path(np.array([-9.0, 11.0]))[:, hand.Y].max()) < 1.0]
    assert len(found) >= 3
    return found


def look(seed: int) -> hand.Look:
    rng = np.random.Generator(np.random.PCG64(seed))
    return hand.Look(
        colours.skin_tone(rng),
        colours.cloth_colour(rng),
        1,
        int(rng.choice([-1, 1])),
        -1,
        0.5,
        (0.3, 0.95),
        1.0,
        1.3,
        (1, -1),
    )


def digest(clip: Any) -> str:
    return hashlib.sha256(clip.tobytes()).hexdigest()


@pytest.mark.slow
def test_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib\nfrom lcr_edge.data.rendered.clips import render_clip\n"
        "for label in range(27): print(hashlib.sha256(render_clip(label, 5, size=64).tobytes()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(rendered.render_clip(label, 5, size=64)) for label in LABELS]


@pytest.mark.parametrize("label", LABELS, ids=JESTER)
def test_every_label_renders_and_moves(label: int) -> None:
    clip = rendered.render_clip(label, 1)
    assert clip.shape == (16, 112, 112, 3)
    assert clip.dtype == np.uint8
    assert clip.flags.c_contiguous
    assert float(clip.std(axis=(1, 2)).min()) > 5.0
    assert float(np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=(1, 2, 3)).min()) > 0.2


@pytest.mark.parametrize("size", [64, 112, 224])
def test_sizes_show_the_same_clip(size: int) -> None:
    """The random numbers of movement and looks do not depend on the size."""
    label = JESTER.index("Swiping Left")
    clip = rendered.render_clip(label, 2, size=size, frames=8, fps=4.0)
    assert clip.shape == (8, size, size, 3)
    small = clip.reshape(8, 16, size // 16, 16, size // 16, 3).mean(axis=(2, 4))
    other = rendered.render_clip(label, 2, size=96, frames=8, fps=4.0)
    assert np.abs(small - other.reshape(8, 16, 6, 16, 6, 3).mean(axis=(2, 4))).mean() < 40


def test_seeds_splits_and_labels_give_other_clips() -> None:
    found = {
        digest(rendered.render_clip(label, seed, split=split, size=32, frames=4))
        for label in (3, 16, 17)
        for seed in (0, 1, 2)
        for split in rendered.SPLITS
    }
    assert len(found) == 3 * 3 * 2
    sequences = {
        tuple(rendered.seed_sequence(label, seed, split).generate_state(4).tolist())
        for label in LABELS
        for seed in range(40)
        for split in rendered.SPLITS
    }
    assert len(sequences) == 27 * 40 * 2


@pytest.mark.parametrize("pair", PAIRS, ids=[JESTER[a] for a, _ in PAIRS])
def test_opposite_label_is_the_time_reversal(pair: tuple[int, int]) -> None:
    """Same random numbers: the same poses in opposite order, so no single frame can tell the two labels apart."""
    moved = 0.0
    for seed in range(25):
        forward, backward = poses(pair[0], seed), poses(pair[1], seed)
        np.testing.assert_allclose(forward, backward[::-1], rtol=0, atol=1e-9)
        moved = max(moved, float(np.abs(forward - backward).max()))
    assert moved > 0.1, "the two labels of a pair must differ in the order of their poses"


def test_pair_images_are_the_same_frames_backwards() -> None:
    for a, b in PAIRS[:4]:
        forward = hand.draw(poses(a, 3), look(3), 128).astype(np.int16)
        backward = hand.draw(poses(b, 3), look(3), 128).astype(np.int16)
        assert forward.max() > 0
        # Rounding of the time may move an outline by one sixteenth of a pixel.
        assert np.abs(forward - backward[::-1]).mean() < 0.05


def test_every_directed_label_has_its_opposite() -> None:
    words = ("Left", "Right", "Up", "Down", "Away", "Pulling", "Forward", "Backward", "Clockwise", "Counter", "Zooming")
    directed = {name for name in JESTER if any(w in name for w in words) and not name.startswith("Thumb")}
    assert directed == set(gestures.PAIRS) | set(gestures.PAIRS.values())


@pytest.mark.parametrize(
    ("name", "column", "sign"),
    [
        ("Swiping Left", hand.X, -1),
        ("Swiping Down", hand.Y, 1),
        ("Sliding Two Fingers Right", hand.X, 1),
        ("Sliding Two Fingers Up", hand.Y, -1),
        ("Pushing Hand Away", hand.SIZE, 1),
        ("Pulling Two Fingers In", hand.SIZE, -1),
        ("Turning Hand Clockwise", hand.ROLL, 1),
        ("Turning Hand Counterclockwise", hand.ROLL, -1),
        ("Zooming In With Full Hand", hand.SPREAD, 1),
        ("Zooming Out With Two Fingers", hand.PINCH, 1),
    ],
)
def test_directions_in_the_image(name: str, column: int, sign: int) -> None:
    """From before the stroke to after it, the named quantity changes the named way."""
    for path in always_up(JESTER.index(name)):
        before, after = path(np.array([-0.01, DURATION + 0.01]))[:, column]
        assert sign * (after - before) > 0.05


@pytest.mark.parametrize(("name", "sign"), [("Rolling Hand Forward", 1), ("Rolling Hand Backward", -1)])
def test_rolling_direction(name: str, sign: int) -> None:
    """In a forward roll the hand comes nearer (grows) while it is high and goes back while it is low."""
    times = np.linspace(0.3, 1.7, 200)
    for path in always_up(JESTER.index(name)):
        rolled = path(times)
        height = rolled[:, hand.Y].mean() - rolled[:, hand.Y]
        assert sign * float((np.gradient(rolled[:, hand.SIZE]) * height).sum()) > 0


def test_hand_comes_and_goes_equally_often() -> None:
    """Half of the clips begin, and half end, with the hand away: entry and exit tell nothing about the class."""
    ends = np.array(
        [path_of(JESTER.index("Swiping Up"), seed)(np.array([-9.0, 11.0]))[:, hand.Y] for seed in range(400)]
    )
    assert np.all(np.abs((ends > 1.0).mean(axis=0) - 0.5) < 0.1)


def test_positive_roll_is_clockwise_in_the_image() -> None:
    pose = np.zeros((2, hand.POSE_SIZE))
    pose[:, [hand.X, hand.Y, hand.SIZE]] = 0.5, 0.5, 0.35
    pose[1, hand.ROLL] = 0.5
    tips, _ = hand.project(pose, hand.joints(pose, look(0)))
    assert tips[1, 8, 0] > tips[0, 8, 0] + 0.05  # the middle fingertip, at the top, goes to the right


def test_hand_is_as_large_as_promised() -> None:
    """An upright open hand of length 0.35 frames is drawn 25 to 45 % of the frame high."""
    pose = np.zeros((1, hand.POSE_SIZE))
    pose[0, [hand.X, hand.Y, hand.SIZE]] = 0.5, 0.5, 0.35
    points, _ = hand.project(pose, hand.joints(pose, look(0)))
    height = np.ptp(points[0, :, 1])
    assert 0.25 < height < 0.45


def test_render_set_is_the_same_with_any_workers() -> None:
    clips, labels = rendered.render_set(2, 7, labels=[2, 16], size=32, frames=4, split="heldout")
    pooled, pooled_labels = rendered.render_set(2, 7, labels=[2, 16], size=32, frames=4, split="heldout", workers=2)
    assert clips.shape == (4, 4, 32, 32, 3)
    assert clips.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 16, 2, 16]
    np.testing.assert_array_equal(clips, pooled)
    np.testing.assert_array_equal(labels, pooled_labels)
    alone = rendered.render_clip(16, rendered.clip_seed(7, 1), split="heldout", size=32, frames=4)
    np.testing.assert_array_equal(clips[3], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 27}, "label"),
        ({"label": -1}, "label"),
        ({"label": True}, "label"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"split": "test"}, "train, heldout"),
        ({"size": 16}, "size"),
        ({"size": 112.0}, "size"),
        ({"frames": 0}, "frames"),
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"frames": 2}, "0.5 s"),
    ],
)
def test_bad_clip_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"label": 0, "seed": 0, **change}
    with pytest.raises(UsageError, match=message):
        rendered.render_clip(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": 0}, "per_class"),
        ({"workers": 0}, "workers"),
        ({"labels": []}, "labels"),
        ({"labels": [0, 99]}, "label"),
        ({"split": "val"}, "split"),
        ({"seed": -3}, "seed"),
    ],
)
def test_bad_set_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"per_class": 1, "seed": 0, **change}
    with pytest.raises(UsageError, match=message):
        rendered.render_set(**arguments)
