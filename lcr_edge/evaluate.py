"""Accuracy of a checkpoint on held-out rendered gestures: clips from a zero state, and the same clips as one stream.

A clip's decision is the largest mean logit over the second half of its frames. In the stream the clips follow each
other in random order and the state is never reset.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lcr_edge.checkpoint import Checkpoint, load
from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered import render_set
from lcr_edge.edges.host import host_edges
from lcr_edge.errors import CheckpointError, UsageError
from lcr_edge.model.network import LCR
from lcr_edge.train import CLIP_FRAMES

BATCH = 27


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=None, help="safetensors file (default: the packaged lcr_nano)")
    parser.add_argument("--per-class", type=int, default=20, help="held-out clips a class (default: 20)")
    parser.add_argument("--stream-frames", type=int, default=2000, help="length of the stream (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that render clips (default: 2)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the result as JSON")


def run(args: argparse.Namespace) -> int:
    for name in ("per_class", "stream_frames", "workers"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    result = evaluate(load(args.checkpoint), args.per_class, args.stream_frames, args.seed, args.workers)
    for name, share in result["per_class"].items():
        print(f"{name:32} {share:6.1f} %")
    print(f"{'clip top-1, state reset':32} {result['clip_top1']:6.1f} %  ({result['clips']} held-out clips)")
    print(
        f"{'clip top-1, endless stream':32} {result['stream_top1']:6.1f} %  ({result['stream_frames']} frames without "
        f"reset; the same {result['stream_clips']} clips with reset: {result['stream_clips_reset_top1']:.1f} %)"
    )
    print(f"{'largest |C| on the stream':32} {result['stream_max_c']:6.2f}")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def evaluate(checkpoint: Checkpoint, per_class: int, stream_frames: int, seed: int, workers: int = 1) -> dict[str, Any]:
    """Clip and stream accuracy in per cent, per class and over all, of held-out rendered gestures."""
    config = checkpoint.config
    if checkpoint.labels != JESTER:
        raise CheckpointError("rendered gestures have the 27 Jester labels; this checkpoint has others")
    clips, labels = render_set(
        per_class,
        seed,
        split="heldout",
        size=config.height,
        frames=CLIP_FRAMES,
        fps=config.train_fps,
        workers=workers,
        progress=sys.stderr.isatty(),
    )
    started = time.monotonic()
    decisions = np.concatenate(
        [decide(clip_logits(checkpoint.model, clips[i : i + BATCH])) for i in range(0, len(clips), BATCH)]
    )
    hits = decisions == labels
    order = np.random.default_rng(seed).permutation(len(clips))[: -(-stream_frames // CLIP_FRAMES)]
    stream_logits, max_c = _stream(checkpoint.model, clips[order])
    return {
        "clip_top1": 100.0 * float(hits.mean()),
        "clips": len(clips),
        "per_class": {name: 100.0 * float(hits[labels == index].mean()) for index, name in enumerate(JESTER)},
        "stream_top1": 100.0 * float((decide(stream_logits) == labels[order]).mean()),
        "stream_clips": len(order),
        "stream_clips_reset_top1": 100.0 * float(hits[order].mean()),
        "stream_frames": len(order) * CLIP_FRAMES,
        "stream_max_c": max_c,
        "seconds": time.monotonic() - started,
    }


def decide(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """One class a clip from logits [B, T, classes]: the largest mean over the second half of the frames."""
    return np.asarray(logits[:, logits.shape[1] // 2 :].mean(axis=1).argmax(axis=-1), np.int64)


@torch.inference_mode()
def clip_logits(model: LCR, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits float32 [B, T, classes] of clips uint8 [B, T, H, W, 3], each from a zero state."""
    logits, _ = model(torch.from_numpy(np.ascontiguousarray(clips)), None, _edges(clips))
    return np.asarray(logits.numpy(), np.float32)


def _edges(clips: NDArray[np.uint8]) -> torch.Tensor:
    """Edges [B, T, H, W] of clips [B, T, H, W, 3], on the host: the same as the network's own, and faster."""
    return torch.from_numpy(np.stack([[host_edges(frame) for frame in clip] for clip in clips]))


@torch.inference_mode()
def _stream(model: LCR, clips: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The clips one after the other through one state; logits [n, T, classes] and the largest |C| after any clip."""
    state, largest, rows = None, 0.0, []
    for clip in clips:
        logits, state = model(torch.from_numpy(np.ascontiguousarray(clip[None])), state, _edges(clip[None]))
        largest = max(largest, float(state[1].abs().max()))
        rows.append(logits[0].numpy())
    return np.stack(rows), largest
