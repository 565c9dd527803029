"""The page of ``lcr-edge run --web``: what it shows, and to whom. A real run, a real camera, a real client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.runtimes import load
from lcr_edge.runtimes.live.events import EventFinder, EventRules
from lcr_edge.runtimes.live.follow import follow
from lcr_edge.runtimes.live.stream import Stream
from lcr_edge.runtimes.live.web import server, site, viewer
from lcr_edge.runtimes.live.web.access import Access
from lcr_edge.runtimes.live.web.board import Board
from lcr_edge.runtimes.video import VideoSource
from tests.clips import real_clip
from tests.runtimes.toy import LABELS, make_bundle

pytest.importorskip("aiohttp")
pytest.importorskip("cv2")
import aiohttp
import cv2

from tests.data.network_camera import network_camera

TOKEN = "correct horse battery staple"
PATIENCE_S = 60.0


class Service:
    """A run that is served. url: without the slash at its end. code: of the run, once it is over. said: on stderr."""

    def __init__(self, url: str, said: list[str]) -> None:
        self.url, self.said = url, said
        self.cameras: list[str] = []
        self.code: int | None = None

    @property
    def host(self) -> str:
        return self.url.partition("//")[2]

    def origin(self, **more: str) -> dict[str, str]:
        return {"Origin": self.url, **more}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


@pytest.fixture
def serve(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Starts a run with --web on cameras of its own, and ends it by ending these."""

    @contextlib.contextmanager
    def started(*options: str, cameras: int = 1) -> Iterator[Service]:
        said: list[str] = []
        service = Service("", said)
        with contextlib.ExitStack() as stack:
            service.cameras = [stack.enter_context(network_camera(30.0)) for _ in range(cameras)]
            call = ["run", str(bundle), "--web", "0", "--retry", "0", *options]
            for address in service.cameras:
                call += ["--source", address]

            def run() -> None:
                service.code = main(call)

            thread = threading.Thread(target=run)
            thread.start()
            try:
                end = time.monotonic() + PATIENCE_S
                while (found := re.search(r"page: (http\S+)/", "".join(said))) is None:
                    said.append(capsys.readouterr().err)
                    assert time.monotonic() < end
                    assert thread.is_alive(), said
                    time.sleep(0.01)
                service.url = found[1]
                yield service
            finally:
                stack.close()
                thread.join(PATIENCE_S)
                said.append(capsys.readouterr().err)

    return started


async def messages(ws: Any, *, answer: bool = True) -> AsyncIterator[tuple[dict[str, Any], list[bytes]]]:
    """Headers and pictures as they come."""
    async for message in ws:
        (size,) = struct.unpack_from(">I", message.data)
        header = json.loads(message.data[4 : 4 + size])
        at, pictures = 4 + size, []
        for _, _, length in header["pictures"]:
            pictures.append(message.data[at : at + length])
            at += length
        assert at == len(message.data)
        if answer:
            await ws.send_json({"seen": header["sent"]})
        yield header, pictures


def picture_of(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def client() -> Any:
    return aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.CookieJar(unsafe=True))


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


def test_headers_hosts_and_origins(serve: Any) -> None:
    async def look(service: Service) -> None:
        async with client() as session:
            for path in ("/", "/app.js", "/chart.js", "/style.css", "/icon.svg", "/nothing", "/picture/7"):
                async with session.get(service.url + path) as answer:
                    text = await answer.text()
                    assert answer.status == (404 if path in ("/nothing", "/picture/7") else 200)
                    policy = answer.headers["Content-Security-Policy"]
                    assert "default-src 'none'" in policy
                    assert "frame-ancestors 'none'" in policy
                    assert "unsafe" not in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.headers["Referrer-Policy"] == "same-origin"
                    assert answer.headers["Cache-Control"] == "no-store"
                    assert "aiohttp" not in str(answer.headers)
                    assert not re.search(r"(?<!xmlns=\")https?://", text), path  # nothing from elsewhere
                    assert not re.search(r"style=|onclick=\"|<script>|<style>", text), path
            # A name that somebody made point here.
            for host in (
                "evil.example",
                f"evil.example:{service.host.partition(':')[2]}",
                "127.0.0.1.evil.example",
                "",
            ):
                async with session.get(f"{service.url}/", headers={"Host": host}) as answer:
                    assert answer.status == 421, host
            for host in ("localhost:1", "[::1]:80", "LOCALHOST"):
                async with session.get(f"{service.url}/", headers={"Host": host}) as answer:
                    assert answer.status == 200, host
            # Another site's page, in the browser of somebody who may watch.
            for origin in (
                "http://evil.example",
                "null",
                service.url.replace("http", "https"),
                f"{service.url}0",
                None,
            ):
                headers = {} if origin is None else {"Origin": origin}
                async with session.post(f"{service.url}/reset", json={"camera": 0}, headers=headers) as answer:
                    assert answer.status == 403, origin
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    await session.ws_connect(f"{service.url}/live", headers=headers)
            async with session.post(f"{service.url}/reset", data="{}", headers=service.origin()) as answer:
                assert answer.status == 415
            long = json.dumps({"camera": 0, "more": "x" * 5000})
            json_type = service.origin(**{"Content-Type": "application/json"})
            async with session.post(f"{service.url}/reset", data=long, headers=json_type) as answer:
                assert answer.status == 413

    with serve() as service:
        run(look(service))
    assert "Traceback" not in "".join(service.said)


