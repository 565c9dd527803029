"""A Raspberry Pi's camera as its own program serves it: JPEG pictures, one after another, on a TCP port."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcr_edge.cli import main
from tests.runtimes.toy import make_bundle

pytest.importorskip("cv2")
import cv2

from tests.clips import frames, real_clip


@contextlib.contextmanager
def served(count: int) -> Iterator[str]:
    """The address of a server that sends ``count`` pictures to each who connects, and then ends the connection."""
    clip = frames(real_clip("carphone_pristine.mp4"), 10)
    pictures = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in clip]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the reader has gone
                for number in range(count):
                    self.request.sendall(pictures[number % len(pictures)])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_pictures_on_a_tcp_port_are_a_live_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "onnx")
    with served(600) as address:
        code = main(["run", str(bundle), "--source", address, "--frames", "3", "--json", "-"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert sum("top" in line for line in lines) == 3
    assert "reconnections" in lines[-1]["summary"]
