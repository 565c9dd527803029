"""The options of ``lcr-edge run``: offered, checked, and what they say about sources and events."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from lcr_edge import options
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.live import config, metrics, recording, resume, sinks
from lcr_edge.runtimes.live.events import BACKGROUND, EventRules
from lcr_edge.runtimes.live.idle import IdleRules, idle_rules
from lcr_edge.runtimes.live.idle import add_arguments as add_idle
from lcr_edge.runtimes.live.sources import Patience
from lcr_edge.runtimes.live.web import options as web
from lcr_edge.runtimes.provider import add_provider
from lcr_edge.video import name_of

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
    _add_events(parser.add_argument_group("events"))
    add_idle(parser.add_argument_group("idle"))
    sinks.add_arguments(parser)
    metrics.add_arguments(parser)
    web.add_arguments(parser)
    add_provider(parser)
    options.add_threads(parser, None)
    options.add_json(parser, "also write JSON lines during the run: one object per step, then the summary")
    resume.add_arguments(parser.add_argument_group("as a service"))
    config.add_arguments(parser)


def _add_events(events: argparse._ArgumentGroup) -> None:
    """What an event is, and what is made of it."""
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


def check(args: argparse.Namespace) -> tuple[EventRules | None, IdleRules | None]:
    """Everything that can be told from the arguments alone. Raises UsageError.

    Returns the rules of --events and of --idle, None where they are not asked for.
    """
    if args.bundle is None:
        raise UsageError('give a bundle: lcr-edge run BUNDLE ..., or bundle = "..." in the file of --config')
    if not args.source:
        raise UsageError('give a source: --source FILE|CAMERA|URL, or source = ["..."] in the file of --config')
    if args.loop and args.as_camera:
        raise UsageError("--loop and --as-camera exclude each other: leave one out")
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
    return event_rules(args), idle_rules(args)


def _check_distinct(args: argparse.Namespace) -> None:
    """Raise UsageError if an output would overwrite what is read, or another output."""
    taken = {os.path.realpath(address): "the source itself" for address in args.source}
    taken.update({os.path.realpath(args.config): "the config file"} if args.config else {})
    secrets = (*(args.webhook_token_file or ()), args.mqtt_password_file, args.mqtt_ca_file, args.web_token_file)
    taken.update({os.path.realpath(path): "the file of a secret" for path in secrets if path})
    for option, path in (("--json", args.json), ("--state-file", args.state_file)):
        if path not in (None, options.STDOUT):
            real = os.path.realpath(path)
            if real in taken:
                raise UsageError(f"{option} {path} is {taken[real]}; choose another file")
            taken[real] = f"the file of {option}"


def names_of(args: argparse.Namespace) -> list[str]:
    """What the sources are called in the output; those that are given twice are numbered."""
    if args.source_name:
        return list(args.source_name)
    names, seen = [name_of(source) for source in args.source], Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if names.count(name) == 1 else f"{name} #{seen[name]}")
    return numbered


def event_rules(args: argparse.Namespace) -> EventRules | None:
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
