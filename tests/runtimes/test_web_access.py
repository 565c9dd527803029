"""Who sees the page of ``lcr-edge run --web``, and how its options are refused. A real run, a real client."""

from __future__ import annotations

import functools
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.runtimes.live.web import viewer
from lcr_edge.runtimes.live.web.access import Access
from tests.runtimes.toy import make_bundle

pytest.importorskip("aiohttp")
pytest.importorskip("cv2")
import aiohttp

from tests.runtimes.serving import TOKEN, Service, client, messages, run, served


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", "onnx")


@pytest.fixture
def serve(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    return functools.partial(served, bundle, capsys)


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


def test_without_the_package_the_error_says_how_to_get_it(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # as Python marks what cannot be imported
    assert main(["run", str(bundle), "--source", "no such file", "--web", "0"]) == 2
    assert re.search(r"--web needs the package 'aiohttp', .* To have it: ", capsys.readouterr().err)


def test_a_form_that_is_no_text(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)

    async def look(service: Service) -> None:
        async with client() as session:
            for data, kind, status in (
                (b"token=%ff%fe", "application/x-www-form-urlencoded", 401),
                (b"token=\xff\xfe", "application/x-www-form-urlencoded", 400),
                (b"token=x", "application/x-www-form-urlencoded; charset=rot99", 400),
                (b"token=x", "multipart/form-data; boundary=x", 415),
                (b"token=" + b"x" * 5000, "application/x-www-form-urlencoded", 413),
            ):
                headers = service.origin(**{"Content-Type": kind})
                async with session.post(f"{service.url}/login", data=data, headers=headers) as answer:
                    assert answer.status == status, (data[:20], kind)

    with serve("--web-token-file", str(tmp_path / "token")) as service:
        run(look(service))
    assert "failed" not in "".join(service.said)
