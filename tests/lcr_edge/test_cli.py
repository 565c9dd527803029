"""The lcr-edge command: inspect, render, help, and errors as one line with the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from lcr_edge.cli import COMMANDS, main
from lcr_edge.data.labels import JESTER

ROOT = Path(__file__).resolve().parents[2]


def test_inspect_prints_the_paper_s_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "lcr_tiny", "--variant", "paper", "--json"]) == 0
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
        (["render", "--label", "Waving", "--out", "x.mp4"], "Thumb Up"),
        (["render", "--out", "x.txt"], ".mp4 or .avi"),
        (["render", "--size", "5", "--out", "x.mp4"], "size"),
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
    assert main(["render", "--label", JESTER[-1], "--seed", "3", "--size", "64", "--out", str(out)]) == 0
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
    assert 'pip install "lcr-edge[train]"' in done.stderr
    assert all(name in done.stdout for name in COMMANDS)
