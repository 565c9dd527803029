"""One browser that watches: the newest picture each time that it is ready for one, never a queue.

The server's messages are numbered, and the browser says which one it has shown. At most two are on their way, so
a slow connection gets fewer pictures, not older ones, and a browser that stops reading costs two messages of memory
until it is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from typing import TYPE_CHECKING, Any, Callable

from lcr_edge.runtimes.live.web.board import Board

if TYPE_CHECKING:
    from aiohttp import web

ON_THE_WAY = 2  # messages
PATIENCE_S = 20.0  # without a sign of life, and a browser is given up
_BETWEEN_S = 1 / 24  # two messages, at least: a film is stepped faster than anyone can see
_TILE_S = 1.0
_LOOK_S = 1.0  # without news: the figures still change, and a session may be over
# Codes with which a connection is closed, for the page; from 4000 on they are a program's own.
LOGGED_OUT, TOO_MANY = 4001, 4002


class Viewer:
    """A websocket that is open. about: what the page has to know first. allowed: whether its session is valid."""

    def __init__(
        self, socket: web.WebSocketResponse, board: Board, about: dict[str, Any], allowed: Callable[[], bool]
    ) -> None:
        self._socket, self._board, self._about, self._allowed = socket, board, about, allowed
        self.paused = False
        self._camera, self._edges = 0, False
        self._sent = self._seen = 0
        self._heard = time.monotonic()
        self._log_version = 0
        self._shown: int | None = None
        self._tiles: dict[int, tuple[float, int | None]] = {}
        self._woken, self._news, self._over = asyncio.Event(), True, False

    def wake(self) -> None:
        """There is something new."""
        self._news = True
        self._woken.set()

    def end(self) -> None:
        """Let :meth:`follow` end."""
        self._over = True
        self._woken.set()

    async def follow(self, paused: Callable[[], None]) -> None:
        """Serve the browser until it leaves, stalls, or may not watch any more. paused: called when that changes."""
        reader = asyncio.ensure_future(self._read(paused))
        reader.add_done_callback(lambda _: self.end())
        try:
            await self._write()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _write(self) -> None:
        last = 0.0
        while not self._over and self._allowed():
            self._woken.clear()
            now = time.monotonic()
            if self._sent - self._seen >= ON_THE_WAY:
                if now - self._heard > PATIENCE_S:
                    return
            elif not self.paused and (self._news or now - last >= _LOOK_S):
                if now - last < _BETWEEN_S:
                    await asyncio.sleep(last + _BETWEEN_S - now)
                last, self._news = time.monotonic(), False
                self._sent += 1
                # Longer than the pause between two messages only where the browser does not read.
                await asyncio.wait_for(self._socket.send_bytes(self._message()), PATIENCE_S)
                continue
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _LOOK_S)

    async def _read(self, paused: Callable[[], None]) -> None:
        async for message in self._socket:
            self._heard = time.monotonic()
            try:
                asked = json.loads(message.data)
                camera, edges, was = (
                    int(asked.get("camera", self._camera)),
                    bool(asked.get("edges", self._edges)),
                    self.paused,
                )
                self._seen = min(self._sent, max(self._seen, int(asked.get("seen", 0))))
                self.paused = bool(asked.get("paused", self.paused))
            except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                return  # not the page's
            if not 0 <= camera < len(self._board.cameras):
                return
            if (camera, edges) != (self._camera, self._edges):
                self._camera, self._edges, self._shown = camera, edges, None
                self._news = True
            if self.paused != was:
                self._news = not self.paused
                paused()
            self._woken.set()

    def _message(self) -> bytes:
        """Length of the header (uint32, big-endian), the header (JSON), and the pictures that it lists, one by one."""
        now = time.monotonic()
        numbers = range(len(self._board.cameras))
        pictures = []
        found = self._board.picture(self._camera, "edges" if self._edges else "live", self._shown)
        if found is not None:
            self._shown = found[0]
            pictures.append(("live", self._camera, found[1]))
        for number in numbers if len(numbers) > 1 else ():
            at, before = self._tiles.get(number, (0.0, None))
            if now - at >= _TILE_S and (tile := self._board.picture(number, "tile", before)) is not None:
                self._tiles[number] = now, tile[0]
                pictures.append(("tile", number, tile[1]))
        self._log_version, log = self._board.log_since(self._log_version)
        header = {
            "sent": self._sent,
            "now": round(time.time(), 3),
            "camera": self._camera,
            "cameras": [self._board.summary(number, now) for number in numbers],
            "details": self._board.details(self._camera),
            "log": log,
            "pictures": [[kind, number, len(data)] for kind, number, data in pictures],
            **(self._about if self._sent == 1 else {}),
        }
        text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        return b"".join([struct.pack(">I", len(text)), text, *(data for _, _, data in pictures)])
