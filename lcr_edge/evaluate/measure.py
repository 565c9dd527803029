"""Runs a network over clips, from a zero state and as one stream, and gathers what it did."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
from lcr_edge.evaluate.scores import Judged, confusion, judge, share
from lcr_edge.model.network import LCR, State
from lcr_edge.progress import Bar, bar

BATCH = 27  # clips a forward call
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
) -> dict[str, Any]:
    """Clip and stream accuracy in per cent, and the states over the stream: values that JSON holds.

    Clips are sampled from their middle: ``frames`` frames, 2 or more, at ``config.train_fps``. workers: processes that
    read clips, 0 for a thread. Works on the device that the model is on. The keys:

    - clip_top1, clip_top5, clips: decisions from a zero state over all clips; per_class: name -> top-1 or None for a
      class without clips; confusion: counts [classes][classes], true class down, in the order of ``labels``
    - clip_frame_top1: top-1 of each single frame of the clips, ``frames`` values
    - stream_*: the same for clips on one stream that is never reset, of stream_frames frames in stream_clips clips;
      stream_clips_reset_top1: the same clips from a zero state; stream_quarters_top1: of each quarter of the stream
    - stream_states: after every fourth frame, and at the end of a clip: frame (how many were seen) and rms_h, rms_c,
      max_c over all layers, tokens and channels, None where not finite. stream_max_c: the largest, None if one is not
      finite; stream_max_c_bound: fmax / (1 - fmax), None for the residual cell
    - unreadable: how many clips could not be read, and the first messages

    Raises CheckpointError when the data set has labels that the checkpoint lacks (their order may differ), LcrError
    when more than the share ``max_corrupt`` of the clips, and at least three, or all cannot be read.
    """
    started = time.monotonic()
    model, config = checkpoint.model, checkpoint.config
    targets = class_indices(checkpoint.labels, data)
    plan = Plan(BATCH, frames, config.train_fps, config.frame_shape[:2], seed, steps=1, augment=False)
    faults = FaultCounter()
    messages: list[str] = []
    readable: list[int] = []
    judged: list[Judged] = []
    was_training = model.training
    model.eval()
    try:
        with bar("clips", len(data), "clip", progress) as moved:
            for batch in in_order(data, plan, workers):
                messages += faults.add(batch)
                if batch.clips:
                    logits, _ = _forward(model, batch.frames, batch.edges, None)
                    judged.append(judge(logits, targets[list(batch.clips)]))
                    readable += batch.clips
                moved.update(len(batch.clips))
        faults.check(max_corrupt, seen=len(data))
        if not readable:
            raise LcrError(f"{data.name}: none of its {len(data)} clips can be read; unpack the data again")
        order = _stream_order(readable, math.ceil(stream_frames / frames), seed)
        with bar("stream", len(order), "clip", progress) as moved:
            stream, states = _stream(model, _clips(data, order, plan), targets[order], moved)
    finally:
        model.train(was_training)
    alone, true = Judged.joined(judged), targets[readable]
    hits = np.zeros(len(data), bool)
    hits[readable] = alone.decisions == true
    stream_hits = stream.decisions == targets[order]
    finite_c = [value for value in states["max_c"] if value is not None]
    return {
        "checkpoint": {"name": config.name, "sha256": checkpoint.sha256},
        "data": data.name,
        "fingerprint": data.fingerprint,
        "fit": data.fit,
        "frames": frames,
        "fps": config.train_fps,
        "seed": seed,
        "device": str(model.cos.device),
        "labels": list(checkpoint.labels),
        "clip_top1": share(hits[readable]),
        "clip_top5": share(alone.top5),
        "clips": len(readable),
        "unreadable": {"clips": faults.total, "messages": messages[:MESSAGES]},
        "per_class": {n: share(hits[readable][true == i]) for i, n in enumerate(checkpoint.labels)},
        "confusion": confusion(true, alone.decisions, config.classes),
        "clip_frame_top1": _by_frame(alone),
        "stream_top1": share(stream_hits),
        "stream_clips": len(order),
        "stream_clips_reset_top1": share(hits[order]),
        "stream_frames": len(order) * frames,
        "stream_frame_top1": _by_frame(stream),
        "stream_quarters_top1": [share(part) for part in np.array_split(stream_hits, 4)],
        "stream_max_c": max(finite_c) if len(finite_c) == len(states["max_c"]) else None,
        "stream_max_c_bound": config.fmax / (1 - config.fmax) if config.cell == "bounded" else None,
        "stream_states": states,
        "seconds": round(time.monotonic() - started, 2),
    }


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
) -> tuple[Judged, dict[str, list[Any]]]:
    """The clips, of these true classes, one after the other through one state, which is looked at every few frames."""
    state: State | None = None
    judged: list[Judged] = []
    seen = 0
    states: dict[str, list[Any]] = {"frame": [], "rms_h": [], "rms_c": [], "max_c": []}
    for (frames, edges), target in zip(clips, true):
        parts = []
        for start in range(0, len(frames), STATE_EVERY):
            some = slice(start, start + STATE_EVERY)
            logits, state = _forward(model, frames[None, some], edges[None, some], state)
            parts.append(logits)
            seen += logits.shape[1]
            h, c = state
            states["frame"].append(seen)
            for key, figure in (("rms_h", _rms(h)), ("rms_c", _rms(c)), ("max_c", c.abs().max().item())):
                states[key].append(float(f"{figure:.6g}") if math.isfinite(figure) else None)
        judged.append(judge(np.concatenate(parts, axis=1), target[None]))
        moved.update()
    return Judged.joined(judged), states


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def _by_frame(judged: Judged) -> list[float]:
    return [100.0 * float(part) for part in judged.frames.mean(axis=0)]
