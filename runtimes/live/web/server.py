"""The server of the page: a thread with an event loop of its own, which the run only wakes.

It speaks HTTP/1.1 without TLS and believes no ``X-Forwarded-*`` header: whoever wants TLS puts a proxy in front of it
(docs/camera-service.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lcr_edge.runtimes.live.stream import Stream
from lcr_edge.runtimes.live.web.access import Access
from lcr_edge.runtimes.live.web.board import Board
from lcr_edge.runtimes.live.web.site import Site

MAX_CONNECTIONS = 64
_FIRST_REQUEST_S, _IDLE_S = 10.0, 15.0
_JOIN_S = 3.0


class Page(Board):
    """The page, as an observer of the run. bound: a socket that listens. names, labels: see Board.

    engine: for people. with_events: whether the run finds events.
    """

    def __init__(
        self,
        bound: socket.socket,
        access: Access,
        names: Sequence[str],
        labels: Sequence[str],
        *,
        engine: str,
        with_events: bool,
    ) -> None:
        super().__init__(names, labels, self._wake_soon)
        host, port = bound.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        about = {"names": list(names), "engine": engine, "events": with_events, "login": not access.is_open}
        self._site = Site(self, access, self.url, port, {"about": about})
        self._bound = bound
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self._waking = False
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def start(self, streams: Mapping[str, Stream]) -> None:
        """Serve the page of these streams, and say where."""
        self.follow(streams)
        self._thread.start()
        print(f"page: {self.url}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Tell everyone who watches, and end. Harmless when repeated."""
        if self._thread.ident is None:  # never started: a source cannot be opened
            self._bound.close()
            self._loop.close()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._finish)
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # the run goes on without its page
            self._site.warn(f"it is over: {type(error).__name__}: {error}")
        finally:
            self.watched = False
            self._loop.close()
            self._bound.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        quiet = logging.getLogger("lcr_edge.page")  # rubbish from the network is no news, and no traceback
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        self._loop.set_exception_handler(lambda _, context: quiet.error(context.get("message")))
        runner = importlib.import_module("aiohttp.web").AppRunner(
            self._site.application(), access_log=None, logger=quiet, keepalive_timeout=_IDLE_S, shutdown_timeout=0.5
        )
        await runner.setup()
        server = await self._loop.create_server(lambda: self._connection(runner.server), sock=self._bound)
        await self._stop.wait()
        server.close()
        self._site.end()
        await runner.cleanup()

    def _finish(self) -> None:
        if self._stop is None:  # it has not begun to serve
            self._loop.call_soon(self._finish)
        else:
            self._stop.set()

    def _connection(self, server: Any) -> Any:
        """A new connection, closed if there are too many, or if it does not ask for anything."""
        if len(server.connections) >= MAX_CONNECTIONS:
            return _Refused()
        protocol, silent = server(), self._site.silent
        silent.add(protocol)

        def look() -> None:
            if protocol in silent:
                silent.discard(protocol)
                protocol.force_close()

        self._loop.call_later(_FIRST_REQUEST_S, look)
        return protocol

    def _wake_soon(self) -> None:
        """Called by the threads that step."""
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run is ending
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._site.wake()


class _Refused(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
