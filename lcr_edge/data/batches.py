"""Batches of clips for training and evaluation. Each is a pure function of the data, the plan and its number.

So training can stop anywhere and go on with the next number, any number of processes may make them, and ``world``
ranks share exactly the batch that one would get. Random numbers come from generators seeded with what they are for:

    order of an epoch, or its draws   (ORDER, seed, epoch)
    stride and length of a batch      (SHAPE, seed, number)
    place and changes of a row        (ROW, seed, epoch, number, row in the whole batch)
"""

from __future__ import annotations

import functools
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lcr_edge.config import MIN_CLIP_FRAMES
from lcr_edge.data import worker
from lcr_edge.data.augment import Recipe, recipe, vary
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import ClipSet
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import LcrError, UsageError, VideoError

ORDER, SHAPE, ROW = 1, 2, 3
_MAX_REPLACED = 100  # unreadable clips one after the other; reading on through a whole damaged set would take hours


class Batch(NamedTuple):
    """Some clips.

    number: as asked for. frames: uint8 [B, T, H, W, 3] RGB. edges: uint8 [B, T, H, W] in {0, 1}. labels: int64 [B].
    joints: float32 [B, T, 21, 2] in fractions of the frame, or None where they are not known. faults: index and
    message of each clip that could not be read. clips: index of the clip in each row.
    """

    number: int
    frames: Tensor
    edges: Tensor
    labels: Tensor
    joints: Tensor | None
    faults: tuple[tuple[int, str], ...]
    clips: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How batches are made.

    batch: clips in the batch of all ranks together. frames: of a clip at full length and rate. fps: the network's
    frames per second. size: height, width. steps: of the whole training, for full_rate: the share of batches at that
    rate at the first and at the last step; the others play at double speed, every second frame. rank, world: rank r
    gets rows r batch/world to (r+1) batch/world. augment: False for whole clips from their middle, as they are, at
    full rate (still in random order). balance: an epoch is as many draws as there are clips, with replacement, and a
    clip's probability is inverse to the size of its class: all classes are equally frequent.
    """

    batch: int
    frames: int
    fps: float
    size: tuple[int, int]
    seed: int
    steps: int
    full_rate: tuple[float, float] = (0.0, 0.6)
    rank: int = 0
    world: int = 1
    augment: bool = True
    balance: bool = False

    def __post_init__(self) -> None:
        if min(self.batch, self.steps, self.world) < 1 or self.frames < MIN_CLIP_FRAMES or self.seed < 0:
            raise UsageError(f"batch, steps and world must be 1 or more, frames 2 or more, seed 0 or more: {self}")
        if self.batch % self.world:
            raise UsageError(
                f"a batch of {self.batch} clips cannot be shared by {self.world} processes; use a multiple of them"
            )
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank must be in 0..{self.world - 1}, got {self.rank}")


def epoch_of(clips: int, plan: Plan, number: int) -> tuple[int, int]:
    """Epoch of batch ``number``, and its place in it. An epoch leaves out what does not fill a last batch."""
    return divmod(number, max(1, clips // plan.batch))


def clip_indices(clips: int, plan: Plan, number: int, targets: NDArray[np.int64] | None = None) -> list[int]:
    """The clips of the whole batch ``number``, of all ranks; from the start again when there are fewer than a batch.

    targets: class index of each clip, int64 [clips]; needed by a plan that balances the classes.
    """
    epoch, place = epoch_of(clips, plan, number)
    if plan.balance and targets is not None:
        order = _balanced_draws(targets.tobytes(), plan.seed, epoch, max(clips, plan.batch))
    else:
        order = _order(clips, plan.seed, epoch)
    if clips < plan.batch:
        order, place = np.resize(order, plan.batch), 0
    return [int(index) for index in order[place * plan.batch : (place + 1) * plan.batch]]


def batch_shape(plan: Plan, number: int) -> tuple[int, int]:
    """Stride and number of frames T of batch ``number``, equal on all ranks.

    T = (frames - skip) // stride with skip uniform in 0..frames/8, at least 2: a network that always saw clips of one
    length would wait for their end.
    """
    if not plan.augment:
        return 1, plan.frames
    random = np.random.default_rng((SHAPE, plan.seed, number))
    first, last = plan.full_rate
    full_rate = first + (last - first) * min(1.0, number / plan.steps)
    stride = 1 if random.random() < full_rate else 2
    skip = int(random.integers(0, plan.frames // 8 + 1))
    return stride, max(MIN_CLIP_FRAMES, (plan.frames - skip) // stride)


def make_batch(data: ClipSet, plan: Plan, number: int) -> Batch:
    """Batch ``number``: this rank's rows of it.

    A clip that cannot be read is replaced by the next readable one in index order, and listed in ``faults``. Raises
    LcrError when no clip can be read.
    """
    epoch, _ = epoch_of(len(data), plan, number)
    stride, frames = batch_shape(plan, number)
    how = _recipe(data.labels, data.reversible)
    share = plan.batch // plan.world
    rows = _Rows(plan, number, frames)
    for row, wanted in enumerate(clip_indices(len(data), plan, number, data.targets)):
        if not plan.rank * share <= row < (plan.rank + 1) * share:
            continue
        random = np.random.default_rng((ROW, plan.seed, epoch, number, row))
        sample = Sample(frames, plan.fps / stride, random.random() if plan.augment else 0.5)
        clip, joints, index = rows.read(data, wanted, sample)
        label = int(data.targets[index])
        if plan.augment:
            clip, joints, label = vary(clip, joints, label, random, how)
        rows.add(clip, joints, label, index)
    return rows.batch()


def make_ordered_batch(data: ClipSet, plan: Plan, number: int) -> Batch:
    """For evaluation: clips number batch to (number + 1) batch - 1, whole and unchanged, without unreadable ones."""
    rows = _Rows(plan, number, plan.frames)
    for index in range(number * plan.batch, min((number + 1) * plan.batch, len(data))):
        try:
            clip, joints = data.read(index, Sample(plan.frames, plan.fps, 0.5), plan.size)
        except VideoError as error:
            rows.faults.append((index, str(error)))
        else:
            rows.add(clip, joints, int(data.targets[index]), index)
    return rows.batch()


def batches(data: ClipSet, plan: Plan, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches ``start`` to ``stop`` - 1, in order, the same for any number of ``workers``.

    workers: processes that read and augment ahead; 0 does so in a thread of this process. They are started afresh
    (spawn), so a script that calls this needs the usual ``if __name__ == "__main__"`` guard. Raises LcrError.
    """
    return _ahead(_Numbered(data, plan, ordered=False), range(start, stop), workers)