def test_a_token_lets_in(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)

    async def look(service: Service) -> None:
        async with client() as session:
            async with session.get(f"{service.url}/", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/login")
            for path in ("/app.js", "/picture/1", "/live"):
                async with session.get(service.url + path, headers=service.origin()) as answer:
                    assert answer.status == 401, path
            async with session.post(f"{service.url}/reset", json={"camera": 0}, headers=service.origin()) as answer:
                assert answer.status == 401
            login = f"{service.url}/login"
            async with session.get(f"{login}?token={TOKEN}") as answer:  # not in a URL
                assert not answer.cookies
            async with session.post(login, data={"token": "wrong"}, headers=service.origin()) as answer:
                assert answer.status == 401
                assert "This is not the token" in await answer.text()
            async with session.post(login, data={"token": TOKEN}) as answer:
                assert answer.status == 403  # without an origin
            async with session.post(
                login, data={"token": TOKEN}, headers=service.origin(), allow_redirects=False
            ) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/")
                cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert TOKEN not in cookie
            async with session.get(f"{service.url}/") as answer:
                assert answer.status == 200
            async with session.ws_connect(f"{service.url}/live", origin=service.url) as ws:
                async for header, _ in messages(ws):
                    assert header["about"]["login"]
                    break
                async with session.post(f"{service.url}/logout", headers=service.origin()) as answer:
                    assert str(answer.url) == login
                async for _ in messages(ws):
                    pass
                assert ws.close_code == viewer.LOGGED_OUT
            # Whoever guesses has to wait, and so long no token counts.
            for number in range(5):
                async with session.post(login, data={"token": f"guess {number}"}, headers=service.origin()) as answer:
                    status = answer.status
            assert status == 429
            async with session.post(login, data={"token": TOKEN}, headers=service.origin()) as answer:
                assert answer.status == 429
                assert 0 < int(answer.headers["Retry-After"]) <= 61

    with serve("--web-token-file", str(file)) as service:
        run(look(service))
    said = "".join(service.said)
    assert f"other users of this machine can read {file}; chmod 600" in said
    assert TOKEN not in said


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
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    with serve() as service:
        host, port = service.host.split(":")
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S)) for _ in range(5)]
            opened[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            for connection in opened:
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b""


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
        stream.reset("again")
        after = next(steps)
        assert after.tick.gap == "again"
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
        board.state("film", "waiting", str(number))
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


def test_sessions_end_and_wrong_tokens_are_counted_by_network() -> None:
    now = [0.0]
    access = Access(TOKEN, loopback=False, clock=lambda: now[0])
    session = access.log_in(TOKEN, "10.0.0.1")
    assert session is not None
    assert access.allows(session)
    assert not access.allows(None)
    assert not access.allows(session + "x")
    now[0] = 12 * 3600.0
    assert not access.allows(session)
    for number in range(5):
        assert access.log_in("wrong", f"2001:db8::{number}") is None
    assert access.log_in(TOKEN, "2001:db8::ffff") is None  # the same household
    assert access.log_in(TOKEN, "2001:db8:0:1::1") is not None
    assert access.log_in(TOKEN, "::ffff:10.0.0.1") is not None
    now[0] += 60.0
    assert access.log_in(TOKEN, "2001:db8::ffff") is not None
    for number in range(60):
        assert access.log_in("wrong", f"10.0.1.{number}") is None
    assert access.log_in(TOKEN, "10.0.2.1") is None  # all together
    sessions = [access.log_in(TOKEN, "10.0.0.1") for now[0] in np.linspace(now[0] + 60, now[0] + 70, 65)]
    assert not access.allows(sessions[0])  # the oldest of too many
    assert access.allows(sessions[-1])


def test_a_proxy_in_front() -> None:
    access = Access(TOKEN, loopback=True, origin="https://camera.example")
    assert access.knows_host("camera.example")
    assert access.knows_origin("https://camera.example", "camera.example")
    assert not access.knows_origin("http://evil.example", "camera.example")
    assert not access.knows_host("evil.example")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--web", "0.0.0.0:0"], "add --web-token-file FILE"),
        (["--web", "[::]:0"], "add --web-token-file FILE"),
        (["--web", "70000"], "is not an address: give a port"),
        (["--web", "nobody.invalid:80"], "the host 'nobody.invalid' is not known"),
        (["--web", "192.0.2.1:0", "--web-token-file", "{token}"], "this machine does not have this address"),
        (["--web", "0", "--web-token-file", "{short}"], "must hold one line of 16 to 1023 characters"),
        (["--web", "0", "--web-token-file", "{short}.none"], "cannot read --web-token-file"),
        (["--web", "0", "--web-origin", "https://camera.example"], "add --web-token-file FILE"),
        (["--web", "0", "--web-origin", "camera/x", "--web-token-file", "{token}"], "as https://camera.example"),
        (["--web-token-file", "{token}"], "add --web PORT"),
        (["--web", "127.0.0.1:{taken}"], "another program uses this port"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "short").write_text("short")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"token": tmp_path / "token", "short": tmp_path / "short", "taken": taken.getsockname()[1]}
        # No source is opened before: this one would be an error too.
        call = ["run", str(bundle), "--source", "no such file", *(option.format(**names) for option in options)]
        assert main(call) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert TOKEN not in said


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
