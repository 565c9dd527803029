"""Progress: silent where nobody watches, a bar on a terminal, and lines that are never lost."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lcr_edge.progress import bar, step, watched, with_bar

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_terminal_only_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert not watched()
    with bar("reading", 3, "clip", show=True) as moved:
        moved.update()
        moved.show({"loss": 1.0})
        moved.say("left out: a.mp4")
    assert list(with_bar("abc", "reading", "clip", 3, show=True)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "left out: a.mp4\n")


def test_on_a_terminal_a_bar_is_drawn() -> None:
    pytest.importorskip("tqdm")
    code = (
        "import time; from lcr_edge.progress import bar, with_bar\n"
        "with bar('training', 8, 'step', True, start=5) as moved:\n"
        "    moved.show({'loss': 0.5}); moved.say('left out'); time.sleep(0.2); moved.update(2)\n"
        "for _ in with_bar([1, 2], 'hidden', 'clip', 2, False): pass\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, cwd=ROOT) as process:
        os.close(theirs)
        seen = b""
        with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123 - a file descriptor
            while True:
                try:
                    part = terminal.read(4096)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                seen += part
    assert process.returncode == 0
    for text in (b"training", b"5/8", b"7/8", b"loss=0.500", b"left out"):
        assert text in seen, seen
    assert b"hidden" not in seen


def test_a_long_step_tells_its_time_or_that_it_failed() -> None:
    stream = io.StringIO()
    with step("converting", stream):
        pass
    with pytest.raises(KeyError), step("verifying", stream):
        raise KeyError
    assert stream.getvalue().startswith("converting ... 0.0 s\nverifying ... failed\n")
