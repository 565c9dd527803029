"""lcr-edge record on video files: what is cut, where it lies, what is refused, and how it goes on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcr_edge.cli import main
from lcr_edge.data.encode import write_video
from lcr_edge.data.labels import check_folder_labels
from lcr_edge.data.layouts.folder import list_folder
from lcr_edge.data.record.plan import held_out_every, make_plan
from lcr_edge.data.sampling import Sample
from lcr_edge.data.sets import open_set
from lcr_edge.errors import OutputError, UsageError, how_to_install
from lcr_edge.frames import Frame
from lcr_edge.video import VideoSource
from tests.clips import frames, real_clip
from tests.data import made

ROOT = Path(__file__).resolve().parents[2]
CLIP = "carphone_pristine.mp4"  # 120 frames of 176 x 144 pixels at 29.97 a second


def record(out: Path, classes: str = "wave,thumb up", source: Path | str | None = None, *options: str) -> int:
    """Half-second clips, two of each class unless ``options`` say otherwise."""
    file = str(real_clip(CLIP)) if source is None else str(source)
    words = ["--out", str(out), "--classes", classes, "--source", file, "--clips", "2", "--seconds", "0.5", *options]
    return main(["record", *words])


def files(out: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def distance(clip: list[Frame], other: list[Frame]) -> float:
    """Mean absolute difference, of 255, over the frames of the clip."""
    return made.difference(np.stack(clip), np.stack(other[: len(clip)]))


def rate(path: Path) -> float:
    with VideoSource(str(path)) as source:
        return source.fps


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A bash script in which $RECORD is the command in a process of its own."""
    line = f"RECORD='{sys.executable} -m lcr_edge record'; {script}"
    return subprocess.run(["bash", "-c", line, "bash", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_file_is_cut_into_consecutive_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    assert record(out) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"wave 1 of 2: 15 frames, 30.0 fps -> {out}/train/wave/001.mp4"
    assert shown[4] == f"complete: {out} has 2 clips of 2 classes. To train on them:"
    names = ["train/wave/001.mp4", "val/wave/002.mp4", "train/thumb up/001.mp4", "val/thumb up/002.mp4"]
    assert files(out) == sorted(names)
    whole = frames(real_clip(CLIP), 61)
    for place, name in enumerate(names):
        clip = frames(out / name, 99)
        assert len(clip) == 15
        assert rate(out / name) == pytest.approx(29.97, abs=0.001)
        start = 15 * place
        near, before, after = (distance(clip, whole[start + shift :]) for shift in (0, -1 if place else 1, 1))
        assert near < 0.8 * min(before, after), "the frames of this part, and not those beside them"
    for split in ("train", "heldout"):
        data = open_set(str(out), split=split, size=(32, 32), fps=8.0, frames=4, cache=None)
        assert data.labels == ("thumb up", "wave")
        assert data.read(0, Sample(4, 8.0, 0.5), (32, 32))[0].shape == (4, 32, 32, 3)


def test_the_same_command_goes_on_and_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(tmp_path) == 0
    lost = tmp_path / "val/wave/002.mp4"
    content = lost.read_bytes()
    lost.unlink()
    kept = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    capsys.readouterr()
    assert record(tmp_path) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("3 of 4 clips are there already; goes on at 0.5 s of")
    assert "missing: 1 of wave\n" in shown
    assert lost.read_bytes() == content, "a clip is the same part of the file whenever it is cut"
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert record(tmp_path, "wave,thumb up", "/nothing/there") == 0
    assert capsys.readouterr().out.startswith(f"complete: {tmp_path} has 2 clips of 2 classes")


def test_a_file_that_ends_early_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(tmp_path, "wave,thumb up", None, "--clips", "5") == 1
    shown = capsys.readouterr()
    assert shown.err == f"error: {real_clip(CLIP)} ends at 4.0 s\n"
    assert len(files(tmp_path)) == 8
    note, command = shown.out.splitlines()[-2:]
    assert note == "missing: 2 of thumb up. To go on with another file, from its start:"
    words = shlex.split(command)
    words[words.index("NEXT")] = str(real_clip(CLIP))
    assert main(words[1:]) == 0
    assert len(files(tmp_path)) == 10
    first = (tmp_path / "train/wave/001.mp4").read_bytes()
    assert (tmp_path / "train/thumb up/004.mp4").read_bytes() == first, "the first missing clip is the file's start"


def test_a_truncated_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.write_video(tmp_path / "cut.avi", np.stack(frames(real_clip(CLIP), 90)), 30.0)
    made.truncate(source)
    assert record(tmp_path / "mine", "wave", source, "--clips", "6") == 1
    shown = capsys.readouterr()
    assert "declares 90 frames" in shown.err
    assert "truncated or damaged" in shown.err
    assert "missing: 4 of wave" in shown.out


def test_large_frames_are_made_smaller(tmp_path: Path) -> None:
    assert record(tmp_path, "rabbit", real_clip("bigbuckbunny.mp4"), "--max-side", "320") == 0
    assert frames(tmp_path / "train/rabbit/001.mp4", 1)[0].shape == (180, 320, 3)


def test_a_slow_file_is_recorded_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.write_video(tmp_path / "slow.mp4", np.stack(frames(real_clip(CLIP), 9)), 4.0)
    assert record(tmp_path / "mine", "wave", source, "--seconds", "1") == 0
    assert "only 4.0 frames a second" in capsys.readouterr().err
    assert rate(tmp_path / "mine/train/wave/001.mp4") == 4.0


@pytest.mark.parametrize(("share", "every"), [(0.2, 5), (0.5, 2), (0.3, 3), (0.1, 10), (0.01, 100)])
def test_every_kth_clip_is_held_out(share: float, every: int, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "mine", ["a", "b"], 12, held_out_every(share))
    held = [slot.number for slot in plan.missing if slot.path.parts[-3] == "val" and slot.label == "b"]
    assert held == list(range(2, 13, every))
    assert [slot.place for slot in plan.missing] == list(range(24))


def test_clips_that_are_there_count_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("train/a/002.mp4", "valid/a/3.avi", "train/a/other.mp4", "train/a/004.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    plan = make_plan(tmp_path, ["a"], 7, 5)
    assert [str(slot.path.relative_to(tmp_path)) for slot in plan.missing] == [
        "train/a/001.mp4",
        "train/a/004.mp4",
        "train/a/005.mp4",
        "train/a/006.mp4",
        "valid/a/007.mp4",  # training reads valid/, since it is there
    ]


def test_a_folder_without_a_split_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave/x.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="has videos in wave/ that are in no train folder"):
        make_plan(tmp_path, ["wave"], 2, 5)
    with pytest.raises(UsageError, match="is a file"):
        make_plan(tmp_path / "wave/x.mp4", ["wave"], 2, 5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["wave", ""], "no name"),
        (["wave", " "], "no name"),
        (["up/down"], "slash"),
        (["up\\down"], "slash"),
        ([".hidden"], "dot"),
        ([".."], "dot"),
        ([" wave"], "space"),
        (["a\tb"], "control character"),
        (["a\x1b[2J"], "control character"),
        (["\udcff"], "not UTF-8"),
        (["a\u202eb"], "invisible formatting"),
        (["wa\u200bve"], "invisible formatting"),
        (["wa\u200dve"], "invisible formatting"),
        (["\u200f\u05d0"], "invisible formatting"),
        (["é" * 51], "102 bytes"),
        (["wave", "wave"], "twice"),
        (["wave", "Wave"], "upper and lower case"),
        (["é", "e\u0301"], "accent"),
    ],
)
def test_bad_class_names(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_folder_labels(names)
    assert str(caught.value).isprintable()


def test_class_names_of_all_scripts_train(tmp_path: Path) -> None:
    names = ["thumb up", "👋", "👩‍💻", "🏳️‍🌈", "שלום", "مرحبا", "100%d", "a:b", "#x", "é" * 50]
    assert record(tmp_path, ", ".join(names), None, "--seconds", "0.5", "--clips", "2", "--start", "0") == 1
    assert files(tmp_path)[0].startswith("train/")
    assert record(tmp_path, ",".join(names[4:]), None, "--start", "0.0") == 1
    assert record(tmp_path, ",".join(names[8:]), None, "--start", "0.0") == 0
    assert list_folder(tmp_path, "train").labels == tuple(sorted(names))
    assert list_folder(tmp_path, "heldout").labels == tuple(sorted(names))


def test_classes_that_differ_in_case_only_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("train/wave", "val/Wave"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="the classes 'Wave' and 'wave' differ only in upper and lower case"):
        list_folder(tmp_path, "train")
    (tmp_path / "val/Wave").rename(tmp_path / "val/wave")
    with pytest.raises(UsageError, match="the classes 'WAVE' and 'wave' differ only in upper and lower case"):
        make_plan(tmp_path, ["WAVE"], 2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "1"], "--clips must be from 2 to 9999, got 1"),
        (["--seconds", "0"], "--seconds must be from 0.5 to 30, got 0.0"),
        (["--val-share", "0.6"], "--val-share must be above 0 and at most 0.5, got 0.6"),
        (["--countdown", "-1"], "--countdown must be from 0 to 60"),
        (["--start", "nan"], "--start must be at least 0, got nan"),
        (["--classes", "a,a"], "twice"),
        (["--source", "/nothing/there.mp4"], "/nothing/there.mp4 does not exist"),
        (["--source", "97"], "there is no camera 97"),
        (["--review"], "--review asks on a terminal"),
        (["--preview"], "--preview needs a display"),
        (["--out", "/dev/null/x"], "cannot"),
    ],
)
def test_usage_errors(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert record(tmp_path / "mine", "wave", None, *options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "mine").exists() or files(tmp_path / "mine") == []


def test_an_opencv_without_windows_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    monkeypatch.setenv("DISPLAY", ":0")
    assert record(tmp_path, "wave", None, "--preview") == 2
    assert "pip install opencv-python, or leave --preview out" in capsys.readouterr().err


def test_a_disk_that_fills_keeps_the_clips_before(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: a clip of two seconds is over it, one of 0.5 s is not."""
    common = f"--out {tmp_path} --source {real_clip(CLIP)} --clips 2"
    done = shell(
        f"ulimit -f 60; $RECORD {common} --classes a --seconds 0.5 && $RECORD {common} --classes b --seconds 2"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: cannot write {tmp_path}/train/b/001.mp4: " in done.stderr
    assert "free some space" in done.stderr
    assert "what was recorded is kept: 0 of 2 clips are there. To go on:" in done.stdout
    assert files(tmp_path) == ["train/a/001.mp4", "val/a/002.mp4"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "001.mp4"
    path.write_bytes(b"other")
    with pytest.raises(OutputError, match="has appeared meanwhile and is kept"):
        write_video(path, made.gesture("Thumb Up", 0), 12.0, new=True)
    assert path.read_bytes() == b"other"
    write_video(path, made.gesture("Thumb Up", 0), 12.0)
    assert len(frames(path, 99)) == made.FRAMES
    assert files(tmp_path) == ["001.mp4"]


@pytest.mark.parametrize("fps", [1.0, 7.777, 29.97003, 130.123, 239.999])
def test_any_measured_rate_can_be_written(fps: float, tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", made.gesture("Thumb Up", 0), fps)
    assert rate(tmp_path / "x.mp4") == pytest.approx(fps, abs=0.006)


def test_without_opencv_the_extra_is_named(tmp_path: Path) -> None:
    block = "import sys; sys.modules['cv2'] = None; from lcr_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    call = [sys.executable, "-c", block, "record"]
    done = subprocess.run([*call, "--out", str(tmp_path), "--classes", "a"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert how_to_install("video") in done.stderr
    assert subprocess.run([*call, "--help"], cwd=ROOT, capture_output=True).returncode == 0


def test_recording_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from lcr_edge.cli import main\n"
        "assert main(['record', *sys.argv[1:]]) == 0\n"
        "print(sorted({'torch', 'matplotlib', 'tqdm', 'safetensors'} & set(sys.modules)))"
    )
    options = ["--out", str(tmp_path), "--classes", "a", "--source", str(real_clip(CLIP)), "--clips", "2"]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
