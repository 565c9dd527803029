"""``lcr-edge run BUNDLE --source ...``: run a bundle on video files, cameras or streams.

Ctrl-C and SIGTERM are how a camera run ends: what was seen is summed up, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import Counter
from collections.abc import Sequence

from lcr_edge import options
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.api import Model, load
from lcr_edge.runtimes.live.events import BACKGROUND, EventFinder, EventRules
from lcr_edge.runtimes.live.follow import Interrupts, follow
from lcr_edge.runtimes.live.observers import Observer, Observers
from lcr_edge.runtimes.live.output import JsonLines, Shown
from lcr_edge.runtimes.live.sources import LiveSource, Patience
from lcr_edge.runtimes.live.stream import Stream, Turns
from lcr_edge.runtimes.live.web import options as web
from lcr_edge.runtimes.video import VideoSource
from lcr_edge.video import name_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge run``."""
    parser.add_argument("bundle", help="bundle folder written by export")
    parser.add_argument(
        "--source",
        required=True,
        action="append",
        metavar="FILE|CAMERA|URL",
        help="video file, camera (0 or /dev/video0) or URL; may be repeated, then all are stepped side by side",
    )
    options.add_frames(parser, "stop after N steps of each source (default: at its end)")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to print per step (default: 3)")
    parser.add_argument(
        "--retry",
        type=float,
        default=Patience.retry_s,
        metavar="SECONDS",
        help="keep trying for so long to open a camera or stream again when it is lost; inf: for ever, 0: not at all "
        "(default: %(default)g)",
    )
    events = parser.add_argument_group("events")
    events.add_argument("--events", action="store_true", help="print when something begins and ends, not every step")
    for name, kind, metavar, default, text in (
        ("enter", float, "P", EventRules.enter, "probability from which a class is an event"),
        ("leave", float, "P", EventRules.leave, "probability below which it ends; with --enter two thirds of that"),
        ("min-seconds", float, "S", EventRules.min_s, "how long it takes to count"),
        ("pause-seconds", float, "S", EventRules.pause_s, "how long after its end the same class does not count"),
    ):
        events.add_argument(f"--{name}", type=kind, metavar=metavar, help=f"{text} (default: {default:g})")
    events.add_argument(
        "--ignore",
        action="append",
        metavar="LABEL",
        help=f"a class that is never an event; may be repeated (default: {' and '.join(map(repr, BACKGROUND))})",
    )
    web.add_arguments(parser)
    options.add_threads(parser, None)
    options.add_json(parser, "also write JSON lines during the run: one object per step, then the summary")


def run(args: argparse.Namespace) -> int:
    """Step the sources until they end, to ``--frames``, or until Ctrl-C or SIGTERM (a normal end: status 0).

    Raises, after the summary, SourceLostError (status 1) if a camera or stream was lost for good, and VideoError
    (status 2) if a file cannot be decoded. Of several sources one that fails does not end the others.
    """
    for name in ("frames", "top", "threads"):
        options.check_least(f"--{name}", getattr(args, name), 1)
    if not args.retry >= 0:
        raise UsageError(f"--retry must be 0 or more seconds, or inf, got {args.retry:g}")
    rules = _rules(args)
    model = load(args.bundle, threads=args.threads)
    finders = [None if rules is None else EventFinder(model.labels, rules) for _ in args.source]
    names = _names(args.source)
    turns = Turns() if len(names) > 1 else None
    page = web.open_page(args, names, model)
    with contextlib.ExitStack() as opened:
        if page is not None:
            opened.callback(page.close)
        # Before the file of --json is emptied: a source may be missing, or may be that file.
        opening = opened.enter_context(contextlib.ExitStack())
        sources = [opening.enter_context(VideoSource(address)) for address in args.source]
        _check_distinct(args)
        observer = _observers(args, model, page, several=turns is not None)
        opened.callback(observer.close)
        streams: dict[str, Stream] = {}
        for name, source, finder in zip(names, sources, finders):
            lasting = _lasting(source, name, args.retry, observer)
            opened.callback(lasting.close)
            streams[name] = Stream(model, lasting, finder, turns)
        opening.pop_all()  # a live one is released where it is read: under a read that hangs it would crash
        if page is not None:
            page.start(streams)
        with Interrupts() as interrupts:
            failure = follow(streams, observer, args.frames)
            interrupts.ignore()  # the end is under way
            for name, stream in streams.items():
                observer.events(name, stream.end())
                observer.ended(name, stream)
            opened.close()
    if failure is not None:
        raise failure
    return 0


def _observers(args: argparse.Namespace, model: Model, page: Observer | None, *, several: bool) -> Observers:
    """Everyone who is told. Raises OutputError."""
    out = options.text_stream(args.json)
    every_step = not args.events
    shown = Shown(JsonLines(args.json), out, model.labels, top=args.top, every_step=every_step, several=several)
    return Observers([shown] if page is None else [shown, page])


def _check_distinct(args: argparse.Namespace) -> None:
    """Raise UsageError if --json would overwrite a source."""
    if args.json not in (None, options.STDOUT) and any(
        os.path.realpath(args.json) == os.path.realpath(address) for address in args.source
    ):
        raise UsageError(f"--json {args.json} is the source itself; choose another file")


def _names(sources: Sequence[str]) -> list[str]:
    """What the sources are called in the output; those that are given twice are numbered."""
    names, seen = [name_of(source) for source in sources], Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if names.count(name) == 1 else f"{name} #{seen[name]}")
    return numbered


def _lasting(source: VideoSource, name: str, retry_s: float, observer: Observer) -> VideoSource | LiveSource:
    """A source that comes back if it is live, else the source."""
    if not source.live:
        return source
    return LiveSource(source, Patience(retry_s=retry_s), lambda state, what: observer.state(name, state, what))


def _rules(args: argparse.Namespace) -> EventRules | None:
    """What --events and its options say. Raises UsageError."""
    given = {
        "enter": args.enter,
        "leave": args.leave,
        "min_s": args.min_seconds,
        "pause_s": args.pause_seconds,
        "ignore": None if args.ignore is None else tuple(args.ignore),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.events:
        raise UsageError(f"--{next(iter(given)).replace('_s', '-seconds')} is about events: add --events")
    if "enter" in given and "leave" not in given:
        given["leave"] = args.enter * EventRules.leave / EventRules.enter
    return EventRules(**given) if args.events else None
