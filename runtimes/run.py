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
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.live import config, metrics, recording, resume, service, sinks
from lcr_edge.runtimes.live.events import BACKGROUND, EventFinder, EventRules
from lcr_edge.runtimes.live.films import Film
from lcr_edge.runtimes.live.follow import Interrupts, follow
from lcr_edge.runtimes.live.idle import IdleGate, idle_rules
from lcr_edge.runtimes.live.idle import add_arguments as add_idle
from lcr_edge.runtimes.live.memory import keep_small
from lcr_edge.runtimes.live.observers import Observer, Observers
from lcr_edge.runtimes.live.output import JsonLines, Shown
from lcr_edge.runtimes.live.sources import Awaited, LiveSource, Patience
from lcr_edge.runtimes.live.stream import Stream, Turns
from lcr_edge.runtimes.provider import add_provider, load_on
from lcr_edge.runtimes.video import VideoSource
from lcr_edge.video import check_source, name_of

_LONGEST_NAME = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge run``."""
    parser.add_argument("bundle", nargs="?", help="bundle folder written by export")
    parser.add_argument(
        "--source",
        action="append",
        metavar="FILE|CAMERA|URL|gst:PIPELINE",
        help="video file, camera (0 or /dev/video0), URL or GStreamer pipeline; may be repeated, then all are stepped "
        "side by side",
    )
    parser.add_argument(
        "--source-name",
        action="append",
        metavar="NAME",
        help="what the sources are called in the output, in their order; repeated as often as --source",
    )
    played = parser.add_mutually_exclusive_group()
    played.add_argument("--loop", action="store_true", help="begin video files again at their end, without a reset")
    played.add_argument(
        "--as-camera", action="store_true", help="play video files as a camera would: in real time, again and again"
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
    parser.add_argument(
        "--wait-for-sources",
        action="store_true",
        help="a camera or URL that does not answer at the start is no error: keep trying as if it was lost (--retry)",
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
    events.add_argument(
        "--enters",
        action="append",
        type=_label_probability,
        metavar="LABEL=P",
        help="--enter of a single class; may be repeated",
    )
    recording.add_arguments(events)
    add_idle(parser.add_argument_group("idle"))
    sinks.add_arguments(parser)
    metrics.add_arguments(parser)
    add_provider(parser)
    options.add_threads(parser, None)
    options.add_json(parser, "also write JSON lines during the run: one object per step, then the summary")
    resume.add_arguments(parser.add_argument_group("as a service"))
    config.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Step the sources until they end, to ``--frames``, or until Ctrl-C or SIGTERM (a normal end: status 0).

    Raises, after the summary, SourceLostError (status 1) if a camera or stream was lost for good, and VideoError
    (status 2) if a file cannot be decoded. Of several sources one that fails does not end the others.
    """
    args, file = config.merged(args)
    with config.located(file), contextlib.ExitStack() as opened:
        rules, idle = _check(args), idle_rules(args)
        if args.check:
            return _say_checked(args, rules)
        keep_small()
        model = load_on(args.bundle, args.provider, args.threads)
        finders = [None if rules is None else EventFinder(model.labels, rules) for _ in args.source]
        names = _names(args)
        turns = Turns() if len(names) > 1 else None
        # Before the file of --json is emptied: a source may be missing, or may be that file.
        opening = opened.enter_context(contextlib.ExitStack())
        addresses = zip(args.source, args.source_name or [None] * len(args.source))
        sources: list[VideoSource | Awaited] = []
        for address, given in addresses:
            sources.append(_source(address, given, args))
            opening.callback(sources[-1].close)
        made: list[Observer] = []
        opened.callback(lambda: Observers(made).close())
        keeper, notifier = resume.keeper(args, model), service.notifier()
        made += [one for one in (keeper, notifier) if one is not None]
        _observe(made, args, model, names, rules)
        observer = Observers(made)
        streams: dict[str, Stream] = {}
        for name, source, finder in zip(names, sources, finders):
            lasting = _lasting(source, name, args.retry, observer)
            opened.callback(lasting.close)
            gate = None if idle is None else IdleGate(idle, 1 / float(model.manifest["frame"]["train_fps"]))
            streams[name] = Stream(model, lasting, finder, turns, gate)
            if keeper is not None:
                keeper.begin(name, streams[name])
        opening.pop_all()  # a live one is released where it is read: under a read that hangs it would crash
        running = opened.pop_all()
    with running, Interrupts() as interrupts:
        if notifier is not None:
            notifier.ready(streams)
        failure = follow(streams, observer, args.frames)
        interrupts.ignore()  # the end is under way
        for name, stream in streams.items():
            observer.events(name, stream.end())
            observer.ended(name, stream)
        running.close()
    if failure is not None:
        raise failure
    return 0


