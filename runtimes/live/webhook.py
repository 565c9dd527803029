"""``--webhook URL``: each message is posted as JSON, in order, by a thread of its own.

A message counts as delivered when the receiver has answered with 2xx. One that it cannot take as it is (400, 413, 415,
422) is given up; after every other answer, and where there is none, it is tried again, so it may arrive twice, with the
same id. Redirects are not followed: they would carry the message, and a token, to somebody else.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from lcr_edge import __version__
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.live.credentials import Address, parse_address, read_secret, tls_context, why
from lcr_edge.runtimes.live.messages import Message
from lcr_edge.runtimes.live.outbox import LIMIT, USUAL, Outage, Outbox, Waits, say

_PORTS = {"http": 80, "https": 443}
_REJECTED = (400, 413, 415, 422)
_OPTION = "--webhook"
_TOKEN_OPTION = "--webhook-token-file"


class Webhook:
    """A receiver over HTTP. address: what ``--webhook`` takes. token: sent as a bearer token. number: for people, where
    there are several. Raises UsageError; messages and errors show of the address the host alone, because a path may be
    a secret."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        number: int | None = None,
        *,
        limit: int = LIMIT,
        waits: Waits = USUAL,
    ) -> None:
        self._address = parse_address(address, _OPTION, _PORTS)
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": f"lcr_edge/{__version__}",
            **_authorization(self._address, token),
        }
        self._tls = tls_context(None, _OPTION) if self._address.scheme == "https" else None
        count = "" if number is None else f" #{number}"
        self.outbox = Outbox(f"webhook{count} {self._address.shown}", limit)
        self._waits, self._outage = waits, Outage(self.outbox, waits)
        self._finishing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)

    def start(self, sources: dict[str, Message]) -> None:
        """Begin to deliver. That the sources are there is no message."""
        del sources
        self._thread.start()

    def send(self, message: Message) -> None:
        """Post a message, in its turn."""
        self.outbox.put(message)

    def finish(self) -> None:
        """No more messages will come."""
        self._finishing.set()
        self.outbox.close()

    def join(self, seconds: float) -> None:
        """Wait for the end, at most so long."""
        self._thread.join(max(0.0, seconds))
        self._given_up.set()

    def _work(self) -> None:
        while not self._given_up.is_set():
            message = self.outbox.take(60.0)
            if message is None:
                if self._finishing.is_set():
                    return
                continue
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        """Until it is delivered, given up, or nobody waits for it any more."""
        while not self._given_up.is_set():
            retry_s = 0.0
            try:
                status, reason, retry_s, place = self._post(message.to_json())
            except Exception as error:  # whatever it is, this thread has to go on
                problem = why(error)
            else:
                if 200 <= status < 300:
                    self._outage.over()
                    self.outbox.delivered_one(message)
                    return
                if status in _REJECTED:
                    self._outage.over()
                    self.outbox.rejected_one(message)
                    if self.outbox.rejected in (1, 10, 100, 1000):
                        said = f"{status} {reason}: it rejects this kind of message, {self.outbox.rejected} so far"
                        say(f"{self.outbox.name}: {said}")
                    return
                problem = f"it answers {status} {reason}{_hint(status, place)}"
            self._wait(self._outage.failed(problem, retry_s))
        self.outbox.give_back()

    def _wait(self, seconds: float) -> None:
        """Before the next try: shorter once the run is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._given_up.is_set():
            if self._finishing.is_set():
                self._given_up.wait(min(left, self._waits.hurry_s))
                return
            self._finishing.wait(left)

    def _post(self, body: bytes) -> tuple[int, str, float, str]:
        """One request: status, reason, seconds of Retry-After, and the host of a redirect."""
        address, limit_s = self._address, self._waits.answer_s
        if self._tls is None:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=limit_s)
        else:
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=limit_s, context=self._tls)
        late = threading.Event()
        # The time limit of a socket starts anew with every byte: a receiver could drip them for ever.
        watch = threading.Timer(limit_s, _cut, (connection, late))
        watch.daemon = True
        try:
            connection.connect()
            watch.start()
            connection.request("POST", address.target, body, self._headers)
            answer = connection.getresponse()
            place = _host(answer.getheader("Location"))
            return answer.status, _printable(answer.reason), _seconds(answer.getheader("Retry-After")), place
        except Exception as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            watch.cancel()
            connection.close()


def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(AttributeError, OSError):  # it is not connected, or not any more
        connection.sock.shutdown(socket.SHUT_RDWR)


def _printable(text: str) -> str:
    return "".join(sign for sign in text[:60] if sign.isprintable())


def _host(location: str | None) -> str:
    """Where a redirect leads, for people; its path may be a secret."""
    try:
        return _printable(urlsplit(location or "").hostname or "another path")
    except ValueError:
        return "an address that is none"


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 7 else 0.0


def _hint(status: int, place: str) -> str:
    if 300 <= status < 400:
        return f", a redirect to {place}: give {_OPTION} the address where that ends"
    if status in (401, 403):
        return f": check the user in the address, or {_TOKEN_OPTION}"
    return ": check the path of the address" if status in (404, 405, 410) else ""


def _authorization(address: Address, token: str | None) -> dict[str, str]:
    if token is not None and address.user is not None:
        raise UsageError(f"{_OPTION} with a user in the address and {_TOKEN_OPTION}: give one of them")
    if token is not None:
        return {"Authorization": f"Bearer {token}"}
    if address.user is None:
        return {}
    pair = f"{address.user}:{address.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def webhooks(addresses: list[str] | None, token_files: list[str] | None) -> list[Webhook]:
    """One for each ``--webhook``, with its ``--webhook-token-file``. Raises UsageError."""
    addresses, token_files = addresses or [], token_files or []
    if token_files and len(token_files) != len(addresses):
        counts = f"{len(token_files)} {_TOKEN_OPTION} for {len(addresses)} {_OPTION}"
        raise UsageError(f"{counts}: give one for each, in the same order, and - where none is needed")
    tokens = [None if name == "-" else _token(name) for name in token_files] or [None] * len(addresses)
    several = len(addresses) > 1
    return [
        Webhook(address, token, number if several else None)
        for number, (address, token) in enumerate(zip(addresses, tokens), start=1)
    ]


def _token(name: str) -> str:
    token = read_secret(name, _TOKEN_OPTION)
    if not token.isascii() or " " in token:
        raise UsageError(f"{_TOKEN_OPTION}: {Path(name)} holds letters that a bearer token cannot have")
    return token
