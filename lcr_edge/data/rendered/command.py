"""Write a rendered gesture as a video file, to have something to run a bundle on."""

from __future__ import annotations

import argparse
from pathlib import Path

from lcr_edge.data.encode import CODECS, write_video
from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.errors import UsageError
from lcr_edge.files import make_folder
from lcr_edge.options import Number, add_seed, check_choice, check_numbers, check_seed

FPS = 24.0
_NUMBERS = (
    Number("size", "height and width in pixels", low=32, high=1024, default=224),
    Number("seconds", "length of the clip", float, 0.5, 60, default=2.0, metavar="S"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge render``; :func:`run` checks the values, so that errors name the way out."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the video to write, .mp4 or .avi")
    parser.add_argument(
        "--label", default="Swiping Left", metavar="NAME", help='a Jester label (default: "Swiping Left")'
    )
    add_seed(parser, "which clip of that label; no training sees these clips")
    for row in _NUMBERS:
        row.add(parser)


def run(args: argparse.Namespace) -> int:
    """Render the clip and write it. Raises UsageError, OutputError."""
    check_choice("label", args.label, JESTER)
    check_numbers(_NUMBERS, args)
    check_seed(args.seed)
    if args.file.suffix not in CODECS:
        raise UsageError(f"the name of the video must end in .mp4 or .avi, got {args.file}")
    make_folder(args.file.parent, None)
    frames = max(1, round(args.seconds * FPS))
    clip = render_clip(JESTER.index(args.label), args.seed, split="heldout", size=args.size, frames=frames, fps=FPS)
    write_video(args.file, clip, FPS)
    print(f"wrote {args.file}: {args.label}, {frames} frames at {FPS:g} fps")
    return 0
