"""Evaluation: figures against frame-by-frame stepping, labels by name, unreadable clips, long and broken streams."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lcr_edge.checkpoint import Checkpoint, load, random_checkpoint, save
from lcr_edge.cli import main
from lcr_edge.config import get_config
from lcr_edge.data.labels import JESTER
from lcr_edge.data.rendered.clips import render_clip
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import ClipSet, open_set
from lcr_edge.errors import CheckpointError
from lcr_edge.evaluate import decide
from lcr_edge.evaluate import evaluate as evaluate_typed
from lcr_edge.evaluate.command import table
from lcr_edge.evaluate.scores import NO_DECISION, score
from lcr_edge.tolerances import FORWARD_EQUALS_STEPS
from tests.data.made import truncate, write_video

TOLERANCE = FORWARD_EQUALS_STEPS["float32"]
FRAMES = 16
CLASSES = ("Stop Sign", "Swiping Left", "Thumb Up")


class Part(ClipSet):
    """Some clips of another set."""

    def __init__(self, whole: ClipSet, indices: list[int]) -> None:
        ids = [str(i) for i in indices]
        super().__init__(whole.name, "heldout", whole.labels, whole.targets[indices], ids, fit=whole.fit)
        self.whole, self.indices = whole, indices

    def read(self, index: int, sample: Sample, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Any]:
        return self.whole.read(self.indices[index], sample, size)


def evaluate(*arguments: Any, **more: Any) -> dict[str, Any]:
    """As the JSON has it."""
    result = evaluate_typed(*arguments, **more)
    written: dict[str, Any] = json.loads(result.to_json())
    assert written == result.to_dict()
    return written


def _open(checkpoint: Checkpoint) -> ClipSet:
    config = checkpoint.config
    size, fps = config.frame_shape[:2], config.train_fps
    return open_set("rendered:1", split="heldout", size=size, fps=fps, frames=FRAMES, cache=None)


@pytest.fixture(scope="module")
def packaged() -> Checkpoint:
    return load()


@pytest.fixture(scope="module")
def clips(packaged: Checkpoint) -> ClipSet:
    return _open(packaged)


@pytest.fixture(scope="module")
def result(packaged: Checkpoint, clips: ClipSet) -> dict[str, Any]:
    """More frames than the set has: 32 clips of 27."""
    return evaluate(packaged, clips, frames=FRAMES, stream_frames=500, seed=0)


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return random_checkpoint(get_config("lcr_pico"), seed=3)


@pytest.fixture(scope="module")
def small_clips(small: Checkpoint) -> ClipSet:
    return _open(small)


def test_the_figures_fit_together(result: dict[str, Any]) -> None:
    counts = np.array(result["confusion"])
    assert counts.shape == (27, 27)
    assert counts.sum(axis=1).tolist() == [1] * 27
    assert result["clips"] == 27
    assert result["clip_top1"] == pytest.approx(100 * np.trace(counts) / 27)
    assert result["clip_top1"] > 50
    assert result["clip_top1"] <= result["clip_top5"] <= 100
    assert result["per_class"] == {name: 100.0 * counts[i, i] for i, name in enumerate(JESTER)}
    assert (result["stream_clips"], result["stream_frames"]) == (32, 512)
    assert result["stream_states"]["frame"] == list(range(4, 513, 4))
    assert result["stream_max_c"] == max(result["stream_states"]["max_c"])
    assert result["stream_max_c"] <= result["stream_max_c_bound"] == pytest.approx(9.0)
    for key in ("clip_frame_top1", "stream_frame_top1"):
        assert len(result[key]) == FRAMES
        assert result[key][-1] > result[key][0]
    assert np.mean(result["stream_quarters_top1"]) == pytest.approx(result["stream_top1"])


def test_clips_equal_stepping_from_a_zero_state(packaged: Checkpoint, clips: ClipSet) -> None:
    chosen = [3, 8, 15, 23, 26]
    found = evaluate(packaged, Part(clips, chosen), frames=FRAMES, stream_frames=1, seed=0)
    by_frame = np.zeros((len(chosen), FRAMES))
    expected = np.zeros((27, 27), int)
    for row, index in enumerate(chosen):
        logits, _, _ = _stepped(packaged, clips, [index])
        by_frame[row] = logits.argmax(-1) == index
        expected[index, logits[FRAMES // 2 :].mean(axis=0).argmax()] += 1
    assert found["clip_frame_top1"] == (100 * by_frame.mean(axis=0)).tolist()
    assert found["confusion"] == expected.tolist()
    assert found["stream_frames"] == FRAMES


def test_the_stream_equals_stepping_without_reset(small: Checkpoint, small_clips: ClipSet) -> None:
    # One clip, so that its order is known: it comes three times, from three different states.
    found = evaluate(small, Part(small_clips, [16]), frames=FRAMES, stream_frames=3 * FRAMES, seed=0)
    logits, hidden, cells = _stepped(small, small_clips, [16] * 3)
    hits = (logits.argmax(-1) == 16).reshape(3, FRAMES)
    assert found["stream_frame_top1"] == (100 * hits.mean(axis=0)).tolist()
    states = found["stream_states"]
    for key, values in (
        ("rms_h", np.sqrt(np.square(hidden).mean(axis=1))),
        ("rms_c", np.sqrt(np.square(cells).mean(axis=1))),
        ("max_c", np.abs(cells).max(axis=1)),
    ):
        assert states[key] == pytest.approx(values[3::4], abs=TOLERANCE, rel=TOLERANCE)
    assert states["rms_c"][3] != pytest.approx(states["rms_c"][7], rel=TOLERANCE)


@torch.inference_mode()
def _stepped(checkpoint: Checkpoint, data: ClipSet, order: list[int]) -> tuple[NDArray[Any], ...]:
    """Logits, H and C after every frame, by the reference step, the network finding the edges itself."""
    model, config = checkpoint.model, checkpoint.config
    state, rows = model.initial_state(), []
    for index in order:
        frames, _ = data.read(index, Sample(FRAMES, config.train_fps, 0.5), config.frame_shape[:2])
        for frame in torch.from_numpy(frames):
            logits, state = model.step(frame[None], state)
            rows.append((logits[0].numpy(), state[0].flatten().numpy(), state[1].flatten().numpy()))
    return tuple(np.stack(column) for column in zip(*rows))


def test_the_order_of_the_stream_depends_on_the_seed_alone(small: Checkpoint, small_clips: ClipSet) -> None:
    one, again, other = (
        evaluate(small, small_clips, frames=FRAMES, stream_frames=64, seed=seed)["stream_states"] for seed in (1, 1, 2)
    )
    assert one == again
    assert one["rms_h"] != other["rms_h"]


@pytest.mark.slow
def test_labels_in_another_order_give_the_same_accuracy(
    packaged: Checkpoint, clips: ClipSet, result: dict[str, Any]
) -> None:
    order = np.random.default_rng(5).permutation(27)
    shuffled = load()
    with torch.no_grad():
        for name in ("weight", "bias"):
            value = getattr(shuffled.model.classify, name)
            value.copy_(value[torch.from_numpy(order)].clone())
    labels = tuple(packaged.labels[i] for i in order)
    found = evaluate(dataclasses.replace(shuffled, labels=labels), clips, frames=FRAMES, stream_frames=500, seed=0)
    assert found["labels"] == list(labels) != result["labels"]
    same = (
        "clip_top1 clip_top5 per_class clip_frame_top1 stream_top1 stream_clips_reset_top1 stream_frame_top1 "
        "stream_quarters_top1"
    )
    assert {key: found[key] for key in same.split()} == {key: result[key] for key in same.split()}
    assert np.array_equal(np.array(found["confusion"]), np.array(result["confusion"])[np.ix_(order, order)])


def test_labels_that_the_checkpoint_lacks_are_named(small: Checkpoint, small_clips: ClipSet) -> None:
    renamed = dataclasses.replace(small, labels=("a", "b", *JESTER[2:]))
    with pytest.raises(CheckpointError, match="2 labels that the checkpoint lacks: Doing other things, Drumming Finge"):
        evaluate(renamed, small_clips)


def test_a_state_that_overflows_is_told_and_never_right(small_clips: ClipSet) -> None:
    checkpoint = random_checkpoint(get_config("lcr_pico", variant="paper"), seed=0)
    with torch.no_grad():  # a forget gate near fmax: the residual cell then grows by 1.9 a frame
        checkpoint.model.prompt.bias.fill_(6.0)
    typed = evaluate_typed(checkpoint, small_clips, frames=FRAMES, stream_frames=400, seed=0)
    found = json.loads(typed.to_json())
    assert found["stream_max_c"] is None
    assert found["stream_max_c_bound"] is None
    assert found["stream_states"]["max_c"][0] is not None
    first = found["stream_states"]["frame"][found["stream_states"]["max_c"].index(None)]
    assert f"no longer finite after {first} frames" in table(typed)
    assert found["stream_quarters_top1"][-1] == 0.0


def test_training_mode_is_put_back(small: Checkpoint, small_clips: ClipSet) -> None:
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    small.model.train()
    try:
        first = evaluate(small, Part(small_clips, [0, 1]), frames=4, stream_frames=8)
        assert small.model.training
    finally:
        small.model.eval()
    assert (
        evaluate(small, Part(small_clips, [0, 1]), frames=4, stream_frames=8)["stream_states"] == first["stream_states"]
    )
    assert all(torch.equal(value, before[name]) for name, value in small.model.state_dict().items())


def test_decisions_use_the_second_half_and_finite_numbers() -> None:
    logits = np.zeros((3, 8, 7), np.float32)
    logits[0, :4, 0] = 9.0
    logits[0, 4:, 2] = 1.0
    logits[1, 6, 1] = np.inf
    logits[2, 4:] = np.arange(7)
    assert decide(logits).tolist() == [2, NO_DECISION, 6]
    assert score(logits, np.array([2, 1, 2])).top5.tolist() == [True, False, True]
    assert score(logits, np.array([5, 1, 1])).top5.tolist() == [False, False, False]  # equal logits: the first count
    frames = score(logits, np.array([2, 1, 6])).frames
    assert frames[:, [0, 4, 6]].tolist() == [[False, True, True], [False, False, False], [False, True, True]]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Folders of three of the classes, 12 held-out videos."""
    root = tmp_path / "videos"
    for number in range(4):
        for name in CLASSES:
            clip = render_clip(JESTER.index(name), number, split="heldout", size=64, frames=20, fps=8.0)
            for part in ("train", "val") if number == 0 else ("val",):
                write_video(root / part / name / f"{number}.mp4", clip, 8.0)
    return root


