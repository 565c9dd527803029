"""Events elsewhere: the observer that tells webhooks and an MQTT broker what happens, and the options for it."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterable, Sequence

from lcr_edge.errors import LcrError, SourceLostError, UsageError
from lcr_edge.runtimes.live.credentials import read_secret
from lcr_edge.runtimes.live.events import Event
from lcr_edge.runtimes.live.messages import Message, Messages
from lcr_edge.runtimes.live.mqtt import Mqtt
from lcr_edge.runtimes.live.outbox import Sink, say
from lcr_edge.runtimes.live.stream import Step, Stream
from lcr_edge.runtimes.live.webhook import webhooks
from lcr_edge.runtimes.video import Tick

CLOSE_S = 5.0  # how long the end of a run waits for receivers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about receivers of events; see docs/camera-service.md."""
    group = parser.add_argument_group("events elsewhere", "each needs --events")
    group.add_argument(
        "--webhook", action="append", metavar="URL", help="post events and lost sources as JSON; may be repeated"
    )
    group.add_argument(
        "--webhook-token-file",
        action="append",
        metavar="FILE|-",
        help="a bearer token in a file; with several --webhook one for each, - for none",
    )
    group.add_argument("--mqtt", metavar="URL", help="publish events at a broker: mqtt://user@host:port or mqtts://")
    group.add_argument("--mqtt-password-file", metavar="FILE", help="the user's password")
    group.add_argument(
        "--mqtt-ca-file", metavar="FILE", help="the certificate authority of the broker (default: the system's)"
    )
    group.add_argument(
        "--mqtt-topic", metavar="PREFIX", help="what topics begin with; one for each run (default: lcr_edge)"
    )
    group.add_argument(
        "--mqtt-discovery",
        metavar="PREFIX",
        help="where Home Assistant looks for devices; an empty one: do not tell it (default: homeassistant)",
    )


def make(args: argparse.Namespace, sources: Sequence[str], labels: Sequence[str], model: str) -> Sinks | None:
    """The observer for the parsed arguments, None where there is no receiver.

    sources: their names. labels: the classes that may be events. model: the network's name. Raises UsageError and
    MissingExtraError.
    """
    mqtt_options = ("mqtt_password_file", "mqtt_ca_file", "mqtt_topic", "mqtt_discovery")
    for name, needed in (*((name, "mqtt") for name in mqtt_options), ("webhook_token_file", "webhook")):
        if getattr(args, name) is not None and not getattr(args, needed):
            raise UsageError(f"--{name.replace('_', '-')} is about --{needed}: give that too")
    if not args.webhook and not args.mqtt:
        return None
    if not args.events:
        raise UsageError(f"--{'webhook' if args.webhook else 'mqtt'} is about events: add --events")
    messages = Messages()
    sinks: list[Sink] = list(webhooks(args.webhook, args.webhook_token_file))
    if args.mqtt:
        password = args.mqtt_password_file
        given = {"topic": args.mqtt_topic, "discovery": args.mqtt_discovery, "ca_file": args.mqtt_ca_file}
        sinks.append(
            Mqtt(
                args.mqtt,
                run=messages.run,
                password=None if password is None else read_secret(password, "--mqtt-password-file"),
                labels=labels,
                model=model,
                **{name: value for name, value in given.items() if value is not None},
            )
        )
    return Sinks(sinks, messages, sources)


class Sinks:
    """An observer that sends each message to every sink, once :meth:`start` was called.

    close_s: how long :meth:`close` waits for all of them.
    """

    def __init__(
        self, sinks: Iterable[Sink], messages: Messages, sources: Sequence[str], close_s: float = CLOSE_S
    ) -> None:
        self.sinks = tuple(sinks)
        self._messages, self._sources, self._close_s = messages, tuple(sources), close_s
        self._failed: set[str] = set()
        self._states: dict[str, str] = {}

    def start(self) -> Sinks:
        """Begin to deliver; the sources are open. Returns itself."""
        opened = {name: self._messages.state(name, "live", "opened") for name in self._sources}
        for sink in self.sinks:
            sink.start(opened)
        return self

    def state(self, name: str, state: str, reason: str) -> None:
        """A live source was lost, or is back. A try that failed is not told again: it would displace events."""
        if self._states.get(name) == state:
            return
        self._states[name] = state
        self._send(self._messages.state(name, state, reason))

    def failed(self, name: str, error: LcrError) -> None:
        """A source is over, before its end."""
        self._failed.add(name)
        state = "lost" if isinstance(error, SourceLostError) else "failed"
        self._send(self._messages.state(name, state, str(error)))

    def step(self, name: str, step: Step) -> None:
        """A step: nothing to send."""
        self._messages.step(name, step)

    def left_out(self, _name: str, _tick: Tick) -> None:
        """Nothing."""

    def events(self, name: str, events: Sequence[Event]) -> None:
        """Events began or ended."""
        for event in events:
            self._send(self._messages.event(name, event))

    def ended(self, name: str, stream: Stream) -> None:
        """The end of a source that did not fail."""
        if name not in self._failed:
            self._send(self._messages.state(name, "ended", f"{stream.totals.steps} steps"))

    def close(self) -> None:
        """Deliver what waits, for some seconds; then say how many messages were not delivered."""
        until = time.monotonic() + self._close_s
        for sink in self.sinks:
            sink.finish()
        for sink in self.sinks:
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C need not wait
                sink.join(until - time.monotonic())
            left, dropped = sink.outbox.waiting, sink.outbox.dropped
            if left or dropped:
                lost = [f"{left} messages were not delivered"] * bool(left)
                say(f"{sink.outbox.name}: {', '.join([*lost, *[f'{dropped} were dropped'] * bool(dropped)])}")

    def _send(self, message: Message) -> None:
        for sink in self.sinks:
            sink.send(message)
