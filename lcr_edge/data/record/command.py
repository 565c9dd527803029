"""Record labelled clips from a camera, or cut them out of a video file, into a folder that train --data reads.

Class after class, clip after clip: a countdown, the clip, and what was written. The same command again goes on with
the clips that are missing; nothing is overwritten.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys

from lcr_edge.data.record.footage import Camera, EndOfFileError, Film
from lcr_edge.data.record.plan import Plan, held_out_every, make_plan
from lcr_edge.data.record.review import check_terminal
from lcr_edge.data.record.session import Session, Stopped
from lcr_edge.data.record.window import open_window
from lcr_edge.errors import LcrError, OutputError, UsageError, VideoError
from lcr_edge.files import check_writable
from lcr_edge.options import Number, add_out, check_numbers
from lcr_edge.training.stopping import EXIT_CODE, StopRequest
from lcr_edge.video import VideoSource

_INCOMPLETE = 1
_QUIT = "quit"
_NUMBERS = (
    Number("clips", "clips of each class, those that are there included", low=2, high=9999, default=12),
    Number("seconds", "length of a clip", float, 0.5, 30, default=2.0, metavar="S"),
    Number("countdown", "seconds before each clip of a camera", low=0, high=60, default=3, metavar="S"),
    Number("val-share", "share of held-out clips: 0.2 holds out every 5th of a class, from the 2nd on", float, 0, 0.5,
           above_low=True, default=0.2, metavar="P"),
    Number("max-side", "make larger frames smaller: the longest side in pixels", low=64, high=4096, default=640),
    Number("start", "where in a file the first missing clip begins (default: after as many clips as come before it)",
           float, low=0, metavar="S"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge record``; :func:`run` checks the values, so that errors name the way out."""
    add_out(parser, "folder of the data set: OUT/train/CLASS/*.mp4 and OUT/val/CLASS/*.mp4", required=True)
    parser.add_argument(
        "--classes", required=True, metavar="NAMES", help='names with commas between them: "wave,thumb up,nothing"'
    )
    parser.add_argument(
        "--source",
        default="0",
        metavar="FILE|INDEX|URL|gst:PIPELINE",
        help="video file, camera number, URL or GStreamer pipeline (default: 0)",
    )
    for row in _NUMBERS:
        row.add(parser)
    parser.add_argument("--preview", action="store_true", help="show the camera in a window")
    parser.add_argument("--review", action="store_true", help="ask after each clip: keep, redo, play again or quit")


def run(args: argparse.Namespace) -> int:
    """Record; 0 when all clips are there, 1 when some are missing, 128 + the signal's number when one ended it.

    Raises LcrError subclasses for what can be told before the first clip.
    """
    check_numbers(_NUMBERS, args)
    plan = make_plan(
        args.out, [name.strip() for name in args.classes.split(",")], args.clips, held_out_every(args.val_share)
    )
    if not plan.missing:
        _complete(args, plan)
        return 0
    if args.review:
        check_terminal()
    check_writable(args.out)
    source = VideoSource(args.source)
    with contextlib.ExitStack() as stack:
        if source.live and args.start is not None:
            source.close()
            raise UsageError("--start is a place in a video file; leave it out for a camera or a stream")
        window = stack.enter_context(contextlib.closing(open_window())) if args.preview else None
        request = stack.enter_context(StopRequest("stopping: the clip in progress is dropped"))
        footage = stack.enter_context(contextlib.closing((Camera if source.live else Film)(source, args.max_side)))
        session = Session(plan, footage, request, args.seconds, args.countdown, args.start, args.review, window)
        return _recorded(args, session, source)


def _recorded(args: argparse.Namespace, session: Session, source: VideoSource) -> int:
    plan = session.plan
    there = plan.wanted - len(plan.missing)
    if there:
        place = "" if source.live else f"; goes on at {session.next_start_s:.1f} s of {args.source}"
        missing = plan.counted(plan.missing)
        print(f"{there} of {plan.wanted} clips are there already{place}; missing: {missing}", flush=True)
    try:
        session.run()
    except Stopped as stopped:
        _tell_rest(args, session, "stopped")
        return _INCOMPLETE if stopped.signal is None else EXIT_CODE + stopped.signal
    except EndOfFileError as end:
        damage = source.shortfall()
        _fail(damage or f"{args.source} ends at {end.at_s:.1f} s")
        print(f"missing: {plan.counted(session.missing)}. To go on with another file, from its start:")
        print(f"    {_again(args, '--source', 'NEXT', '--start', '0')}")
        return _INCOMPLETE
    except (VideoError, OutputError) as error:
        _fail(error)
        _tell_rest(args, session, "what was recorded is kept")
        return _INCOMPLETE
    if session.missing:
        print(f"left out, and missing: {plan.counted(session.missing)}")
        return _INCOMPLETE
    _complete(args, plan)
    return 0


def _fail(error: LcrError | str) -> None:
    print(f"error: {error}", file=sys.stderr)


def _complete(args: argparse.Namespace, plan: Plan) -> None:
    classes = "1 class" if len(plan.labels) == 1 else f"{len(plan.labels)} classes"
    print(f"complete: {args.out} has {plan.clips} clips of {classes}. To train on them:")
    print(f"    {shlex.join(['lcr-edge', 'train', '--data', str(args.out), '--out', 'runs/mine'])}")


def _tell_rest(args: argparse.Namespace, session: Session, what: str) -> None:
    plan, missing = session.plan, session.missing
    print(f"{what}: {plan.wanted - len(missing)} of {plan.wanted} clips are there. To go on:")
    # Without --start the place in a file follows from the clips that are there.
    start = [] if args.start is None else ["--start", f"{session.next_start_s:g}"]
    print(f"    {_again(args, *start)}")


def _again(args: argparse.Namespace, *options: str) -> str:
    """The command as it was typed, with other values for these options."""
    changed = set(options[::2])
    words, skip = [], False
    for word in args.words:
        name, equals, _ = word.partition("=")
        if skip or name in changed:
            skip = not skip and not equals
            continue
        words.append(word)
    return shlex.join(["lcr-edge", "record", *words, *options])
