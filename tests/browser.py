"""A real browser for tests: headless Chromium, told what to do over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--mute-audio", "--disable-extensions",
    "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--no-proxy-server",
)  # fmt: skip
PATIENCE_S = 60.0


def program() -> str:
    """Chromium's path. Skips the calling test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium found (Debian, as root: apt-get install chromium-headless-shell, or make browser)")
    return found


class Tab:
    """A page that is open. problems: errors of its scripts, of its console, and requests that failed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self._socket, self._numbers = socket, itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, PATIENCE_S)

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + PATIENCE_S
        found = None
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # while a page is loaded there may be no document
                found = await self.value(script)
            if found:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.problems}; {await self.value('document.body.innerText')}")

    async def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG picture."""
        found = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    async def look_as(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """The size of the window in CSS pixels, and which colours its user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def close(self) -> None:
        """Stop listening."""
        self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            found = message.json()
            if "id" in found:
                answer = self._waiting.pop(found["id"])
                if not answer.done():
                    answer.set_result(found.get("result", {"error": found.get("error")}))
            else:
                self._notice(found["method"], found["params"])

    def _notice(self, method: str, found: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {found['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console: {found['args']}")
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"log: {found['entry']['text']} {found['entry'].get('url')}")
        elif method == "Network.loadingFailed":
            self.problems.append(f"failed: {found['errorText']} {found.get('blockedReason')}")
        elif method == "Network.responseReceived" and found["response"]["status"] >= 400:
            self.problems.append(f"status {found['response']['status']}: {found['response']['url']}")


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    found = tempfile.mkdtemp()
    try:
        yield found
    finally:  # processes of the browser may still be writing
        shutil.rmtree(found, ignore_errors=True)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """A function that opens a new tab. Skips where there is no Chromium."""
    path = program()
    with _folder() as folder:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [path, *_FLAGS, *root, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Debian's program is a script that waits for the browser: both have to go
        )
        try:
            place = Path(folder) / "DevToolsActivePort"
            end = time.monotonic() + PATIENCE_S
            while not (place.exists() and place.read_text().count("\n")):
                assert process.poll() is None, f"{path} has ended with {process.returncode}"
                assert time.monotonic() < end, f"{path} does not start"
                await asyncio.sleep(0.05)
            address = f"http://127.0.0.1:{place.read_text().split()[0]}"
            async with aiohttp.ClientSession(trust_env=False) as session:
                tabs: list[Tab] = []

                async def new_tab() -> Tab:
                    async with session.put(f"{address}/json/new?about:blank") as answer:
                        found = await answer.json()
                    tab = Tab(await session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0))
                    tabs.append(tab)
                    for name in ("Page", "Runtime", "Log", "Network"):
                        await tab.call(f"{name}.enable")
                    return tab

                yield new_tab
                for tab in tabs:
                    await tab.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
