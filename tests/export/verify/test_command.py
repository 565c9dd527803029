"""The command line of verify: where its results go, and what it does where there is no torch."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lcr_edge.cli import main
from lcr_edge.errors import MissingExtraError, OutputError, how_to_install
from tests.export import made

ROOT = Path(__file__).resolve().parents[3]
# A name that is None cannot be imported.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from lcr_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _verify(*arguments: str | Path) -> int:
    return main(["verify", str(made.bundle("lcr_pico", "onnx")), "--frames", "6", *map(str, arguments)])


def _verify_without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = ["verify", str(made.bundle("lcr_pico", "onnx")), *map(str, arguments)]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *call], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_json_to_stdout_leaves_the_text_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert _verify("--json", "-") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["passed"] is True
    assert "one step: logits, max abs error" in shown.err


def test_json_and_junit_go_through_a_pipe_and_behind_a_link(tmp_path: Path) -> None:
    """What the path names stays what it is: a pipe is written to, and a link goes on pointing where it points."""
    pipe, link, behind = tmp_path / "pipe", tmp_path / "link.xml", tmp_path / "behind.xml"
    os.mkfifo(pipe)
    behind.write_text("old")
    link.symlink_to(behind)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    assert _verify("--json", pipe, "--junit", link) == 0
    reader.join(timeout=60)
    assert json.loads(received[0])["passed"] is True
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert ElementTree.fromstring(behind.read_bytes()).get("failures") == "0"
    assert _verify("--json", "/dev/null") == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link.xml", "behind.xml"}


@pytest.mark.parametrize("option", ["--json", "--junit", "--save-golden", "--report"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    places = [tmp_path / "file" / "x"]
    places += [] if option == "--report" else [tmp_path]
    for place in places:
        assert _verify(option, place) == OutputError.exit_code
        shown = capsys.readouterr()
        assert option in shown.err
        assert "one step" not in shown.out


def test_without_torch_the_golden_clip_is_checked() -> None:
    ended = _verify_without_torch("--json", "-")
    assert ended.returncode == 0, ended.stderr
    assert "torch is not installed" in ended.stderr
    assert "passed in" in ended.stderr
    report = json.loads(ended.stdout)
    assert report["passed"] is True
    assert report["frames"] == 16


def test_without_torch_what_needs_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "verify.xml"
    ended = _verify_without_torch("--junit", file, "--frames", "9", "--decisions")
    assert ended.returncode == MissingExtraError("", "", "").exit_code
    assert "verify with --frames, --decisions, --junit needs the package 'torch'" in ended.stderr
    assert how_to_install("train") in ended.stderr
    assert not file.exists()
