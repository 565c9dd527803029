"""What the page answers: files, log-in and log-out, resets, pictures of events, and the websocket of each viewer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcr_edge.runtimes.live.web.access import Access
from lcr_edge.runtimes.live.web.board import Board
from lcr_edge.runtimes.live.web.viewer import LOGGED_OUT, PATIENCE_S, TOO_MANY, Viewer

if TYPE_CHECKING:
    from aiohttp import web

MAX_VIEWERS = 16
_MAX_BODY, _MAX_MESSAGE = 4096, 1024  # bytes
_BODY_S = 10.0
_FOLDER = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PUBLIC = ("/login", "/style.css", "/icon.svg")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it, browsers send the origin "null" with forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Server": "lcr-edge",
}


class Site:
    """The answers, for one thread. url: of the page. port: on which it is served. about: what a browser has to know."""

    def __init__(self, board: Board, access: Access, url: str, port: int, about: dict[str, Any]) -> None:
        self._board, self._access, self._url, self._about = board, access, url, about
        self._cookie = f"lcr_edge_{port}"  # the ports of a host share their cookies
        self._viewers: dict[Viewer, str | None] = {}  # with their sessions
        self._ending = False
        self._web: Any = importlib.import_module("aiohttp.web")
        self._files = {f"/{path.name}": path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
        self._said: set[str] = set()
        self.silent: set[Any] = set()  # connections that have not asked for anything yet

    def application(self) -> web.Application:
        """The routes."""

        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:  # a method cannot be marked as one
            return await self._guard(request, handler)

        app: web.Application = self._web.Application(
            middlewares=[self._web.middleware(guard)], client_max_size=_MAX_BODY
        )
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._index)
        app.router.add_get("/login", self._login_page)
        app.router.add_post("/login", self._log_in)
        app.router.add_post("/logout", self._log_out)
        app.router.add_post("/reset", self._reset)
        app.router.add_get("/live", self._live)
        app.router.add_get(r"/picture/{number:[0-9]{1,12}}", self._picture)
        for name in ("/app.js", "/chart.js", "/style.css", "/icon.svg"):
            app.router.add_get(name, self._file)
        return app

    def wake(self) -> None:
        """There is something new for those who watch."""
        for viewer in self._viewers:
            viewer.wake()

    def end(self) -> None:
        """Say goodbye to everyone."""
        self._ending = True
        for viewer in self._viewers:
            viewer.end()

    def warn(self, text: str) -> None:
        """Say something on stderr, once."""
        if text not in self._said and len(self._said) < 20:  # a run of weeks must not fill a log
            self._said.add(text)
            print(f"warning: page: {text}", file=sys.stderr, flush=True)

    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.silent.discard(request.protocol)
        host = request.headers.get("Host", "")
        if not self._access.knows_host(host):
            return self._text(421, f"This is {self._url} and no other address. See --web-origin.")
        changes = request.method not in ("GET", "HEAD") or request.path == "/live"
        if changes and not self._access.knows_origin(request.headers.get("Origin"), host):
            return self._text(403, "This request does not come from the page itself. See --web-origin.")
        if request.path not in _PUBLIC and not self._access.allows(self._session(request)):
            if request.path == "/" and request.method == "GET":
                return self._to("/login")
            return self._text(401, "Log in first.")
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except self._web.HTTPException as error:  # a page that does not exist, a body that is too large
            return self._text(error.status, error.reason)
        except asyncio.TimeoutError:
            return self._text(408, "The request took too long.")
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            self.warn(f"{request.method} {request.path[:80]!r} failed ({type(error).__name__})")
            return self._text(500, "An error of the page.")

    async def _index(self, _: web.Request) -> web.Response:
        return self._content("/index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._content(request.path)

    async def _login_page(self, request: web.Request) -> web.Response:
        return self._to("/") if self._access.allows(self._session(request)) else self._content("/login.html")

    async def _log_in(self, request: web.Request) -> web.Response:
        if request.content_type != "application/x-www-form-urlencoded":
            return self._text(415, "A form is expected.")
        address = request.remote or ""
        try:
            token = (await asyncio.wait_for(request.post(), _BODY_S)).get("token")
        except (ValueError, LookupError):  # bytes that are no text, or a charset that does not exist
            return self._text(400, "The form cannot be read.")
        wait_s = self._access.wait_s(address)
        if wait_s > 0:
            return self._refused(429, f"Too many wrong tokens. Try again in {wait_s:.0f} seconds.", wait_s)
        session = self._access.log_in(token, address) if isinstance(token, str) else None
        if session is None:
            return self._refused(401, "This is not the token.")
        response = self._to("/")
        # A strict cookie without a date: it goes with the browser, and no other site can make use of it.
        secure = request.headers.get("Origin", "").startswith("https:")
        response.set_cookie(self._cookie, session, httponly=True, samesite="Strict", secure=secure, path="/")
        return response

    async def _log_out(self, request: web.Request) -> web.Response:
        session = self._session(request)
        self._access.log_out(session)
        for viewer, of in self._viewers.items():
            if of == session:
                viewer.wake()  # sees that its session is over
        response = self._to("/login")
        response.del_cookie(self._cookie, path="/")
        return response

    async def _reset(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return self._text(415, "JSON is expected.")
        try:
            camera = json.loads(await asyncio.wait_for(request.text(), _BODY_S))["camera"]
        except (ValueError, TypeError, LookupError, RecursionError):
            return self._text(400, 'The body must be {"camera": number}.')
        if isinstance(camera, bool) or not isinstance(camera, int) or not self._board.reset(camera):
            return self._text(409, "This source is not running.")
        return self._text(202, "The next step starts from zeros.")

    async def _picture(self, request: web.Request) -> web.Response:
        data = self._board.thumbnail(int(request.match_info["number"]))
        if data is None:
            return self._text(404, "There is no such picture.")
        found: web.Response = self._web.Response(body=data, content_type="image/jpeg")
        return found

    async def _live(self, request: web.Request) -> web.StreamResponse:
        ws: web.WebSocketResponse = self._web.WebSocketResponse(
            heartbeat=PATIENCE_S, timeout=1.0, max_msg_size=_MAX_MESSAGE, compress=False
        )
        await ws.prepare(request)
        if len(self._viewers) >= MAX_VIEWERS:
            await ws.close(code=TOO_MANY, message=b"too many are watching")
            return ws
        session = self._session(request)
        viewer = Viewer(ws, self._board, self._about, lambda: self._access.allows(session))
        self._viewers[viewer] = session
        self._count()
        try:
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await viewer.follow(self._count)
                if self._ending:
                    await ws.close(code=1001, message=b"the run is over")
                elif not self._access.allows(session):
                    await ws.close(code=LOGGED_OUT, message=b"logged out")
        finally:
            del self._viewers[viewer]
            self._count()
            if request.transport is not None and not ws.closed:
                request.transport.abort()  # it does not read: no goodbye would reach it
        return ws

    def _count(self) -> None:
        self._board.watched = any(not viewer.paused for viewer in self._viewers)
        if not self._board.watched:
            self._board.forget_pictures()

    def _session(self, request: web.Request) -> str | None:
        return request.cookies.get(self._cookie)

    def _content(self, name: str) -> web.Response:
        kind = _TYPES[Path(name).suffix]
        found: web.Response = self._web.Response(body=self._files[name], content_type=kind, charset="utf-8")
        return found

    def _text(self, status: int, text: str) -> web.Response:
        found: web.Response = self._web.Response(status=status, text=f"{text}\n")
        return found

    def _to(self, path: str) -> web.Response:
        found: web.Response = self._web.Response(status=303, headers={"Location": path})
        return found

    def _refused(self, status: int, text: str, wait_s: float = 0.0) -> web.Response:
        page = self._files["/login.html"].replace(b"<!-- why -->", f'<p class="why" role="alert">{text}</p>'.encode())
        headers = {"Retry-After": f"{wait_s + 1:.0f}"} if wait_s else {}
        found: web.Response = self._web.Response(
            status=status, body=page, content_type="text/html", charset="utf-8", headers=headers
        )
        return found


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
