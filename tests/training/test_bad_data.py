"""``lcr-edge train`` on folders as they are: each ends in a network, or in one line that says what to do."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.checkpoint import load
from lcr_edge.cli import main
from lcr_edge.data.batches import Plan, clip_indices
from lcr_edge.training import run_state
from tests.data.made import gesture, write_video

SMALL = (
    "--config", "lcr_pico", "--batch", "2", "--clip-frames", "4", "--threads", "1", "--workers", "0",
    "--calm-share", "0", "--no-tensorboard", "--steps", "2",
)  # fmt: skip
BAD = b"not a video"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", gesture("Swiping Left", 0)[:6])


def _made(root: Path, clip: Path, names: Iterable[str | bytes], content: bytes | None = None) -> Path:
    """A tree of these files, copies of the clip unless ``content`` is given; bytes are names that are not UTF-8."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.read_bytes() if content is None else content)
    return root


def _train(out: Path, data: Path | str, *options: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *SMALL, *options])


def _two(one: str, other: str) -> list[str]:
    return [f"{name}/{number}.mp4" for name in (one, other) for number in range(2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.mp4", "a/2.mp4", "a/3.mp4"], "of one class only, 'a', and a network needs two classes: add clips"),
        (["train/a/1.mp4", "val/a/1.mp4", "val/b/1.mp4"], "of one class only, 'a', and a network needs two classes"),
        (["1.mp4", "2.mp4"], "has no videos in a folder per class; expected"),
        (_two("Wave", "wave"), "'Wave' and 'wave' differ only in upper and lower case"),
        (_two("a\x07b", "c"), r"'a\x07b', holds a control character; rename it"),
        (_two("a\nb", "c"), r"'a\nb', holds a control character; rename it"),
        ([b"a\xff/1.mp4", b"a\xff/2.mp4", b"b/1.mp4"], r"'a\udcff', is not UTF-8; rename it"),
        ([b"train/a\xff/1.mp4", b"train/b/1.mp4", b"val/b/1.mp4"], r"'a\udcff', is not UTF-8; rename it"),
    ],
)
def test_classes_that_cannot_be_trained_are_refused(
    names: list[str | bytes], message: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", _made(tmp_path / "data", clip, names)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [BAD, b""])
def test_a_folder_without_a_readable_clip(
    content: bytes, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _made(tmp_path / "data", clip, [f"{name}/{number}.mp4" for name in "ab" for number in range(4)], content)
    assert _train(tmp_path / "run", root) == 2
    assert "6 clips in a row cannot be read; the last: " in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.csv"}  # it may be started again


@pytest.mark.slow
def test_strange_names_and_what_lies_among_clips(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ("a  b", " c", "\u05e9\u05dc\u05d5\u05dd", "\U0001f44d\U0001f3fd", "-a", "--steps")
    names: list[str | bytes] = [f"{name}/{number}.mp4" for name in classes for number in range(2)]
    names += [b"-a/\xff.mp4", b"-a/\xfe.txt", "-a/9.mp4/notes.txt", "-a/dash -\x1b[31m.mp4"]
    root = _made(tmp_path / "data", clip, names)
    for link, target in (("-a/up", ".."), ("self", "self"), ("-a/self.mp4", "self.mp4"), ("-a/gone.mp4", "nowhere")):
        (root / link).symlink_to(target)
    os.mkfifo(root / "-a" / "pipe.mp4")
    write_video(root / "-a" / "short.mp4", gesture("Swiping Left", 0)[:1])  # shorter than a step of the network
    steps = ("--batch", "6", "--steps", "4")
    assert _train(tmp_path / "run", root, *steps, "--max-corrupt", "1") == 0
    said = capsys.readouterr()
    assert sorted(load(tmp_path / "run" / "lcr_pico.safetensors").labels) == sorted(classes)
    for name, fault in (
        (r"\udcff.mp4'", "its name is not UTF-8; rename it"),
        ("9.mp4", "is not a file"),
        ("pipe.mp4", "is not a file"),
        ("self.mp4", "Too many levels of symbolic links"),
        ("gone.mp4", "No such file or directory"),
    ):
        assert any(name in line and fault in line for line in said.err.splitlines()), name
    assert "Traceback" not in said.err


def test_one_clip_of_each_class_is_enough(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path / "run", _made(tmp_path / "data", clip, ["a/1.mp4", "b/1.mp4"])) == 0
    said = capsys.readouterr().out
    assert "no held-out clips to look at" in said
    assert "2 classes with a single clip are in train only: a, b" in said


@pytest.fixture
def uneven(clip: Path, tmp_path: Path) -> Path:
    names = [f"train/many/{number}.mp4" for number in range(12)]
    return _made(
        tmp_path / "uneven", clip, [*names, "train/few/1.mp4", "train/few/2.mp4", "val/few/1.mp4", "val/new/1.mp4"]
    )


@pytest.mark.slow
def test_uneven_classes_are_named_and_can_be_balanced(
    uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "run", uneven) == 0
    said = capsys.readouterr().out
    assert "uneven classes: 12 clips of many, 2 of few; --balance" in said
    assert "no training clips of new: the network cannot learn that" in said
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--balance", "--steps", "5")
    assert _train(whole, uneven, *options) == 0
    assert "uneven classes" not in capsys.readouterr().out
    assert _train(parts, uneven, *options, "--stop-after", "2") == 0
    assert _train(parts, uneven, "--steps", "5", "--resume") == 2
    assert "balance: True then, False now" in capsys.readouterr().err
    assert _train(parts, uneven, *options, "--resume") == 0
    for name in ("metrics.csv", "lcr_pico.safetensors", run_state.NAME):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_balanced_draws_are_even_and_a_function_of_the_number() -> None:
    targets = np.repeat([0, 1, 3], [900, 90, 10])  # a class without a clip is no trouble
    plan = Plan(batch=20, frames=4, fps=8.0, size=(8, 8), seed=3, steps=1, balance=True)
    drawn = [clip_indices(1000, plan, number, targets) for number in range(150)]
    counts = np.bincount(targets[np.concatenate(drawn)])
    # A share of 1/3 of 3000 draws has a standard deviation of 26.
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3]] - 1000) < 4 * 26).all()
    assert drawn[70] == clip_indices(1000, plan, 70, targets)
    assert drawn[0] != drawn[50]  # the same place of another epoch
    assert len(set(np.concatenate(drawn)[targets[np.concatenate(drawn)] == 1])) == 90


