"""``--mqtt URL``: messages to an MQTT broker with QoS 1, by a thread of its own, over any number of connections.

A message is delivered when the broker has confirmed it (PUBACK). Each connection is a new session: what the last one
left unconfirmed is sent again, in order, before what is newer. So while this process lives, and unless the queue
overflows, the broker gets every message at least once; one whose confirmation was lost comes twice, with the same id.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from lcr_edge.errors import MissingExtraError, UsageError
from lcr_edge.runtimes.live.credentials import parse_address, tls_context, why
from lcr_edge.runtimes.live.discovery import Topics, check_prefix, configs
from lcr_edge.runtimes.live.messages import Message
from lcr_edge.runtimes.live.mqtt_session import ConnectionOverError, Session, TlsSocket
from lcr_edge.runtimes.live.outbox import LIMIT, USUAL, Outage, Outbox, Waits

_OPTION, _PASSWORD_OPTION, _CA_OPTION = "--mqtt", "--mqtt-password-file", "--mqtt-ca-file"
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_WINDOW = 20  # messages on their way at a time
_ONLINE, _OFFLINE = b"online", b"offline"


class Mqtt:
    """A broker. address: what ``--mqtt`` takes. password: instead of one in the address.

    topic, discovery: the prefixes of topics, discovery empty for none. labels, model: for Home Assistant, see
    :func:`lcr_edge.runtimes.live.discovery.configs`. run: of the messages; makes the client's id.
    Raises UsageError and MissingExtraError.
    """

    def __init__(
        self, address: str, *, run: str, password: str | None = None, ca_file: str | None = None,
        topic: str = "lcr_edge", discovery: str = "homeassistant", labels: Sequence[str] = (), model: str = "",
        limit: int = LIMIT, waits: Waits = USUAL,
    ) -> None:  # fmt: skip
        self._address = place = parse_address(address, _OPTION, _PORTS)
        if place.target not in ("/", ""):
            raise UsageError(f"{_OPTION} takes no path and no query: {place.shown}; topics are named by --mqtt-topic")
        if password is not None and place.password is not None:
            raise UsageError(f"{_OPTION} with a password in the address and {_PASSWORD_OPTION}: give one of them")
        self._password = place.password if password is None else password
        if self._password is not None and not place.user:
            raise UsageError(f"{_PASSWORD_OPTION} needs a user: {_OPTION} {place.scheme}://USER@{place.host}")
        if ca_file is not None and place.scheme != "mqtts":
            raise UsageError(f"{_CA_OPTION} is about TLS: give {_OPTION} mqtts://{place.host}")
        self._tls = tls_context(ca_file, _CA_OPTION) if place.scheme == "mqtts" else None
        if self._tls is not None:
            self._tls.sslsocket_class = TlsSocket
        self._topics = Topics(check_prefix(topic, "--mqtt-topic"))
        self._discovery = check_prefix(discovery, "--mqtt-discovery") if discovery else ""
        self._labels, self._model, self._client_id = list(labels), model, f"lcr_edge-{run}"
        try:
            self._paho: Any = importlib.import_module("paho.mqtt.client")
        except ImportError as error:
            raise MissingExtraError("paho-mqtt", "service", _OPTION) from error
        self.outbox = Outbox(f"MQTT broker {place.shown}", limit)
        self.outbox.wake = self._wake
        self._waits, self._outage = waits, Outage(self.outbox, waits)
        self._lock = threading.Lock()
        self._retained: OrderedDict[str, bytes] = OrderedDict()
        self._changed: OrderedDict[str, None] = OrderedDict()  # topics whose retained message the broker lacks
        self._bell: socket.socket | None = None  # made in start: a sink that is only looked at holds nothing
        self._finishing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mqtt", daemon=True)

    def start(self, sources: dict[str, Message]) -> None:
        """Begin to connect. sources: the first state of each source, by its name."""
        if self._discovery:
            self._retain(configs(self._discovery, self._topics, list(sources), self._labels, self._model))
        for source, message in sources.items():
            # An event of an earlier run that was killed may still be on.
            self._retain({**self._topics.retained(message), self._topics.of(source, "active"): b"OFF"})
        self._ears, self._bell = socket.socketpair()
        self._ears.setblocking(False)
        self._bell.setblocking(False)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Publish a message in its turn. Of the states of a source only the last one counts: they do not queue."""
        self._retain(self._topics.retained(message))
        if message.is_event:
            self.outbox.put(message)
        else:
            self._wake()

    def finish(self) -> None:
        """No more messages will come."""
        self._finishing.set()
        self.outbox.close()

    def join(self, seconds: float) -> None:
        """Wait for the end, at most so long."""
        self._thread.join(max(0.0, seconds))
        self._given_up.set()
        self._wake()

    def _retain(self, messages: dict[str, bytes]) -> None:
        with self._lock:
            self._retained.update(messages)
            self._changed.update(dict.fromkeys(messages))

    def _wake(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens
                self._bell.send(b"\0")

    def _work(self) -> None:
        try:
            while not self._given_up.is_set():
                session = Session(self._paho, self._client(), self._waits.answer_s)
                try:
                    self._connect(session)
                    self._talk(session)
                    return
                except Exception as error:  # whatever it is, this thread has to go on
                    problem = str(error) if isinstance(error, ConnectionOverError) else f"cannot connect: {why(error)}"
                finally:
                    session.leave()
                    self._note_confirmed(session)
                    self.outbox.give_back()
                wait_s = self._outage.failed(problem)
                if self._finishing.wait(wait_s):
                    if not self.outbox.waiting:
                        return  # the last will has said the rest, or nobody was ever told of this run
                    self._given_up.wait(min(wait_s, self._waits.hurry_s))
        finally:
            self._ears.close()
            if self._bell is not None:
                self._bell.close()

    def _client(self) -> Any:
        paho, place = self._paho, self._address
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self._client_id, clean_session=True, reconnect_on_failure=False
        )
        client.max_inflight_messages_set(_WINDOW)
        client.suppress_exceptions = False
        if place.user:
            client.username_pw_set(place.user, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(self._topics.status, _OFFLINE, qos=1, retain=True)
        return client

    def _connect(self, session: Session) -> None:
        with self._lock:  # a broker that was started again may have lost all of it
            self._changed.update(dict.fromkeys(self._retained))
        session.connect(self._address.host, self._address.port)
        until = time.monotonic() + self._waits.answer_s
        while not session.connected:
            if time.monotonic() > until or self._given_up.is_set():
                raise ConnectionOverError("it does not answer as an MQTT broker does")
            session.wait(self._ears, until - time.monotonic())
        # Another run with this prefix, or the will of a connection that is found dead late, may say offline for us.
        session.watch(self._topics.status, _OFFLINE)
        session.publish(self._topics.status, _ONLINE, retain=True)

    def _talk(self, session: Session) -> None:
        """Deliver until the run is over and all is confirmed. Raises ConnectionOverError."""
        back = False
        while not self._given_up.is_set():
            if session.seen_offline:
                session.seen_offline = False
                session.publish(self._topics.status, _ONLINE, retain=True)
            while session.on_their_way < _WINDOW and self._send_next(session):
                pass
            if not back and session.confirmed:  # not before: one that takes no message is not back
                back = True
                self._outage.over()
            if self._finishing.is_set() and not session.on_their_way and not self._more():
                self._say_goodbye(session)
                return
            session.wait(self._ears, 1.0)
            self._note_confirmed(session)

    def _note_confirmed(self, session: Session) -> None:
        for message in session.take_confirmed():
            self.outbox.delivered_one(message)

    def _more(self) -> bool:
        with self._lock:
            return bool(self._changed) or self.outbox.waiting > 0

    def _send_next(self, session: Session) -> bool:
        """Send what the broker lacks, retained messages first; False if there is nothing."""
        with self._lock:
            topic = next(iter(self._changed), None)
            if topic is not None:
                del self._changed[topic]
                payload = self._retained[topic]
        if topic is not None:
            session.publish(topic, payload, retain=True)
            return True
        message = self.outbox.take()
        if message is None:
            return False
        session.publish(self._topics.of(message.source, "event"), message.to_json(), message=message)
        return True

    def _say_goodbye(self, session: Session) -> None:
        """A clean end takes the last will back, so its words are said here."""
        session.unwatch(self._topics.status)
        session.publish(self._topics.status, _OFFLINE, retain=True)
        while session.on_their_way and not self._given_up.is_set():
            session.wait(self._ears, 0.1)
        session.client.disconnect()
