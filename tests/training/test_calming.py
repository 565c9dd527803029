"""The last steps of a run calm the network, and the run ends with a judgement of whether it can be exported."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lcr_edge.checkpoint import load, random_checkpoint
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.model.network import LCR
from lcr_edge.tolerances import READY
from lcr_edge.training import readiness, run_state, schedule
from lcr_edge.training.heldout import HeldOut
from lcr_edge.training.optimiser import learning_rate
from lcr_edge.training.schedule import Schedule
from lcr_edge.training.settings import MOST_CALM, Settings
from tests.clips import frames, real_clip
from tests.data.made import make_folder

PICO = get_config("lcr_pico", classes=3)


def test_the_last_steps_calm_and_each_part_has_its_own_learning_rate() -> None:
    plan = Schedule(Settings(steps=1000))
    assert plan.learning == 900
    moments = [plan.at(step) for step in range(plan.goal)]
    assert [moment.calm for moment in moments] == [False] * 900 + [True] * 100
    assert [step for step, moment in enumerate(moments) if moment.starts] == [900]
    assert [m.rate for m in moments[:900]] == [learning_rate(step, 900, 2e-3) for step in range(900)]
    assert max(m.rate for m in moments[900:]) == pytest.approx(2e-3 / 4, rel=0.05)
    assert moments[-1].rate < 1e-6
    plan.rounds = 2
    assert plan.goal == 1200
    again = [plan.at(step) for step in range(1000, 1200)]
    assert [step for step, moment in enumerate(again) if moment.damps] == [0, 100]
    assert not any(moment.damps for moment in moments)
    assert [moment._replace(damps=False) for moment in again] == 2 * moments[900:]


@pytest.mark.parametrize(
    ("steps", "share", "calm"),
    [(6, 0.1, 1), (1, 0.1, 0), (150, 0.1, 15), (100_000, 0.1, MOST_CALM), (160, 1.0, 160), (500, 0.0, 0)],
)
def test_how_many_steps_calm(steps: int, share: float, calm: int) -> None:
    assert Settings(steps=steps, calm_share=share).calm_steps == calm
    assert Settings(steps=steps, calm_share=share, calm_weight=0.0).calm_steps == 0


def _film(count: int) -> list[np.ndarray]:
    from lcr_edge.frames import FITS

    return [FITS["letterbox"](frame, PICO.height, PICO.width) for frame in frames(real_clip("bikes.mp4"), count)]


def _wild(times: float = 3.0) -> LCR:
    """A network whose weights are so large that its recurrence amplifies small changes."""
    model = random_checkpoint(PICO, 0).model
    with torch.no_grad():
        for layer in model.blocks():
            for matrix in (layer.rg, layer.attend, layer.mix_in, layer.mix_out):
                matrix.weight.mul_(times)
    return model


@pytest.mark.slow
def test_a_wild_network_is_told_from_a_calm_one() -> None:
    film = _film(60)
    calm = readiness.measure(random_checkpoint(PICO, 0).model, film)
    wild = readiness.measure(_wild(), film)
    assert calm.complaints == [], calm.line()
    assert calm.frames == 60
    assert wild.growth > 3 * READY.growth > 3 * calm.growth
    assert wild.drift > READY.drift > calm.drift
    assert wild.agreement < READY.agreement <= calm.agreement
    assert len(wild.complaints) == 3


@pytest.mark.slow
@torch.no_grad()
def test_growth_is_what_a_small_change_of_the_state_does() -> None:
    """The product of the factors of a frame, found again by two streams that start side by side."""
    model = _wild()
    film = _film(40)
    growth = readiness.measure(model, film).growth
    model.double()
    clip = torch.from_numpy(np.stack(film))[None]
    largest = 0.0
    for start in range(0, 40, 4):
        state = model(clip[:, :start])[1] if start else model.initial_state()
        generator = torch.Generator().manual_seed(start)
        change = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in state]
        scale = 1e-7 / math.sqrt(sum(float(x.square().sum()) for x in change))
        one, other = state, tuple(x + scale * y for x, y in zip(state, change))
        for step in range(start, 40):
            one, other = (model(clip[:, step : step + 1], x)[1] for x in (one, other))
            moved = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(one, other)))
            largest = max(largest, moved / 1e-7)
    # A change of random direction finds less than one that the frames before have turned, and never much more.
    assert largest < 2 * growth
    assert growth < 100 * largest


@pytest.mark.slow
def test_growth_is_looked_for_where_the_scene_hardly_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    model, film = _wild(2.4), _film(40)
    slow = readiness.measure(model, film).growth
    monkeypatch.setattr(readiness, "SLOW", 1)
    assert slow > 1.2 * readiness.measure(model, film).growth


@pytest.mark.slow
@torch.no_grad()
def test_damping_takes_growth_away() -> None:
    film = _film(40)
    model = _wild()
    growth = readiness.measure(model, film).growth
    model.damp(0.5)
    assert readiness.measure(model, film).growth < growth / 10
    model.damp(0.0)
    assert readiness.measure(model, film).growth < 1.5


def _train(out: Path, data: Path, *options: str) -> int:
    fixed = ("--config", "lcr_pico", "--batch", "4", "--clip-frames", "8", "--threads", "1", "--workers", "0")
    return main(["train", "--data", str(data), "--out", str(out), "--no-tensorboard", *fixed, *options])


@pytest.mark.slow
def test_a_run_that_is_not_ready_goes_on_calming_and_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lcr_edge.training.heldout.FRAMES", 24)
    monkeypatch.setattr(readiness, "READY", READY.__class__(drift=0.0, growth=0.0, agreement=1.0))
    data = make_folder(tmp_path / "data")
    options = ("--steps", "10", "--calm-share", "0.2", "--save-every", "1")
    assert _train(tmp_path / "whole", data, *options) == 0
    said = capsys.readouterr().out
    assert said.count("2 more steps of calming") == schedule.ROUNDS
    assert "not ready to export: float32 is " in said
    state = run_state.read(tmp_path / "whole")
    assert (state.step, state.progress["rounds"], state.progress["judged"]) == (14, 2, True)
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert float(rows[10]["expansion"]) > 0
    # Killed in the judgement, after the last step: what was saved then is judged when the run goes on.
    for stop in ("9", "12"):
        assert _train(tmp_path / "parts", data, *options, "--stop-after", stop, *_resume(tmp_path / "parts")) == 0
    judging = HeldOut.readiness
    monkeypatch.setattr(HeldOut, "readiness", _killed)
    with pytest.raises(_Killed):
        _train(tmp_path / "parts", data, *options, "--resume")
    monkeypatch.setattr(HeldOut, "readiness", judging)
    capsys.readouterr()
    assert _train(tmp_path / "parts", data, *options, "--resume") == 0
    assert "not ready to export: float32 is " in capsys.readouterr().out
    assert "Not ready to export: float32 is " in (tmp_path / "parts" / "report.html").read_text()
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    whole, parts = (load(str(tmp_path / name / "lcr_pico.safetensors")).model for name in ("whole", "parts"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    capsys.readouterr()
    assert _train(tmp_path / "parts", data, *options, "--resume") == 0
    assert "nothing left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_round_that_is_added_damps_the_weights_and_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcr_edge.training.heldout.FRAMES", 24)
    monkeypatch.setattr(readiness, "READY", READY.__class__(drift=0.0, growth=0.0, agreement=1.0))
    data = make_folder(tmp_path / "data")
    for name, share in (("calmed", "0.2"), ("plain", "0")):
        assert _train(tmp_path / name, data, "--steps", "10", "--lr", "0", "--calm-share", share) == 0
    calmed, plain = (load(str(tmp_path / name / "lcr_pico.safetensors")).model for name in ("calmed", "plain"))
    for one, other in zip(calmed.blocks(), plain.blocks()):
        x, h = other.rg.weight.chunk(2, dim=1)
        wanted = torch.cat([x, schedule.DAMPING**schedule.ROUNDS * h], dim=1)
        torch.testing.assert_close(one.rg.weight, wanted)


class _Killed(Exception):
    pass


def _killed(*_: object) -> None:
    raise _Killed


def _resume(out: Path) -> tuple[str, ...]:
    return ("--resume",) if (out / run_state.NAME).is_file() else ()


def test_patience_cuts_the_learning_and_leaves_the_calming() -> None:
    plan = Schedule(Settings(steps=1000))
    planned = [plan.at(step) for step in range(plan.goal)]
    plan.cut = 300
    assert (plan.learning, plan.planned, plan.goal) == (300, 900, 400)
    moments = [plan.at(step) for step in range(plan.goal)]
    assert moments[:300] == planned[:300]
    assert moments[300:] == planned[900:]
    plan.rounds = 1
    assert plan.goal == 500
    assert [plan.at(step)._replace(damps=False) for step in range(400, 500)] == planned[900:]


PATIENT = (
    "--steps",
    "40",
    "--look-every",
    "2",
    "--patience",
    "2",
    "--calm-share",
    "0.1",
    "--lr",
    "0",
    "--save-every",
    "3",
)


@pytest.mark.slow
def test_a_run_whose_patience_ends_is_calmed_and_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With lr 0 no look is better than the first: learning ends after step 6 of 36, and 4 steps of calming follow."""
    monkeypatch.setattr("lcr_edge.training.heldout.FRAMES", 24)
    data = make_folder(tmp_path / "data", clips=2)
    assert _train(tmp_path / "whole", data, *PATIENT) == 0
    said = capsys.readouterr()
    assert "step 6: 2 looks at held-out clips were no better (--patience); 4 steps of calming follow" in said.err
    assert "after step 10 of 10" in said.out
    assert "learning ended early, after step 6 of 36 (--patience); 4 steps of calming followed" in said.out
    assert "ready to export: " in said.out
    # Stopped before the look that decides, right after it, and in the calming, where other patience changes nothing.
    out = tmp_path / "parts"
    for stop, patience in (("5", "2"), ("6", "2"), ("8", "9"), ("10", "1")):
        assert _train(out, data, *PATIENT, "--patience", patience, "--stop-after", stop, *_resume(out)) == 0
    assert _train(out, data, *PATIENT, "--resume") == 0
    for name in ("metrics.csv", "lcr_pico.safetensors", "lcr_pico-best.safetensors", "run.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert run_state.read(out).progress["cut"] == 6


def test_without_learning_there_is_nothing_to_be_patient_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", tmp_path, "--patience", "2", "--calm-share", "1") == 2
    assert "--patience ends the learning" in capsys.readouterr().err