def test_a_link_that_leads_back_ends_the_walk(clip: Path, tmp_path: Path) -> None:
    root = _made(tmp_path / "data", clip, ["videos/1.mp4", "videos/2.mp4"])
    for name in ("one", "two"):  # two of them: each round doubles the ways
        (root / "videos" / name).symlink_to("..")
    (root / "labels.json").write_text(json.dumps({"left": "0", "right": "1"}))
    entries = [{"id": str(number), "template": name} for number, name in ((1, "left"), (2, "right"))]
    for part in ("train", "validation"):
        (root / f"{part}.json").write_text(json.dumps(entries))
    assert _train(tmp_path / "run", f"ssv2:{root}", "--steps", "1") == 0


def test_the_packaged_network_learns_other_classes(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _made(tmp_path / "data", clip, _two("a", "b"))
    options = ("--init", "packaged", "--config", "lcr_nano", "--lr", "0", "--steps", "1", "--look-every", "0")
    assert _train(tmp_path / "run", root, *options) == 0
    assert "the packaged network has other classes: a new classifier is learned" in capsys.readouterr().out
    found, packaged = load(tmp_path / "run" / "lcr_nano.safetensors"), load()
    assert (found.labels, found.training["init"]) == (("a", "b"), "packaged")
    weights = found.model.state_dict()
    for name, value in packaged.model.state_dict().items():
        if not name.startswith("classify.") and not name.endswith("typical"):
            assert weights[name].equal(value), name
    assert _train(tmp_path / "pico", root, "--init", "packaged") == 2
    assert "use --config lcr_nano" in capsys.readouterr().err
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1"]
