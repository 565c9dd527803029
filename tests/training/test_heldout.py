"""Looks at held-out clips: right figures, in every place that shows them, the best weights kept, an early stop."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lcr_edge.checkpoint import load
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.evaluate.measure import evaluate
from lcr_edge.model.network import LCR
from lcr_edge.training import heldout, run_state
from lcr_edge.training.heldout import HeldOut, Look
from lcr_edge.training.loss import clip_loss
from tests.data.made import make_folder

FRAMES = 8
SMALL = ["--config", "lcr_pico", "--batch", "4", "--clip-frames", str(FRAMES), "--threads", "1", "--workers", "0"]
SMALL += ["--calm-share", "0"]  # has its own tests, in test_calming.py


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("heldout"), clips=8)


def _set(root: Path) -> ClipSet:
    config = get_config("lcr_pico")
    size = (config.height, config.width)
    return open_set(f"folder:{root}", split="heldout", size=size, fps=config.train_fps, frames=FRAMES, cache=None)


def _train(out: Path, root: Path, *options: str) -> int:
    return main(["train", "--data", f"folder:{root}", "--out", str(out), *SMALL, "--no-tensorboard", *options])


def _rows(out: Path) -> list[dict[str, float]]:
    with (out / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_a_look_has_the_accuracy_of_evaluate_and_the_loss_of_training(root: Path, tmp_path: Path) -> None:
    assert _train(tmp_path / "run", root, "--steps", "3", "--lr", "1e-2") == 0
    checkpoint = load(tmp_path / "run" / "lcr_pico.safetensors")
    data = _set(root)
    look = HeldOut(data, checkpoint.config, FRAMES).look(checkpoint.model, checkpoint.model.state_dict())
    found = evaluate(checkpoint, data, frames=FRAMES, stream_frames=FRAMES)
    assert 100 * look.accuracy == pytest.approx(found.clip_top1)
    losses = []
    held = HeldOut(data, checkpoint.config, FRAMES)
    for index in range(len(data)):
        _, frames, edges, label = held._read(np.array([index]))
        with torch.no_grad():
            losses.append(float(clip_loss(checkpoint.model(frames, None, edges)[0], label)))
    assert look.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert _rows(tmp_path / "run")[-1]["heldout_loss"] == pytest.approx(look.loss, rel=1e-5)


def test_the_network_and_its_mode_stay_as_they_are(root: Path) -> None:
    model = LCR(get_config("lcr_pico", classes=2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = {name: torch.zeros_like(value) for name, value in before.items()}
    HeldOut(_set(root), model.config, FRAMES).look(model, other)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_some_of_many_clips_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "MOST", 3)
    data, config = _set(root), get_config("lcr_pico", classes=2)
    assert len(data) > 3
    held = [HeldOut(data, config, FRAMES) for _ in range(2)]
    assert [len(one) for one in held] == [3, 3]
    assert (held[0]._chosen == held[1]._chosen).all()


def test_what_cannot_be_read_does_not_count(root: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(root, tmp_path / "data")
    files = sorted((copied / "val").rglob("*.mp4"))
    model = LCR(get_config("lcr_pico", classes=2))
    for path in files[1:]:
        path.write_bytes(b"not a video")
    look = HeldOut(_set(copied), model.config, FRAMES).look(model, model.state_dict())
    assert look.accuracy in (0.0, 1.0)
    files[0].write_bytes(b"not a video")
    look = HeldOut(_set(copied), model.config, FRAMES).look(model, model.state_dict())
    assert math.isnan(look.loss)
    assert not look.better_than(None)
    assert Look(1.0, 0.0).better_than(look)


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [((1.0, 0.5), (0.5, 0.4), True), ((1.0, 0.5), (0.5, 0.5), False), ((0.4, 0.5), (0.5, 0.5), True)],
)
def test_more_right_clips_are_better_and_of_equals_the_lower_loss(
    one: tuple[float, float], other: tuple[float, float], better: bool
) -> None:
    assert Look(*one).better_than(Look(*other)) is better


@pytest.mark.slow
def test_epochs_looks_the_best_network_and_an_early_stop(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a step of its own (lr 0) a network gets no better: the first look is the best, two more end the run."""
    out = tmp_path / "run"
    # 16 clips in batches of 4: four steps an epoch.
    options = (
        "--epochs",
        "5",
        "--look-every",
        "3",
        "--patience",
        "2",
        "--lr",
        "0",
        "--ema",
        "0",
        "--save-every",
        "100",
    )
    assert _train(out, root, *options) == 0
    printed = capsys.readouterr().out
    assert "after step 9 of 20" in printed
    assert f"after step 3, in {out / 'lcr_pico-best.safetensors'}" in printed
    assert "learning ended early, after step 9 of 20 (--patience)" in printed
    rows = _rows(out)
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert all(np.isfinite(row["heldout_accuracy"]) for row in rows)
    assert run_state.read(out).step == 9
    best, last = (load(out / f"lcr_pico{name}.safetensors") for name in ("-best", ""))
    assert (best.training["step"], last.training["step"]) == (3, 9)
    assert _train(out, root, *options, "--resume") == 0  # patience has run out once and for all
    assert "nothing left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_lines_without_a_look_say_so_and_a_resumed_run_knows_its_best(root: Path, tmp_path: Path) -> None:
    options = ("--steps", "24", "--look-every", "8")
    assert _train(tmp_path / "whole", root, *options) == 0
    assert _train(tmp_path / "parts", root, *options, "--stop-after", "10") == 0
    assert _train(tmp_path / "parts", root, *options, "--resume") == 0
    whole, parts = (tmp_path / name / "metrics.csv" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    rows = _rows(tmp_path / "whole")
    assert [row["step"] for row in rows] == [8, 16, 20, 24]
    assert [math.isnan(row["heldout_loss"]) for row in rows] == [False, False, True, False]
    states = [run_state.read(tmp_path / name).progress["best"] for name in ("whole", "parts")]
    assert states[0] == states[1] is not None


def test_without_held_out_clips_training_goes_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(root / "train", data / "train")
    assert _train(tmp_path / "run", data, "--steps", "1") == 0
    printed = capsys.readouterr().out
    assert "no held-out clips to look at" in printed
    assert "held-out clips: " not in printed
    assert not (tmp_path / "run" / "lcr_pico-best.safetensors").exists()
    assert _train(tmp_path / "none", root, "--steps", "1", "--look-every", "0") == 0
    assert "held-out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "--epochs must be at least 1"),
        (("--epochs", "2", "--steps", "9"), "--steps and --epochs both say how long"),
        (("--patience", "2", "--look-every", "0"), "--look-every 0 has none"),
        (("--patience", "0"), "--patience must be at least 1"),
    ],
)
def test_bad_arguments_are_named(
    options: tuple[str, ...], message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", root, *options) == 2
    assert message in capsys.readouterr().err
