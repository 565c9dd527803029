"""``lcr-edge run BUNDLE --source ...``: run a bundle on a video file, a camera or a stream.

Ctrl-C and SIGTERM are how a camera run ends: what was seen is summed up, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from lcr_edge import options
from lcr_edge.errors import OutputError, SourceLostError, UsageError
from lcr_edge.runtimes.api import Floats, Model, clip_decision, load
from lcr_edge.runtimes.live.events import BACKGROUND, Event, EventFinder, EventRules
from lcr_edge.runtimes.live.sources import LiveSource, Patience
from lcr_edge.runtimes.video import Tick, VideoSource, resample

# The final decision covers at most this many of the last steps, so that a camera can run for months.
_MAX_KEPT = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lcr-edge run``."""
    parser.add_argument("bundle", help="bundle folder written by export")
    parser.add_argument(
        "--source", required=True, metavar="FILE|INDEX|URL", help="video file, camera (0 or /dev/video0) or URL"
    )
    options.add_frames(parser, "stop after N steps (default: at the end of the source)")
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
        ("leave", float, "P", EventRules.leave, "probability below which it ends"),
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


@dataclass
class _Totals:
    """What a run has seen so far: the logits since the last reset, and counts."""

    logits: deque[Floats] = field(default_factory=lambda: deque(maxlen=_MAX_KEPT))
    steps: int = 0
    resets: int = 0
    missed: int = 0
    events: int | None = None
    largest_lag_s: float = 0.0


