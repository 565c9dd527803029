"""Find the event thresholds of ``lcr-edge run`` on labelled streams, and say how well they do on other ones."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lcr_edge import options
from lcr_edge.config import CLIP_FRAMES
from lcr_edge.errors import UsageError
from lcr_edge.files import check_file, write_atomically
from lcr_edge.progress import bar
from lcr_edge.runtimes.api import Model, load
from lcr_edge.runtimes.live.events import EventRules
from lcr_edge.runtimes.tuning import labelled
from lcr_edge.runtimes.tuning.halves import halves
from lcr_edge.runtimes.tuning.report import table, warnings
from lcr_edge.runtimes.tuning.search import tune
from lcr_edge.runtimes.tuning.tracks import Labelled, Track, follow, score

_NUMBERS = (
    options.Number("streams", "how many streams of rendered gestures, or of clips of --data", low=2, default=16),
    options.Number("clips", "gestures or clips in each of them", default=25),
    options.Number(
        "false-alarms", "false alarms an hour that are allowed; fewer are wanted in any case", float, 0, metavar="N"
    ),
)

_RULES = {
    "enter": EventRules.enter,
    "leave": EventRules.leave,
    "min-seconds": EventRules.min_s,
    "pause-seconds": EventRules.pause_s,
}

_FOLLOWS = ", with --enter two thirds of that"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge tune-events``; :func:`run` checks the values, so that errors name the way out."""
    parser.add_argument("bundle", help="bundle folder written by export")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of held-out clips, as for evaluate, which become streams; or rendered, for gestures with pauses "
        "between them (default: rendered, unless films are given)",
    )
    parser.add_argument(
        "--film",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILM", "LABELS"),
        help="a video file and what happens in it: CSV with start,end,label or JSON lines; may be repeated",
    )
    parser.add_argument(
        "--quiet", action="append", default=[], metavar="FILM", help="a video file in which nothing happens"
    )
    for row in _NUMBERS:
        row.add(parser)
    parser.add_argument(
        "--ignore", action="append", metavar="LABEL", help="a class that is never an event, as for run; may be repeated"
    )
    for name, default in _RULES.items():
        parser.add_argument(
            f"--{name}",
            type=float,
            default=None if name == "leave" else default,
            metavar="X",
            help=f"of run, to compare with (default: {default:g}{_FOLLOWS * (name == 'leave')})",
        )
    options.add_threads(parser, None)
    options.add_seed(parser, "which rendered gestures")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="the thresholds as a TOML file for lcr-edge run --config"
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Step the streams, choose on one half of them, report on the other. Raises LcrError subclasses."""
    options.check_numbers(_NUMBERS, args)
    options.check_least("--threads", args.threads, 1)
    options.check_seed(args.seed)
    options.check_json(args.json)
    if args.write is not None:
        check_file(args.write, "--write")
    # As "run" does.
    leave = args.enter * EventRules.leave / EventRules.enter if args.leave is None else args.leave
    before = EventRules(args.enter, leave, args.min_seconds, args.pause_seconds)
    if args.ignore is not None:
        before = replace(before, ignore=tuple(args.ignore))
    model = load(args.bundle, threads=args.threads)
    before.check_labels(model.labels)
    faults: list[str] = []
    streams, films = _streams(args, model, before, faults)
    tracks = _follow(model, streams, args.streams if streams else 0)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    choose, report = halves(tracks, _follow(model, films, len(films)))
    after = tune(choose, model.labels, before, most_per_hour=args.false_alarms)
    document = _document(model, before, after, choose, report)
    print(table(document), file=options.text_stream(args.json))
    for line in warnings(document, args.false_alarms):
        print(f"warning: {line}", file=sys.stderr)
    options.write_json(args.json, document)
    if args.write is not None:
        write_atomically(args.write, toml(after, model.bundle.folder.name).encode())
        print(f"wrote {args.write}: use it with lcr-edge run --config {args.write}", file=sys.stderr)
    return 0


def toml(rules: EventRules, bundle: str) -> str:
    """The rules as a TOML file: keys are the long options of ``lcr-edge run``; [enters]: probabilities of labels."""
    lines = [
        f"# Event thresholds, chosen by lcr-edge tune-events for {_string(bundle)}",
        "events = true",
        f"enter = {float(rules.enter)!r}",
        f"leave = {float(rules.leave)!r}",
        f"min-seconds = {float(rules.min_s)!r}",
        f"pause-seconds = {float(rules.pause_s)!r}",
        f"ignore = [{', '.join(map(_string, rules.ignore))}]",
    ]
    if rules.enters:
        lines += ["", "[enters]", *(f"{_string(label)} = {float(enter)!r}" for label, enter in rules.enters.items())]
    return "\n".join(lines) + "\n"


def _string(text: str) -> str:
    # A basic string of TOML has the escapes of JSON, but for DEL, which labels cannot hold (check_labels).
    return json.dumps(text, ensure_ascii=False)


def _streams(
    args: argparse.Namespace, model: Model, rules: EventRules, faults: list[str]
) -> tuple[Iterable[Labelled], list[Labelled]]:
    """The streams that have nothing in common, and the films. Raises UsageError, VideoError, MissingExtraError."""
    about: dict[str, Any] = {"labels": model.labels, "ignore": rules.ignore}
    films = [labelled.film(path, Path(file), **about) for path, file in args.film]
    films += [labelled.film(path, None, **about) for path in args.quiet]
    size, fps = model.frame_shape[:2], float(model.manifest["frame"]["train_fps"])
    source = args.data or (None if args.film else "rendered")
    if source is None:
        return (), films
    if source == "rendered":
        lacking = _rendered_labels() - set(model.labels)
        if lacking:
            raise UsageError(
                f"the network does not know rendered gestures ({sorted(lacking)[0]}, ...): give --data or --film"
            )
        how: dict[str, Any] = {"size": size, "fps": fps, "ignore": rules.ignore}
        return labelled.rendered(args.seed, args.streams, gestures=args.clips, **how), films
    from lcr_edge.data.sets import open_set

    frames, fit = CLIP_FRAMES, model.bundle.fit
    data = open_set(source, split="heldout", size=size, fps=fps, frames=frames, cache=None, seed=args.seed, fit=fit)
    for note in data.notes:
        print(note, file=sys.stderr)
    shape: dict[str, Any] = {"size": size, "fps": fps, "frames": frames, "faults": faults}
    return labelled.joined(data, args.streams, args.clips, **about, **shape), films


def _rendered_labels() -> set[str]:
    from lcr_edge.data.labels import JESTER

    return set(JESTER)


def _follow(model: Model, streams: Iterable[Labelled], count: int) -> list[Track]:
    tracks: list[Track] = []
    if not count:
        return tracks
    with bar("stepping", count, "stream", True, line=True) as moved:
        for stream in streams:
            tracks.append(follow(model, stream))
            moved.update()
    return tracks


def _document(
    model: Model, before: EventRules, after: EventRules, choose: Sequence[Track], report: Sequence[Track]
) -> dict[str, Any]:
    """All that is reported, as JSON values."""
    figures: dict[str, Any] = {}
    for name, rules in (("before", before), ("after", after)):
        total, each = score(report, model.labels, rules)
        classes = {label: each[label].to_dict() for label in sorted(each)}
        chosen_on = score(choose, model.labels, rules)[0].to_dict()
        figures[name] = {
            "rules": asdict(rules), "reported": total.to_dict(), "per_class": classes, "chosen_on": chosen_on,
        }  # fmt: skip
    return {
        "bundle": model.bundle.folder.name,
        "chosen_on": [track.name for track in choose],
        "reported_on": [track.name for track in report],
        **figures,
    }
