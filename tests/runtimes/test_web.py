"""The page of ``lcr-edge run --web``: what it shows, and what it costs. A real run, a real camera, a real client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.follow import follow
from lcr_edge.runtimes.live.stream import Stream
from lcr_edge.runtimes.live.web import server, site, viewer
from lcr_edge.runtimes.live.web.board import Board
from lcr_edge.runtimes.video import VideoSource
from tests.clips import real_clip
from tests.runtimes.toy import LABELS, make_bundle

pytest.importorskip("aiohttp")
pytest.importorskip("cv2")
import cv2

from tests.data.network_camera import network_camera
from tests.runtimes.serving import PATIENCE_S, Service, client, messages, run, served


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


@pytest.fixture
def serve(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    return functools.partial(served, bundle, capsys)


def picture_of(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_what_viewers_see_and_a_reset(serve: Any) -> None:
    async def look(service: Service) -> None:
        async with client() as session, session.ws_connect(f"{service.url}/live", origin=service.url) as one:
            async for header, pictures in messages(one):  # noqa: B007 - used after the loop
                if header["sent"] == 1:
                    assert header["about"]["names"] == service.cameras
                    assert not header["about"]["login"]
                if header["details"] and any(kind == "live" for kind, _, _ in header["pictures"]):
                    break
            assert picture_of(pictures[0]).shape == (144, 176, 3)
            details = header["details"]
            assert {label for label, _ in details["top"]} == set(LABELS)
            assert sum(probability for _, probability in details["top"]) == pytest.approx(1, abs=1e-3)
            assert details["norm"][0] > 0
            assert details["lag_ms"] >= 0
            # A second viewer, of the other camera, sees what its network sees.
            async with session.ws_connect(f"{service.url}/live", origin=service.url) as two:
                await two.send_json({"camera": 1, "edges": True})
                async for header, pictures in messages(two):  # noqa: B007
                    if header["camera"] == 1 and header["pictures"] and header["pictures"][0][:2] == ["live", 1]:
                        break
                assert picture_of(pictures[0]).shape == (32 * 15, 48 * 15, 3)
                for body, status in (({"camera": 1}, 202), ({"camera": 2}, 409), ({"camera": True}, 409), ([], 400)):
                    async with session.post(f"{service.url}/reset", json=body, headers=service.origin()) as answer:
                        assert answer.status == status
                log: list[Any] = []
                async for header, _ in messages(one):
                    log += header["log"]
                    if log:
                        break
                assert [(entry["kind"], entry["camera"], entry["text"]) for entry in log] == [
                    ("reset", 1, "reset by hand")
                ]
                await two.send_str("rubbish")  # not the page's: goodbye
                async for _ in messages(two):
                    pass
                assert two.closed

    with serve(cameras=2) as service:
        run(look(service))
    assert service.code == 1  # the cameras have gone
    assert "reset by hand" in "".join(service.said)


def test_a_viewer_that_stalls_holds_up_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PATIENCE_S", 2.0)
    monkeypatch.setattr(site, "MAX_VIEWERS", 2)

    async def look(service: Service) -> None:
        async with client() as session:
            stalled = await session.ws_connect(f"{service.url}/live", origin=service.url)
            got = []

            async def read() -> None:
                async for header, _ in messages(stalled, answer=False):
                    got.append(header["sent"])

            reading = asyncio.ensure_future(read())
            async with session.ws_connect(f"{service.url}/live", origin=service.url) as good:
                async with session.ws_connect(f"{service.url}/live", origin=service.url) as third:
                    await third.receive()
                    assert third.close_code == viewer.TOO_MANY
                steps = [0]
                async for header, _ in messages(good):
                    steps.append(header["details"].get("steps", 0))
                    if reading.done():
                        break
                assert steps == sorted(steps)
                assert steps[-1] > 8
                assert got == [1, 2]
                await reading

    with serve() as service:
        run(look(service))


def test_a_lost_camera_is_shown(serve: Any) -> None:
    async def look(service: Service) -> None:
        async with client() as session, session.ws_connect(f"{service.url}/live", origin=service.url) as ws:
            log: list[Any] = []
            async for header, _ in messages(ws):
                log += header["log"]
                if header["cameras"][0]["state"] == "lost" and header["cameras"][1]["state"] == "live":
                    break
            assert "is lost: it gives no more frames" in header["cameras"][0]["reason"]
            assert [(entry["kind"], entry["camera"], entry.get("state")) for entry in log] == [("source", 0, "lost")]
            async with session.post(f"{service.url}/reset", json={"camera": 0}, headers=service.origin()) as answer:
                assert answer.status == 409

    with network_camera(100.0, frames=40) as short, serve("--source", short) as service:
        run(look(service))


def test_connections_that_ask_for_nothing_are_closed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_REQUEST_S", 0.2)
    monkeypatch.setattr(server, "_IDLE_S", 1000.0)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    with serve() as service:
        host, port = service.host.split(":")
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S)) for _ in range(5)]
            opened[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            for connection in opened:
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b""


def test_connections_that_are_too_many_are_closed_and_make_room(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with serve() as service, contextlib.ExitStack() as stack:
        host, port = service.host.split(":")
        opened = []
        for _ in range(2):  # each is answered, so it is counted
            opened.append(stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S)))
            opened[-1].sendall(b"GET /style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert opened[-1].recv(10).startswith(b"HTTP/1.1")
        for _ in range(20):
            with socket.create_connection((host, int(port)), PATIENCE_S) as one, contextlib.suppress(OSError):
                assert one.recv(10) == b""
        opened.pop().close()
        until = time.monotonic() + PATIENCE_S
        answer = b""
        while not answer and time.monotonic() < until:  # until it has noticed
            with socket.create_connection((host, int(port)), PATIENCE_S) as one, contextlib.suppress(OSError):
                one.sendall(b"GET /style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = one.recv(10)
        assert answer.startswith(b"HTTP/1.1")


def test_nobody_watching_costs_nothing(bundle: Path) -> None:
    model = load(bundle, threads=1)
    woken: list[int] = []
    board = Board(["film"], model.labels, lambda: woken.append(1))
    with VideoSource(str(real_clip("carphone_pristine.mp4"))) as source:
        stream = Stream(model, source, EventFinder(model.labels, EventRules(enter=0.2, leave=0.1, ignore=())))
        board.follow({"film": stream})
        steps = stream.steps()
        for number in range(12):
            step = next(steps)
            if number == 6:
                board.watched = True
            board.step("film", step)
            board.events("film", step.events)
            if number < 6:
                assert not woken
                assert not board._pictures[0]._made
        assert len(woken) >= 6
        assert board.picture(0, "live", None) is not None
        assert board._pictures[0]._made
        board.forget_pictures()
        assert not board._pictures[0]._made
        version, log = board.log_since(0)
        assert log[0]["kind"] == "event"
        assert picture_of(board.thumbnail(log[0]["number"]) or b"").shape == (144, 176, 3)
        assert board.log_since(version) == (version, [])
        # Its end changes the entry, which is sent again.
        board.events("film", stream.end())
        (ended,) = board.log_since(version)[1]
        assert ended["number"] == log[0]["number"]
        assert ended["cut"]


def test_a_reset_by_hand_is_a_cut_like_others(bundle: Path) -> None:
    model = load(bundle, threads=1)
    with VideoSource(str(real_clip("carphone_pristine.mp4"))) as source:
        stream = Stream(model, source, None)
        steps = stream.steps()
        first = [next(steps) for _ in range(4)]
        before = stream.state
        stream.reset()
        stream.reset()
        after = next(steps)
        assert after.tick.gap == "reset by hand"
        assert stream.totals.resets == 1
        fresh, _ = model.step(model.fit(after.tick.timed.frame), model.initial_state())
        np.testing.assert_array_equal(stream.totals.logits[-1], fresh)
        assert not np.array_equal(stream.state.h, before.h)
        assert next(steps).tick.gap is None
        assert {step.tick.gap for step in first} == {None}


def test_a_log_is_bounded(bundle: Path) -> None:
    model = load(bundle, threads=1)
    board = Board(["film"], model.labels, lambda: None)
    for number in range(1000):
        board.state("film", "live" if number % 2 else "waiting", str(number))
        board.state("film", "live" if number % 2 else "waiting", "another try")  # is nothing new
    _, log = board.log_since(0)
    assert [entry["text"] for entry in log] == [str(number) for number in range(940, 1000)]
    assert len(board._versions) == 60


def test_a_file_is_shown_to_its_end(bundle: Path) -> None:
    """With the page as the only observer: what follow() tells is what the page knows."""
    model = load(bundle, threads=1)
    board = Board(["film"], model.labels, lambda: None)
    with VideoSource(str(real_clip("carphone_pristine.mp4"))) as source:
        stream = Stream(model, source, None)
        board.follow({"film": stream})
        assert follow({"film": stream}, board, 5) is None
        board.ended("film", stream)
    assert board.summary(0, time.monotonic())["state"] == "ended"
    assert board.details(0)["steps"] == 5
    assert not board.reset(0)


def test_ctrl_c_ends_it_while_somebody_watches(bundle: Path) -> None:
    async def look(process: subprocess.Popen[str], url: str) -> int | None:
        async with client() as session, session.ws_connect(f"{url}/live", origin=url) as ws:
            async for _, pictures in messages(ws):
                if pictures:
                    break
            process.send_signal(signal.SIGINT)
            async for _ in messages(ws):
                pass
            return int(ws.close_code or 0)

    with network_camera(30.0) as address:
        call = [sys.executable, "-m", "lcr_edge", "run", str(bundle), "--source", address, "--web", "0"]
        root = Path(__file__).parents[2]
        pipe = subprocess.PIPE
        with subprocess.Popen(call, cwd=root, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            try:
                assert run(look(process, line.strip().rpartition(" ")[2].rstrip("/"))) == 1001
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()
            assert "Traceback" not in process.stderr.read()
