"""Run a network over clips, from a zero state and as one stream, and gather what it decided."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcr_edge.checkpoint import Checkpoint
from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data.batches import Plan, in_order
from lcr_edge.data.faults import MAX_CORRUPT, FaultCounter
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import ClipSet
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import CheckpointError, LcrError
from lcr_edge.evaluate.result import Network, Result, StreamStates, Unreadable
from lcr_edge.evaluate.scores import Judged, confusion, score, share
from lcr_edge.model.network import LCR, State
from lcr_edge.progress import Bar, bar

BATCH = 27  # clips per forward call
MESSAGES = 10  # of unreadable clips, kept in the result
STATE_EVERY = 4  # frames of the stream between two looks at the state


def evaluate(
    checkpoint: Checkpoint,
    data: ClipSet,
    *,
    frames: int = CLIP_FRAMES,
    stream_frames: int = 2000,
    seed: int = 0,
    max_corrupt: float = MAX_CORRUPT,
    workers: int = 0,
    progress: bool = False,
) -> Result:
    """Accuracy of a network on single clips and on a stream of them.

    Clips are sampled from their middle: ``frames`` frames, 2 or more, at ``config.train_fps``. workers: processes that
    read clips, 0 for a thread. Works on the device that the model is on.

    Raises CheckpointError when the data set has labels that the checkpoint lacks (their order may differ), LcrError
    when more than the share ``max_corrupt`` of the clips, and at least three, or all cannot be read.
    """
    started = time.monotonic()
    model, config = checkpoint.model, checkpoint.config
    targets = class_indices(checkpoint.labels, data)
    plan = Plan(BATCH, frames, config.train_fps, config.frame_shape[:2], seed, steps=1, augment=False)
    with _evaluating(model):
        alone = _each_clip(model, data, targets, plan, max_corrupt, workers, progress)
        order = _stream_order(alone.readable, math.ceil(stream_frames / frames), seed)
        with bar("stream", len(order), "clip", progress, line=True) as moved:
            stream, states = _stream(model, _clips(data, order, plan), targets[order], moved)
    true, decisions = targets[alone.readable], alone.judged.decisions
    hits = np.zeros(len(data), bool)
    hits[alone.readable] = decisions == true
    stream_hits = stream.decisions == targets[order]
    return Result(
        checkpoint=Network(config.name, checkpoint.sha256),
        data=data.name,
        fingerprint=data.fingerprint,
        fit=data.fit,
        frames=frames,
        fps=config.train_fps,
        seed=seed,
        device=str(model.cos.device),
        labels=list(checkpoint.labels),
        clip_top1=share(hits[alone.readable]),
        clip_top5=share(alone.judged.top5),
        clips=len(alone.readable),
        unreadable=alone.unreadable,
        per_class={name: share(hits[alone.readable][true == i]) for i, name in enumerate(checkpoint.labels)},
        confusion=confusion(true, decisions, config.classes),
        clip_frame_top1=_by_frame(alone.judged),
        stream_top1=share(stream_hits),
        stream_clips=len(order),
        stream_clips_reset_top1=share(hits[order]),
        stream_frames=len(order) * frames,
        stream_frame_top1=_by_frame(stream),
        stream_quarters_top1=[share(part) for part in np.array_split(stream_hits, 4)],
        stream_max_c=states.largest_c,
        stream_max_c_bound=config.fmax / (1 - config.fmax) if config.cell == "bounded" else None,
        stream_states=states,
        seconds=round(time.monotonic() - started, 2),
    )


class _Alone(NamedTuple):
    """The clips that could be read, by index, and what became of each from a zero state."""

    readable: list[int]
    judged: Judged
    unreadable: Unreadable


@contextlib.contextmanager
def _evaluating(model: LCR) -> Iterator[None]:
    """Evaluation mode, put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _each_clip(
    model: LCR,
    data: ClipSet,
    targets: NDArray[np.int64],
    plan: Plan,
    max_corrupt: float,
    workers: int,
    progress: bool,
) -> _Alone:
    """Every clip once, from a zero state. Raises LcrError when too many, or all, cannot be read."""
    faults = FaultCounter()
    messages: list[str] = []
    readable: list[int] = []
    judged: list[Judged] = []
    with bar("clips", len(data), "clip", progress, line=True) as moved:
        for batch in in_order(data, plan, workers):
            messages += faults.add(batch)
            if batch.clips:
                logits, _ = _forward(model, batch.frames, batch.edges, None)
                judged.append(score(logits, targets[list(batch.clips)]))
                readable += batch.clips
            moved.update(len(batch.clips))
    faults.check(max_corrupt, seen=len(data))
    if not readable:
        raise LcrError(f"{data.name}: none of its {len(data)} clips can be read; unpack the data again")
    return _Alone(readable, Judged.joined(judged), Unreadable(faults.total, messages[:MESSAGES]))