class _JsonLines:
    """The lines of ``--json``: on stdout ("-"), in a file or device, or nowhere (None). Raises OutputError.

    Unlike other results they are written as they come, not all or nothing, so that a reader can follow the run.
    """

    def __init__(self, destination: str | None) -> None:
        self._destination = destination
        self._file: IO[str] | None = None
        try:
            if destination == options.STDOUT:
                self._file = sys.stdout
            elif destination is not None:
                self._file = Path(destination).open("w", encoding="utf-8")  # noqa: SIM115 - see close
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise self._failed(error) from error

    def write(self, record: dict[str, Any]) -> None:
        """Write one line and flush it. Raises OutputError."""
        if self._file is None:
            return
        try:
            print(json.dumps(record, ensure_ascii=False), file=self._file, flush=True)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._file is not None and self._file is not sys.stdout:
            with contextlib.suppress(OSError):  # every line was flushed, or its error was raised
                self._file.close()

    def _failed(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or error
        return OutputError(f"cannot write {self._destination}: {reason}; give --json another file, or -")


def run(args: argparse.Namespace) -> int:
    """Step the source until it ends, to ``--frames``, or until Ctrl-C or SIGTERM (a normal end: status 0).

    Raises SourceLostError (status 1) after the summary, if a camera or stream was lost for good.
    """
    for name in ("frames", "top", "threads"):
        options.check_least(f"--{name}", getattr(args, name), 1)
    if not args.retry >= 0:
        raise UsageError(f"--retry must be 0 or more seconds, or inf, got {args.retry:g}")
    rules = _rules(args)
    model = load(args.bundle, threads=args.threads)
    finder = None if rules is None else EventFinder(model.labels, rules)
    with contextlib.closing(_JsonLines(args.json)) as lines, _terminated_like_interrupted():
        totals = _Totals()
        with _open(args, lines) as source:
            lost: SourceLostError | None = None
            try:
                _step_all(model, source, finder, totals, lines, args)
            except KeyboardInterrupt:
                pass
            except SourceLostError as error:
                lost = error
            _tell([] if finder is None else finder.cut(), lines, options.text_stream(args.json))
            _summarise(model, source, totals, lines, options.text_stream(args.json))
    if lost is not None:
        raise lost
    return 0


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
    return EventRules(**given) if args.events else None


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as SIGINT does; only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(args: argparse.Namespace, lines: _JsonLines) -> VideoSource | LiveSource:
    """The source, one that comes back if it is live. Raises VideoError and MissingExtraError."""
    source = VideoSource(args.source)
    if not source.live:
        return source

    def say(state: str, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)
        lines.write({"state": state, "reason": sentence})

    return LiveSource(source, Patience(retry_s=args.retry), say)


def _step_all(
    model: Model,
    source: VideoSource | LiveSource,
    finder: EventFinder | None,
    totals: _Totals,
    lines: _JsonLines,
    args: argparse.Namespace,
) -> None:
    out = options.text_stream(args.json)
    live = source if isinstance(source, LiveSource) else None
    for tick in resample(source, _train_fps(model), live=live is not None):
        if tick.gap:
            print(f"state reset at {tick.timed.time_s:.3f} s: {tick.gap}", file=sys.stderr)
            _tell([] if finder is None else finder.cut(), lines, out)
            model.reset()
            totals.logits.clear()
            totals.resets += 1
        lag_s = None if live is None else live.lag_s(tick.timed)
        begin = time.perf_counter()
        logits = model.step_stream(model.fit(tick.timed.frame))
        latency_ms = (time.perf_counter() - begin) * 1e3
        totals.logits.append(logits)
        totals.steps += 1
        totals.missed += tick.missed
        totals.largest_lag_s = max(totals.largest_lag_s, lag_s or 0.0)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        _show_step(model, tick, probabilities, latency_ms, lag_s, args.top, lines, out if finder is None else None)
        if finder is not None:
            _tell(finder.add(tick.timed.time_s, probabilities), lines, out)
            totals.events = finder.count
        if totals.steps == args.frames:
            break


def _show_step(
    model: Model,
    tick: Tick,
    probabilities: Floats,
    latency_ms: float,
    lag_s: float | None,
    top: int,
    lines: _JsonLines,
    out: IO[str] | None,
) -> None:
    best = np.argsort(-probabilities, kind="stable")[:top]
    timed = tick.timed
    lines.write(
        {
            "time_s": round(timed.time_s, 4),
            "frame": timed.index,
            "top": [{"label": model.labels[i], "probability": round(float(probabilities[i]), 6)} for i in best],
            "latency_ms": round(latency_ms, 3),
            "reset": tick.gap is not None,
            **({} if lag_s is None else {"lag_ms": round(lag_s * 1e3, 3)}),
        }
    )
    if out is not None:
        shown = "  ".join(f"{model.labels[i]} {probabilities[i]:.2f}" for i in best)
        text = f"{timed.time_s:9.3f} s  frame {timed.index:6d}  {latency_ms:7.2f} ms  {shown}"
        print(text, file=out, flush=True)


def _tell(happened: list[Event], lines: _JsonLines, out: IO[str]) -> None:
    """Print and write what events began and ended."""
    for event in happened:
        lines.write(event.to_dict())
        if event.end_s is None:
            print(f"{event.start_s:9.3f} s  {event.label} begins ({event.confidence:.2f})", file=out, flush=True)
        else:
            lasted = f"after {event.end_s - event.start_s:.2f} s ({event.confidence:.2f})"
            print(f"{event.end_s:9.3f} s  {event.label} ends {lasted}{', cut' * event.cut}", file=out, flush=True)


def _summarise(
    model: Model, source: VideoSource | LiveSource, totals: _Totals, lines: _JsonLines, out: IO[str]
) -> None:
    counts = f"{source.seen} frames seen, {totals.steps} stepped, {totals.resets} resets"
    if isinstance(source, LiveSource):
        counts += f", {source.connections - 1} reconnections, at most {totals.largest_lag_s * 1e3:.0f} ms behind"
    if totals.events is not None:
        counts += f", {totals.events} event{'s' * (totals.events != 1)}"
    print(f"{counts}, on {model.engine.name}", file=out)
    decision = model.labels[clip_decision(np.stack(totals.logits))] if totals.logits else None
    if decision is not None:
        print(f"clip{' since the last reset' if totals.resets else ''}: {decision}", file=out)
    if totals.missed:
        rate = f"{_train_fps(model):g} per second, the trained rate"
        print(f"warning: {totals.missed} frames came too late for {rate}", file=sys.stderr)
    shortfall = source.shortfall() if isinstance(source, VideoSource) else None
    if shortfall:
        print(f"warning: {shortfall}", file=sys.stderr)
    summary: dict[str, Any] = {
        "seen": source.seen,
        "steps": totals.steps,
        "resets": totals.resets,
        "missed": totals.missed,
        "decision": decision,
        "shortfall": shortfall,
        "engine": model.engine.name,
    }
    if totals.events is not None:
        summary["events"] = totals.events
    if isinstance(source, LiveSource):
        summary["reconnections"] = source.connections - 1
        summary["largest_lag_ms"] = round(totals.largest_lag_s * 1e3, 3)
    lines.write({"summary": summary})


def _train_fps(model: Model) -> float:
    return float(model.manifest["frame"]["train_fps"])
