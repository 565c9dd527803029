"""A network camera that fails by plan: after some good frames, one fault; then good frames again, and the next."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2

from tests.clips import frames, real_clip

_TYPE = b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
_FPS = 100.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset instead of an end


@dataclass(frozen=True)
class Fault:
    """kind: a key of ``KINDS``. after: good frames before it."""

    kind: str
    after: int


# What each fault does. Those that end a connection are recovered from by opening the source again.
KINDS = {
    "drop": "closes the connection",
    "abort": "resets the connection",
    "stall": "sends nothing more, and keeps the connection open",
    "resize": "goes on with frames of another size",
    "corrupt": "sends some frames with wrong bytes in them, or cut short",
    "garbage": "sends bytes that are no frames, then closes the connection",
    "reopen": "closes the connection and refuses the next two",
    "kill": "stops listening for a moment, as a server that is started again",
}
ENDS = ("drop", "abort", "stall", "garbage", "reopen", "kill")


@cache
def pictures(scale: int) -> list[bytes]:
    """JPEG pictures of a real clip, made smaller by a whole factor."""
    clip = frames(real_clip("carphone_pristine.mp4"), 30)
    return [
        cv2.imencode(".jpg", cv2.cvtColor(frame[::scale, ::scale].copy(), cv2.COLOR_RGB2BGR))[1].tobytes()
        for frame in clip
    ]


class FaultyCamera:
    """Serves MJPEG over HTTP on a free port of 127.0.0.1, one client at a time. Use ``with``.

    done: faults that were followed by a whole good part, which the client has read or at least not refused.
    """

    def __init__(self, plan: Sequence[Fault], seed: int) -> None:
        for scale in (1, 2):
            pictures(scale)  # now: OpenCV opens one source at a time, and the client waits for the first picture
        self.plan = list(plan)
        self.done = 0
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._held: list[socket.socket] = []
        self._scale = 1
        self._refuse = 0
        self._socket = self._listen(0)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        """What --source takes."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> FaultyCamera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10.0)
        for open_one in (*self._held, self._socket):
            open_one.close()

    def _listen(self, port: int) -> socket.socket:
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", port))
        found.listen()
        found.settimeout(0.1)
        return found

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._socket.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(10.0)
                with contextlib.suppress(OSError):  # the client has gone
                    client.recv(4096)
                    if self._refuse:
                        self._refuse -= 1
                        client.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")
                    else:
                        self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        """One connection: faults until one of them ends it."""
        client.sendall(b"HTTP/1.0 200 OK\r\n" + _TYPE)
        while not self._over.is_set():
            fault = self.plan[self.done] if self.done < len(self.plan) else None
            for number in range(10 if fault is None else fault.after):
                self._send(client, pictures(self._scale)[number % 30])
            if fault is None:
                continue
            self.done += 1
            if self._fail(client, fault.kind):
                return

    def _fail(self, client: socket.socket, kind: str) -> bool:
        """Do one fault; whether it ended the connection."""
        if kind == "resize":
            self._scale = 3 - self._scale
        elif kind == "corrupt":
            for picture in pictures(self._scale)[: self._random.randint(1, 4)]:
                self._send(client, self._damaged(picture))
        elif kind == "abort":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif kind == "stall":
            self._held.append(client.dup())  # open until the end, while others are served
        elif kind == "garbage":
            client.sendall(self._random.randbytes(20_000))
        elif kind == "reopen":
            self._refuse = 2
        elif kind == "kill":
            client.close()
            self._socket.close()
            time.sleep(self._random.uniform(0.1, 0.6))
            self._socket = self._listen(self.port)
        return kind in ENDS

    def _damaged(self, picture: bytes) -> bytes:
        data = bytearray(picture)
        if self._random.random() < 0.5:
            return bytes(data[: self._random.randint(20, len(data) // 2)])
        for _ in range(20):
            data[self._random.randrange(20, len(data))] = self._random.randrange(256)
        return bytes(data)

    def _send(self, client: socket.socket, data: bytes) -> None:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data + b"\r\n")
        self._over.wait(1 / _FPS)
