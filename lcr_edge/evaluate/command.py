"""``lcr-edge evaluate``: its arguments, and the result as a table, JSON and a picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lcr_edge.checkpoint import load
from lcr_edge.config import CLIP_FRAMES
from lcr_edge.data.batches import MIN_FRAMES
from lcr_edge.data.faults import MAX_CORRUPT
from lcr_edge.data.sets import RenderedSet, open_set
from lcr_edge.errors import UsageError
from lcr_edge.evaluate.measure import evaluate
from lcr_edge.files import make_folder, write_atomically
from lcr_edge.model.network import LCR
from lcr_edge.plots import plot_evaluation, require_matplotlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=None, help="safetensors file (default: the packaged lcr_nano)")
    parser.add_argument(
        "--data",
        default=None,
        metavar="KIND:PATH",
        help="held-out clips: jester:FOLDER, ssv2:FOLDER, kinetics:FOLDER, folder:FOLDER, rendered or "
        "rendered:CLIPS_PER_CLASS (default: rendered, 20 clips a class)",
    )
    parser.add_argument("--per-class", type=int, default=None, metavar="N", help="the same as --data rendered:N")
    parser.add_argument(
        "--frames",
        type=int,
        default=None,
        help=f"of each clip, from its middle (default: as trained, else {CLIP_FRAMES})",
    )
    parser.add_argument(
        "--stream-frames",
        type=int,
        default=2000,
        help="least length of the stream; clips come again in new orders when there are too few (default: 2000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the rendered clips and of the order in the stream")
    parser.add_argument(
        "--max-corrupt",
        type=float,
        default=MAX_CORRUPT,
        metavar="SHARE",
        help=f"of clips that may be unreadable, 0 to 1 (default: {MAX_CORRUPT})",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that read or draw clips (default: 2)")
    parser.add_argument("--device", default="cpu", help="torch's name of it: cpu, cuda, ... (default: cpu)")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="write evaluation.json and .png there")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the result as JSON")


def run(args: argparse.Namespace) -> int:
    for name, least in {"per_class": 1, "frames": MIN_FRAMES, "stream_frames": 1, "workers": 1, "seed": 0}.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    if not 0 <= args.max_corrupt <= 1:
        raise UsageError(f"--max-corrupt must be a share from 0 to 1, got {args.max_corrupt}")
    if args.per_class is not None and args.data not in (None, "rendered"):
        raise UsageError("--per-class is of rendered gestures; leave it out with other --data")
    if args.out is not None:  # before the work, which may take long
        require_matplotlib()
        make_folder(args.out)
    checkpoint = load(args.checkpoint)
    _move(checkpoint.model, args.device)
    frames = args.frames or int(checkpoint.training.get("frames", CLIP_FRAMES))
    data = open_set(
        (args.data or "rendered") if args.per_class is None else f"rendered:{args.per_class}",
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
        progress=sys.stderr.isatty(),
    )
    print(table(result))
    if args.json is not None:
        write_atomically(args.json, to_json(result))
    if args.out is not None:
        write_atomically(args.out / "evaluation.json", to_json(result))
        plot_evaluation(result, args.out / "evaluation.png")
    return 0


def table(result: dict[str, Any]) -> str:
    """The result as lines for a reader."""
    lines = [f"{name:32} {share:6.1f} %" for name, share in result["per_class"].items() if share is not None]
    unreadable = result["unreadable"]["clips"]
    skipped = f", {unreadable} unreadable left out" if unreadable else ""
    lines += [
        f"{'clip top-1, state reset':32} {result['clip_top1']:6.1f} %  ({result['clips']} held-out clips{skipped})",
        f"{'clip top-5, state reset':32} {result['clip_top5']:6.1f} %",
        f"{'clip top-1, endless stream':32} {result['stream_top1']:6.1f} %  ({result['stream_frames']} frames without "
        f"reset; the same {result['stream_clips']} clips with reset: {result['stream_clips_reset_top1']:.1f} %)",
    ]
    states = result["stream_states"]
    if result["stream_max_c"] is None:
        first = next(f for f, value in zip(states["frame"], states["max_c"]) if value is None)
        return "\n".join([*lines, f"the state on the stream is no longer finite after {first} frames"])
    bound = result["stream_max_c_bound"]
    limit = "" if bound is None else f"  (bound: {bound:.2f})"
    half = len(states["frame"]) // 2
    for key, name in (("rms_h", "rms of H"), ("rms_c", "rms of C")):
        halves = [float(np.mean(part)) for part in (states[key][:half], states[key][half:]) if part]
        lines.append(f"{name + ' on the stream, halves':32} {' '.join(f'{value:6.3f}' for value in halves)}")
    return "\n".join([*lines, f"{'largest |C| on the stream':32} {result['stream_max_c']:6.2f}{limit}"])


def to_json(result: dict[str, Any]) -> bytes:
    """A line for each key, so that long lists stay on one."""
    rows = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.items())
    return ("{\n" + ",\n".join(rows) + "\n}\n").encode()


def _move(model: LCR, device: str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter for a build without CUDA
        raise UsageError(f"--device {device} cannot be used: {str(error).splitlines()[0]}; try --device cpu") from error
