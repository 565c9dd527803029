"""One connection to an MQTT broker: paho-mqtt's client, driven by the thread that uses it, without one of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import OrderedDict
from typing import Any

from lcr_edge.runtimes.live.messages import Message

_KEEPALIVE_S = 30


class TlsSocket(ssl.SSLSocket):
    """Closed if its handshake fails; paho-mqtt leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class ConnectionOverError(Exception):
    """Why a connection ended; for people."""


class Session:
    """One connection, driven by one thread. Every method raises ConnectionOverError once it has ended.

    connected: the broker has accepted it. confirmed: whether it has confirmed any message. seen_offline: somebody has
    said so in the topic that is watched.
    """

    def __init__(self, paho: Any, client: Any, answer_s: float) -> None:
        self.client, self._paho, self._answer_s = client, paho, answer_s
        self.connected = self.confirmed = self.seen_offline = False
        self._over: str | None = None
        self._sent: OrderedDict[int, tuple[Message | None, float]] = OrderedDict()
        self._confirmed: list[Message] = []
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish

    @property
    def on_their_way(self) -> int:
        """Messages that are not confirmed."""
        return len(self._sent)

    def connect(self, host: str, port: int) -> None:
        """Connect, encrypt and introduce this client. Raises OSError and ssl.SSLError."""
        self._check(self.client.connect(host, port, _KEEPALIVE_S))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, message: Message | None = None) -> None:
        """Send with QoS 1. message: what :meth:`take_confirmed` gives back for it."""
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        self._sent[info.mid] = (message, time.monotonic())
        self._check(info.rc)

    def watch(self, topic: str, payload: bytes) -> None:
        """Let ``seen_offline`` say when somebody sends this."""

        def seen(_client: Any, _userdata: Any, message: Any) -> None:
            self.seen_offline |= message.payload == payload and not message.retain

        self.client.on_message = seen
        self._check(self.client.subscribe(topic, qos=1)[0])

    def unwatch(self, topic: str) -> None:
        """No more of :meth:`watch`."""
        self.client.on_message = None
        self._check(self.client.unsubscribe(topic)[0])

    def wait(self, bell: socket.socket, seconds: float) -> None:
        """Read and write until something has happened, ``bell`` has rung, or so many seconds are over."""
        client, sock = self.client, self.client.socket()
        if sock is None:
            raise ConnectionOverError(self._over or "the connection was lost")
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        writers = [sock] if client.want_write() else []
        readable, writable, _ = select.select([sock, bell], writers, [], 0.0 if pending else max(0.0, seconds))
        if bell in readable:
            with contextlib.suppress(BlockingIOError):
                while bell.recv(4096):
                    pass
        if sock in readable or pending:
            self._check(client.loop_read())
        if writable:
            self._check(client.loop_write())
        self._check(client.loop_misc())
        if self._sent and time.monotonic() - next(iter(self._sent.values()))[1] > self._answer_s:
            raise ConnectionOverError(f"it has not confirmed a message for {self._answer_s:.0f} s")

    def take_confirmed(self) -> list[Message]:
        """The messages that the broker has confirmed since the last call."""
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def leave(self) -> None:
        """Close the connection, without a word if it was not ended before: then the broker tells the last will."""
        sock = self.client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _check(self, code: int) -> None:
        if self._over is not None:
            raise ConnectionOverError(self._over)
        if code != self._paho.MQTT_ERR_SUCCESS:
            raise ConnectionOverError(self._paho.error_string(code).rstrip(".").lower())

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not reason.is_failure:
            self.connected = True
            return
        said = str(reason)
        hint = (
            ": check the user in the address, and --mqtt-password-file" if "uth" in said or "password" in said else ""
        )
        self._over = f"it refuses the connection ({said.lower()}){hint}"

    def _on_publish(self, _client: Any, _userdata: Any, number: int, _reason: Any, _properties: Any) -> None:
        message, _ = self._sent.pop(number, (None, 0.0))
        self.confirmed = True
        if message is not None:
            self._confirmed.append(message)
