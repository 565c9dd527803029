"""Write one rendered gesture clip as a video file, to have something to run a bundle on."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.errors import OutputError, UsageError

FPS = 24.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", default="Swiping Left", help='a Jester label (default: "Swiping Left")')
    parser.add_argument("--seed", type=int, default=0, help="of the held-out split, so that no training saw it")
    parser.add_argument("--size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length (default: 2)")
    parser.add_argument("--out", type=Path, required=True, help="video file to write, .mp4 or .avi")


def run(args: argparse.Namespace) -> int:
    if args.label not in JESTER:
        raise UsageError(f"unknown label {args.label!r}; choose one of {', '.join(JESTER)}")
    codecs = {".mp4": "mp4v", ".avi": "MJPG"}
    if args.out.suffix not in codecs:
        raise UsageError(f"--out must end in .mp4 or .avi, got {args.out}")
    frames = max(1, round(args.seconds * FPS))
    clip = render_clip(JESTER.index(args.label), args.seed, split="heldout", size=args.size, frames=frames, fps=FPS)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {args.out.parent}: {error}; choose another --out") from error
    temporary = args.out.with_name(f".{args.out.name}.part{args.out.suffix}")
    fourcc = cv2.VideoWriter.fourcc(*codecs[args.out.suffix])
    writer = cv2.VideoWriter(str(temporary), fourcc, FPS, (args.size, args.size))
    if not writer.isOpened():
        raise OutputError(f"cannot write {args.out}: OpenCV has no encoder for it here; try a name ending in .avi")
    for frame in clip:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    temporary.replace(args.out)
    print(f"wrote {args.out}: {args.label}, {frames} frames at {FPS:g} fps")
    return 0
