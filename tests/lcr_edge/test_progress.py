"""Progress: silent where nobody watches, a bar on a terminal, and lines that are never lost."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcr_edge.progress import bar, step, watched, with_bar
from tests.runtimes import toy

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_terminal_only_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert not watched()
    with bar("reading", 3, "clip", show=True) as moved:
        moved.update()
        moved.show({"loss": 1.0})
        moved.say("left out: a.mp4")
    assert list(with_bar("abc", "reading", "clip", 3, show=True)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "left out: a.mp4\n")


def _on_a_terminal(code: str) -> tuple[int, bytes]:
    """Run Python code with a terminal of 120 columns as its stderr; the exit code, and what was seen there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, cwd=ROOT) as process:
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
    return process.returncode, seen


def test_on_a_terminal_a_bar_is_drawn() -> None:
    pytest.importorskip("tqdm")
    code = (
        "import time; from lcr_edge.progress import bar, with_bar\n"
        "with bar('training', 8, 'step', True, start=5) as moved:\n"
        "    moved.show({'loss': 0.5}); moved.say('left out'); time.sleep(0.2); moved.update(2)\n"
        "for _ in with_bar([1, 2], 'hidden', 'clip', 2, False): pass\n"
    )
    status, seen = _on_a_terminal(code)
    assert status == 0
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


def test_without_a_terminal_a_line_may_stand_for_a_bar(capsys: pytest.CaptureFixture[str]) -> None:

    def work() -> Iterator[str]:
        assert capsys.readouterr().err == "reading: 1 clip ..."  # before the first item is made
        yield "a"

    assert list(with_bar(work(), "reading", "clip", 1, show=True, line=True)) == ["a"]
    assert re.fullmatch(r" \d+\.\d s\n", capsys.readouterr().err)
    with bar("hidden", 3, "clip", show=False, line=True):
        pass
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyError), bar("reading", 3, "clip", show=True, line=True):
        raise KeyError
    assert capsys.readouterr().err == "reading: 3 clips ... failed\n"


# Prints where torch would be imported, and ends the command there: before that everything has to be quick.
STOP_AT_TORCH = """
import importlib.util, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == "torch" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        print("TORCH", file=sys.stderr, flush=True)
        raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from lcr_edge.cli import main
sys.exit(main({arguments!r}))
"""
RANDOM = ("--config", "lcr_pico", "--random-weights")
LOADING_TORCH = {
    "evaluate": ("evaluate", "--per-class", "1"),
    "verify": ("verify", "BUNDLE"),
    "compare": ("compare", *RANDOM, "--targets", "onnx", "--precisions", "fp32", "--out", "OUT"),
    "export": ("export", *RANDOM, "--target", "onnx", "--precision", "int8", "--out", "OUT"),
}


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("name", list(LOADING_TORCH))
def test_commands_say_what_they_do_before_they_import_torch(name: str, terminal: bool, tmp_path: Path) -> None:
    places = {"OUT": str(tmp_path / "out"), "BUNDLE": str(tmp_path / "bundle")}
    if name == "verify":
        toy.make_bundle(tmp_path / "bundle", "onnx", "host")
    code = STOP_AT_TORCH.format(arguments=[places.get(word, word) for word in LOADING_TORCH[name]])
    if terminal:
        status, seen = _on_a_terminal(code)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
        status, seen = done.returncode, done.stderr
    assert status == 130, seen
    said, _, after = seen.partition(b"TORCH")
    assert said == b"loading PyTorch ...", seen
    assert b"interrupted" in after


@pytest.mark.parametrize("name", ["evaluate", "verify", "compare", "export"])
def test_help_and_errors_of_use_wait_for_no_torch(name: str) -> None:
    for arguments, expected in (([name, "--help"], 0), ([name, "--threads", "none"], 2)):
        code = STOP_AT_TORCH.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
        assert (done.returncode, b"TORCH" in done.stderr) == (expected, False), done.stderr
