"""``lcr-edge run BUNDLE --source ...``: run a bundle on video files, cameras or streams.

Ctrl-C and SIGTERM are how a camera run ends: what was seen is summed up, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence

from lcr_edge import options
from lcr_edge.errors import LcrError, OutputError, UsageError
from lcr_edge.runtimes.api import load
from lcr_edge.runtimes.live.events import BACKGROUND, EventFinder, EventRules
from lcr_edge.runtimes.live.output import JsonLines, Shown
from lcr_edge.runtimes.live.sources import LiveSource, Patience
from lcr_edge.runtimes.live.stream import Stream, Turns
from lcr_edge.runtimes.video import VideoSource
from lcr_edge.video import name_of

_JOIN_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    with contextlib.ExitStack() as opened:
        # Before the file of --json is emptied: a source may be missing, or may be that file.
        opening = opened.enter_context(contextlib.ExitStack())
        sources = [opening.enter_context(VideoSource(address)) for address in args.source]
        _check_distinct(args)
        lines = opened.enter_context(contextlib.closing(JsonLines(args.json)))
        out = options.text_stream(args.json)
        shown = Shown(lines, out, model.labels, top=args.top, every_step=not args.events, several=turns is not None)
        streams: dict[str, Stream] = {}
        for name, source, finder in zip(names, sources, finders):
            lasting = _lasting(source, name, args.retry, shown)
            opened.callback(lasting.close)
            streams[name] = Stream(model, lasting, finder, turns)
        opening.pop_all()  # a live one is released where it is read: under a read that hangs it would crash
        with _Interrupts() as interrupts:
            failure = (_follow_all if turns else _follow_one)(streams, shown, args.frames)
            interrupts.ignore()  # the end is under way
            for name, stream in streams.items():
                shown.events(name, stream.end())
                shown.summary(name, stream)
            opened.close()
    if failure is not None:
        raise failure
    return 0


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


def _lasting(source: VideoSource, name: str, retry_s: float, shown: Shown) -> VideoSource | LiveSource:
    """A source that comes back if it is live, else the source."""
    if not source.live:
        return source
    return LiveSource(source, Patience(retry_s=retry_s), lambda state, what: shown.state(name, state, what))


def _follow_one(streams: dict[str, Stream], shown: Shown, frames: int | None) -> LcrError | None:
    """Step the only stream to its end. Returns why, if it failed."""
    ((name, stream),) = streams.items()
    try:
        _follow(name, stream, shown, frames)
    except KeyboardInterrupt:
        pass
    except OutputError:
        raise
    except LcrError as error:
        shown.failed(name, error)
        return error
    return None


def _follow_all(streams: dict[str, Stream], shown: Shown, frames: int | None) -> LcrError | None:
    """Step each stream in a thread of its own, to the end of the last. Returns the first failure of a source."""
    failures: list[LcrError] = []
    fatal: list[BaseException] = []  # what ends all of them: the output cannot be written

    def follow(name: str, stream: Stream) -> None:
        try:
            try:
                _follow(name, stream, shown, frames)
            except OutputError:
                raise
            except LcrError as error:
                failures.append(error)
                shown.failed(name, error)
        except BaseException as error:  # raised again by the main thread
            fatal.append(error)

    threads = [threading.Thread(target=follow, args=pair, daemon=True) for pair in streams.items()]
    with contextlib.suppress(KeyboardInterrupt):
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not fatal:  # a join without a limit would not hear signals
                thread.join(0.1)
    for stream in streams.values():
        stream.stop()
    for thread in threads:
        thread.join(_JOIN_S)
    if fatal:
        raise fatal[0]
    return failures[0] if failures else None


def _follow(name: str, stream: Stream, shown: Shown, frames: int | None) -> None:
    for step in stream.steps():
        shown.step(name, step)
        if stream.totals.steps == frames:
            break


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


class _Interrupts:
    """While it is entered, SIGTERM raises KeyboardInterrupt as SIGINT does. Only the main thread hears signals."""

    def __enter__(self) -> _Interrupts:
        self._main = threading.current_thread() is threading.main_thread()
        self._before = [signal.getsignal(number) for number in _SIGNALS]
        if self._main:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def ignore(self) -> None:
        """Let further signals pass."""
        if self._main:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in zip(_SIGNALS, self._before):
                signal.signal(number, handler)
