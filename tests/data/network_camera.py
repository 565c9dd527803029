"""A network camera: real frames as JPEG pictures over HTTP, at a rate of the test's choice.

It is opened by OpenCV as any network camera. Such a stream says nothing about its rate; FFmpeg then claims 25.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from functools import cache

import cv2

from tests.clips import frames, real_clip


@cache
def _pictures() -> list[bytes]:
    clip = frames(real_clip("carphone_pristine.mp4"), 30)
    return [cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes() for frame in clip]


@contextlib.contextmanager
def network_camera(
    fps: float, *, frames: int = 1_000_000, hangs: bool = False, port: int = 0, pictures: list[bytes] | None = None
) -> Iterator[str]:
    """The address of a camera that sends ``fps`` frames a second, ``frames`` of them to each who asks.

    hangs: it then keeps the connection open, and silent, until the end of the test; otherwise it closes it. port: of an
    earlier camera, for one that comes back. pictures: JPEG files that it shows in turn; by default of a film.
    """
    over = threading.Event()
    shown = pictures or _pictures()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            start = time.monotonic()
            with contextlib.suppress(OSError):  # the reader has gone
                for number in range(frames):
                    data = shown[number % len(shown)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    if over.wait(max(0.0, start + (number + 1) / fps - time.monotonic())):
                        return
                if hangs:
                    over.wait()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            over.set()
            server.shutdown()
            thread.join()
