"""Training on rendered gestures: augmentations keep labels and joints true, a run is deterministic and usable."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from lcr_edge.checkpoint import load
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.augment import MIRRORED_LABEL, REVERSED_LABEL, augment
from lcr_edge.data.labels import JESTER
from lcr_edge.evaluate import decide, evaluate
from lcr_edge.train import JOINTS, JointHead, carried, clip_loss, frame_weights, training_set


def _name(table: np.ndarray, name: str) -> str:
    return JESTER[int(table[JESTER.index(name)])]


def test_label_maps() -> None:
    assert _name(MIRRORED_LABEL, "Swiping Left") == "Swiping Right"
    assert _name(MIRRORED_LABEL, "Turning Hand Counterclockwise") == "Turning Hand Clockwise"
    assert _name(MIRRORED_LABEL, "Swiping Up") == "Swiping Up"
    assert _name(REVERSED_LABEL, "Swiping Up") == "Swiping Down"
    assert _name(REVERSED_LABEL, "Pulling Two Fingers In") == "Pushing Two Fingers Away"
    assert _name(REVERSED_LABEL, "Thumb Up") == "Thumb Up"
    for table in (MIRRORED_LABEL, REVERSED_LABEL):
        assert np.array_equal(table[table], np.arange(len(JESTER)))


def test_augmentation_moves_joints_with_the_pixels(rng: np.random.Generator) -> None:
    """A white dot is drawn where each frame's joint is; it must still be there afterwards."""
    size, frames = 56, 6
    label = JESTER.index("Swiping Left")
    seen = set()
    for _ in range(40):
        place = rng.integers(12, size - 12, size=(frames, 2))
        clip = np.zeros((frames, size, size, 3), np.uint8)
        clip[np.arange(frames), place[:, 1], place[:, 0]] = 255
        joints = ((place + 0.5) / size).astype(np.float32)[:, None]
        changed, moved, new_label = augment(clip, joints, label, rng, shift=4)
        assert changed.shape == clip.shape
        assert changed.dtype == np.uint8
        brightest = changed.sum(-1, dtype=np.int64).reshape(frames, -1).argmax(1)
        found = np.stack([brightest % size, brightest // size], axis=-1)
        assert np.array_equal(np.floor(moved[:, 0] * size + 1e-3).astype(int), found)
        seen.add(JESTER[new_label])
    assert seen == {"Swiping Left", "Swiping Right"}


def test_frame_weights() -> None:
    for frames in (4, 7, 16):
        weights = frame_weights(frames)
        assert weights.mean() == pytest.approx(1.0)
        assert not bool(weights[: frames // 4].any())
        assert bool((weights[frames // 4 :].diff() > 0).all())


def test_clip_loss_is_zero_only_for_right_answers() -> None:
    logits = torch.full((2, 8, 3), -20.0)
    logits[0, :, 1] = 20.0
    logits[1, :, 2] = 20.0
    right, wrong = clip_loss(logits, torch.tensor([1, 2])), clip_loss(logits, torch.tensor([2, 1]))
    assert wrong - right > 10


def test_carried_states_are_kept_or_zeroed_by_row() -> None:
    state = (torch.ones(64, 2, 5, 4), torch.ones(64, 2, 5, 4))
    h, c = carried(state, 64, torch.Generator().manual_seed(0)) or state
    assert torch.equal(h, c)
    rows = h.flatten(1)
    assert bool(((rows == 0).all(1) | (rows == 1).all(1)).all())
    assert 0 < int(rows[:, 0].sum()) < 64


def test_joint_head_learns_and_ignores_joints_outside() -> None:
    torch.manual_seed(0)
    config = get_config("lcr_pico")
    head = JointHead(config)
    hidden, cells = torch.randn(2, 3, config.tokens, config.dim), torch.randn(2, 3, config.tokens, config.dim)
    joints = torch.rand(2, 3, JOINTS, 2)
    joints[..., 5, :] = -0.4
    elsewhere = joints.clone()
    elsewhere[..., 5, :] = 7.0
    assert torch.equal(head.loss(hidden, cells, joints), head.loss(hidden, cells, elsewhere))
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    first = head.loss(hidden, cells, joints).item()
    for _ in range(60):
        optimiser.zero_grad()
        loss = head.loss(hidden, cells, joints)
        torch.autograd.backward(loss)
        optimiser.step()
    assert loss.item() < first / 2


def _train(out: Path, *options: str) -> int:
    small = ["--config", "lcr_pico", "--per-class", "1", "--steps", "3", "--batch", "4", "--workers", "1"]
    return main(["train", "--out", str(out), *small, *options])


def test_a_run_is_deterministic_and_its_checkpoint_can_be_evaluated(tmp_path: Path) -> None:
    assert _train(tmp_path / "a") == 0
    assert _train(tmp_path / "b") == 0
    one, two = (load(tmp_path / run / "lcr_pico.safetensors") for run in "ab")
    for name, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], value), name
    assert one.training["steps"] == 3
    result = evaluate(one, per_class=1, stream_frames=100, seed=0)
    assert result["clips"] == 27
    assert result["stream_frames"] == 112
    assert 0.0 <= result["clip_top1"] <= 100.0
    assert 0.0 < result["stream_max_c"] <= 9.0
    with (tmp_path / "a" / "metrics.csv").open() as file:
        assert next(csv.reader(file))[0] == "step"


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first" / "lcr_pico.safetensors", tmp_path / "second" / "lcr_pico.safetensors"
    assert _train(first.parent) == 0
    assert _train(second.parent, "--init", str(first), "--lr", "0") == 0
    # With a learning rate of zero only the running averages of the norms move.
    one, two = load(first).model.state_dict(), load(second).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one if not name.endswith("typical"))
    assert main(["train", "--out", str(tmp_path), "--config", "lcr_nano", "--init", str(first)]) == 2
    assert "use --config lcr_pico" in capsys.readouterr().err


def test_a_run_that_stops_early_is_the_beginning_of_the_longer_one(tmp_path: Path) -> None:
    assert _train(tmp_path, "--steps", "40", "--stop-after", "20") == 0
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["20"]
    assert load(tmp_path / "lcr_pico.safetensors").training["stop_after"] == 20


def test_a_few_steps_lower_the_joint_loss(tmp_path: Path) -> None:
    assert _train(tmp_path, "--steps", "40", "--batch", "8") == 0
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["joint_loss"]) < 3.2  # ln(16 patches) + the motion error at the start


def test_joints_match_the_rendered_set(tmp_path: Path) -> None:
    data = training_set(tmp_path, 2, 5, get_config("lcr_pico"), workers=1)
    assert data.clips.shape == (54, 16, 64, 64, 3)
    assert data.joints.shape == (54, 16, JOINTS, 2)
    assert np.array_equal(data.labels, np.tile(np.arange(27), 2))
    inside = np.all((data.joints >= 0) & (data.joints < 1), axis=-1)
    stop_signs = np.flatnonzero(data.labels == JESTER.index("Stop Sign"))
    assert inside[stop_signs].mean() > 0.4
    again = training_set(tmp_path, 2, 5, get_config("lcr_pico"), workers=1)
    assert np.array_equal(again.clips, data.clips)


def test_decisions_use_the_second_half() -> None:
    logits = np.zeros((1, 8, 3), np.float32)
    logits[0, :4, 0] = 9.0
    logits[0, 4:, 2] = 1.0
    assert decide(logits).tolist() == [2]


def test_bad_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path, "--steps", "0") == 2
    assert "--steps must be at least 1" in capsys.readouterr().err
    assert _train(tmp_path, "--stop-after", "0") == 2
    assert "--stop-after must be at least 1" in capsys.readouterr().err
    assert _train(tmp_path, "--config", "lcr_giant") == 2
    assert "lcr_nano" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert _train(tmp_path / "file" / "x") == 2
    assert "choose another --out" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none.safetensors")]) == 2
    assert "does not exist" in capsys.readouterr().err
