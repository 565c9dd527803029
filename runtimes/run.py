"""``lcr-edge run BUNDLE --source ...``: a bundle on a video file, a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcr_edge.errors import UsageError
from lcr_edge.frames import FITS
from lcr_edge.runtimes.api import Floats, Model, clip_decision, load
from lcr_edge.runtimes.video import Tick, VideoSource, resample

# The decision at the end covers at most this many of the last steps, so that a camera may run for months.
_MAX_KEPT = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge run``."""
    parser.add_argument("bundle", help="bundle folder, as export wrote it")
    parser.add_argument("--source", required=True, metavar="FILE|INDEX|URL", help="video file, camera number or URL")
    parser.add_argument("--json", action="store_true", help="one JSON object per step on stdout, the summary on stderr")
    parser.add_argument("--threads", type=int, help="CPU threads of one step (default: the engine's choice)")
    parser.add_argument(
        "--fit",
        choices=sorted(FITS),
        default="letterbox",
        help="letterbox: the whole picture with black bars; crop: its centre (default: letterbox)",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N steps (default: at the source's end)")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to print per step (default: 3)")


@dataclass
class _Tally:
    """What a run has seen: the logits since the last reset, and counts."""

    logits: list[Floats] = field(default_factory=list)
    steps: int = 0
    resets: int = 0
    missed: int = 0


def run(args: argparse.Namespace) -> int:
    """Step the source to its end, to ``--frames`` or to Ctrl-C (a normal end: status 0)."""
    for name in ("frames", "top"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    model = load(args.bundle, threads=args.threads)
    try:
        with VideoSource(args.source) as source:
            tally = _Tally()
            # Ctrl-C is how a camera run ends: what was seen until then is summed up.
            with contextlib.suppress(KeyboardInterrupt):
                _step_all(model, source, tally, args)
            _summary(model, source, tally, args)
    except BrokenPipeError:
        # The reader (head, a closed terminal) has gone. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _step_all(model: Model, source: VideoSource, tally: _Tally, args: argparse.Namespace) -> None:
    fit = FITS[args.fit]
    height, width, _ = model.frame_shape
    for tick in resample(source, float(model.manifest["frame"]["train_fps"]), live=source.live):
        if tick.gap:
            print(f"state reset at {tick.timed.time_s:.3f} s: {tick.gap}", file=sys.stderr)
            model.reset()
            tally.logits.clear()
            tally.resets += 1
        begin = time.perf_counter()
        logits = model.step_stream(fit(tick.timed.frame, height, width))
        latency_ms = (time.perf_counter() - begin) * 1e3
        tally.logits.append(logits)
        del tally.logits[:-_MAX_KEPT]
        tally.steps += 1
        tally.missed += tick.missed
        _print_step(model, tick, logits, latency_ms, args)
        if tally.steps == args.frames:
            break


def _print_step(model: Model, tick: Tick, logits: Floats, latency_ms: float, args: argparse.Namespace) -> None:
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-logits, kind="stable")[: args.top]
    timed = tick.timed
    if args.json:
        line: dict[str, Any] = {
            "time_s": round(timed.time_s, 4),
            "frame": timed.index,
            "top": [{"label": model.labels[i], "probability": round(float(probabilities[i]), 6)} for i in best],
            "latency_ms": round(latency_ms, 3),
            "reset": tick.gap is not None,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)
        return
    shown = "  ".join(f"{model.labels[i]} {probabilities[i]:.2f}" for i in best)
    print(f"{timed.time_s:9.3f} s  frame {timed.index:6d}  {latency_ms:7.2f} ms  {shown}", flush=True)


def _summary(model: Model, source: VideoSource, tally: _Tally, args: argparse.Namespace) -> None:
    out = sys.stderr if args.json else sys.stdout
    print(f"{source.seen} frames seen, {tally.steps} stepped, {tally.resets} resets, on {model.engine.name}", file=out)
    if tally.logits:
        since = " since the last reset" if tally.resets else ""
        print(f"clip{since}: {model.labels[clip_decision(np.stack(tally.logits))]}", file=out)
    if tally.missed:
        fps = model.manifest["frame"]["train_fps"]
        print(f"warning: {tally.missed} frames came too late for {fps:g} per second, the trained rate", file=sys.stderr)
    shortfall = source.shortfall()
    if shortfall:
        print(f"warning: {shortfall}", file=sys.stderr)
