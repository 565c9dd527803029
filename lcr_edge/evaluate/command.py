"""Measure the accuracy of a checkpoint on held-out clips: each from a zero state, and all as one endless stream."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np

from lcr_edge.checkpoint import load
from lcr_edge.config import CLIP_FRAMES, MAX_CLIP_FRAMES, MIN_CLIP_FRAMES
from lcr_edge.data.faults import MAX_CORRUPT
from lcr_edge.data.sets import RenderedSet, open_set
from lcr_edge.errors import UsageError
from lcr_edge.evaluate.result import Result
from lcr_edge.files import check_writable, write_atomically
from lcr_edge.options import (
    Number,
    add_checkpoint,
    add_json,
    add_out,
    add_seed,
    check_numbers,
    check_seed,
    text_stream,
    write_json,
)
from lcr_edge.plots import plot_evaluation, require_matplotlib
from lcr_edge.progress import load_torch

if TYPE_CHECKING:
    from lcr_edge.model.network import LCR

_NUMBERS = (
    Number("per-class", "short for --data rendered:N"),
    Number(
        "clip-frames", f"frames of each clip, from its middle (default: as in training, else {CLIP_FRAMES})",
        low=MIN_CLIP_FRAMES, high=MAX_CLIP_FRAMES,
    ),
    Number(
        "stream-frames", "smallest length of the stream; when there are too few clips, they come again in other orders",
        default=2000,
    ),
    Number(
        "max-corrupt", "stop when a larger share of the clips is unreadable", float, 0, 1, default=MAX_CORRUPT,
        metavar="SHARE",
    ),
    Number("workers", "processes that read or draw clips", default=2),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge evaluate``; :func:`run` checks the values, so that errors name the way out."""
    add_checkpoint(parser)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of held-out clips; a layout may be named: jester:DIR, ssv2:DIR, kinetics:DIR, folder:DIR. Or "
        "rendered[:CLIPS_PER_CLASS] (default: rendered, 20 clips per class)",
    )
    for row in _NUMBERS:
        row.add(parser)
    add_seed(parser, "where the rendered clips and their order in the stream start")
    parser.add_argument("--device", default="cpu", help="torch's name of the device: cpu, cuda, ... (default: cpu)")
    add_out(parser, "also write evaluation.json and evaluation.png into this folder")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, and write what was asked for. Raises LcrError subclasses."""
    check_numbers(_NUMBERS, args)
    check_seed(args.seed)
    if args.per_class is not None and args.data not in (None, "rendered"):
        raise UsageError("--per-class counts rendered gestures; leave it out with other --data")
    if args.out is not None:  # before the work, which may take long
        require_matplotlib()
        check_writable(args.out)
    load_torch()
    from lcr_edge.evaluate.measure import evaluate

    checkpoint = load(args.checkpoint)
    _move(checkpoint.model, args.device)
    frames = args.clip_frames or int(checkpoint.training.get("frames", CLIP_FRAMES))
    source = (args.data or "rendered") if args.per_class is None else f"rendered:{args.per_class}"
    print(f"opening {source}", file=sys.stderr, flush=True)
    data = open_set(
        source,
        split="heldout",
        size=checkpoint.config.frame_shape[:2],
        fps=checkpoint.config.train_fps,
        frames=frames,
        cache=None,
        workers=args.workers,
        seed=args.seed,
        fit=checkpoint.fit,
    )
    for note in data.notes:
        print(note, file=sys.stderr)
    result = evaluate(
        checkpoint,
        data,
        frames=frames,
        stream_frames=args.stream_frames,
        seed=args.seed,
        max_corrupt=args.max_corrupt,
        # Rendered clips are in memory: other processes would only copy them.
        workers=0 if isinstance(data, RenderedSet) else args.workers,
        progress=True,
    )
    print(table(result), file=text_stream(args.json))
    write_json(args.json, result.to_json())
    if args.out is not None:
        write_atomically(args.out / "evaluation.json", result.to_json().encode())
        plot_evaluation(result, args.out / "evaluation.png")
    return 0


def table(result: Result) -> str:
    """The result as lines for a reader."""
    lines = [f"{name:32} {share:6.1f} %" for name, share in result.per_class.items() if share is not None]
    unreadable = result.unreadable.clips
    skipped = f", {unreadable} unreadable left out" if unreadable else ""
    lines += [
        f"{'clip top-1, state reset':32} {result.clip_top1:6.1f} %  ({result.clips} held-out clips{skipped})",
        f"{'clip top-5, state reset':32} {result.clip_top5:6.1f} %",
        f"{'clip top-1, endless stream':32} {result.stream_top1:6.1f} %  ({result.stream_frames} frames without "
        f"reset; the same {result.stream_clips} clips with reset: {result.stream_clips_reset_top1:.1f} %)",
    ]
    states = result.stream_states
    if result.stream_max_c is None:
        first = next(frame for frame, value in zip(states.frame, states.max_c) if value is None)
        return "\n".join([*lines, f"the state on the stream is no longer finite after {first} frames"])
    bound = result.stream_max_c_bound
    limit = "" if bound is None else f"  (bound: {bound:.2f})"
    half = len(states.frame) // 2
    for values, name in ((states.rms_h, "rms of H"), (states.rms_c, "rms of C")):
        finite = np.array(values, np.float64)
        halves = [float(part.mean()) for part in (finite[:half], finite[half:]) if len(part)]
        lines.append(f"{name + ' on the stream, halves':32} {' '.join(f'{value:6.3f}' for value in halves)}")
    return "\n".join([*lines, f"{'largest |C| on the stream':32} {result.stream_max_c:6.2f}{limit}"])


def _move(model: LCR, device: str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter for a build without CUDA
        raise UsageError(f"--device {device} cannot be used: {str(error).splitlines()[0]}; try --device cpu") from error
