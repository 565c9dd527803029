"""What a run tells systemd, received by a real datagram socket."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.service import Notifier, notifier
from lcr_edge.runtimes.live.stream import Stream
from tests.runtimes.test_resume import Camera, stream_of
from tests.runtimes.test_run import ROOT, write_video
from tests.runtimes.toy import clip, make_bundle

ABSTRACT = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux'")


@pytest.fixture(params=["path", pytest.param("abstract", marks=ABSTRACT)])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and its address as NOTIFY_SOCKET has it."""
    address = f"@lcr-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0"))
        listening.settimeout(60)
        yield listening, address


def heard_until(listening: socket.socket, wanted: str) -> list[str]:
    """The lines up to one that begins like ``wanted``."""
    lines: list[str] = []
    while not any(line.startswith(wanted) for line in lines):
        lines += listening.recv(4096).decode().split("\n")
    return lines


def test_a_run_is_ready_alive_and_stops(manager: tuple[socket.socket, str], tmp_path: Path) -> None:
    listening, address = manager
    bundle, film = make_bundle(tmp_path / "toy", "onnx"), write_video(tmp_path / "long.mp4", 3000, 8)
    code = "import sys; from lcr_edge.cli import main; sys.exit(main(['run', *sys.argv[1:]]))"
    env = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
    call = [sys.executable, "-c", code, str(bundle), "--source", str(film)]
    with subprocess.Popen(call, cwd=ROOT, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = heard_until(listening, "WATCHDOG=1")
        assert lines[:2] == ["READY=1", "STATUS=1 live; 0 steps"]
        # Its lines fill the pipe: nobody takes them, so it is stuck, and the watchdog is no longer fed.
        lines = heard_until(listening, "STATUS=stuck: ")
        assert "WATCHDOG=1" not in lines[lines.index(f"STATUS=stuck: {film}") - 1 :]
        process.send_signal(signal.SIGTERM)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        assert "STOPPING=1" in heard_until(listening, "STOPPING=1")
        assert process.wait(60) == 0


def test_a_lost_camera_does_not_restart_the_service(manager: tuple[socket.socket, str], tmp_path: Path) -> None:
    listening, address = manager
    model = load(make_bundle(tmp_path / "toy", "onnx"), threads=1)
    telling = Notifier(address, 0.2)
    camera: Any = Camera("http://cam/", clip(1))
    stream, over = stream_of(model), Stream(model, camera, None)
    assert len(list(over.steps())) == 1
    stream.live = camera

    class Waiting:  # as LiveSource says it while it waits for a camera
        @property
        def waited_at(self) -> float:
            return time.monotonic()

    stream.live = Waiting()  # type: ignore[assignment]
    telling.ready({"door": stream, "film": over})
    telling.state("door", "waiting", "no frame for 5 s")
    for _ in range(3):
        assert "WATCHDOG=1" in heard_until(listening, "WATCHDOG=1")
    time.sleep(0.3)
    assert telling.stuck(0.2) == []
    stream.live = camera  # its thread no longer looks
    camera.waited_at = time.monotonic()
    assert "STATUS=stuck: door" in heard_until(listening, "STATUS=stuck")
    telling.failed("door", None)  # type: ignore[arg-type]
    lines = heard_until(listening, "STATUS=1 live, 1 lost")
    assert "WATCHDOG=1" in lines
    telling.close()
    assert "STOPPING=1" in heard_until(listening, "STOPPING=1")
    telling.close()


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notifier() is None
    for address in ("", "@", "vsock:2:1", "notify"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notifier() is None
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    for usec, pid, seconds in (("3000000", "", 3.0), ("x", "", None), ("0", "", None), ("3000000", "1", None)):
        monkeypatch.setenv("WATCHDOG_USEC", usec)
        monkeypatch.setenv("WATCHDOG_PID", pid)
        found = notifier()
        assert found is not None
        assert found._watchdog_s == seconds
        found.ready({})  # nobody listens, which is no error
        found.close()


def test_a_source_that_waits_for_its_camera_says_that_it_does() -> None:
    pytest.importorskip("cv2")
    from lcr_edge.runtimes.live.sources import LiveSource, Patience
    from lcr_edge.video import VideoSource
    from tests.data.network_camera import network_camera

    lost = threading.Event()
    with network_camera(100.0, frames=30) as address:
        patience = Patience(first_wait_s=600.0, longest_wait_s=600.0, retry_s=3600.0)
        source = LiveSource(VideoSource(address), patience, lambda *_: lost.set())
        thread = threading.Thread(target=lambda: list(source), daemon=True)
        thread.start()
        assert lost.wait(60)
        before, end = source.waited_at, time.monotonic() + 60
        while source.waited_at <= before + 0.2 and time.monotonic() < end:
            time.sleep(0.01)
        assert source.waited_at > before + 0.2
        source.stop()
        thread.join(60)
        assert not thread.is_alive()
        source.close()
