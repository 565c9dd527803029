"""The options of calibration: ranges, and a cache that is used, or refused when something else was asked for."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lcr_edge.calibration.footage import CLIPS, SAMPLES
from lcr_edge.calibration.options import add_arguments, check, samples_for
from lcr_edge.checkpoint import Checkpoint, random_checkpoint
from lcr_edge.config import get_config
from lcr_edge.errors import CalibrationError, UsageError
from lcr_edge.options import add_seed
from tests.data import made


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(get_config("lcr_pico"), seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips to train on, five held out. Tests must not change it."""
    return made.make_folder(tmp_path_factory.mktemp("data"), 1, 10)


def parsed(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    add_seed(parser, default=None)
    return parser.parse_args([str(word) for word in words])


def test_a_cache_is_written_once_and_then_read(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "samples.npz"
    asked = ["--calibration-data", str(data), "--calibration-clips", "8", "--calibration-samples", "9"]
    first = samples_for(parsed(*asked), checkpoint)
    assert not list(tmp_path.iterdir())
    second = samples_for(parsed(*asked, "--calibration-cache", cache), checkpoint)
    stamp = cache.stat().st_mtime_ns
    assert "wrote 9 samples" in capsys.readouterr().err
    third = samples_for(parsed(*asked, "--calibration-cache", cache), checkpoint)
    fourth = samples_for(parsed("--calibration-cache", cache), checkpoint)
    assert first.digest == second.digest == third.digest == fourth.digest
    assert cache.stat().st_mtime_ns == stamp
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("from") == 2

    for option, value, made_with in (
        ("--calibration-data", "rendered", "data folder:"),
        ("--calibration-data", str(data / "train"), "data folder:"),
        ("--calibration-clips", "9", "clips 8"),
        ("--calibration-samples", "8", "samples 9"),
        ("--seed", "1", "seed 0"),
    ):
        with pytest.raises(CalibrationError, match=f"was made with {made_with}.*{option} asks.*delete"):
            samples_for(parsed("--calibration-cache", cache, option, value), checkpoint)
    other = dataclasses.replace(checkpoint, sha256="0" * 64)
    with pytest.raises(CalibrationError, match="another checkpoint"):
        samples_for(parsed("--calibration-cache", cache), other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--calibration-clips 7", "clips must be at least 8, got 7"),
        ("--calibration-samples 3", "samples must be from 4 to 1728, .* got 3"),
        ("--calibration-clips 8 --calibration-samples 129", "from 4 to 128, the frames in 8 clips, got 129"),
        ("--seed -1", "--seed must be from 0 to"),
        ("--calibration-cache .", "is not a file"),
        ("--calibration-cache missing/samples.npz", "cannot write to the folder missing"),
    ],
)
def test_options_out_of_range(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        check(parsed(*words.split()))


def test_the_defaults_are_those_that_help_tells(capsys: pytest.CaptureFixture[str]) -> None:
    check(parsed())
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {CLIPS})" in text
    assert f"(default: {SAMPLES})" in text


def test_options_need_no_torch() -> None:
    code = "import sys, lcr_edge.calibration.options; print(sorted({'torch', 'cv2'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
