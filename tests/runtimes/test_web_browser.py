"""The page of ``lcr-edge run --web`` in a real browser: nothing that it loads or runs may fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import real_clip
from tests.runtimes.toy import LABELS, make_bundle

pytest.importorskip("aiohttp")
pytest.importorskip("cv2")
from tests.browser import browser, program
from tests.data.network_camera import network_camera

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
TOKEN = "correct horse battery staple"
# Whether there is a picture: an empty canvas takes far less.
DRAWN = "document.getElementById('picture').toDataURL().length > 10000"


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A run in a process of its own: the address of its page, and the process."""
    bundle = make_bundle(folder / "bundle", "onnx")
    call = [sys.executable, "-m", "lcr_edge", "run", str(bundle), "--web", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL
    with subprocess.Popen(call, cwd=ROOT, env=environment, stdout=silent, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("page: "):
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            yield lines[-1].split()[1], process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) in (0, 1)
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_two_cameras_of_which_one_is_lost(tmp_path: Path) -> None:
    program()

    async def look(url: str) -> None:
        async with browser() as new_tab:
            tab = await new_tab()
            await tab.look_as(390, 844)
            await tab.open(url)
            await tab.until("document.querySelectorAll('#top li').length === 3")
            await tab.until(DRAWN)
            assert await tab.value("document.getElementById('picture').width") == 176
            assert sorted(await tab.value("[...document.querySelectorAll('#top span')].map(n => n.textContent)")) == (
                sorted(LABELS)
            )
            # No part of it is wider than a phone.
            assert await tab.value("document.documentElement.scrollWidth") == 390
            await tab.until("Number(document.getElementById('norm-c').textContent) > 0")
            await tab.until("document.querySelector('#events img')?.naturalWidth > 0")  # an event has its picture
            await tab.value("document.getElementById('edges').click()")
            await tab.until("document.getElementById('picture').width === 48 * 15")
            await tab.value("document.getElementById('reset').click()")
            await tab.until("document.querySelector('#events .reset')?.innerText.includes('reset by hand')")
            # Somebody else, in the dark.
            other = await new_tab()
            await other.look_as(1360, 900, dark=True)
            await other.open(url)
            await other.until(DRAWN)
            await other.until("document.querySelectorAll('nav button').length === 2")
            await other.value("document.querySelectorAll('nav button')[1].click()")
            await other.until("document.getElementById('state').dataset.state === 'lost'")
            await other.until("document.getElementById('notice').textContent.includes('is lost')")
            assert await other.value("document.getElementById('reset').disabled")
            assert await tab.value("document.getElementById('state').dataset.state") == "live"
            assert tab.problems + other.problems == []

    with network_camera(25.0) as good, network_camera(25.0, frames=60) as bad:
        options = ["--source", good, "--source", bad, "--retry", "0", "--events", "--enter", "0.2", "--ignore", "none"]
        with served(tmp_path, *options) as (url, _):
            asyncio.run(look(url))


@pytest.mark.slow
def test_logging_in_and_the_end_of_a_run(tmp_path: Path) -> None:
    program()
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    film = str(real_clip("carphone_pristine.mp4"))

    async def look(url: str, process: subprocess.Popen[str]) -> None:
        async with browser() as new_tab:
            tab = await new_tab()
            await tab.open(url)
            await tab.until("location.pathname === '/login' && document.getElementById('token') !== null")
            assert tab.problems == []
            await tab.value("document.getElementById('token').value = 'wrong', document.forms[0].submit()")
            await tab.until("document.querySelector('[role=alert]')?.textContent === 'This is not the token.'")
            expected = [problem for problem in tab.problems if "401" in problem]
            assert tab.problems == expected
            tab.problems.clear()
            await tab.value(f"document.getElementById('token').value = {TOKEN!r}, document.forms[0].submit()")
            await tab.until("location.pathname === '/' && document.querySelectorAll('#top li').length === 3")
            await tab.until(DRAWN)
            await tab.until("document.getElementById('state').textContent === 'Ended'")
            assert await tab.value("document.cookie") == ""  # no script can read it
            assert await tab.value("document.getElementById('lag').textContent") == "-file"
            assert await tab.value("!document.getElementById('logout').hidden")
            assert tab.problems == []
            process.send_signal(signal.SIGINT)
            await tab.until("document.getElementById('notice').textContent === 'The run is over.'")
            assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0

    # A film is over soon; the page goes on as long as the camera.
    with network_camera(25.0) as camera:
        options = ["--source", film, "--source", camera, "--web-token-file", str(file)]
        with served(tmp_path, *options) as (url, process):
            asyncio.run(look(url, process))
