"""The lcr-edge command: inspect, render, help, and errors as one line with the right exit code."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from lcr_edge.cli import COMMANDS, main
from lcr_edge.data.labels import JESTER
from lcr_edge.errors import how_to_install

ROOT = Path(__file__).resolve().parents[2]


def test_inspect_prints_the_paper_s_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "lcr_tiny", "--variant", "paper", "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert abs(facts["parameters"] / 5.14e6 - 1) <= 0.03
    assert facts["flops_per_16_frame_clip"] == 16 * facts["flops_per_frame"]
    assert facts["state_bytes"] == 2 * 4 * 8 * 197 * 192
    assert main(["inspect", "lcr_nano"]) == 0
    assert "(0.74 M)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "lcr_mini"], "lcr_pico, lcr_nano, lcr_tiny"),
        (["inspect", "lcr_nano", "--variant", "x"], "default, paper"),
        (["inspect", "lcr_nano", "--classes", "0"], "positive integer"),
        (["inspect", "."], "manifest.json"),
        (["render", "x.mp4", "--label", "Waving"], "Thumb Up"),
        (["render", "x.txt"], ".mp4 or .avi"),
        (["render", "x.mp4", "--size", "5"], "--size must be from 32 to 1024, got 5"),
        (["render", "x.mp4", "--seconds", "nan"], "--seconds must be from 0.5 to 60, got nan"),
        (["render", "x.mp4", "--seed", "-1"], "--seed must be from 0"),
    ],
)
def test_usage_errors(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_commands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["launch"])
    assert stopped.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_render_writes_a_clip(tmp_path: Path) -> None:
    out = tmp_path / "new" / "clip.mp4"
    assert main(["render", str(out), "--label", JESTER[-1], "--seed", "3", "--size", "64"]) == 0
    video = cv2.VideoCapture(str(out))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 48
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 64
    assert [path.name for path in out.parent.iterdir()] == ["clip.mp4"]


def test_help_and_light_commands_need_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'cv2', 'onnx', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from lcr_edge.cli import main\n"
        "assert main(['inspect', 'lcr_pico']) == 0\n"
        "assert main(['train', '--out', 'x']) == 2\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert how_to_install("train") in done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def _shell(command: str, stdout: int | None = None, buffered: bool = True) -> subprocess.CompletedProcess[str]:
    lcr_edge = f"{shlex.quote(sys.executable)} -m lcr_edge"
    done = subprocess.run(
        ["bash", "-c", command.replace("lcr-edge", lcr_edge)],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", ["--help", "inspect --help", "inspect lcr_pico", "inspect lcr_pico --json -"])
def test_a_full_stdout_is_told(arguments: str, buffered: bool) -> None:
    done = _shell(f"lcr-edge {arguments} > /dev/full", buffered=buffered)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: cannot write to stdout: No space left on device; send it somewhere else"
    ]


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", ["--help", "inspect --help", "inspect lcr_pico", "export --list"])
def test_a_reader_that_goes_away_ends_the_command_quietly(arguments: str, buffered: bool) -> None:
    # The reader is gone before the first byte.
    done = _shell(f"set -o pipefail; (sleep 0.1; lcr-edge {arguments}) | true", buffered=buffered)
    assert (done.returncode, done.stderr) == (141, "")


def test_without_stdout_commands_work() -> None:
    assert _shell("lcr-edge inspect lcr_pico >&-").returncode == 0


def test_a_video_that_does_not_fit_is_not_announced(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    path = tmp_path / "clip.avi"
    path.write_bytes(b"old")
    done = _shell(f"ulimit -f 20; lcr-edge render {shlex.quote(str(path))} --seconds 1", subprocess.PIPE)
    assert done.returncode == 2
    assert "free some space" in done.stderr
    assert "wrote" not in done.stdout
    assert path.read_bytes() == b"old"
    assert [place.name for place in tmp_path.iterdir()] == ["clip.avi"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_render_keeps_a_link_and_its_own_seed(tmp_path: Path, suffix: str) -> None:
    link, target = tmp_path / f"link{suffix}", tmp_path / f"target{suffix}"
    link.symlink_to(target.name)
    small = ["--size", "64", "--seconds", "0.5"]
    assert main(["render", str(link), *small]) == 0
    assert link.is_symlink()
    first = target.read_bytes()
    assert main(["render", str(target), *small, "--seed", "0"]) == 0
    assert target.read_bytes() == first
    assert main(["render", str(target), *small, "--seed", "1"]) == 0
    assert target.read_bytes() != first
