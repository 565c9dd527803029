"""The packaged checkpoint: small, of the right kind, and as good as its model card says, on clips and on a stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lcr_edge
from lcr_edge.checkpoint import PACKAGED as PACKAGED_FILE
from lcr_edge.checkpoint import load
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.labels import JESTER
from lcr_edge.tolerances import PACKAGED

PER_CLASS = 8


def test_it_is_a_small_lcr_nano_with_the_jester_labels() -> None:
    checkpoint = load()
    assert checkpoint.config == get_config("lcr_nano")
    assert checkpoint.labels == JESTER
    assert PACKAGED_FILE.stat().st_size < 8e6
    assert not lcr_edge.load_checkpoint().training


@pytest.mark.slow
def test_it_recognises_held_out_clips_and_keeps_that_on_a_stream(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = [
        "evaluate",
        "--per-class",
        str(PER_CLASS),
        "--stream-frames",
        "2000",
        "--workers",
        "1",
        "--json",
        str(report),
    ]
    assert main(arguments) == 0
    result = json.loads(report.read_text())
    assert result["clips"] == PER_CLASS * len(JESTER)
    assert result["clip_top1"] >= PACKAGED.clip_top1
    assert result["stream_frames"] >= 2000
    assert result["stream_top1"] >= result["stream_clips_reset_top1"] - PACKAGED.stream_loss
    bound = get_config("lcr_nano").fmax / (1 - get_config("lcr_nano").fmax)
    assert result["stream_max_c"] <= bound
