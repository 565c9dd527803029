"""Batches: the same whoever makes them, stopped and resumed, shared by ranks; labels true; bad files counted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lcr_edge.data.batches import (
    Batch,
    Plan,
    batch_shape,
    batches,
    clip_indices,
    epoch_of,
    in_order,
    make_batch,
    make_ordered_batch,
)
from lcr_edge.data.faults import FaultCounter
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import LcrError, UsageError
from tests.data import made

SIZE = (64, 64)
PLAN = Plan(batch=4, frames=16, fps=8.0, size=SIZE, seed=5, steps=100)


def files(root: Path, kind: str = "folder", split: str = "train") -> ClipSet:
    return open_set(f"{kind}:{root}", split=split, size=SIZE, fps=8.0, frames=16, cache=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_folder(tmp_path_factory.mktemp("folder"), classes=2, clips=5)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    return open_set("rendered:1", size=SIZE, fps=8.0, frames=16, cache=tmp_path_factory.mktemp("cache"))


def same(one: Iterable[Batch], two: Iterable[Batch]) -> bool:
    first, second = list(one), list(two)
    assert [batch.number for batch in first] == [batch.number for batch in second]
    return all(
        a.clips == b.clips
        and a.faults == b.faults
        and all(torch.equal(x, y) for x, y in zip(a[1:4], b[1:4]))
        and (torch.equal(a.joints, b.joints) if a.joints is not None and b.joints is not None else a.joints is b.joints)
        for a, b in zip(first, second)
    )


def test_shapes_and_edges(folder: Path, rendered: ClipSet) -> None:
    for data, known in ((files(folder), False), (rendered, True)):
        batch = make_batch(data, PLAN, 3)
        stride, frames = batch_shape(PLAN, 3)
        assert stride in (1, 2)
        assert batch.frames.shape == (4, frames, *SIZE, 3)
        assert batch.frames.dtype == batch.edges.dtype == torch.uint8
        assert batch.labels.dtype == torch.int64
        assert batch.labels.shape == (4,)
        assert (batch.joints is not None) == known
        if batch.joints is not None:
            assert batch.joints.shape == (4, frames, 21, 2)
            assert batch.joints.dtype == torch.float32
        for row in range(4):
            assert np.array_equal(batch.edges[row, -1].numpy(), host_edges(batch.frames[row, -1].numpy()))
        assert batch.faults == ()
        assert batch.clips == tuple(clip_indices(len(data), PLAN, 3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "rendered"])
def test_any_number_of_workers_and_any_restart_give_the_same(kind: str, folder: Path, rendered: ClipSet) -> None:
    data = files(folder) if kind == "folder" else rendered
    here = [make_batch(data, PLAN, number) for number in range(6)]
    assert same(here, batches(data, PLAN, 0, 6, workers=0))
    handler = signal.getsignal(signal.SIGCHLD)
    assert same(here, batches(data, PLAN, 0, 6, workers=2))
    assert signal.getsignal(signal.SIGCHLD) == handler  # nothing of the loader stays behind
    assert same(here[4:], batches(data, PLAN, 4, 6, workers=0))
    assert not same(here, (make_batch(data, replace(PLAN, seed=6), number) for number in range(6)))


def test_ranks_share_the_batch(folder: Path) -> None:
    data = files(folder)
    for number in (0, 3):
        whole = make_batch(data, PLAN, number)
        for rank in range(2):
            half = make_batch(data, replace(PLAN, rank=rank, world=2), number)
            rows = slice(2 * rank, 2 * rank + 2)
            assert half.clips == whole.clips[rows]
            for part, all_rows in zip(half[1:4], whole[1:4]):
                assert torch.equal(part, all_rows[rows])


def test_an_epoch_shows_every_clip_once() -> None:
    for clips in (40, 43, 4):
        per_epoch = clips // 4
        orders = []
        for epoch in range(3):
            numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
            assert [epoch_of(clips, PLAN, n) for n in numbers] == [(epoch, k) for k in range(per_epoch)]
            seen = [i for n in numbers for i in clip_indices(clips, PLAN, n)]
            assert len(set(seen)) == len(seen) == 4 * per_epoch
            orders.append(seen)
        assert orders[0] != orders[1] != orders[2]
    few = clip_indices(3, PLAN, 7)
    assert sorted(set(few)) == [0, 1, 2]
    assert few[3] == few[0]


def test_speed_schedule_and_lengths() -> None:
    early = [batch_shape(PLAN, n) for n in range(3)]
    late = [batch_shape(replace(PLAN, full_rate=(0.0, 1.0), steps=1), n) for n in range(100, 400)]
    mixed = [batch_shape(replace(PLAN, full_rate=(0.5, 0.5)), n) for n in range(400)]
    assert batch_shape(replace(PLAN, full_rate=(0.0, 0.0)), 9)[0] == 2
    assert early[0][0] == 2
    assert {stride for stride, _ in late} == {1}
    assert {frames for _, frames in late} == {14, 15, 16}
    assert 140 < sum(stride == 1 for stride, _ in mixed) < 260
    assert {frames for stride, frames in mixed if stride == 2} == {7, 8}
    assert batch_shape(replace(PLAN, frames=2, full_rate=(0.0, 0.0)), 0) == (2, 2)
    assert batch_shape(replace(PLAN, augment=False), 0) == (1, 16)


def test_without_augmentation_rendered_clips_come_as_they_are(rendered: ClipSet) -> None:
    batch = make_batch(rendered, replace(PLAN, augment=False), 2)
    for row, index in enumerate(batch.clips):
        assert np.array_equal(batch.frames[row].numpy(), render_clip(index, 0, size=64))
        assert batch.labels[row] == index


def test_evaluation_sees_every_readable_clip_once(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "folder")
    made.truncate(next((root / "val").rglob("2001.mp4")))
    data = files(root, split="heldout")
    plan = replace(PLAN, batch=3)
    found = list(in_order(data, plan, workers=0))
    assert [batch.number for batch in found] == list(range(-(-len(data) // 3)))
    read = [i for batch in found for i in batch.clips]
    bad = [i for batch in found for i, _ in batch.faults]
    assert len(bad) == 1
    assert sorted(read + bad) == list(range(len(data)))
    assert [int(label) for batch in found for label in batch.labels] == data.targets[read].tolist()
    assert all(batch.frames.shape[1] == 16 for batch in found)
    empty = make_ordered_batch(data, plan, 99)
    assert empty.frames.shape == (0, 16, *SIZE, 3)
    assert empty.edges.shape == (0, 16, *SIZE)


@pytest.mark.slow
def test_unreadable_clips_are_replaced_counted_and_too_many_are_fatal(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "folder")
    videos = sorted((root / "train").rglob("*.mp4"))
    data = files(root)
    assert len(data) == len(videos) == 10
    for path in videos[2:4]:
        made.truncate(path)
    counter = FaultCounter()
    fresh: list[str] = []
    for batch in batches(data, PLAN, 0, 6, workers=2):
        assert 2 not in batch.clips
        assert 3 not in batch.clips
        wanted = clip_indices(len(data), PLAN, batch.number)
        assert batch.clips == tuple(4 if index in (2, 3) else index for index in wanted)
        fresh += counter.add(batch)
        counter.check(0.05)  # two are never fatal
    assert counter.total == 2
    assert counter.share == pytest.approx(0.2)
    assert len(fresh) == 2
    for path, message in zip(videos[2:4], sorted(fresh)):
        assert message.startswith(f"{path} is not a video")
    assert same(batches(data, PLAN, 0, 6, workers=0), (make_batch(data, PLAN, n) for n in range(6)))

    made.truncate(videos[7])
    for batch in batches(data, PLAN, 6, 12, workers=0):
        counter.add(batch)
    counter.check(0.3)
    with pytest.raises(LcrError, match=r"3 of 10 clips cannot be read, more than --max-corrupt 0\.05 .*Restore"):
        counter.check(0.05)
    counter.check(0.05, seen=60)

    for path in videos:
        path.write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(LcrError, match="10 clips in a row cannot be read") as caught:
            list(batches(data, PLAN, 0, 2, workers))
        assert "Traceback" not in str(caught.value)


def test_bad_plans_are_named() -> None:
    with pytest.raises(UsageError, match="a batch of 4 clips cannot be shared by 3 processes"):
        replace(PLAN, world=3)
    with pytest.raises(UsageError, match=r"rank must be in 0\.\.1"):
        replace(PLAN, world=2, rank=2)
    with pytest.raises(UsageError, match="batch, steps and world must be 1 or more"):
        replace(PLAN, batch=0)


@pytest.mark.slow
def test_a_killed_render_leaves_no_file(tmp_path: Path) -> None:
    """SIGKILL while clips are drawn; the next run draws them all, and clears away what was left."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom lcr_edge.data.sets import open_set\n"
        "open_set('rendered:2', size=(64, 64), fps=8.0, frames=16, cache=Path(sys.argv[1]))\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root)
    waited = time.monotonic()
    while not list(tmp_path.glob(".rendered-64-*")):
        assert process.poll() is None
        assert time.monotonic() - waited < 60
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "rendered-64-2-seed0.npy").exists()
    both = [subprocess.Popen(command, cwd=root) for _ in range(2)]  # one draws, the other waits for it
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rendered-64-2-seed0.npy",
        "rendered-joints-2-seed0.npy",
    ]
