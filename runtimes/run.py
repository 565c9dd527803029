"""``lcr-edge run BUNDLE --source ...``: run a bundle on video files, cameras or streams.

Ctrl-C and SIGTERM are how a camera run ends: what was seen is summed up, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Sequence

from lcr_edge import options
from lcr_edge.runtimes.api import Model
from lcr_edge.runtimes.bundle import read_bundle
from lcr_edge.runtimes.live import config, metrics, recording, resume, service, sinks
from lcr_edge.runtimes.live.arguments import add_arguments, check, names_of
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.films import Film
from lcr_edge.runtimes.live.follow import Interrupts, follow
from lcr_edge.runtimes.live.idle import IdleGate
from lcr_edge.runtimes.live.memory import keep_small
from lcr_edge.runtimes.live.observers import Observer, Observers
from lcr_edge.runtimes.live.output import JsonLines, Shown
from lcr_edge.runtimes.live.sources import Awaited, LiveSource, Patience, Say
from lcr_edge.runtimes.live.stream import Stream, Turns
from lcr_edge.runtimes.live.web import options as web
from lcr_edge.runtimes.provider import check_provider, load_on
from lcr_edge.runtimes.video import VideoSource
from lcr_edge.video import check_source

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Step the sources until they end, to ``--frames``, or until Ctrl-C or SIGTERM (a normal end: status 0).

    Raises, after the summary, SourceLostError (status 1) if a camera or stream was lost for good, and VideoError
    (status 2) if a file cannot be decoded. Of several sources one that fails does not end the others.
    """
    args, file = config.merged(args)
    with config.located(file), contextlib.ExitStack() as opened:
        rules, idle = check(args)
        if args.check:
            return _say_checked(args, rules)
        keep_small()
        model = load_on(args.bundle, args.provider, args.threads)
        finders = [None if rules is None else EventFinder(model.labels, rules) for _ in args.source]
        names = names_of(args)
        # A bundle that steps several streams in a call lets them come together.
        turns = Turns() if len(names) > 1 and model.batch == 1 else None
        page = web.open_page(args, names, model)
        if page is not None:
            opened.callback(page.close)
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
        _observe(made, args, model, names, rules, page)
        observer = Observers(made)
        streams: dict[str, Stream] = {}
        for name, source, finder in zip(names, sources, finders):
            lasting = _lasting(source, args.retry, functools.partial(_tell, streams, observer, name))
            opened.callback(lasting.close)
            gate = None if idle is None else IdleGate(idle, 1 / float(model.manifest["frame"]["train_fps"]))
            streams[name] = Stream(model, lasting, finder, turns, gate)
            if keeper is not None:
                keeper.begin(name, streams[name])
        if page is not None:
            page.start(streams)
        opening.pop_all()  # a live one is released where it is read: under a read that hangs it would crash
        running = opened.pop_all()
    with running, Interrupts() as interrupts:
        if notifier is not None:
            notifier.ready(streams)
        for name, source in zip(names, sources):
            if isinstance(source, Awaited):
                observer.state(name, "waiting", "it is being opened")
        failure = follow(streams, observer, args.frames, interrupts)
        for name, stream in streams.items():
            observer.events(name, stream.end())
            observer.ended(name, stream)
        running.close()
    if failure is not None:
        raise failure
    return 0


def _observe(
    made: list[Observer],
    args: argparse.Namespace,
    model: Model,
    names: Sequence[str],
    rules: EventRules | None,
    page: Observer | None,
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
    if page is not None:
        made.insert(1, page)
    if told is not None:
        made.append(told.start())


def _say_checked(args: argparse.Namespace, rules: EventRules | None) -> int:
    """What --check does: look at the bundle and the files, and say that all is well. Writes nothing."""
    bundle = read_bundle(args.bundle)
    if rules is not None:
        rules.check_labels(bundle.labels)
    check_provider(bundle, args.provider)
    for address in args.source:
        check_source(address)
    metrics.check(args)
    web.plan(args)
    sinks.make(args, names_of(args), bundle.labels, bundle.config.name)  # which sends nothing before it is started
    print(
        f"{bundle.manifest.get('name', bundle.folder.name)}, on {bundle.target}; sources: {', '.join(names_of(args))}"
    )
    print("nothing is wrong with the options; the sources were not opened")
    return 0


def _source(address: str, name: str | None, args: argparse.Namespace) -> VideoSource | Awaited:
    """A source, opened unless it is one to wait for. Raises VideoError."""
    if args.wait_for_sources and Awaited.can_be(address):
        return Awaited(address, name)
    if args.loop or args.as_camera:
        return Film(address, name, as_camera=args.as_camera)
    return VideoSource(address, name)


def _tell(streams: dict[str, Stream], observer: Observer, name: str, state: str, reason: str) -> None:
    """A live source was lost, or is back: called where it is stepped. What lasted has ended then."""
    if state == "waiting":
        observer.events(name, streams[name].end())
    observer.state(name, state, reason)


def _lasting(source: VideoSource | Awaited, retry_s: float, say: Say) -> VideoSource | LiveSource:
    """A source that comes back if it is live, else the source."""
    if isinstance(source, VideoSource) and not source.live:
        return source
    return LiveSource(source, Patience(retry_s=retry_s), say)