def class_indices(labels: tuple[str, ...], data: ClipSet) -> NDArray[np.int64]:
    """The class of each clip of ``data`` as an index into ``labels``, by name. Raises CheckpointError."""
    index = {name: i for i, name in enumerate(labels)}
    missing = [name for name in data.labels if name not in index]
    if missing:
        raise CheckpointError(
            f"{data.name} has {len(missing)} labels that the checkpoint lacks: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}; give data with its {len(labels)} labels, or a checkpoint trained "
            f"on these: lcr-edge train --data {data.name}"
        )
    return np.array([index[name] for name in data.labels], np.int64)[data.targets]


@torch.inference_mode()
def _forward(model: LCR, frames: Tensor, edges: Tensor, state: State | None) -> tuple[NDArray[np.float32], State]:
    device = model.cos.device
    logits, after = model(frames.to(device), state, edges.to(device))
    return np.asarray(logits.float().cpu().numpy(), np.float32), after


def _stream_order(clips: list[int], wanted: int, seed: int) -> NDArray[np.int64]:
    """``wanted`` of the clips in random order; each comes once before any comes again, then in another order."""
    random = np.random.default_rng(seed)
    rounds = [random.permutation(clips) for _ in range(-(-wanted // len(clips)))]
    return np.concatenate(rounds)[:wanted]


def _clips(data: ClipSet, order: NDArray[np.int64], plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames uint8 [T, H, W, 3] and edges uint8 [T, H, W] of clips in this order; a thread reads one ahead."""

    def read(index: int) -> tuple[Tensor, Tensor]:
        frames, _ = data.read(index, Sample(plan.frames, plan.fps, 0.5), plan.size)
        edges = np.stack([host_edges(frame) for frame in frames])
        return torch.from_numpy(np.ascontiguousarray(frames)), torch.from_numpy(edges)

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(read, int(order[0]))
        for index in order[1:]:
            now, coming = coming, thread.submit(read, int(index))
            yield now.result()
        yield coming.result()


def _stream(
    model: LCR, clips: Iterable[tuple[Tensor, Tensor]], true: NDArray[np.int64], moved: Bar
) -> tuple[Judged, StreamStates]:
    """Step through the clips with a single state, which is looked at every few frames. true: the clips' classes."""
    state: State | None = None
    judged: list[Judged] = []
    seen = 0
    states = StreamStates()
    for (frames, edges), target in zip(clips, true):
        parts = []
        for start in range(0, len(frames), STATE_EVERY):
            some = slice(start, start + STATE_EVERY)
            logits, state = _forward(model, frames[None, some], edges[None, some], state)
            parts.append(logits)
            seen += logits.shape[1]
            h, c = state
            states.frame.append(seen)
            states.rms_h.append(_finite(_rms(h)))
            states.rms_c.append(_finite(_rms(c)))
            states.max_c.append(_finite(c.abs().max().item()))
        judged.append(score(np.concatenate(parts, axis=1), target[None]))
        moved.update()
    return Judged.joined(judged), states


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def _finite(figure: float) -> float | None:
    """Six digits of a figure; None for one that JSON does not hold."""
    return float(f"{figure:.6g}") if math.isfinite(figure) else None


def _by_frame(judged: Judged) -> list[float]:
    return [100.0 * float(part) for part in judged.frames.mean(axis=0)]
