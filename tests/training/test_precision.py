"""Matrix products in bfloat16 only where that is fast, in what was asked for, and on resume in what the run has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcr_edge.cli import main
from lcr_edge.errors import UsageError
from lcr_edge.training import precision, run_state
from lcr_edge.training.precision import float32_wanted, multiplies_bf16
from lcr_edge.training.processes import World
from tests.data.made import make_folder

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n", True),
        ("flags : fpu avx2\n\nflags : fpu avx2 amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 f16c avx512f avx512_vnni\n", False),
        ("Features\t: fp asimd evtstrm aes\n", False),
        ("model name\t: bf16 avx512_bf16\n", False),
        ("", False),
    ],
)
def test_what_linux_says_of_the_processor(tmp_path: Path, text: str, fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bf16(CPU, tmp_path / "cpuinfo") is fast


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert not multiplies_bf16(CPU, tmp_path / "missing")
    assert not multiplies_bf16(CPU, tmp_path)


def test_auto_asks_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = World(0, 1, CPU)
    for fast in (True, False):
        monkeypatch.setattr(precision, "multiplies_bf16", lambda _device, fast=fast: fast)
        assert float32_wanted("auto", alone) is not fast
        assert float32_wanted("fp32", alone)
        assert not float32_wanted("bf16", alone)


def test_one_slow_process_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 2, CPU)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda _device: True)
    monkeypatch.setattr(world, "sum", lambda value: value + 1)  # of another process, which is slow
    assert float32_wanted("auto", world)


def test_a_resumed_run_keeps_its_format_on_another_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    words = ["train", "--data", f"folder:{data}", "--config", "lcr_pico", "--out", str(out), "--batch", "4"]
    words += ["--clip-frames", "8", "--threads", "1", "--workers", "0", "--no-tensorboard", "--calm-share", "0"]
    words += ["--steps", "2", "--look-every", "0"]
    for fast, more in ((False, ["--stop-after", "1"]), (True, ["--resume"])):
        monkeypatch.setattr(precision, "multiplies_bf16", lambda _device, fast=fast: fast)
        assert main([*words, *more]) == 0
        assert "on cpu in float32; folder:" in capsys.readouterr().out
    assert run_state.read(out).settings["fp32"] is True
    assert main([*words, "--resume", "--precision", "bf16"]) == UsageError.exit_code
    assert "fp32: True then, False now" in capsys.readouterr().err