def _observe(
    made: list[Observer], args: argparse.Namespace, model: Model, names: Sequence[str], rules: EventRules | None
) -> None:
    """Add everyone who is told; what is added is closed in any case. Raises what they raise."""
    recorder = recording.recorder(args, model, rules)
    if recorder is not None:
        made.append(recorder)
    labels = [label for label in model.labels if rules is None or label not in rules.ignore]
    # Before the file of --json is emptied: a port may be in use.
    told = sinks.make(args, names, labels, model.manifest["config"]["name"])
    figures = metrics.make(args, names, labels, [] if told is None else [sink.outbox for sink in told.sinks])
    if figures is not None:
        made.append(figures)
    out = options.text_stream(args.json)
    every_step, several = not args.events, len(names) > 1
    shown = Shown(JsonLines(args.json), out, model.labels, top=args.top, every_step=every_step, several=several)
    made.insert(0, shown)
    if told is not None:
        made.append(told.start())


def _check(args: argparse.Namespace) -> EventRules | None:
    """Everything that can be told from the arguments alone. Returns the rules of --events. Raises UsageError."""
    if args.bundle is None:
        raise UsageError('give a bundle: lcr-edge run BUNDLE ..., or bundle = "..." in the file of --config')
    if not args.source:
        raise UsageError('give a source: --source FILE|CAMERA|URL, or source = ["..."] in the file of --config')
    for name in ("frames", "top", "threads"):
        options.check_least(f"--{name}", getattr(args, name), 1)
    if not args.retry >= 0:
        raise UsageError(f"--retry must be 0 or more seconds, or inf, got {args.retry:g}")
    for name in args.source_name or ():
        if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME or args.source_name.count(name) > 1:
            raise UsageError(f"--source-name {name!r}: give each source one name of 1 to {_LONGEST_NAME} characters")
    if args.source_name and len(args.source_name) != len(args.source):
        raise UsageError(f"{len(args.source)} sources have {len(args.source_name)} of --source-name: give one each")
    resume.check(args)
    recording.check(args)
    _check_distinct(args)
    return _rules(args)


def _say_checked(args: argparse.Namespace, rules: EventRules | None) -> int:
    """What --check does: look at the bundle and the files, and say that all is well. Writes nothing."""
    bundle = read_bundle(args.bundle)
    if rules is not None:
        rules.check_labels(bundle.labels)
    for address in args.source:
        check_source(address)
    print(f"{bundle.manifest.get('name', bundle.folder.name)}, on {bundle.target}; sources: {', '.join(_names(args))}")
    print("nothing is wrong with the options; the sources were not opened")
    return 0


def _check_distinct(args: argparse.Namespace) -> None:
    """Raise UsageError if an output would overwrite what is read, or another output."""
    taken = {os.path.realpath(address): "the source itself" for address in args.source}
    taken.update({os.path.realpath(args.config): "the config file"} if args.config else {})
    for option, path in (("--json", args.json), ("--state-file", args.state_file)):
        if path not in (None, options.STDOUT):
            real = os.path.realpath(path)
            if real in taken:
                raise UsageError(f"{option} {path} is {taken[real]}; choose another file")
            taken[real] = f"the file of {option}"


def _names(args: argparse.Namespace) -> list[str]:
    """What the sources are called in the output; those that are given twice are numbered."""
    if args.source_name:
        return list(args.source_name)
    names, seen = [name_of(source) for source in args.source], Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if names.count(name) == 1 else f"{name} #{seen[name]}")
    return numbered


def _source(address: str, name: str | None, args: argparse.Namespace) -> VideoSource | Awaited:
    """A source, opened unless it is one to wait for. Raises VideoError."""
    if args.wait_for_sources and Awaited.can_be(address):
        return Awaited(address, name)
    if args.loop or args.as_camera:
        return Film(address, name, as_camera=args.as_camera)
    return VideoSource(address, name)


def _lasting(source: VideoSource | Awaited, name: str, retry_s: float, observer: Observer) -> VideoSource | LiveSource:
    """A source that comes back if it is live, else the source."""
    if isinstance(source, VideoSource) and not source.live:
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
        "enters": None if args.enters is None else dict(args.enters),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.events:
        raise UsageError(f"--{next(iter(given)).replace('_s', '-seconds')} is about events: add --events")
    if "enter" in given and "leave" not in given:
        given["leave"] = args.enter * EventRules.leave / EventRules.enter
    return EventRules(**given) if args.events else None


def _label_probability(text: str) -> tuple[str, float]:
    """LABEL=P: of several equals signs the last one counts."""
    label, equals, number = text.rpartition("=")
    if not equals or not label:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=P, such as 'Thumb Up=0.8'")
    try:
        return label, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{number!r} in {text!r} is not a probability") from None
