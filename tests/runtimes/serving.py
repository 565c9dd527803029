"""A run of ``lcr-edge run --web`` and what its clients need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("cv2")
import aiohttp

from lcr_edge.cli import main
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


@contextlib.contextmanager
def served(bundle: Path, capsys: pytest.CaptureFixture[str], *options: str, cameras: int = 1) -> Iterator[Service]:
    """A run with --web in a thread, on ``cameras`` cameras besides those among the options; it ends with them."""
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


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def client() -> Any:
    return aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.CookieJar(unsafe=True))
