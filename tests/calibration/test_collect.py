"""Collecting calibration samples: states are those of real streams, choices are seeded, bad data end in a message."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lcr_edge.calibration.collect import STRATA, collect, make_plan
from lcr_edge.calibration.footage import MIN_CLIPS, MIN_SAMPLES, SHOWN
from lcr_edge.calibration.samples import Samples
from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint
from lcr_edge.config import CLIP_FRAMES, get_config
from lcr_edge.data.decode import read_video
from lcr_edge.data.sampling import Sample, balanced
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import CalibrationError, UsageError
from lcr_edge.tolerances import FORWARD_EQUALS_STEPS
from tests.clips import real_clip
from tests.data import made

TOLERANCE = FORWARD_EQUALS_STEPS["float32"]
CLASSES, PER_CLASS = 2, 6


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(get_config("lcr_pico"), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per class with 12 clips in train. Tests must not change it."""
    return made.make_folder(tmp_path_factory.mktemp("folder"), CLASSES, PER_CLASS)


@pytest.fixture
def flat(folder: Path, tmp_path: Path) -> Path:
    """The same 12 clips without labels, to be changed."""
    place = tmp_path / "flat"
    place.mkdir()
    for path in (folder / "train").rglob("*.mp4"):
        shutil.copy(path, place / path.name)
    return place


@pytest.fixture(scope="module")
def everything(checkpoint: Checkpoint, folder: Path) -> Samples:
    """Every frame of 12 clips."""
    return collect(checkpoint, str(folder), clips=12, samples=12 * CLIP_FRAMES, seed=1)


@torch.inference_mode()
def _next_states(checkpoint: Checkpoint, samples: Samples) -> NDArray[np.float32]:
    """H and C of one reference step from each sample, side by side, the network finding the edges itself."""
    rows = []
    for index in range(len(samples)):
        feeds = {name: torch.from_numpy(value) for name, value in samples.feeds(index).items()}
        state = (feeds["state_h_in"][None], feeds["state_c_in"][None])
        _, (h, c) = checkpoint.model.step(feeds["frame"], state)
        rows.append(torch.cat([h.flatten(), c.flatten()]).numpy())
    return np.stack(rows)


def test_states_are_those_of_streams_that_go_on(checkpoint: Checkpoint, everything: Samples) -> None:
    before = np.concatenate([x.reshape(len(everything), -1) for x in (everything.state_h, everything.state_c)], axis=1)
    after = _next_states(checkpoint, everything)
    used = set()
    for index, position in enumerate(everything.position):
        if position == 0:
            assert not before[index].any()
            continue
        earlier = np.flatnonzero(everything.position == position - 1)
        distance = np.abs(after[earlier] - before[index]).max(axis=1)
        nearest = int(distance.argmin())
        assert distance[nearest] < TOLERANCE, f"no sample leads to position {position}"
        used.add(int(earlier[nearest]))
    # Each frame is followed by one other at most.
    assert len(used) == int((everything.position > 0).sum())
    # Half of the windows are carried on.
    assert int((everything.position == 0).sum()) == 6
    assert everything.position.max() >= CLIP_FRAMES
    assert all(np.array_equal(host_edges(frame), edge) for frame, edge in zip(everything.frames, everything.edges))


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_samples(checkpoint: Checkpoint, tmp_path: Path) -> None:
    place = tmp_path / "one" / "clips"
    for seed in range(10):  # longer than a window, so that its place matters
        made.write_video(place / f"{seed}.mp4", made.gesture("Thumb Up", seed, frames=32))
    made.truncate(place / "3.mp4", 0.1)
    moved = shutil.copytree(place, tmp_path / "two" / "clips")
    checkpoint.model.train()
    try:
        first = collect(checkpoint, str(place), clips=12, samples=20, seed=5)
        assert checkpoint.model.training
    finally:
        checkpoint.model.eval()
    again = collect(checkpoint, str(moved), clips=12, samples=20, seed=5, workers=3)
    assert len(first) == 20
    assert again.digest == first.digest
    other = collect(checkpoint, str(place), clips=12, samples=20, seed=6)
    assert other.digest != dataclasses.replace(first, seed=6).digest
    assert (first.clips, first.seed, first.config_name) == (12, 5, "lcr_pico")
    assert first.checkpoint_sha256 == checkpoint.sha256
    assert first.source.startswith("folder:clips ")


@pytest.mark.parametrize("samples", [4, 17, 128, 8 * CLIP_FRAMES * 4])
@pytest.mark.parametrize("clips", [8, 30, 108])
def test_early_and_late_frames_are_all_there(clips: int, samples: int) -> None:
    plan = make_plan(clips, samples, seed=0)
    assert len(plan.kept) == len(np.unique(plan.kept)) == min(samples, clips * CLIP_FRAMES)
    assert int((plan.start == 0).sum()) == clips - clips // 2
    for k in np.flatnonzero(plan.start):
        assert plan.start[k] == plan.start[k - plan.rows] + CLIP_FRAMES
    clip, frame = np.divmod(plan.kept, CLIP_FRAMES)
    position = plan.start[clip] + frame
    every = (plan.start[:, None] + np.arange(CLIP_FRAMES)).reshape(-1)
    counts, room = [], []
    for first, last, share in STRATA:
        end = np.inf if last is None else last
        room.append(int(((every >= first) & (every <= end)).sum()))
        counts.append(int(((position >= first) & (position <= end)).sum()))
        assert counts[-1] >= min(room[-1], max(1, int(share * samples) - 1))
    assert sum(counts) == len(plan.kept)
    assert len(STRATA) == MIN_SAMPLES
    assert sum(share for *_, share in STRATA) == 1.0
    if clips == 108:
        assert not np.array_equal(make_plan(clips, samples, seed=1).kept, plan.kept)