def in_order(data: ClipSet, plan: Plan, workers: int) -> Iterator[Batch]:
    """Every clip of the set once, by :func:`make_ordered_batch`; the last batch may be smaller. See :func:`batches`."""
    return _ahead(_Numbered(data, plan, ordered=True), range(-(-len(data) // plan.batch)), workers)


class _Rows:
    """The rows of a batch while it is made."""

    def __init__(self, plan: Plan, number: int, frames: int) -> None:
        self.plan, self.number = plan, number
        self.faults: list[tuple[int, str]] = []
        self._clips = np.empty((0, frames, *plan.size, 3), np.uint8)
        self._rows: list[tuple[NDArray[np.uint8], NDArray[np.float32] | None, int, int]] = []

    def read(
        self, data: ClipSet, wanted: int, sample: Sample
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None, int]:
        tries = min(len(data), _MAX_REPLACED)
        for step in range(tries):
            index = (wanted + step) % len(data)
            try:
                return (*data.read(index, sample, self.plan.size), index)
            except VideoError as error:
                self.faults.append((index, str(error)))
        raise LcrError(
            f"{data.name}: {tries} clips in a row cannot be read; the last: {self.faults[-1][1]}. Unpack the data again"
        )

    def add(self, clip: NDArray[np.uint8], joints: NDArray[np.float32] | None, label: int, index: int) -> None:
        self._rows.append((np.ascontiguousarray(clip), joints, label, index))

    def batch(self) -> Batch:
        clips, joints, labels, indices = [list(column) for column in zip(*self._rows)] or ([], [], [], [])
        frames = np.stack(clips) if clips else self._clips
        edges = np.empty(frames.shape[:-1], np.uint8)
        for place in np.ndindex(frames.shape[:2]):
            edges[place] = host_edges(frames[place])
        known = [points for points in joints if points is not None]
        return Batch(
            self.number,
            torch.from_numpy(frames),
            torch.from_numpy(edges),
            torch.tensor(labels, dtype=torch.int64),
            torch.from_numpy(np.stack(known).astype(np.float32)) if known and len(known) == len(clips) else None,
            tuple(self.faults),
            tuple(indices),
        )


@functools.lru_cache(maxsize=2)
def _order(clips: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((ORDER, seed, epoch)).permutation(clips)


@functools.lru_cache(maxsize=2)
def _balanced_draws(targets: bytes, seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    classes = np.frombuffer(targets, np.int64)
    weights = 1.0 / np.bincount(classes)[classes]
    return np.random.default_rng((ORDER, seed, epoch)).choice(len(classes), count, p=weights / weights.sum())


@functools.lru_cache(maxsize=4)
def _recipe(labels: tuple[str, ...], reversible: bool) -> Recipe:
    return recipe(labels, reversible=reversible)


class _Numbered(Dataset[Any]):
    """Batches by number, for the loader. Errors meant for the user are returned: raised in a worker process they would
    reach it wrapped into a traceback."""

    def __init__(self, data: ClipSet, plan: Plan, *, ordered: bool) -> None:
        self._data, self._plan = data, plan
        self._make = make_ordered_batch if ordered else make_batch

    def __getitem__(self, number: int) -> Batch | LcrError:
        try:
            return self._make(self._data, self._plan, number)
        except LcrError as error:
            return error


def _ahead(numbered: _Numbered, numbers: range, workers: int) -> Iterator[Batch]:
    for item in _by_processes(numbered, numbers, workers) if workers else _by_thread(numbered, numbers):
        if isinstance(item, LcrError):
            raise item
        yield item


def _by_thread(numbered: _Numbered, numbers: range) -> Iterator[Batch | LcrError]:
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Batch | LcrError] | None = None
        for number in numbers:
            now, coming = coming, thread.submit(numbered.__getitem__, number)
            if now is not None:
                yield now.result()
        if coming is not None:
            yield coming.result()


def _by_processes(numbered: _Numbered, numbers: range, workers: int) -> Iterator[Batch | LcrError]:
    with warnings.catch_warnings():
        # torch's advice against more workers than processors; the user has said how many.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            numbered,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare_worker,
            # Forking a process that has loaded torch, or that has threads, can hang.
            multiprocessing_context="spawn",
        )
        before = signal.getsignal(signal.SIGCHLD)
        rows = iter(loader)
    try:
        yield from rows
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LcrError(f"a data worker ended ({error}); if memory ran out, use fewer --workers") from error
    finally:
        # The loader leaves a handler behind that the program would run whenever any process it started ends.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _as_it_is(item: Any) -> Any:
    return item


def _prepare_worker(_: int) -> None:
    """A Ctrl-C is for the process that reads from the workers."""
    worker.begin()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