@pytest.fixture
def small_file(tmp_path: Path, small: Checkpoint) -> str:
    path = tmp_path / "small.safetensors"
    save(path, small.model, small.labels, {})
    return str(path)


@pytest.mark.slow
def test_command_on_videos_writes_json_and_picture(
    tmp_path: Path, videos: Path, small_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(videos / "val" / "Stop Sign" / "2.mp4")
    out, data = tmp_path / "out", f"folder:{videos}"
    arguments = ["evaluate", "--checkpoint", small_file, "--data", data, "--stream-frames", "200", "--workers", "1"]
    code = main([*arguments, "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads((out / "evaluation.json").read_text())
    assert (found["clips"], found["unreadable"]["clips"], found["stream_frames"]) == (11, 1, 208)
    assert "2.mp4" in found["unreadable"]["messages"][0]
    assert "11 held-out clips, 1 unreadable left out" in printed.out
    assert [name for name, share in found["per_class"].items() if share is not None] == list(CLASSES)
    assert [sum(row) for row in found["confusion"]] == [
        {"Stop Sign": 3, "Swiping Left": 4, "Thumb Up": 4}.get(name, 0) for name in JESTER
    ]
    picture = cv2.imread(str(out / "evaluation.png"))
    assert picture is not None
    height, width = picture.shape[:2]
    assert 1300 <= width <= 1500
    assert 700 <= height <= 1000
    assert picture.std() > 10
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.png"]


@pytest.mark.slow
def test_json_on_stdout_stands_alone(videos: Path, small_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--checkpoint", small_file, "--data", f"folder:{videos}", "--workers", "1"]
    assert main([*arguments, "--stream-frames", "16", "--clip-frames", "4", "--json", "-"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["frames"], found["clips"], found["stream_frames"]) == (4, 12, 16)
    assert "clip top-1, state reset" in printed.err


@pytest.mark.slow
def test_too_many_unreadable_clips_end_it(
    tmp_path: Path, videos: Path, small_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [videos / "val" / name / "1.mp4" for name in CLASSES]
    for path in broken:
        truncate(path)
    report = tmp_path / "report.json"
    data = f"folder:{videos}"
    arguments = ["evaluate", "--checkpoint", small_file, "--data", data, "--stream-frames", "16", "--workers", "1"]
    assert main([*arguments, "--json", str(report)]) == 2
    message = capsys.readouterr().err
    assert "3 of 12 clips cannot be read" in message
    assert "--max-corrupt" in message
    assert not report.exists()
    assert main([*arguments, "--json", str(report), "--max-corrupt", "0.5"]) == 0
    assert json.loads(report.read_text())["clips"] == 9


def test_bad_arguments_are_named(tmp_path: Path, small_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--checkpoint", "none.safetensors"], "none.safetensors does not exist"),
        (["--data", "rendered:0"], "CLIPS_PER_CLASS"),
        (["--data", f"folder:{tmp_path / 'none'}"], "does not exist; give the folder"),
        (["--data", "cinema:x"], "'cinema:x' is neither a folder nor a kind of data"),
        (["--data", "folder:x", "--per-class", "3"], "leave it out"),
        (["--per-class", "0"], "--per-class must be at least 1"),
        (["--clip-frames", "1"], "--clip-frames must be from 2 to"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--stream-frames", "0"], "--stream-frames must be at least 1"),
        (["--max-corrupt", "5"], "--max-corrupt must be from 0 to 1, got 5.0"),
        (["--out", str(tmp_path / "file" / "out")], "choose another --out"),
        (["--device", "abacus"], "--device abacus cannot be used"),
    ):
        assert main(["evaluate", "--checkpoint", small_file, *arguments]) == 2
        assert message in capsys.readouterr().err