def test_classes_come_in_turns() -> None:
    targets = np.array([0] * 10 + [1] * 3 + [2] * 2)
    order = balanced(targets, seed=0)
    assert sorted(order) == list(range(15))
    assert [sorted(targets[order[i : i + 3]]) for i in (0, 3)] == [[0, 1, 2]] * 2
    assert sorted(targets[order[6:8]]) == [0, 1]
    assert balanced(targets, seed=1) != order == balanced(targets, seed=0)


@pytest.mark.slow
def test_real_videos_in_a_flat_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = real_clip("bikes.mp4")
    for number in range(MIN_CLIPS):
        (tmp_path / f"{number}.mp4").symlink_to(video)
    packaged = load()
    clips = MIN_CLIPS + 2  # some are gone through again, elsewhere
    samples = collect(packaged, str(tmp_path), clips=clips, samples=clips * CLIP_FRAMES, seed=0)
    assert samples.frames.shape[1:] == packaged.config.frame_shape
    rate = packaged.config.train_fps
    whole = read_video(video, Sample(int(10 * rate), rate, 0.0), packaged.config.frame_shape[:2])
    # A wide picture: letterboxed, as in the training of this network.
    for rows in (whole, samples.frames):
        assert len(np.unique(rows[:, 0])) == 1
        assert len(np.unique(rows[:, packaged.config.height // 2])) > 100
    firsts = {samples.frames[i].tobytes() for i in np.flatnonzero(samples.position % CLIP_FRAMES == 0)}
    assert len(firsts) > MIN_CLIPS // 2, "windows lie at different places"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("data", [None, pytest.param("rendered:900", marks=pytest.mark.slow)])
def test_rendered_gestures_draw_no_more_than_needed(data: str | None, checkpoint: Checkpoint) -> None:
    samples = collect(checkpoint, data, clips=9, samples=4)
    assert samples.source == data or (data is None and samples.source == "rendered")
    assert (len(samples), samples.clips) == (4, 9)


def test_the_layouts_of_training_are_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    root = made.make_jester(tmp_path / "set", CLASSES, 4)
    samples = collect(checkpoint, f"jester:{root}", clips=8, samples=4)
    assert samples.source.startswith("jester:set ")


def test_a_truncated_file_is_named_and_replaced(
    checkpoint: Checkpoint, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = made.truncate(sorted(flat.iterdir())[4])
    samples = collect(checkpoint, str(flat), clips=12, samples=12 * CLIP_FRAMES)
    assert len(samples) == 12 * CLIP_FRAMES
    err = capsys.readouterr().err
    assert err.count("skipped: ") == 1
    assert str(victim) in err


def test_too_many_unreadable_clips(checkpoint: Checkpoint, flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = sorted(flat.iterdir())
    for path in clips[:5]:
        made.truncate(path, 0.1)
    with pytest.raises(CalibrationError, match=r"7 of 12 clips can be read, 8 are needed.*leave it out"):
        collect(checkpoint, str(flat), clips=12, samples=8)
    assert capsys.readouterr().err.count("skipped: ") == 5
    for path in clips[5:7]:
        path.write_bytes(b"")
    with pytest.raises(CalibrationError, match=r"more than half of the 12 wanted cannot be read: .*damaged ones again"):
        collect(checkpoint, str(flat), clips=12, samples=8)


def test_no_more_than_ten_are_named(checkpoint: Checkpoint, flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sorted(flat.iterdir())
    for number in range(SHOWN + 2):
        (flat / f"empty{number}.mp4").write_bytes(b"")
    collect(checkpoint, str(flat), clips=24, samples=8)
    err = capsys.readouterr().err
    assert err.count("empty (0 bytes)") == SHOWN
    assert "2 more unreadable clips" in err
    assert not any(str(path) in err for path in good)


def _bad(root: Path) -> Iterator[tuple[str, str]]:
    (root / "empty").mkdir()
    (root / "file.mp4").write_bytes(b"0")
    (root / "pictures" / "1").mkdir(parents=True)
    (root / "pictures" / "1" / "1.jpg").write_bytes(b"0")
    yield str(root / "missing"), "no such folder.*jester:FOLDER"
    yield f"jestre:{root}", "no such folder.*jester:FOLDER"
    yield f"jester:{root / 'missing'}", r"does not exist.*--calibration-data jester:"
    yield "jester", "--calibration-data jester needs a folder"
    yield str(root / "empty"), "is empty"
    yield str(root / "file.mp4"), "is a file"
    yield str(root / "pictures"), "has no videos.*jester:FOLDER"
    yield "rendered:none", "--calibration-data rendered:none"


def test_data_that_cannot_be_opened(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for data, message in _bad(tmp_path):
        with pytest.raises(UsageError, match=message):
            collect(checkpoint, data, clips=8, samples=8)


@pytest.mark.parametrize(
    ("tensor", "value", "where"),
    [
        ("layers.1.mix_in.weight", float("nan"), r"^layers\.1\.mix_in: NaN or Inf"),
        ("layers.2.bonus", float("inf"), r"^what is computed right before layers\.2\.attend: "),
        ("embed.projection.bias", float("inf"), r"^embed\.projection: "),
        ("classify.weight", float("nan"), r"^classify: .* within 1 frames .*use an earlier one"),
    ],
)
def test_a_network_that_has_diverged(tensor: str, value: float, where: str, folder: Path) -> None:
    broken = random_checkpoint(get_config("lcr_pico"), seed=3)
    with torch.no_grad():
        broken.model.state_dict()[tensor].view(-1)[0] = value
    with pytest.raises(CalibrationError, match=where):
        collect(broken, str(folder), clips=8, samples=8)
