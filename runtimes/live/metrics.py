"""``--metrics [HOST:]PORT``: what a run does, for Prometheus, at ``/metrics``.

The labels are the names of the sources, the classes of the network and the names of the sinks: all of them are known
when the run begins, so the number of series is bounded.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lcr_edge.errors import LcrError, MissingExtraError, UsageError
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.outbox import Outbox
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.video import Tick

_OPTION = "--metrics"
_LOOPBACK = "127.0.0.1"
# Upper bounds of the histogram's buckets, in seconds: from a fast processor to a large network on a small board.
_STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_PRELOADED_CLASSES = 200
_PATIENCE_S = 10.0  # with a client that asks for nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--metrics [HOST:]PORT``."""
    parser.add_argument(
        _OPTION, metavar="[HOST:]PORT", help=f"figures for Prometheus, at /metrics (default host: {_LOOPBACK})"
    )


def make(
    args: argparse.Namespace, sources: Sequence[str], labels: Sequence[str], outboxes: Iterable[Outbox] = ()
) -> Metrics | None:
    """The observer for the parsed arguments, None without ``--metrics``; it listens from now on.

    labels: the classes that may be events. Raises UsageError, also if the port is in use, and MissingExtraError.
    """
    if args.metrics is None:
        return None
    host, port = parse_listen(args.metrics)
    metrics = Metrics(sources, labels if args.events else (), outboxes)
    metrics.listen(host, port)
    return metrics


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for an address that is none, without opening it."""
    if args.metrics is not None:
        parse_listen(args.metrics)


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; an IPv6 address stands in brackets. Raises UsageError."""
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.%\w]+\]|[^\s:\[\]]+):)?([0-9]{1,5})", text)
    if found is None or not 1 <= int(found[2]) <= 65_535:
        raise UsageError(f"{_OPTION} {text!r} is not [HOST:]PORT, for example 9464 or 0.0.0.0:9464 or [::1]:9464")
    return (found[1] or _LOOPBACK).strip("[]"), int(found[2])


class Metrics:
    """An observer that counts. sources, labels: as in :func:`make`. port: where it listens, or 0.

    Raises MissingExtraError.
    """

    def __init__(self, sources: Sequence[str], labels: Sequence[str], outboxes: Iterable[Outbox] = ()) -> None:
        try:
            self._prometheus: Any = importlib.import_module("prometheus_client")
        except ImportError as error:
            raise MissingExtraError("prometheus-client", "service", _OPTION) from error
        self._registry = registry = self._prometheus.CollectorRegistry()
        self._server: Any = None
        self._thread: Any = None
        self.port = 0

        def make(kind: Any, name: str, text: str, labels: Sequence[str] = ("source",), **more: Any) -> Any:
            return kind(f"lcr_edge_{name}", text, labels, registry=registry, **more)

        counter, gauge, histogram = (getattr(self._prometheus, name) for name in ("Counter", "Gauge", "Histogram"))
        self._steps = make(counter, "steps", "Steps of the network")
        self._seen = make(counter, "frames", "Frames that arrived, those that were not stepped included")
        self._missed = make(counter, "missed_steps", "Steps that were due and left out, because there was no time")
        self._skipped = make(counter, "skipped_steps", "Steps that --idle left out, because nothing moved")
        self._resets = make(counter, "resets", "Resets of the state, after a gap")
        self._reconnections = make(counter, "reconnections", "Times that a lost source was back")
        self._events = make(counter, "events", "Events that began", ("source", "label"))
        what = "Fitting a frame and the step, waiting for a turn left out"
        self._step_s = make(histogram, "step_seconds", what, buckets=_STEP_S)
        self._lag_s = make(gauge, "lag_seconds", "How old the frame of the last step was; live sources only")
        self._up = make(gauge, "source_up", "1 while the source gives frames")
        self._counts = dict.fromkeys(sources, 0)
        for name in sources:
            counters = (self._steps, self._seen, self._missed, self._skipped, self._resets, self._reconnections)
            for metric in (*counters, self._step_s):
                metric.labels(name)
            self._up.labels(name).set(1)
            # A counter that begins with its first event looks to increase() as if that had not been.
            for label in labels if len(labels) <= _PRELOADED_CLASSES else ():
                self._events.labels(name, label)
        registry.register(_Queues(outboxes))

    def listen(self, host: str, port: int) -> None:
        """Serve ``/metrics`` in a thread of its own; port 0: any that is free. Raises UsageError."""
        try:
            self._server, self._thread = self._prometheus.start_http_server(port, host, self._registry)
        except OSError as error:
            raise UsageError(
                f"{_OPTION}: cannot listen at {host}, port {port}: {error.strerror or error}; choose another port"
            ) from error
        except UnicodeError as error:  # a name that DNS cannot have
            raise UsageError(f"{_OPTION}: {host!r} is not a host") from error
        handler = self._server.RequestHandlerClass  # which would keep a silent connection, and its thread, for good
        self._server.RequestHandlerClass = type("Handler", (handler,), {"timeout": _PATIENCE_S})
        self.port = self._server.server_port

    def state(self, name: str, state: str, _reason: str) -> None:
        """A live source was lost, or is back."""
        self._up.labels(name).set(state == "live")
        if state == "live" and self._counts[name]:
            self._reconnections.labels(name).inc()

    def failed(self, name: str, _error: LcrError) -> None:
        """A source is over."""
        self._up.labels(name).set(0)

    def step(self, name: str, step: Step) -> None:
        """Count a step."""
        self._steps.labels(name).inc()
        self._count_frames(name, step.tick.timed.index + 1)
        self._missed.labels(name).inc(step.tick.missed)
        self._resets.labels(name).inc(step.tick.gap is not None)
        self._step_s.labels(name).observe(step.latency_ms / 1e3)
        if step.lag_s is not None:
            self._lag_s.labels(name).set(step.lag_s)

    def left_out(self, name: str, tick: Tick) -> None:
        """Count a step that was left out."""
        self._skipped.labels(name).inc()
        self._count_frames(name, tick.timed.index + 1)
        self._missed.labels(name).inc(tick.missed)

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Count events that begin."""
        for event in events:
            if event.end_s is None:
                self._events.labels(name, event.label).inc()

    def ended(self, name: str, stream: Stream) -> None:
        """The last about a source."""
        self._count_frames(name, stream.source.seen)
        self._up.labels(name).set(0)

    def close(self) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def _count_frames(self, name: str, seen: int) -> None:
        more = seen - self._counts[name]
        if more > 0:
            self._counts[name] = seen
            self._seen.labels(name).inc(more)


class _Queues:
    """Reads the outboxes whenever Prometheus asks."""

    def __init__(self, outboxes: Iterable[Outbox]) -> None:
        self._core: Any = importlib.import_module("prometheus_client.core")
        self._outboxes = tuple(outboxes)

    def collect(self) -> Iterator[Any]:
        """The metrics about sinks."""
        core = self._core
        waiting = core.GaugeMetricFamily("lcr_edge_sink_waiting", "Messages not confirmed yet", labels=["sink"])
        counts = {
            name: core.CounterMetricFamily(f"lcr_edge_sink_{name}", text, labels=["sink"])
            for name, text in (
                ("delivered", "Messages that the receiver has confirmed"),
                ("dropped", "Messages pushed out of a full queue"),
                ("rejected", "Messages that the receiver will never take"),
            )
        }
        for outbox in self._outboxes:
            waiting.add_metric([outbox.name], outbox.waiting)
            for name, family in counts.items():
                family.add_metric([outbox.name], getattr(outbox, name))
        return iter((waiting, *counts.values()))
