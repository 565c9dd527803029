"""Receivers of messages, all of them real: an HTTP server, a mosquitto broker, a subscriber, a line that can be cut."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

LIMIT_S = 60.0
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="no MQTT broker here (Debian, Ubuntu: apt-get install mosquitto)"
)


def wait_for(what: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Until it is true. The limit is for a test that fails."""
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class HttpReceiver:
    """An HTTP server on 127.0.0.1 that answers by plan, then 200. Use ``with``.

    plan: for each request a status, (status, headers), "hang" (no answer until the end) or "drip" (a byte of an answer
    now and then). got: bodies that were answered with 200; headers: of all requests; paths: of all requests.
    """

    def __init__(self, plan: list[Any] | None = None) -> None:
        self.plan = list(plan or [])
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._over = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append(dict(self.headers.items()))
                receiver.paths.append(self.path)
                answer = receiver.plan.pop(0) if receiver.plan else 200
                with contextlib.suppress(OSError):  # the sender has gone
                    if answer == "hang":
                        receiver._over.wait()
                    elif answer == "drip":
                        while not receiver._over.wait(0.05):
                            self.wfile.write(b"HTTP/1.1"[:1])
                    else:
                        status, headers = answer if isinstance(answer, tuple) else (answer, {})
                        if status == 200:
                            receiver.got.append(json.loads(body))
                        self.send_response(status)
                        for name, value in {**headers, "Content-Length": "0"}.items():
                            self.send_header(name, value)
                        self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> HttpReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Broker:
    """A mosquitto on a port of 127.0.0.1 that keeps sessions and retained messages over restarts. Use ``with``.

    settings: more lines for its configuration file. start: False for one that is not started yet.
    """

    def __init__(self, folder: Path, *settings: str, start: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder, self._process = folder, None if not start else _NOT_YET
        lines = (
            f"listener {self.port} 127.0.0.1",
            "user root",  # as root it would give up its rights, and could not write its file; else it is ignored
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 0",
            *(settings or ("allow_anonymous true",)),
        )
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def address(self) -> str:
        """What ``--mqtt`` takes."""
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Broker:
        if self._process is _NOT_YET:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert MOSQUITTO is not None
        with (self._folder / "log").open("ab") as log:
            command = [MOSQUITTO, "-c", str(self._folder / "mosquitto.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._listens)

    def kill(self) -> None:
        """SIGKILL: nothing is saved, nobody is told."""
        if isinstance(self._process, subprocess.Popen):
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def saved(self) -> bool:
        """Whether it has written what it keeps over a restart."""
        return (self._folder / "mosquitto.db").exists()

    def _listens(self) -> bool:
        assert isinstance(self._process, subprocess.Popen)
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


_NOT_YET: Any = object()


class Subscriber:
    """Hears everything at a broker, over its restarts. Use ``with``.

    messages: (topic, payload, retained) in the order in which they came.
    """

    def __init__(self, broker: Broker, user: tuple[str, str] | None = None) -> None:
        paho = pytest.importorskip("paho.mqtt.client")
        self.messages: list[tuple[str, bytes, bool]] = []
        self.subscribed = threading.Event()
        self.connected = False
        # A session that outlives connections: what is published meanwhile waits for it at the broker.
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "subscriber", clean_session=False)
        self._client.reconnect_delay_set(0.05, 0.2)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.messages.append(
            (message.topic, message.payload, message.retain)
        )
        if user is not None:
            self._client.username_pw_set(*user)
        self._client.connect("127.0.0.1", broker.port)

    def __enter__(self) -> Subscriber:
        self._client.loop_start()
        assert self.subscribed.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def events(self) -> list[dict[str, Any]]:
        """The messages about events as they came, repeated ones included."""
        return [json.loads(payload) for topic, payload, _ in list(self.messages) if topic.endswith("/event")]

    def by_id(self) -> list[dict[str, Any]]:
        """The same without those whose id was there before."""
        return list({event["id"]: event for event in self.events()}.values())

    def wait_for_events(self, count: int) -> None:
        """Until so many different ones came."""
        wait_for(lambda: len(self.by_id()) >= count)

    def last(self, topic: str) -> bytes | None:
        """The newest payload of a topic."""
        return next((payload for name, payload, _ in reversed(list(self.messages)) if name == topic), None)

    def _connected(self, client: Any, _data: Any, flags: Any, *_: Any) -> None:
        self.connected = True
        if flags.session_present:
            self.subscribed.set()
        else:
            client.subscribe("#", qos=1)

    def _disconnected(self, *_: Any) -> None:
        self.connected = False


class Line:
    """A TCP line to a port that can be cut, and that can lose what comes back. port: its own end. Use ``with``."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.lose_answers = threading.Event()
        self._cut, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def cut(self) -> None:
        """End the connection that there is, or the next one at once."""
        self._cut.set()

    def _serve(self) -> None:
        self._listener.settimeout(0.02)
        while not self._over.is_set():
            with contextlib.suppress(socket.timeout):
                near, _ = self._listener.accept()
                self.connections += 1
                with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
                    self._carry(near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        while not self._over.is_set():
            if self._cut.is_set():
                self._cut.clear()
                return
            for end in select.select([near, far], [], [], 0.01)[0]:
                data = end.recv(65_536)
                if not data:
                    return
                if end is near:
                    far.sendall(data)
                elif not self.lose_answers.is_set():
                    near.sendall(data)


@contextlib.contextmanager
def stopped_at_the_end(sink: Any) -> Iterator[Any]:
    """A sink that is given up when the test ends, whatever happens."""
    try:
        yield sink
    finally:
        sink.finish()
        sink.join(0.0)
        sink._thread.join(LIMIT_S)
