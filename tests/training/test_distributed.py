"""Two processes (torchrun, gloo) do what one process does with the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lcr_edge.checkpoint import random_checkpoint, save
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.errors import UsageError
from lcr_edge.tolerances import TWO_PROCESSES
from lcr_edge.training import run_state
from lcr_edge.training.processes import choose_device
from tests.data.made import LABELS, make_folder

OPTIONS = (
    "--config", "lcr_pico", "--batch", "4", "--clip-frames", "8", "--threads", "1", "--workers", "0",
    "--no-tensorboard", "--precision", "fp32", "--device", "cpu", "--lr", "1e-6", "--steps", "40", "--save-every", "1",
    "--calm-share", "0",
)  # fmt: skip


def _together(out: Path, data: str, *options: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "lcr_edge", "train", "--data", data, "--out", str(out), *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    data = f"folder:{make_folder(tmp_path / 'data', classes=3)}"
    # Weights that are all random, so that every gradient is there; and a small rate, because AdamW divides the rounding
    # of gradients that vanish by its own size.
    start = random_checkpoint(get_config("lcr_pico", classes=3), 0)
    save(tmp_path / "start.safetensors", start.model, LABELS[:3], {})
    begin = ("--init", str(tmp_path / "start.safetensors"))
    masked = ("--tube-mask", "0.25")
    one, two = tmp_path / "one", tmp_path / "two"
    for stop in ("1", "3"):  # the third step has states, masks and running averages behind it
        resume = begin if stop == "1" else ("--resume",)
        assert main(["train", "--data", data, "--out", str(one), *OPTIONS, *masked, "--stop-after", stop, *resume]) == 0
        result = _together(two, data, *masked, "--stop-after", stop, *resume)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("wrote ") == result.stdout.count("report: ") == 1  # one process speaks
        alone, both = run_state.read(one), run_state.read(two)
        assert alone.step == both.step == int(stop)
        # AdamW's first moment is the gradient, averaged over the steps.
        for group, tensors in alone.tensors.items():
            for name, value in tensors.items():
                scale = value.double().square().mean().sqrt().clamp(min=1e-12)
                error = (both.tensors[group][name].double() - value.double()).abs().max() / scale
                assert error <= TWO_PROCESSES, f"step {stop}, {group}: {name} differs by {error:.1e}"
        assert both.progress["loss"] == pytest.approx(alone.progress["loss"], rel=TWO_PROCESSES)
        assert both.progress["seen"] == alone.progress["seen"] == 4 * int(stop)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    data = f"folder:{make_folder(tmp_path / 'data', clips=2)}"
    result = _together(tmp_path / "run", data, "--batch", "3")
    assert result.returncode != 0
    assert "cannot be shared by 2 processes" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_chosen() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UsageError, match="--device cpu"):
        choose_device("cuda")
