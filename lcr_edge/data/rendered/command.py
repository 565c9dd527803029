"""Write a rendered gesture as a video file, to have something to run a bundle on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.errors import OutputError, UsageError
from lcr_edge.files import make_folder, written_atomically
from lcr_edge.options import Number, add_seed, check_choice, check_numbers, check_seed

FPS = 24.0
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
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
    if args.file.suffix not in _CODECS:
        raise UsageError(f"the name of the video must end in .mp4 or .avi, got {args.file}")
    make_folder(args.file.parent, None)
    frames = max(1, round(args.seconds * FPS))
    clip = render_clip(JESTER.index(args.label), args.seed, split="heldout", size=args.size, frames=frames, fps=FPS)
    with written_atomically(args.file) as temporary:
        _encode(temporary, clip, args.file)
    print(f"wrote {args.file}: {args.label}, {frames} frames at {FPS:g} fps")
    return 0


def _encode(place: Path, clip: NDArray[np.uint8], path: Path) -> None:
    """Write the frames to ``place`` and read them back: OpenCV does not tell when the disk is full."""
    height, width = clip.shape[1:3]
    writer = cv2.VideoWriter(str(place), cv2.VideoWriter.fourcc(*_CODECS[path.suffix]), FPS, (width, height))
    if not writer.isOpened():
        raise OutputError(f"cannot write {path}: OpenCV has no encoder for it here; try a name that ends in .avi")
    for frame in clip:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    capture: Any = cv2.VideoCapture(str(place))
    found = 0
    while capture.read()[0]:
        found += 1
    capture.release()
    if found != len(clip):
        raise OutputError(
            f"cannot write {path}: {found} of {len(clip)} frames can be read back; free some space, or choose another "
            "folder. A file that was there before is unchanged"
        )
